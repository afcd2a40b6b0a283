"""Reading the command line: checks, and what a resumed run may change.

Neither this module nor any other that `--help` or a mistyped flag needs imports torch.
"""

import argparse
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from options.choices import TASK_SCHEDULERS
from options.legal import contradiction_of
from options.needs import NEEDS
from options.task_table import NAME, TaskTable, built_in_table, file_options, read_table, select
from runtime.errors import InputError, report
from runtime.files import MIB, read_text

# What may be given again with --resume, beside the tasks' files; all else comes from args.json.
RESUME_OPTIONS = ("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path")
EVERY_TASK = "multitask"  # for --task
MAX_WORDS = 10_000  # of an @file, with those that it names
MAX_NESTING = 10  # of an @file that names an @file
SEARCH_RESUME_OPTIONS = ("hpo_resume", "hpo_only", "ray_address", "use_gpu")


class ArgumentParser(argparse.ArgumentParser):
    """A parser that reads `@file` arguments and prints an error as one line.

    Such a file holds words as in a shell, several per line, with quotes and # comments. It may name
    other such files.

    Attributes:
        source: the file that the options come from. Its errors are raised as InputError, and it
            may not name an `@file`. None for a command line.
        for_table: returns the same parser for another table of tasks.
    """

    source: Path | None = None
    for_table: "Callable[[TaskTable], ArgumentParser] | None" = None

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage, which is longer than a screen, and exit.

        Raises:
            InputError: the options come from a file.
        """
        if self.source is not None:
            raise InputError(f"{self.source}: {message}")
        report(f"{self.prog}: error: {message} (--help lists every option)")
        self.exit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words, those of `@file` arguments in their place."""
        words = sys.argv[1:] if args is None else list(args)
        if self.source is None:
            words = self.expanded(words)
        return super().parse_known_args(words, namespace)

    def expanded(self, words: list[str], outer: tuple[str, ...] = ()) -> list[str]:
        """Replace each `@file` with the words that it holds; `outer`: the files around it."""
        found = []
        for word in words:
            if not word.startswith("@"):
                found.append(word)
                continue
            path, real = Path(word[1:]), os.path.realpath(word[1:])
            if real in outer or len(outer) == MAX_NESTING:
                self.error(f"{word!r} names itself, or is nested deeper than {MAX_NESTING} files")
            found += self.expanded(self.words_of(path), (*outer, real))
            if len(found) > MAX_WORDS:
                self.error(
                    f"{word!r} and the files that it names hold more than {MAX_WORDS:,} words"
                )
        return found

    def words_of(self, path: Path) -> list[str]:
        """Return the words of an `@file`."""
        try:
            content = read_text(path, MIB, hint="an @file holds flags as in a shell")
        except InputError as error:
            self.error(str(error))
        words = []
        for number, line in enumerate(content.removeprefix("\ufeff").splitlines(), start=1):
            try:
                words += shlex.split(line, comments=True)
            except ValueError as error:
                self.error(
                    f"{path}:{number}: {error} in {line[:80]!r}; expected flags as in a shell"
                )
        return words


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Parse and check options. Contradictions end in `parser.error`.

    Of all files, only those are read that decide which options there are: `@files` and the table of
    tasks.

    Args:
        parser: of an entry script, for the built-in tasks.
        argv: the words; None for those of this process.

    Returns:
        The options, with task_weights as a dict; `given`: the names of those that stand on the
        command line; `table`: the table of tasks; `tasks`: the run's tasks of it, by name.
    """
    words = parser.expanded(sys.argv[1:] if argv is None else list(argv))
    table = named_table(parser, words)
    if table is not built_in_table() and parser.for_table is not None:
        prog, usage = parser.prog, parser.usage
        parser = parser.for_table(table)
        parser.prog, parser.usage = prog, usage
    args = parser.parse_args(words)
    unset = object()
    blank = Namespace(**dict.fromkeys(vars(args), unset))
    explicit = vars(parser.parse_args(words, namespace=blank))
    args.given = sorted(name for name, value in explicit.items() if value is not unset)
    set_tasks(parser, args, table)
    check_options(parser, args)
    for name, (needed, is_needed) in NEEDS.items():
        if name in args.given and not is_needed(args):
            parser.error(f"--{name} does nothing without {needed}; add that, or drop it")
    if args.hpo_resume is not None:
        refuse_fixed(parser, args, "--hpo_resume", "search.json", SEARCH_RESUME_OPTIONS)
    elif args.resume is not None:
        again = (*RESUME_OPTIONS, *file_options(table.tasks))
        refuse_fixed(parser, args, "--resume", "the run's args.json", again)
    return args


def named_table(parser: ArgumentParser, words: list[str]) -> TaskTable:
    """Return the table that a command line names: its run's own, that of --tasks, or the built-in.

    A mistake in it ends in `parser.error`.
    """
    finder = ArgumentParser(parser.prog, add_help=False)
    for flag in ("--tasks", "--resume", "--hpo_resume"):
        finder.add_argument(flag)
    found, _ = finder.parse_known_args(words)
    try:
        for folder in filter(None, (found.resume, found.hpo_resume)):
            return own_table(folder)
        return built_in_table() if found.tasks is None else read_table(found.tasks)
    except InputError as error:
        parser.error(str(error))


def own_table(folder: Path | str) -> TaskTable:
    """Return the table in a run's directory; the built-in one if an older version made the run.

    Raises:
        InputError: it is wrong.
    """
    path = Path(folder) / NAME
    return read_table(path) if os.path.lexists(path) else built_in_table()


def set_tasks(parser: ArgumentParser, args: Namespace, table: TaskTable) -> None:
    """Set `table` and, from --task, `tasks`. Mistakes end in `parser.error`."""
    taken = {*TASK_SCHEDULERS, *vars(args)} & table.tasks.keys()
    if taken:
        where = args.tasks_file or NAME
        parser.error(
            f"{where}: task {sorted(taken)[0]!r}: an option or a task scheduler has this name; "
            "choose another"
        )
    if args.task == [EVERY_TASK]:
        args.task = None
    names = args.task or []
    if len({*names}) < len(names) or EVERY_TASK in names:
        parser.error(f"--task {' '.join(names)}: name each task once, or {EVERY_TASK} alone")
    args.table, args.tasks = table, select(table, args.task)


def check_options(parser: ArgumentParser, args: Namespace, is_saved: bool = False) -> None:
    """End in `parser.error` if options contradict each other; make task_weights a dict.

    Args:
        parser: which reports the error.
        args: the options.
        is_saved: whether they are those of an existing run.
    """
    names = [name for name, _ in args.task_weights]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        parser.error(f"--task_weights names {twice[0]} more than once; give each task one weight")
    args.task_weights = dict(args.task_weights)
    message = contradiction_of(args, is_saved)
    if message is not None:
        parser.error(message)


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


def make_absolute(args: Namespace) -> None:
    """Make paths absolute, in place, so that the run can be resumed from any directory.

    Raises:
        InputError: the working directory's path holds control characters.
    """
    names = ("data_dir", "checkpoint", "logdir", "filepath", "predictions_path", "tasks_file")
    for name in (*names, *file_options(args.tasks)):
        if getattr(args, name, None) is not None:
            setattr(args, name, os.path.abspath(getattr(args, name)))
    model_name = getattr(args, "model_name", None)
    if model_name is not None and Path(model_name).is_dir():
        args.model_name = os.path.abspath(model_name)
    if not os.path.abspath(".").isprintable():  # the run could not be read back
        raise InputError(
            f"{os.path.abspath('.')!r}: control characters in a path; rename the folder"
        )
