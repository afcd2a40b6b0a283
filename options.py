"""Reading the command line: option types, contradictory options, and what a resumed run may
change.
"""

import argparse
import shlex
from argparse import Namespace
from collections.abc import Callable

from datasets import SPLITS
from tasks import TASKS

# Options that contradict each other: (test, message). The parser and the tests read this table.
CONTRADICTIONS = (
    (
        lambda a: a.option == "pretrain" and not a.train_classifier,
        "--option pretrain with --no_train_classifier leaves nothing to train; drop one",
    ),
    (
        lambda a: a.samples_per_epoch is not None and a.num_batches_per_epoch is not None,
        "--samples_per_epoch and --num_batches_per_epoch both say how long an epoch is; drop one",
    ),
    (
        lambda a: a.micro_batch_size is not None and a.micro_batch_size > a.batch_size,
        "--micro_batch_size is larger than --batch_size; it splits a batch, so make it smaller",
    ),
    (
        lambda a: a.restarts > 0 and a.scheduler != "cosine",
        "--restarts is for --scheduler cosine alone; add that, or drop --restarts",
    ),
    (
        lambda a: a.resume is not None and a.checkpoint is not None,
        "--resume goes on with its own weights and --checkpoint starts from others; drop one",
    ),
    (
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
    for is_contradiction, message in CONTRADICTIONS:
        if is_contradiction(args):
            parser.error(message)
    unset = object()
    blank = Namespace(**{action.dest: unset for action in parser._actions})
    explicit = vars(parser.parse_args(argv, namespace=blank))
    args.given = sorted(name for name, value in explicit.items() if value is not unset)
    fixed = [name for name in args.given if name not in RESUME_OPTIONS + ("script",)]
    if args.resume is not None and fixed:
        parser.error(
            f"--resume takes --{fixed[0]} from the run's args.json; only "
            f"{', '.join('--' + name for name in RESUME_OPTIONS[1:6])} may be given again"
        )
    return args
