"""search.json read back: the options of a search, of the types that the parser gives them."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting.metrics_file import is_number
from runtime.errors import InputError
from runtime.files import read_json

SCRIPTS = ("train_multitask.py", "train_multitask_pal.py")


def is_integer(value: object, low: int) -> bool:
    """Tell whether a value of a JSON file is an integer of at least `low`."""
    return type(value) is int and value >= low


def is_names(value: object) -> bool:
    """Tell whether a value of a JSON file is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# What the search itself reads, and what it expects. A trial checks the other options as a run does.
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "script": (f"one of {', '.join(SCRIPTS)}", lambda v: v in SCRIPTS),
    "given": ("a list of options", is_names),
    "narrowed": ("an object", lambda v: isinstance(v, dict)),
    "seed": ("an integer of at least 0", lambda v: is_integer(v, 0)),
    "patience": ("null or an integer of at least 0", lambda v: v is None or is_integer(v, 0)),
    "hpo_resume": ("null or a text", lambda v: v is None or isinstance(v, str)),
    "ray_address": ("null or a text", lambda v: v is None or isinstance(v, str)),
    "hpo_concurrent": ("null or a positive integer", lambda v: v is None or is_integer(v, 1)),
    "hpo_gpus": ("null or a number of at least 0", lambda v: v is None or is_number(v) and v >= 0),
    **{
        name: ("a positive integer", lambda v: is_integer(v, 1))
        for name in ("epochs", "hpo_trials", "hpo_cpus")
    },
}


def read_search(path: Path, defaults: Namespace) -> Namespace:
    """Return the options that a search.json holds.

    Args:
        path: the file.
        defaults: the options of this command line, for those that an older version did not have.

    Raises:
        InputError: the file cannot be read, or an option is of another type.
    """
    options = read_json(path).get("options")
    if not isinstance(options, dict):
        raise InputError(f"{path}: holds no options of a search")
    for name, default in (vars(defaults) | {"narrowed": None}).items():
        value = options.setdefault(name, default)
        expected, is_expected = EXPECTED.get(name, (kind(default), same_kind(default)))
        if not is_expected(value):
            raise InputError(f"{path}: {name} is {value!r:.60}, expected {expected}")
    for name in options["given"]:
        if name not in options:
            raise InputError(f"{path}: given has {name!r:.60}, which is no option of the search")
    return Namespace(**options)


def kind(default: object) -> str:
    """Return the type of an option with this default, in words."""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, (int, float)):
        return "a number"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return names.get(type(default), "a text, a number, or a list of them, or null")


def same_kind(default: object) -> Callable[[object], bool]:
    """Return a function that tells whether a value has the type of an option with this default."""
    if isinstance(default, bool) or isinstance(default, (str, list, dict)):
        return lambda value: type(value) is type(default)
    if isinstance(default, (int, float)):
        return is_number
    return lambda value: not isinstance(value, (dict, bool))
