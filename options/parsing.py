"""Reading the command line: checks, what a resumed run may change, resolved defaults."""

import argparse
import shlex
import warnings
from argparse import Namespace
from typing import Any, NoReturn

import torch

from datasets import SPLITS, default_data_dir
from models.bert import BertConfig
from models.features import default_layers
from models.pal import default_pal_size
from optimizers import default_lr
from options.legal import CONTRADICTIONS, NEEDS
from options.packages import check_packages
from runtime.errors import InputError, report
from tasks import TASKS

# All that may be given again with --resume; everything else comes from the run's args.json.
RESUME_OPTIONS = (
    *("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path"),
    *(f"{name}_{split}" for name in TASKS for split in SPLITS),
)
SEARCH_RESUME_OPTIONS = ("hpo_resume", "hpo_only", "ray_address", "use_gpu")


class ArgumentParser(argparse.ArgumentParser):
    """A parser that reads `@file` arguments and prints an error as one line.

    Such a file holds words as in a shell, several per line, with quotes and # comments.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(fromfile_prefix_chars="@", allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage, which is longer than a screen, and exit."""
        report(f"{self.prog}: error: {message} (--help lists every option)")
        self.exit(2)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Return the words of one line of an `@file`."""
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as error:
            self.error(f"{arg_line!r} in an @file: {error}; expected flags as in a shell")


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Parse and check options without touching a disk. Contradictions end in `parser.error`.

    Returns:
        The options, with task_weights as a dict, and `given`: the names of those that stand on the
        command line.
    """
    args = parser.parse_args(argv)
    args.task_weights = dict(args.task_weights)
    unset = object()
    blank = Namespace(**dict.fromkeys(vars(args), unset))
    explicit = vars(parser.parse_args(argv, namespace=blank))
    args.given = sorted(name for name, value in explicit.items() if value is not unset)
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(args):
            parser.error(contradiction.message)
    for name, (needed, is_needed) in NEEDS.items():
        if name in args.given and not is_needed(args):
            parser.error(f"--{name} does nothing without {needed}; add that, or drop it")
    if args.hpo_resume is not None:
        refuse_fixed(parser, args, "--hpo_resume", "search.json", SEARCH_RESUME_OPTIONS)
    elif args.resume is not None:
        refuse_fixed(parser, args, "--resume", "the run's args.json", RESUME_OPTIONS)
    return args


def refuse_fixed(
    parser: ArgumentParser, args: Namespace, flag: str, source: str, again: tuple[str, ...]
) -> None:
    """End in `parser.error` if an option is given that a resumed run takes from its file."""
    fixed = [
        action.option_strings[0]
        for action in parser._actions
        if action.dest in args.given and action.dest not in again
    ]
    if fixed:
        parser.error(
            f"{flag} takes {fixed[-1]} from {source}; only "
            f"{', '.join('--' + name for name in again[1:6])} may be given again"
        )


def resolve_options(args: Namespace, config: BertConfig) -> None:
    """Fill in what depends on other options or on the encoder, in place.

    Raises:
        InputError: an option does not fit the encoder, or needs a package that is missing.
    """
    check_packages(args)
    is_cut = args.extension == "hierarchical"  # into segments: these alone have to fit
    check_length("max_length", args.max_length, config, is_checked=not is_cut)
    check_length("segment_length", args.segment_length, config, is_checked=is_cut)
    args.tasks = list(TASKS) if args.task == "multitask" else [args.task]
    if args.lr is None:
        args.lr = default_lr(args.option, config.hidden_size, args.optimizer)
    if args.use_pal and args.pal_size is None:
        args.pal_size = default_pal_size(config.hidden_size)
    if args.train_mode == "single_layers":
        args.layers = args.layers or default_layers(config.num_hidden_layers)
        check_layers(args.layers, config.num_hidden_layers)
    if args.use_amp and not args.use_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("--use_amp: this CPU has no bfloat16 units; it will be slow", stacklevel=2)
    if args.data_dir is None:
        args.data_dir = str(default_data_dir())
    if args.smoketest:
        # Four rows per task: two updates of every task, whatever the task scheduler. One epoch, and
        # one with a layer unfrozen.
        args.batch_size, args.epochs = 2, 1 + (args.unfreeze_interval or 0)
        args.samples_per_epoch = args.num_batches_per_epoch = args.micro_batch_size = None
        args.max_length = min(args.max_length, 32)
    print(f"data: {args.data_dir}")


def check_length(name: str, length: int, config: BertConfig, is_checked: bool) -> None:
    """Raise InputError if a sequence would be longer than the encoder's positions."""
    if is_checked and length > config.max_tokens:
        raise InputError(
            f"--{name} is {length}, but this encoder has positions for {config.max_tokens}"
        )


def check_layers(layers: list[int], num_layers: int) -> None:
    """Raise InputError unless each layer is one of the encoder's, at most once."""
    wrong = [layer for layer in layers if layer > num_layers or layers.count(layer) > 1]
    if wrong:
        raise InputError(
            f"--layers {' '.join(map(str, layers))}: {wrong[0]} is not one of 1 to {num_layers}, "
            "each at most once"
        )
