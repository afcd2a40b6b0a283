"""Tables of tasks: TOML files that are read and checked. `tasks.toml` is the built-in one.

    [cola]
    kind = "binary"                   # one of `tasks.KINDS`
    files = "cola-acceptability"      # <files>-{train,dev,test-student}.csv
    text = ["sentence"]               # one column with sentences, or two
    label = "acceptable"
    metric = "matthews"

Further keys: `classes` (names of classes 0, 1, …), `range` ([low, high] of a regression),
`prediction` (the header in the prediction files), `ordered` (of a pair whose sentences must not be
swapped), `aliases` (other prefixes of its file flags).
"""

import functools
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import InputError
from runtime.files import MIB, is_plain_name, read_text
from runtime.startup import ROOT
from tasks import KINDS, SPLITS, Task

BUILT_IN = ROOT / "tasks.toml"
NAME = "tasks.toml"  # of a run's own table
NEEDED = ("kind", "files", "text", "label", "metric")
OPTIONAL = ("classes", "range", "prediction", "ordered", "aliases")
RANGED = {"classification": "classes", "multilabel": "classes", "regression": "range"}
TAKEN_NAMES = {"multitask", "mean", "epoch", "epochs", "seconds", "state", "error", "trial"}
# The attributes of torch's ModuleDict, which holds the heads by task. They are listed because torch
# is not imported here; transformers adds smart_apply.
MODULE_NAMES = frozenset("""
    add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters pop register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory smart_apply state_dict T_destination to to_empty train training
    type update values xpu zero_grad
    """.split())
ALLOWED_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}")  # no "-": it joins pairs of tasks
MAX_CLASSES = 10_000
MAX_TASKS = 1000
LARGEST = 1e9  # of the range of a regression


class TaskTable(NamedTuple):
    """A table of tasks.

    Attributes:
        text: the file as it is.
        tasks: the tasks by name, in its order.
    """

    text: str
    tasks: dict[str, Task]


def read_table(path: Path | str) -> TaskTable:
    """Read and check a table of tasks.

    Raises:
        InputError: it cannot be read or is wrong. The message has the file, the task, the key, its
            value and what is allowed.
    """
    text = read_text(path, MIB, hint="expected a table of tasks, see docs/tasks.md")
    try:
        content = tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of 5,000 digits
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise InputError(f"{path}: cannot be read as TOML: {reason}") from None
    if not 1 <= len(content) <= MAX_TASKS:
        raise InputError(f"{path}: has {len(content)} tasks, expected 1 to {MAX_TASKS}")
    tasks = {name: read_task(path, name, keys, n) for n, (name, keys) in enumerate(content.items())}
    check_together(path, list(tasks.values()))
    return TaskTable(text, tasks)


@functools.cache
def built_in_table() -> TaskTable:
    """Return the table of `tasks.toml`. Raises InputError."""
    return read_table(BUILT_IN)


def built_in_tasks() -> dict[str, Task]:
    """Return the built-in tasks by name. A run's own ones are in `args.tasks`."""
    return built_in_table().tasks


def read_task(path: Path | str, name: str, keys: Any, number: int) -> Task:
    """Check the keys of one task. Raises InputError.

    Args:
        path: the file, for error messages.
        name: of the task.
        keys: what the file holds under this name.
        number: the task's place in the file, from 0.
    """
    check = Checker(path, name, keys)
    check.name()
    check.names_of_keys()
    kind = check.one_of("kind", KINDS)
    text = check.texts("text", 1, 2)
    label = check.column("label")
    prediction = check.column("prediction", f"Predicted_{label}")
    if len({"id", *text, label}) < len(text) + 2:
        check.refuse("label", "other columns than id, each named once in text and label")
    if prediction == "id":
        check.refuse("prediction", "another header than id")
    names = tuple(check.texts("classes", 2, 2 if kind == "binary" else MAX_CLASSES)) or None
    if names is not None and kind == "multilabel" and any("," in name for name in names):
        check.refuse("classes", "names without commas, which separate the classes of an example")
    if check.flag("ordered") and len(text) < 2:
        check.refuse("ordered", "it for two text columns alone")
    low, high = check.range() if kind == "regression" else (0, max(len(names or ()), 2) - 1)
    return KINDS[kind](
        name=name,
        stem=check.file_name("files"),
        text_columns=tuple(text),
        label_column=label,
        prediction_column=prediction,
        metric_name=check.one_of("metric", KINDS[kind].judges()),
        label_range=(low, high),
        class_names=names,
        is_ordered=check.flag("ordered"),
        aliases=tuple(check.aliases()),
        number=number,
    )


class Checker:
    """The checks of one task's keys: every method raises InputError for what is not allowed.

    Args:
        path: the file.
        task: the task's name.
        keys: what the file holds under this name.
    """

    def __init__(self, path: Path | str, task: str, keys: Any) -> None:
        self.where = f"{path}: task {task!r:.80}"
        self.task, self.keys = task, keys

    def refuse(self, key: str, expected: str) -> None:
        """Raise InputError: the value of a key is not what is expected."""
        found = f"is {self.keys[key]!r:.200}" if key in self.keys else "is missing"
        raise InputError(f"{self.where}: {key} {found}, expected {expected}")

    def name(self) -> None:
        """Check the task's name: it is part of flags, files and the model's names."""
        allowed = "expected a letter, then letters, digits and _, 50 at most"
        if not ALLOWED_NAME.fullmatch(self.task):
            raise InputError(f"{self.where}: the name is not allowed, {allowed}")
        if self.task in TAKEN_NAMES | MODULE_NAMES:
            raise InputError(f"{self.where}: the name has another meaning here; choose another")

    def names_of_keys(self) -> None:
        """Check that there are the keys of the kind, and no others."""
        if not isinstance(self.keys, dict):
            raise InputError(
                f"{self.where}: is {self.keys!r:.80}, expected [{self.task[:50]}] and keys below it"
            )
        for key in self.keys:
            if key not in (*NEEDED, *OPTIONAL):
                self.refuse(key, f"only the keys {', '.join((*NEEDED, *OPTIONAL))}")
        for key in NEEDED:
            if key not in self.keys:
                self.refuse(key, f"the keys {', '.join(NEEDED)}")
        kind = self.one_of("kind", KINDS)
        needed = RANGED.get(kind)
        if needed is not None and needed not in self.keys:
            self.refuse(needed, f"it for a task of kind {kind}")
        if kind == "regression" and "classes" in self.keys:
            self.refuse("classes", "none for a task of kind regression")
        if kind != "regression" and "range" in self.keys:
            self.refuse("range", "none but for a task of kind regression")

    def one_of(self, key: str, allowed: Iterable[str]) -> str:
        """Return one of several words."""
        value = self.keys[key]
        if not isinstance(value, str) or value not in allowed:
            self.refuse(key, f"one of {', '.join(allowed)}")
        return value

    def column(self, key: str, default: str | None = None) -> str:
        """Return the name of a column."""
        value = self.keys.get(key, default)
        if not is_text(value):
            self.refuse(key, "the name of a column: printable text")
        return value

    def aliases(self) -> list[str]:
        """Return the other prefixes of the task's file flags."""
        values = self.texts("aliases", 0, 10)
        if self.task in values or not all(ALLOWED_NAME.fullmatch(value) for value in values):
            self.refuse("aliases", "names that a task may have, other than its own")
        return values

    def texts(self, key: str, fewest: int, most: int) -> list[str]:
        """Return a list of different texts; an empty one if the key is not there."""
        if key not in self.keys:
            return []
        values = self.keys[key]
        is_list = isinstance(values, list) and all(map(is_text, values))
        if not is_list or not fewest <= len(values) <= most or len({*values}) < len(values):
            number = f"{fewest}" if fewest == most else f"{fewest} to {most:,}"
            self.refuse(key, f"a list of {number} different texts, printable, no blanks around")
        return values

    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest label of a regression."""
        values = self.keys["range"]
        is_pair = isinstance(values, list) and len(values) == 2 and all(map(is_number, values))
        if not is_pair or not values[0] < values[1]:
            self.refuse("range", "[low, high], two numbers up to a billion, the first one smaller")
        return values[0], values[1]

    def flag(self, key: str) -> bool:
        """Return true or false; false if the key is not there."""
        value = self.keys.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def file_name(self, key: str) -> str:
        """Return the beginning of the names of files."""
        value = self.keys[key]
        if not isinstance(value, str) or not is_plain_name(value):
            self.refuse(key, "the beginning of file names, without a path: <files>-train.csv")
        return value


def is_text(value: object) -> bool:
    """Tell whether a value is a text that can be a cell: printable, without blanks around."""
    return isinstance(value, str) and value != "" and value.isprintable() and value == value.strip()


def is_number(value: object) -> bool:
    """Tell whether a value is a number of reasonable size, not nan."""
    is_numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_numeric and not math.isnan(value) and abs(value) <= LARGEST  # type: ignore


def check_together(path: Path | str, tasks: list[Task]) -> None:
    """Raise InputError if two tasks share prediction files, or the prefix of a flag."""
    for number, task in enumerate(tasks):
        for other in tasks[:number]:
            if task.stem.casefold() == other.stem.casefold():
                raise InputError(
                    f"{path}: task {task.name!r}: files is {task.stem!r}, as of task "
                    f"{other.name!r}, so both would write {task.stem}-dev-output.csv; expected "
                    "another name for each task"
                )
            shared = {task.name, *task.aliases} & {other.name, *other.aliases}
            if shared:
                raise InputError(
                    f"{path}: task {task.name!r}: aliases or name {sorted(shared)[0]!r} is also "
                    f"of task {other.name!r}, expected one task for each"
                )


def select(table: TaskTable, names: Iterable[str] | None) -> dict[str, Task]:
    """Return the tasks of these names in the table's order; all of them for None."""
    wanted = None if names is None else set(names)
    return {name: t for name, t in table.tasks.items() if wanted is None or name in wanted}


def file_options(tasks: Iterable[str]) -> list[str]:
    """Return the options that name a file of one of these tasks."""
    return [f"{name}_{split}" for name in tasks for split in SPLITS]
