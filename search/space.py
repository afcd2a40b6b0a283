"""The search space, and how a point of it becomes a legal set of options."""

from argparse import Namespace
from typing import Any, NamedTuple

from options.legal import CONTRADICTIONS, SAMPLED
from runtime.errors import InputError


class Range(NamedTuple):
    """Numbers from `low` to `high`, drawn uniformly, or with uniform logarithms if `is_log`."""

    low: float
    high: float
    is_log: bool = False


class Choice(NamedTuple):
    """One of some values, drawn uniformly."""

    values: tuple


# Option -> what is searched. The options of TECHNIQUES exist only in train_multitask_pal.py.
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


def search_space(args: Namespace) -> dict[str, Range | Choice]:
    """Return the part of SPACE that a search of these options searches.

    It skips options that are given on the command line, that the script does not have, or that
    would have no effect. The --hpo_space file narrows the rest.

    Args:
        args: the search's options, with `narrowed`, the content of the file.

    Raises:
        InputError: the file is wrong, or nothing is left to search. The message has the file, the
            option and what is allowed.
    """
    names = [name for name in SPACE if name not in args.given]
    if args.script == "train_multitask.py":
        names = [name for name in names if name not in TECHNIQUES]
    elif len(args.tasks) < 2:
        names = [name for name in names if name not in ("projection", "task_scheduler")]
    if args.scheduler not in ("linear_warmup", "cosine"):
        names.remove("warmup_fraction")
    for name, value in args.narrowed.items():
        if name not in names:
            raise InputError(
                f"{args.hpo_space}: {name!r} is not searched here, expected some of "
                f"{', '.join(names)}"
            )
    domains = {name: legal_part(args, name) for name in names}
    space = {name: domain for name, domain in domains.items() if domain is not None}
    for name, value in args.narrowed.items():
        where = f"{args.hpo_space}: {name!r} is {value!r}"
        if name not in space:
            raise InputError(f"{where}, but the other options leave no choice of it; drop it")
        space[name] = narrowed(space[name], value, where)
    if not space:
        raise InputError(
            f"--hpo has nothing to search: every option of the space is given; drop one of "
            f"{', '.join('--' + name for name in SPACE if name in args.given)}"
        )
    return space


def legal_part(args: Namespace, name: str) -> Range | Choice | None:
    """Return the values in SPACE that the other options allow for one option.

    Returns:
        The values, or None if fewer than two are left.
    """
    domain = SPACE[name]
    if isinstance(domain, Range):
        return domain
    values = domain.values
    if name == "smart_weight_regularization" and args.use_smart_regularization:
        values = tuple(value for value in values if value > 0)
    values = tuple(value for value in values if is_legal(args, {name: value}))
    return Choice(values) if len(values) > 1 else None


def is_legal(args: Namespace, sampled: dict[str, Any]) -> bool:
    """Tell whether a trial with these sampled options contradicts nothing."""
    trial = Namespace(**vars(args) | {"hpo": False} | trial_options(args, sampled))
    return not any(contradiction.holds(trial) for contradiction in CONTRADICTIONS)


def narrowed(domain: Range | Choice, value: object, where: str) -> Range | Choice:
    """Narrow a domain to what the --hpo_space file says.

    Args:
        domain: of an option in SPACE.
        value: some of the choices, or [low, high] inside a range.
        where: what an error message says of file, option and value.

    Raises:
        InputError: the value is nothing of the kind.
    """
    values = value if isinstance(value, list) else [value]
    if isinstance(domain, Choice):
        if not values or any(v not in domain.values for v in values):
            raise InputError(f"{where}, expected a list of some of {list(domain.values)}")
        return Choice(tuple(values))
    ends = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if not (len(ends) == len(values) == 2 and domain.low <= ends[0] < ends[1] <= domain.high):
        raise InputError(
            f"{where}, expected [low, high] inside [{domain.low:g}, {domain.high:g}]; for a single "
            "value, give the option on the command line"
        )
    return Range(float(ends[0]), float(ends[1]), domain.is_log)


def trial_options(args: Namespace, sampled: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a sampled point sets.

    These are the point itself, and options that it needs to be a legal combination.

    Args:
        args: the options of the search.
        sampled: option -> value.
    """
    options = dict(sampled)
    if "smart_weight_regularization" in sampled:
        options["use_smart_regularization"] = sampled["smart_weight_regularization"] > 0
        if not options["use_smart_regularization"]:
            del options["smart_weight_regularization"]  # which is not allowed without the flag
    scheduler = sampled.get("task_scheduler", args.task_scheduler)
    projection = sampled.get("projection", args.projection)
    if args.combine_strategy == "none" and scheduler in SAMPLED and projection != "none":
        options["combine_strategy"] = "force"
    return options
