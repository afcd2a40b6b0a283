"""What a search may choose, and how a chosen point becomes a legal set of options."""

from argparse import Namespace
from typing import NamedTuple

from optimizers import PROJECTIONS
from options.legal import CONTRADICTIONS
from runtime.errors import InputError
from task_schedulers import TASK_SCHEDULERS


class Range(NamedTuple):
    """Numbers from low to high, evenly spread, or their logarithms."""

    low: float
    high: float
    is_log: bool = False


class Choice(NamedTuple):
    """One of these values."""

    values: tuple


# What is searched, by option; train_multitask.py has no options for the last three.
SPACE: dict[str, Range | Choice] = {
    "lr": Range(1e-5, 1e-3, is_log=True),
    "weight_decay": Range(1e-4, 0.3, is_log=True),
    "hidden_dropout_prob": Range(0.0, 0.3),
    "clip": Range(0.1, 10.0, is_log=True),
    "warmup_fraction": Range(0.0, 0.3),
    "projection": Choice(("none", "pcgrad", "vaccine")),
    "task_scheduler": Choice(("round_robin", "random", "pal")),
    "smart_weight_regularization": Choice((0.0, 0.3, 1.0, 3.0)),
}
TECHNIQUES = ("projection", "task_scheduler", "smart_weight_regularization")
assert set(SPACE["projection"].values) <= PROJECTIONS.keys()
assert set(SPACE["task_scheduler"].values) <= TASK_SCHEDULERS.keys()


def search_space(args: Namespace) -> dict[str, Range | Choice]:
    """SPACE, without options that are given or belong to the other script, narrowed by the file.

    Raises InputError naming the file, the option and what is allowed.
    """
    names = [name for name in SPACE if name not in args.given]
    if args.script == "train_multitask.py":
        names = [name for name in names if name not in TECHNIQUES]
    elif args.task != "multitask":
        names = [name for name in names if name not in ("projection", "task_scheduler")]
    if args.scheduler not in ("linear_warmup", "cosine"):
        names.remove("warmup_fraction")
    for name, value in args.narrowed.items():
        if name not in names:
            raise InputError(
                f"{args.hpo_space}: {name!r} is not searched here, expected some of "
                f"{', '.join(names)}"
            )
    space = {name: legal_part(args, name) for name in names}
    space = {name: domain for name, domain in space.items() if domain is not None}
    for name, value in args.narrowed.items():
        where = f"{args.hpo_space}: {name!r} is {value!r}"
        if name not in space:
            raise InputError(f"{where}, but the other options leave no choice; leave it out")
        space[name] = narrowed(space[name], value, where)
    if not space:
        raise InputError("--hpo has nothing to search: every option of the space is given")
    return space


def legal_part(args: Namespace, name: str) -> Range | Choice | None:
    """What SPACE has for an option without what the other options forbid; None if no choice is
    left."""
    domain = SPACE[name]
    if isinstance(domain, Range):
        return domain
    values = domain.values
    if name == "smart_weight_regularization" and args.use_smart_regularization:
        values = tuple(value for value in values if value > 0)
    values = tuple(value for value in values if is_legal(args, {name: value}))
    return Choice(values) if len(values) > 1 else None


def is_legal(args: Namespace, sampled: dict) -> bool:
    trial = Namespace(**vars(args) | {"hpo": False} | trial_options(args, sampled))
    return not any(contradiction.holds(trial) for contradiction in CONTRADICTIONS)


def narrowed(domain: Range | Choice, value: object, where: str) -> Range | Choice:
    """`domain` cut down to `value`: some of the choices, or [low, high]. Raises InputError."""
    values = value if isinstance(value, list) else [value]
    if isinstance(domain, Choice):
        if not values or any(v not in domain.values for v in values):
            raise InputError(f"{where}, expected a list of some of {list(domain.values)}")
        return Choice(tuple(values))
    is_number = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not is_number or len(values) != 2 or not domain.low <= values[0] < values[1] <= domain.high:
        raise InputError(
            f"{where}, expected [low, high] inside [{domain.low:g}, {domain.high:g}]; to fix it, "
            "give the option on the command line"
        )
    return Range(float(values[0]), float(values[1]), domain.is_log)


def trial_options(args: Namespace, sampled: dict) -> dict:
    """What a sampled point sets: itself, and what it needs to be a legal combination."""
    options = dict(sampled)
    if "smart_weight_regularization" in sampled:
        options["use_smart_regularization"] = sampled["smart_weight_regularization"] > 0
        if not options["use_smart_regularization"]:
            del options["smart_weight_regularization"]  # it needs the flag
    scheduler = sampled.get("task_scheduler", args.task_scheduler)
    projection = sampled.get("projection", args.projection)
    if args.combine_strategy == "none" and scheduler in ("random", "pal") and projection != "none":
        options["combine_strategy"] = "force"
    return options
