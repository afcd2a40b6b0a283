"""Reading the command line: checks, what a resumed run may change, resolved defaults."""

import argparse
import json
import shlex
import warnings
from argparse import Namespace
from typing import NoReturn

import torch

import workers
from datasets import SPLITS, default_data_dir
from errors import InputError
from legal_options import CONTRADICTIONS, NEEDS
from models.bert import BertConfig
from models.features import default_layers
from models.pal import default_pal_size
from optimizers import default_lr
from run_directory import name_run_dir
from tasks import TASKS

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

# All that may be given again with --resume; everything else comes from the run's args.json.
RESUME_OPTIONS = ("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path")
SEARCH_RESUME_OPTIONS = ("hpo_resume", "hpo_only", "ray_address", "use_gpu")
RESUME_OPTIONS += tuple(f"{name}_{split}" for name in TASKS for split in SPLITS)


class ArgumentParser(argparse.ArgumentParser):
    """Reads `@file` arguments as a shell would: several a line, quotes, # comments; or as JSON, a
    flat object with an option a line."""

    def __init__(self, **options) -> None:
        super().__init__(fromfile_prefix_chars="@", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if not workers.is_first_to_report():  # another worker reads the same line, and says so
            self.exit(2)
        # Without the usage, which is longer than a screen.
        self.exit(2, f"{self.prog}: error: {message} (--help lists every option)\n")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        line = arg_line.strip()
        if line in ("{", "}"):
            return []
        try:
            if line.startswith('"') and '":' in line:
                return json_arguments(line)
            return shlex.split(arg_line, comments=True)
        except ValueError as error:
            self.error(
                f"{line!r} in an @file: {error}; expected flags as in a shell, or JSON with an "
                "option and its whole value a line"
            )


def json_arguments(line: str) -> list[str]:
    """Arguments of one line of a flat JSON object: `"task_weights": {"sst": 2},` and the like.

    A value that is true is a flag alone; false and null leave the option as it is.
    """
    [(name, value)] = json.loads("{" + line.rstrip(",") + "}").items()
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, dict):
        value = [f"{key}={part}" for key, part in value.items()]
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, values)]


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
    again = SEARCH_RESUME_OPTIONS if args.hpo_resume is not None else RESUME_OPTIONS
    fixed = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest in args.given and action.dest not in again
    ]
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(args):
            parser.error(contradiction.message)
    for name, (needed, is_needed) in NEEDS.items():
        if name in args.given and not is_needed(args):
            parser.error(f"--{name} does nothing without {needed}; add that, or drop it")
    if fixed and (args.resume is not None or args.hpo_resume is not None):
        flag, source = ("--resume", "the run's args.json")
        if args.hpo_resume is not None:
            flag, source = ("--hpo_resume", "search.json")
        parser.error(
            f"{flag} takes {fixed[-1]} from {source}; only "
            f"{', '.join('--' + name for name in again[1:6])} may be given again"
        )
    return args


def resolve_options(args: Namespace, config: BertConfig) -> None:
    """Fill in what depends on other options or on the encoder. Raises InputError."""
    is_cut = args.extension == "hierarchical"  # into segments, which alone have to fit
    if args.max_length > config.max_tokens and not is_cut:
        raise InputError(
            f"--max_length is {args.max_length}, but this encoder has positions for "
            f"{config.max_tokens}"
        )
    if args.batch_size < workers.size():
        warnings.warn(
            f"--batch_size is {args.batch_size} and there are {workers.size()} workers: some idle",
            stacklevel=2,
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
        # Four rows a task: two updates of every task, whatever the task scheduler. One epoch, and
        # one with a layer unfrozen.
        args.batch_size, args.epochs = 2, 1 + (args.unfreeze_interval or 0)
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
