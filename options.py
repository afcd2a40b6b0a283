"""Reading the command line: option types, contradictions, what a resumed run may change."""

import argparse
import shlex
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from datasets import SPLITS
from tasks import TASKS


class Contradiction(NamedTuple):
    """Options that cannot go together: an example, the test, and what to do about it."""

    flags: str
    holds: Callable[[Namespace], object]
    message: str


def heads(args: Namespace) -> set[str]:
    """Keys of the heads of the tasks that are trained."""
    single = [name for name in (args.task, args.task_scheduler) if name in TASKS]
    return {TASKS[name].heads[args.pair_encoding] for name in single or TASKS}


def is_sampled(args: Namespace) -> bool:
    return args.task_scheduler in ("random", "pal")


def num_trained(args: Namespace) -> int:
    """How many tasks are trained on."""
    return 1 if args.task in TASKS or args.task_scheduler in TASKS else len(TASKS)


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
    "smart_radius": 0.1,
    "smart_mu": 0.0,
}

# The one table of illegal combinations; parsers and tests read it.
CONTRADICTIONS = (
    Contradiction(
        "--option pretrain --no_train_classifier",
        lambda a: a.option == "pretrain" and not a.train_classifier and not a.use_pal,
        "--option pretrain with --no_train_classifier leaves nothing to train; drop one",
    ),
    Contradiction(
        "--task sts --pair_encoding bi --option pretrain",
        lambda a: a.option == "pretrain" and heads(a) == {"cosine"} and not a.use_pal,
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
        and not a.use_pal
        and (a.projection != "none" or a.log_conflicts),
        "--option pretrain freezes every shared parameter, so there is nothing to project or log; "
        "drop one",
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
} | {
    name: ("--use_smart_regularization", lambda a: a.use_smart_regularization)
    for name in ("smart_weight_regularization", "smart_radius", "smart_mu")
}
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


def rate(text: str) -> float:
    return number(text, float, "a number in (0, 1]", lambda value: 0 < value <= 1)


def multiple_of_six(text: str) -> int:
    expected = "a positive multiple of 6, the number of heads"
    return number(text, int, expected, lambda value: value > 0 and value % 6 == 0)


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
