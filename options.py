"""Reading the command line: contradictions, what a resumed run may change, resolved defaults."""

import argparse
import shlex
import warnings
from argparse import Namespace
from collections.abc import Callable
from math import gcd
from typing import NamedTuple

import torch

from datasets import SPLITS, default_data_dir
from errors import InputError
from models.bert import BertConfig
from models.features import default_layers
from models.pal import default_pal_size
from optimizers import default_lr
from run_directory import name_run_dir
from tasks import TASKS


class Contradiction(NamedTuple):
    """Options that cannot go together: an example, the test, and what to do about it."""

    flags: str
    holds: Callable[[Namespace], object]
    message: str


def trained(args: Namespace) -> list[str]:
    """Names of the tasks that are trained on."""
    return [name for name in (args.task, args.task_scheduler) if name in TASKS][:1] or list(TASKS)


def heads(args: Namespace) -> set[str]:
    """Keys of the heads of the tasks that are trained."""
    return {TASKS[name].heads[args.pair_encoding] for name in trained(args)}


def is_sampled(args: Namespace) -> bool:
    return args.task_scheduler in ("random", "pal")


def num_trained(args: Namespace) -> int:
    """How many tasks are trained on."""
    return len(trained(args))


def trains_features(args: Namespace) -> bool:
    """Whether there is something to train between a frozen encoder and the heads."""
    return args.extension != "none" or args.train_mode == "all_pooled" or args.additional_input


# What train_multitask.py fixes and train_multitask_pal.py makes options of.
JOINT_DEFAULTS = {
    "task_scheduler": "joint",
    "projection": "none",
    "combine_strategy": "none",
    "batches_per_update": 16,
    "beta_vaccine": 0.01,
    "vaccine_groups": "whole_model",
    "log_conflicts": False,
    "use_pal": False,
    "pal_size": None,
    "use_smart_regularization": False,
    "smart_weight_regularization": 1.0,
    "smart_radius": 0.01,
    "smart_mu": 0.0,
}

# The one table of illegal combinations; parsers and tests read it.
CONTRADICTIONS = (
    Contradiction(
        "--option pretrain --no_train_classifier",
        lambda a: a.option == "pretrain"
        and not (a.train_classifier or a.use_pal or trains_features(a) or a.unfreeze_interval),
        "--option pretrain with --no_train_classifier leaves nothing to train; drop one",
    ),
    Contradiction(
        "--task sts --pair_encoding bi --option pretrain",
        lambda a: a.option == "pretrain"
        and heads(a) == {"cosine"}
        and not (a.use_pal or trains_features(a) or a.unfreeze_interval),
        "a cosine head has no parameters, so --option pretrain leaves nothing to train; use "
        "--pair_encoding cross or --option finetune",
    ),
    Contradiction(
        "--samples_per_epoch 10 --num_batches_per_epoch 10",
        lambda a: a.samples_per_epoch is not None and a.num_batches_per_epoch is not None,
        "--samples_per_epoch and --num_batches_per_epoch both say how long an epoch is; drop one",
    ),
    Contradiction(
        "--batch_size 8 --micro_batch_size 9",
        lambda a: a.micro_batch_size is not None and a.micro_batch_size > a.batch_size,
        "--micro_batch_size is larger than --batch_size; it splits a batch, so make it smaller",
    ),
    Contradiction(
        "--resume runs/a --checkpoint best.pt",
        lambda a: a.resume is not None and a.checkpoint is not None,
        "--resume goes on with its own weights and --checkpoint starts from others; drop one",
    ),
    Contradiction(
        "--task sst --task_weights para=2",
        lambda a: a.task_weights.keys() - ({a.task} if a.task != "multitask" else TASKS.keys()),
        "--task_weights names a task that is not trained; name trained ones alone",
    ),
    Contradiction(
        "--task_scheduler pal --projection pcgrad",
        lambda a: is_sampled(a) and a.projection != "none" and a.combine_strategy == "none",
        "--task_scheduler random or pal with a projection needs --combine_strategy force or "
        "encourage",
    ),
    Contradiction(
        "--task_scheduler pal --combine_strategy force",
        lambda a: a.combine_strategy != "none" and not (is_sampled(a) and a.projection != "none"),
        "--combine_strategy is for --task_scheduler random or pal with a projection; add those, or "
        "drop it",
    ),
    Contradiction(
        "--task_scheduler pal --projection pcgrad --combine_strategy force --batches_per_update 3",
        lambda a: a.combine_strategy != "none" and a.batches_per_update <= num_trained(a),
        "--batches_per_update must be larger than the number of tasks",
    ),
    Contradiction(
        "--task sst --projection pcgrad",
        lambda a: a.projection != "none" and num_trained(a) < 2,
        "a projection needs at least two tasks; drop --projection, or train on more tasks",
    ),
    Contradiction(
        "--option pretrain --projection pcgrad",
        lambda a: a.option == "pretrain"
        and not (a.use_pal or trains_features(a))
        and (a.projection != "none" or a.log_conflicts),
        "--option pretrain freezes every shared parameter, so there is nothing to project or log; "
        "drop one",
    ),
    Contradiction(
        "--option pretrain --unfreeze_interval 1 --extension cnn --projection pcgrad",
        lambda a: a.unfreeze_interval is not None and (a.projection != "none" or a.log_conflicts),
        "--unfreeze_interval changes what the tasks share, which a projection or --log_conflicts "
        "needs to stay; drop one",
    ),
    Contradiction(
        "--train_mode all_pooled --extension attention",
        lambda a: a.train_mode == "all_pooled" and (a.extension != "none" or "pooling" in a.given),
        "--train_mode all_pooled leaves no sequence, so --extension and --pooling have nothing to "
        "work on; drop them",
    ),
    Contradiction(
        "--extension attention --pooling max",
        lambda a: a.extension == "attention" and "pooling" in a.given,
        "--extension attention ends the sequence, so --pooling has nothing to pool; drop one",
    ),
    Contradiction(
        "--combined_models --use_pal",
        lambda a: a.combined_models and a.use_pal,
        "--combined_models has four encoders and --use_pal belongs to one; drop one",
    ),
    Contradiction(
        "--combined_models --option pretrain",
        lambda a: a.combined_models and a.option == "pretrain",
        "--combined_models starts from equal encoders, so frozen ones leave nothing to mix; use "
        "--option finetune",
    ),
    Contradiction(
        "--task sts --class_weights",
        lambda a: a.class_weights and not any(TASKS[name].class_names for name in trained(a)),
        "--class_weights weighs named classes, and no trained task has them; drop it",
    ),
    Contradiction(
        "--task_scheduler round_robin --optimizer sophiah --hess_interval 9",
        lambda a: a.optimizer == "sophiah"
        and a.task_scheduler == "round_robin"
        and a.projection == "none"
        and gcd(a.hess_interval, num_trained(a)) > 1,
        "--hess_interval shares a factor with the number of tasks that take turns, so some task "
        "would never be in an estimate; choose another, 10 for example",
    ),
    Contradiction(
        "--task sst --task_scheduler para",
        lambda a: a.task in TASKS and a.task_scheduler in TASKS and a.task != a.task_scheduler,
        "--task and --task_scheduler name different tasks; name the same, or drop one",
    ),
    Contradiction(
        "--log_conflicts",
        lambda a: a.log_conflicts
        and (num_trained(a) < 2 or (a.projection == "none" and a.task_scheduler != "joint")),
        "--log_conflicts needs several tasks in every update: --task_scheduler joint, or a "
        "--projection",
    ),
)
# Options that only others give a meaning: name -> (what is needed, whether it is there).
NEEDS = {
    "restarts": ("--scheduler cosine", lambda a: a.scheduler == "cosine"),
    "warmup_fraction": (
        "--scheduler linear_warmup or cosine",
        lambda a: a.scheduler in ("linear_warmup", "cosine"),
    ),
    "rho": ("--optimizer sophiah", lambda a: a.optimizer == "sophiah"),
    "hess_interval": ("--optimizer sophiah", lambda a: a.optimizer == "sophiah"),
    "beta_vaccine": ("--projection vaccine", lambda a: a.projection == "vaccine"),
    "vaccine_groups": ("--projection vaccine", lambda a: a.projection == "vaccine"),
    "batches_per_update": ("--combine_strategy", lambda a: a.combine_strategy != "none"),
    "pal_size": ("--use_pal", lambda a: a.use_pal),
    "layers": ("--train_mode single_layers", lambda a: a.train_mode == "single_layers"),
    "segment_length": ("--extension hierarchical", lambda a: a.extension == "hierarchical"),
    "unfreeze_interval": ("--option pretrain", lambda a: a.option == "pretrain"),
} | {
    name: ("--use_smart_regularization", lambda a: a.use_smart_regularization)
    for name in ("smart_weight_regularization", "smart_radius", "smart_mu")
}
# All that may be given again with --resume; everything else comes from the run's args.json.
RESUME_OPTIONS = ("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path")
RESUME_OPTIONS += tuple(f"{name}_{split}" for name in TASKS for split in SPLITS)


class ArgumentParser(argparse.ArgumentParser):
    """Reads `@file` arguments as a shell would: several a line, quotes, # comments."""

    def __init__(self, **options) -> None:
        super().__init__(fromfile_prefix_chars="@", allow_abbrev=False, **options)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        return shlex.split(arg_line, comments=True)


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Parse and check options without touching a disk. Contradictions end in `parser.error`.

    Adds `given`, the options that stand on the command line, and turns task_weights into a dict.
    """
    args = parser.parse_args(argv)
    args.task_weights = dict(args.task_weights)
    unset = object()
    blank = Namespace(**dict.fromkeys(vars(args), unset))
    explicit = vars(parser.parse_args(argv, namespace=blank))
    args.given = sorted(name for name, value in explicit.items() if value is not unset)
    fixed = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest in args.given and action.dest not in RESUME_OPTIONS
    ]
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(args):
            parser.error(contradiction.message)
    for name, (needed, is_needed) in NEEDS.items():
        if name in args.given and not is_needed(args):
            parser.error(f"--{name} does nothing without {needed}; add that, or drop it")
    if args.resume is not None and fixed:
        parser.error(
            f"--resume takes {fixed[-1]} from the run's args.json; only "
            f"{', '.join('--' + name for name in RESUME_OPTIONS[1:6])} may be given again"
        )
    return args


def resolve_options(args: Namespace, config: BertConfig) -> None:
    """Fill in what depends on other options or on the encoder. Raises InputError."""
    if args.max_length > config.max_tokens:
        raise InputError(
            f"--max_length is {args.max_length}, but this encoder has positions for "
            f"{config.max_tokens}"
        )
    args.tasks = list(TASKS) if args.task == "multitask" else [args.task]
    if args.lr is None:
        args.lr = default_lr(args.option, config.hidden_size, args.optimizer)
    if args.use_pal and args.pal_size is None:
        args.pal_size = default_pal_size(config.hidden_size)
    if args.train_mode == "single_layers":
        args.layers = args.layers or default_layers(config.num_hidden_layers)
        check_layers(args.layers, config.num_hidden_layers)
    if args.extension == "hierarchical" and args.segment_length > config.max_tokens:
        raise InputError(
            f"--segment_length is {args.segment_length}, but this encoder has positions for "
            f"{config.max_tokens}"
        )
    if args.use_amp and not args.use_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("--use_amp: this CPU has no bfloat16 units; it will be slow", stacklevel=2)
    if args.data_dir is None:
        args.data_dir = str(default_data_dir())
    if args.smoketest:
        # Four rows a task: two updates of every task, whatever the task scheduler.
        args.batch_size, args.epochs = 2, 1
        args.samples_per_epoch = args.num_batches_per_epoch = args.micro_batch_size = None
        args.max_length = min(args.max_length, 32)
    if args.resume is None:
        name_run_dir(args)
    print(f"data: {args.data_dir}")


def check_layers(layers: list[int], num_layers: int) -> None:
    wrong = [layer for layer in layers if layer > num_layers or layers.count(layer) > 1]
    if wrong:
        raise InputError(
            f"--layers {' '.join(map(str, layers))}: {wrong[0]} is not one of 1 to {num_layers}, "
            "each at most once"
        )
