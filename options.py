"""Reading the command line: option types, contradictory options, and what a resumed run may
change.
"""

import argparse
import shlex
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from datasets import SPLITS
from tasks import TASKS


class Contradiction(NamedTuple):
    """Options that cannot go together: `flags` is an example, `holds` the test, `message` what to
    do.
    """

    flags: str
    holds: Callable[[Namespace], object]
    message: str


def heads(args: Namespace) -> set[str]:
    """Keys of the heads of the tasks that are trained."""
    names = list(TASKS) if args.task == "multitask" else [args.task]
    return {TASKS[name].heads[args.pair_encoding] for name in names}


# The one table of illegal combinations; parsers and tests read it.
CONTRADICTIONS = (
    Contradiction(
        "--option pretrain --no_train_classifier",
        lambda a: a.option == "pretrain" and not a.train_classifier,
        "--option pretrain with --no_train_classifier leaves nothing to train; drop one",
    ),
    Contradiction(
        "--task sts --pair_encoding bi --option pretrain",
        lambda a: a.option == "pretrain" and heads(a) == {"cosine"},
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
        "--scheduler plateau --restarts 1",
        lambda a: a.restarts > 0 and a.scheduler != "cosine",
        "--restarts is for --scheduler cosine alone; add that, or drop --restarts",
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
)
# All that may be given again with --resume; everything else comes from the run's args.json.
RESUME_OPTIONS = ("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path")
RESUME_OPTIONS += tuple(f"{name}_{split}" for name in TASKS for split in SPLITS)


def positive_int(text: str) -> int:
    return number(text, int, "a positive integer", lambda value: value > 0)


def count(text: str) -> int:
    return number(text, int, "an integer of at least 0", lambda value: value >= 0)


def positive_float(text: str) -> float:
    return number(text, float, "a positive number", lambda value: 0 < value < float("inf"))


def non_negative_float(text: str) -> float:
    return number(text, float, "a number of at least 0", lambda value: 0 <= value < float("inf"))


def probability(text: str) -> float:
    return number(text, float, "a number in [0, 1)", lambda value: 0 <= value < 1)


def number(
    text: str, kind: type, expected: str, is_allowed: Callable[[float], bool]
) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def task_weight(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    if name not in TASKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=WEIGHT, tasks {', '.join(TASKS)}")
    return name, positive_float(weight)


def plain_name(text: str) -> str:
    if not text or text.startswith(".") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain name, without / or a leading dot"
        )
    return text


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
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(args):
            parser.error(contradiction.message)
    unset = object()
    blank = Namespace(**dict.fromkeys(vars(args), unset))
    explicit = vars(parser.parse_args(argv, namespace=blank))
    args.given = sorted(name for name, value in explicit.items() if value is not unset)
    fixed = [name for name in args.given if name not in RESUME_OPTIONS]
    if args.resume is not None and fixed:
        parser.error(
            f"--resume takes --{fixed[0]} from the run's args.json; only "
            f"{', '.join('--' + name for name in RESUME_OPTIONS[1:6])} may be given again"
        )
    return args
