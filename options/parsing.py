"""Reading the command line: checks, what a resumed run may change, resolved defaults."""

import argparse
import hashlib
import json
import os
import shlex
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from datasets import SPLITS, default_data_dir, has_files, task_file, training_digests
from models.bert import BertConfig
from models.features import default_layers
from models.pal import default_pal_size
from optimizers import default_lr
from options.legal import NEEDS, contradiction_of
from options.packages import check_packages
from runtime.errors import InputError, report
from runtime.files import MIB, read_text, shown_path
from task_schedulers import TASK_SCHEDULERS
from task_table import NAME, TaskTable, built_in_table, read_table, select

# What may be given again with --resume, beside the tasks' files; all else comes from args.json.
RESUME_OPTIONS = ("resume", "epochs", "use_gpu", "data_dir", "filepath", "predictions_path")
# Options that say where things are and what is written, but not what is trained.
UNCOUNTED = {"data_dir", "checkpoint", "filepath", "predictions_path", "logdir", "run_dir"}
UNCOUNTED |= {"run_name", "given", "narrowed", "resume", "use_gpu", "model_name", "script"}
UNCOUNTED |= {"local_files_only", "save_every", "write_summary", "tensorboard_subfolder"}
UNCOUNTED |= {"profiler", "no_test_predictions", "skip_bad_rows", "ray_address", "fingerprint"}
UNCOUNTED |= {"hpo", "hpo_resume", "hpo_trials", "hpo_only", "hpo_space", "hpo_cpus", "hpo_gpus"}
UNCOUNTED |= {"hpo_concurrent", "tasks_file", "table"}
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


def file_options(tasks: Iterable[str]) -> list[str]:
    """Return the options that name a file of one of these tasks."""
    return [f"{name}_{split}" for name in tasks for split in SPLITS]


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


def check_options(parser: ArgumentParser, args: Namespace) -> None:
    """End in `parser.error` if options contradict each other; make task_weights a dict."""
    names = [name for name, _ in args.task_weights]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        parser.error(f"--task_weights names {twice[0]} more than once; give each task one weight")
    args.task_weights = dict(args.task_weights)
    message = contradiction_of(args)
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


def resolve_options(args: Namespace, config: BertConfig) -> None:
    """Fill in what depends on other options or on the encoder, in place.

    Raises:
        InputError: an option does not fit the encoder, or needs a package that is missing.
    """
    resolve_model_options(args, config)
    if args.lr is None:
        args.lr = default_lr(args.option, config.hidden_size, args.optimizer)
    if args.smoketest and args.resume is None:  # a saved run has these sizes already
        shrink(args)
    digests = training_digests(args)
    check_digests(digests, getattr(args, "data_sha256", {}), args)
    args.data_sha256 = digests
    if args.resume is None:
        args.fingerprint = fingerprint(args, config)
    print(f"data: {shown_path(args.data_dir)}")


def resolve_model_options(args: Namespace, config: BertConfig) -> None:
    """Fill in and check the options that evaluation needs too, in place. Raises InputError."""
    check_packages(args)
    is_cut = args.extension == "hierarchical"  # into segments: these alone have to fit
    check_length("max_length", args.max_length, config, is_checked=not is_cut)
    check_length("segment_length", args.segment_length, config, is_checked=is_cut)
    if args.use_pal and args.pal_size is None:
        args.pal_size = default_pal_size(config.hidden_size)
    if args.use_pal and args.pal_size > max(config.hidden_size, 6):
        raise InputError(
            f"--pal_size is {args.pal_size}, wider than the encoder's {config.hidden_size}; the "
            "projected attention is meant to be narrower"
        )
    if args.train_mode == "single_layers":
        args.layers = args.layers or default_layers(config.num_hidden_layers)
        check_layers(args.layers, config.num_hidden_layers)
    if args.use_amp and not args.use_gpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn("--use_amp: this CPU has no bfloat16 units; it will be slow", stacklevel=2)
    if args.data_dir is None:
        set_data_dir(args)


def set_data_dir(args: Namespace) -> None:
    """Set --data_dir where it was not given, in place.

    If no flag chooses the tasks either, those without files there are left out, with a warning: a
    task that is added to the built-in table is not yet in the sample.

    Raises:
        InputError: the other options do not go with the tasks that are left.
    """
    folder = default_data_dir(args.tasks.values())
    args.data_dir = str(folder)
    named = {name for name in args.tasks for split in SPLITS if getattr(args, f"{name}_{split}")}
    named |= {args.task_scheduler, *args.task_weights}
    found = {
        name: task for name, task in args.tasks.items() if name in named or has_files(folder, task)
    }
    missing = [task.stem for name, task in args.tasks.items() if name not in found]
    if args.task is None and args.tasks_file is None and missing and found:
        warnings.warn(
            f"only {', '.join(found)} are trained: {shown_path(folder)} has no files "
            f"{', '.join(missing)}; name another folder with --data_dir",
            stacklevel=2,
        )
        args.tasks = found
        message = contradiction_of(args)
        if message is not None:
            raise InputError(message)


def check_digests(digests: dict[str, str], known: dict[str, str], args: Namespace) -> None:
    """Check that a resumed run finds the training files that it began with.

    Args:
        digests: of the files as they are now, by task.
        known: of those that it began with; empty for a new run, or one of an older version.
        args: the run's options.

    Raises:
        InputError: a file has changed.
    """
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            path = task_file(args, args.tasks[name], "train")
            raise InputError(
                f"{path}: is not the file that this run was trained on; put that one back, or "
                "start a new run"
            )


def fingerprint(args: Namespace, config: BertConfig) -> str:
    """Return a digest of what a run starts from, to know its checkpoints by.

    It covers the options that change what is trained, the training files, the encoder's shape and
    name, and the file of --checkpoint. A repeated run has the same digest, wherever it is.
    """
    uncounted = UNCOUNTED.union(file_options(args.table.tasks))
    counted = {name: value for name, value in vars(args).items() if name not in uncounted}
    counted["tasks"] = [[type(task).__name__, asdict(task)] for task in args.tasks.values()]
    counted |= {"config": asdict(config), "model_name": os.path.basename(args.model_name)}
    if args.checkpoint is not None:
        with open(args.checkpoint, "rb") as file:
            counted["checkpoint"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


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


def shrink(args: Namespace) -> None:
    """Set the sizes of --smoketest, in place; warn if one of them was given.

    Four rows per task make two updates of every task, whatever the task scheduler. There is one
    epoch, and one with a layer unfrozen.
    """
    sizes = {
        "batch_size": 2,
        "epochs": 1 + (args.unfreeze_interval or 0),
        "samples_per_epoch": None,
        "num_batches_per_epoch": None,
        "micro_batch_size": None,
        "max_length": min(args.max_length, 32),
    }
    changed = [n for n, size in sizes.items() if n in args.given and getattr(args, n) != size]
    vars(args).update(sizes)
    if changed:
        listed = ", ".join("--" + name for name in changed)
        warnings.warn(f"--smoketest sets its own sizes in place of {listed}", stacklevel=2)


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
