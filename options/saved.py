"""Options that a file holds, args.json of a run or search.json, checked like a command line.

The file may be of an older version, edited by hand, or from someone else. So its values become the
words of a command line, which the parser of the run's script reads.
"""

import argparse
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from options.parsing import ArgumentParser, check_options, own_table, set_tasks
from options.run_options import PARSERS
from runtime.errors import InputError
from tasks import Task

# What a run adds to the options of its command line.
RESOLVED = (
    "given",
    "tasks",
    "table",
    "run_dir",
    "script",
    "narrowed",
    "data_sha256",
    "fingerprint",
)
# These belong to one command line, and not to the run.
OWN = ("resume", "hpo_resume", "ray_address", "help")


def check_saved_options(options: Any, path: Path) -> Namespace:
    """Return a run's saved options, checked; an option that is missing gets its default.

    Args:
        options: what the file holds under "options".
        path: the file.

    Raises:
        InputError: a value is not allowed, or values contradict each other. The message names the
            file and the option.
    """
    if not isinstance(options, dict):
        raise InputError(f"{path}: holds no options of a run")
    script = options.get("script")
    if not isinstance(script, str) or script not in PARSERS:
        raise InputError(f"{path}: script is {script!r}, expected one of {', '.join(PARSERS)}")
    table = own_table(path.parent)
    parser = PARSERS[script](table)
    parser.source = path
    args = parser.parse_args(saved_words(options, parser))
    set_tasks(parser, args, table)
    args.script, args.run_dir = script, options.get("run_dir", "")
    if not isinstance(args.run_dir, str) or not args.run_dir.isprintable():
        raise InputError(f"{path}: run_dir is {args.run_dir!r}, expected a path")
    args.given = checked_given(options.get("given"), args, path)
    args.tasks = checked_tasks(options.get("tasks"), args, path)
    args.data_sha256 = checked_digests(options.get("data_sha256"), path)
    args.fingerprint = options.get("fingerprint")  # an older version's run has none
    if not isinstance(args.fingerprint, (str, type(None))):
        raise InputError(f"{path}: fingerprint is {args.fingerprint!r}, expected a digest")
    args.narrowed = options.get("narrowed", {})
    if not isinstance(args.narrowed, dict):
        raise InputError(f"{path}: narrowed is {args.narrowed!r}, expected an object")
    check_options(parser, args, is_saved=True)
    return args


def options_to_save(args: Namespace) -> dict[str, Any]:
    """Return what a file holds of a run's options; the table of tasks is a file beside it."""
    options = {name: value for name, value in vars(args).items() if name != "table"}
    return options | {"tasks": list(args.tasks)}


def saved_words(options: dict[str, Any], parser: ArgumentParser) -> list[str]:
    """Return the words of the command line that sets these options.

    An option at its default needs no words. Warns of options that are missing or unknown.

    Raises:
        InputError: a value is of the wrong kind.
    """
    words = []
    actions: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        if action.dest not in OWN:
            actions.setdefault(action.dest, []).append(action)
    for dest, setters in actions.items():
        default = parser.get_default(dest)
        value = options.get(dest, default)
        if not (type(value) is type(default) and value == default):
            words += words_of(setters, value, parser)
    fixed = set(parser.parse_args([]).__dict__) - set(actions) - set(OWN)  # of the other script
    missing = [dest for dest in actions if dest not in options]
    unknown = sorted(options.keys() - actions.keys() - fixed - {*RESOLVED, *OWN})
    notes = []
    if missing:
        values = ", ".join(f"{name} is {parser.get_default(name)}" for name in missing)
        notes.append(f"an older version wrote it; by default {values}")
    if unknown:
        names = ", ".join(map(repr, unknown[:5]))
        notes.append(f"ignored options that this version does not have: {names}")
    if notes:
        warnings.warn(f"{parser.source}: {'; '.join(notes)}", stacklevel=2)
    return words


def words_of(setters: list[argparse.Action], value: Any, parser: ArgumentParser) -> list[str]:
    """Return the words that set one option to a value from JSON; `setters`: its flags' actions."""
    dest, flag = setters[0].dest, setters[0].option_strings[0]
    if setters[0].nargs == 0:  # on or off
        for setter in setters:
            if isinstance(value, bool) and setter.const is value:
                return [setter.option_strings[0]]
        parser.error(f"{dest} is {value!r}, expected true or false")
    if dest == "task" and isinstance(value, str):  # an older version took one name
        value = [value]
    if dest == "task_weights" and isinstance(value, dict):
        if not value:
            return []
        value = [f"{name}={text_of(weight)}" for name, weight in value.items()]
    if setters[0].nargs == "+":
        texts = [text_of(part) for part in value] if isinstance(value, list) else [None]
        if not texts or None in texts or any(text.startswith("-") for text in texts if text):
            parser.error(f"{dest} is {value!r}, expected a list of values as {flag} takes them")
        return [flag, *map(str, texts)]
    text = text_of(value)
    if text is None:
        parser.error(f"{dest} is {value!r}, expected a value as {flag} takes it")
    return [f"{flag}={text}"]


def text_of(value: Any) -> str | None:
    """Return the word for a text or a number; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return value if isinstance(value, str) else repr(value)


def checked_given(given: Any, args: Namespace, path: Path) -> list[str]:
    """Return which options the run's command line had. Raises InputError."""
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{path}: given is {given!r}, expected a list of options")
    return [name for name in given if name in args]


def checked_tasks(names: Any, args: Namespace, path: Path) -> dict[str, Task]:
    """Return the run's own tasks, without one that was left out. Raises InputError."""
    expected = list(args.tasks)
    if names is None:  # an older version's search has not resolved them
        return args.tasks
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or not names or [n for n in expected if n in names] != names:
        raise InputError(
            f"{path}: tasks is {names!r}, expected some of {', '.join(expected)}, in this order"
        )
    return {name: args.tasks[name] for name in names}


def checked_digests(digests: Any, path: Path) -> dict[str, str]:
    """Return the digest of each training file, by task; empty for an older version's run."""
    digests = {} if digests is None else digests
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise InputError(f"{path}: data_sha256 is {digests!r}, expected a digest for each task")
    return digests
