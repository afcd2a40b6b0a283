"""Options that depend on others, on the encoder or on the data: filled in, and checked."""

import hashlib
import json
import os
import warnings
from argparse import Namespace
from dataclasses import asdict

from datasets import task_file, training_digests
from models.auto_config import TransformersConfig
from models.bert_config import BertConfig
from models.compiled import check_compiler
from models.features import default_layers
from models.pal import default_pal_size
from optimizers import default_lr
from options.data_dir import set_data_dir
from options.encoder_limits import refused_by_encoder
from options.legal import needs_gradients, num_epochs
from options.packages import check_packages, check_tagger
from options.task_table import file_options
from runtime.device import gpu_type, has_native_bfloat16, prefers_bfloat16
from runtime.errors import InputError
from runtime.files import shown_path

# Options that say where things are and what is written, but not what is trained.
UNCOUNTED = {"data_dir", "checkpoint", "filepath", "predictions_path", "logdir", "run_dir"}
UNCOUNTED |= {"run_name", "given", "narrowed", "resume", "use_gpu", "model_name", "script"}
UNCOUNTED |= {"local_files_only", "save_every", "write_summary", "tensorboard_subfolder"}
UNCOUNTED |= {"profiler", "no_test_predictions", "skip_bad_rows", "ray_address", "fingerprint"}
UNCOUNTED |= {"hpo", "hpo_resume", "hpo_trials", "hpo_only", "hpo_space", "hpo_cpus", "hpo_gpus"}
UNCOUNTED |= {"hpo_concurrent", "tasks_file", "table", "task"}  # `tasks` counts for the last three
NEEDS_FLOAT64 = "{} needs float64, which MPS lacks; drop it, or leave out --use_gpu"


def resolve_options(args: Namespace, config: BertConfig) -> None:
    """Fill in what depends on other options or on the encoder, in place.

    Raises:
        InputError: an option does not fit the encoder, or needs a package that is missing.
    """
    check_packages(args)
    resolve_model_options(args, config)
    if args.use_gpu and gpu_type() == "mps":
        check_training_on_mps(args)
    if args.compile:
        check_compiler(args.use_gpu)
    if args.lr is None:
        trained = args.option if args.lora_rank is None else "lora"
        args.lr = default_lr(trained, config.hidden_size, args.optimizer)
    if args.smoketest and args.resume is None:  # a saved run has these sizes already
        shrink(args)
    digests = training_digests(args)
    check_digests(digests, getattr(args, "data_sha256", {}), args)
    args.data_sha256 = digests
    if args.resume is None:
        args.fingerprint = fingerprint(args, config)
    print(f"data: {shown_path(args.data_dir)}")


def resolve_model_options(args: Namespace, config: BertConfig) -> None:
    """Fill in and check the options that evaluation needs too, in place. Raises InputError."""
    check_tagger(args)
    if isinstance(config, TransformersConfig):
        message = refused_by_encoder(args, config.model_type)
        if message is not None:
            raise InputError(message)
    is_cut = args.extension == "hierarchical"  # into segments: these alone have to fit
    check_length("max_length", args.max_length, config, is_checked=not is_cut)
    check_length("segment_length", args.segment_length, config, is_checked=is_cut)
    if args.use_pal and args.pal_size is None:
        args.pal_size = default_pal_size(config.hidden_size)
    if args.use_pal and args.pal_size > max(config.hidden_size, 6):
        raise InputError(
            f"--pal_size is {args.pal_size}, wider than the encoder's {config.hidden_size}; the "
            "projected attention is meant to be narrower"
        )
    if args.lora_rank is not None:
        check_lora_rank(args.lora_rank, config.hidden_size)
        args.lora_alpha = args.lora_alpha or float(args.lora_rank)
    if args.train_mode == "single_layers":
        args.layers = args.layers or default_layers(config.num_hidden_layers)
        check_layers(args.layers, config.num_hidden_layers)
    check_device_options(args)
    if args.data_dir is None:
        set_data_dir(args)


def check_device_options(args: Namespace) -> None:
    """Choose the precision if no flag has, in place, and check what the device can do.

    Raises:
        InputError: the device lacks what an option needs.
    """
    kind = "cpu" if not args.use_gpu else gpu_type()
    if args.use_amp is None:
        args.use_amp = prefers_bfloat16(kind)
    elif args.use_amp and not has_native_bfloat16(kind):
        warnings.warn(
            f"bfloat16 (--use_amp): this {kind.upper()} has no units for it, so it will be slow",
            stacklevel=2,
        )
    if kind == "mps" and args.combined_models:
        raise InputError(NEEDS_FLOAT64.format("--combined_models"))


def check_training_on_mps(args: Namespace) -> None:
    """Raise InputError if a technique computes in float64 on the device."""
    if args.use_smart_regularization:
        raise InputError(NEEDS_FLOAT64.format("--use_smart_regularization"))
    if needs_gradients(args):
        raise InputError(
            NEEDS_FLOAT64.format("--projection, --log_conflicts, --loss_weighting gradnorm or famo")
        )


def check_digests(digests: dict[str, str], known: dict[str, str], args: Namespace) -> None:
    """Check that a resumed run finds the training files that it began with.

    Args:
        digests: of the files as they are now, by task.
        known: of those that it began with; empty for a new run, or one of an older version.
        args: the run's options.

    Raises:
        InputError: a file has changed.
    """
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            path = task_file(args, args.tasks[name], "train")
            raise InputError(
                f"{path}: is not the file that this run was trained on; put that one back, or "
                "start a new run"
            )


def fingerprint(args: Namespace, config: BertConfig) -> str:
    """Return a digest of what a run starts from, to know its checkpoints by.

    It covers the options that change what is trained, the training files, the encoder's shape and
    name, and the file of --checkpoint. A repeated run has the same digest, wherever it is.
    """
    uncounted = UNCOUNTED.union(file_options(args.table.tasks))
    counted = {name: value for name, value in vars(args).items() if name not in uncounted}
    counted["tasks"] = [[type(task).__name__, asdict(task)] for task in args.tasks.values()]
    counted |= {"config": asdict(config), "model_name": os.path.basename(args.model_name)}
    if args.checkpoint is not None:
        with open(args.checkpoint, "rb") as file:
            counted["checkpoint"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def shrink(args: Namespace) -> None:
    """Set the sizes of --smoketest, in place; warn if one of them was given.

    Four rows per task make two updates of every task, whatever the task scheduler. There is one
    epoch, and one with a layer unfrozen.
    """
    sizes = {
        "batch_size": 2,
        "epochs": num_epochs(args),
        "samples_per_epoch": None,
        "num_batches_per_epoch": None,
        "micro_batch_size": None,
        "max_length": min(args.max_length, 32),
    }
    changed = [n for n, size in sizes.items() if n in args.given and getattr(args, n) != size]
    vars(args).update(sizes)
    if changed:
        listed = ", ".join("--" + name for name in changed)
        warnings.warn(f"--smoketest sets its own sizes in place of {listed}", stacklevel=2)


def check_length(name: str, length: int, config: BertConfig, is_checked: bool) -> None:
    """Raise InputError if a sequence would be longer than the encoder's positions."""
    if is_checked and length > config.max_tokens:
        raise InputError(
            f"--{name} is {length}, but this encoder has positions for {config.max_tokens}"
        )


def check_lora_rank(rank: int, hidden_size: int) -> None:
    """Raise InputError unless adapters are narrower than the maps that they change."""
    if rank >= hidden_size:
        raise InputError(
            f"--lora_rank is {rank}, expected less than the encoder's {hidden_size}; the paper "
            "takes 8"
        )


def check_layers(layers: list[int], num_layers: int) -> None:
    """Raise InputError unless each layer is one of the encoder's, at most once."""
    wrong = [layer for layer in layers if layer > num_layers or layers.count(layer) > 1]
    if wrong:
        raise InputError(
            f"--layers {' '.join(map(str, layers))}: {wrong[0]} is not one of 1 to {num_layers}, "
            "each at most once"
        )
