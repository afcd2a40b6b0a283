"""Label the rows of a file: read windows of rows, predict each, and write it in the same order.

Within a window, rows of similar length share a batch. Memory does not grow with the file.
"""

import os
import stat
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from engine import EVALUATION_BATCH_SIZE
from predicting.rows import (
    HINT,
    JsonLines,
    PlainLines,
    RowFile,
    Table,
    format_of,
    open_lines,
    taken_column,
)
from predicting.run import Run, load_run
from reporting.duration import progress_bar
from runtime import workers
from runtime.errors import InputError
from runtime.files import atomic_write, check_regular, kind_of
from runtime.interrupts import StopAtOnce, caught_signals
from tasks import Example, Task

WINDOW_ROWS = 64 * EVALUATION_BATCH_SIZE  # enough for batches of nearly equal lengths
DECIMALS = 6  # of a probability
DELIMITERS = {"tsv": "\t", "csv": None}  # None: a tab or a comma, whichever the header has


def label_file(args: Namespace, device: torch.device | str) -> None:
    """Label --input, and write its rows with the predictions to --output or standard output.

    Args:
        args: the options of evaluation.py.
        device: where to compute.

    Raises:
        InputError: the run or a row cannot be read, or an option does not fit them.
        OSError: the rows cannot be written.
    """
    if workers.size() > 1:
        raise InputError("--input is labelled by one process; start it without torchrun")
    kind = format_of(args.input, args.format)
    if args.input != "-":
        check_regular(args.input, sys.maxsize, HINT)  # before the model is loaded
    if args.output is not None:
        check_output(args.output, args.input)
    run = load_run(args.run, device, args.filepath)
    total = None if args.input == "-" else count_rows(run, args, kind)
    with open_lines(args.input) as lines:
        rows, tasks = open_rows(run, args, kind, lines)
        columns = column_names(rows, tasks, args.probabilities)
        bar = progress_bar("predict", total and total * len(tasks), 0, "prediction")
        with bar, open_output(args.output) as write:
            num_rows = label(run, rows, tasks, columns, write, WINDOW_ROWS, bar)
    if args.output is not None:
        print(f"{num_rows:,} rows written to {args.output}")


def label(
    run: Run,
    rows: RowFile,
    tasks: Mapping[str, Task],
    columns: Mapping[str, Sequence[str]],
    write: Callable[[str], object],
    window_rows: int,
    bar: tqdm | None = None,
) -> int:
    """Predict all rows, write each with its new cells, and return how many there are.

    Args:
        run: predicts.
        rows: of the input.
        tasks: name -> task whose texts the rows have.
        columns: task name -> names of its new cells, as `column_names` returns them.
        write: takes a part of the output.
        window_rows: rows that are in memory, and predicted, together.
        bar: advanced by every row and task.

    Raises:
        InputError: a row cannot be read, or there is none.
    """
    header = rows.header([name for names in columns.values() for name in names])
    num_rows, source = 0, iter(rows)
    while window := list(islice(source, window_rows)):
        cells: list[dict[str, object]] = [{} for _ in window]
        for name, task in tasks.items():
            examples = [Example("", rows.texts(row, task), None) for row in window]
            predicted = new_cells(run, task, examples, columns[name], bar)
            for cell, values in zip(cells, predicted):
                cell.update(zip(columns[name], values))
        lines = [rows.written(row, cell) for row, cell in zip(window, cells)]
        write("".join(lines if num_rows else [header, *lines]))
        num_rows += len(window)
    if not num_rows:
        raise InputError(f"{rows.name}: it is empty, expected one example per line")
    return num_rows


def new_cells(
    run: Run, task: Task, examples: list[Example], columns: Sequence[str], bar: tqdm | None
) -> Iterator[tuple]:
    """Return the new cells of each example: prediction, probability, those of all classes.

    There are as many as `columns`.
    """
    logits = run.logits(task, examples, bar=bar)
    scaled = run.scaled(task, logits)
    parts: list[list] = [task.written(task.decode(logits))]
    probability, probabilities = task.probability(scaled), task.probabilities(scaled)
    if probability is not None and probabilities is not None:
        values = (probability, *(probabilities.T if len(columns) > 2 else ()))
        parts += [[round(float(p), DECIMALS) for p in column] for column in values]
    return zip(*parts, strict=True)


def column_names(
    rows: RowFile, tasks: Mapping[str, Task], all_probabilities: bool
) -> dict[str, list[str]]:
    """Return the names of the new columns by task.

    They are the task's prediction column and, unless it predicts scores, `Probability`, the
    probability of the prediction. If several tasks label the rows, the task's name is added to what
    would not tell them apart.

    Args:
        rows: of the input.
        tasks: name -> task.
        all_probabilities: add a column `Probability_<class>` for each class.

    Raises:
        InputError: the input has such a column already.
    """
    columns = {}
    counts = Counter(task.prediction_column for task in tasks.values())
    for name, task in tasks.items():
        is_shared = counts[task.prediction_column] > 1
        columns[name] = [task.prediction_column + f"_{name}" * is_shared]
        if task.label_type is not float:
            probability = "Probability" + f"_{name}" * (len(tasks) > 1)
            classes = range(task.num_classes) if all_probabilities else ()
            columns[name] += [probability]
            columns[name] += [f"{probability}_{task.class_label(number)}" for number in classes]
    seen = set(rows.columns)
    for column in (column for names in columns.values() for column in names):
        if column in seen:
            raise taken_column(rows.name, column)
        seen.add(column)
    return columns


def open_rows(
    run: Run, args: Namespace, kind: str, lines: Iterator[tuple[int, str]]
) -> tuple[RowFile, dict[str, Task]]:
    """Return the rows of the input, and the tasks that can label them.

    Without --task these are all whose text columns are there; for plain lines, all of one text.

    Raises:
        InputError: there is none, the run lacks one, or the header cannot be read.
    """
    name = "standard input" if args.input == "-" else args.input
    tasks = run.chosen(args.task)
    if kind == "lines":
        return plain_lines(name, lines, tasks, args.task is not None)
    rows = JsonLines(name, lines) if kind == "jsonl" else Table(name, lines, DELIMITERS[kind])
    found = {}
    for task in tasks.values():
        counts = {column: rows.columns.count(column) for column in task.text_columns}
        wrong = [column for column, count in counts.items() if count != 1]
        if not wrong:
            found[task.name] = task
        elif args.task is not None or counts[wrong[0]] > 1:
            raise InputError(
                f"{name}: column {wrong[0]!r} occurs {counts[wrong[0]]} times in {rows.columns}, "
                f"expected once, for task {task.name!r}"
            )
    if not found:
        expected = "; ".join(f"{', '.join(t.text_columns)} ({n})" for n, t in tasks.items())
        raise InputError(f"{name}: columns {rows.columns} are of no task, expected {expected}")
    return rows, found


def plain_lines(
    name: str, lines: Iterator[tuple[int, str]], tasks: dict[str, Task], is_chosen: bool
) -> tuple[PlainLines, dict[str, Task]]:
    """Return plain lines, and the tasks that can label them; see `open_rows`."""
    if not is_chosen:
        tasks = {name: task for name, task in tasks.items() if not task.is_pair}
    if len({task.is_pair for task in tasks.values()}) != 1:
        raise InputError(
            f"{name}: plain lines hold one text, or two separated by a tab; name with --task tasks "
            "that all take one, or all take two"
        )
    return PlainLines(name, lines, next(iter(tasks.values())).text_columns), tasks


def count_rows(run: Run, args: Namespace, kind: str) -> int:
    """Read a whole file without its predictions, so that a bad row is found at once.

    Raises:
        InputError: a row is bad, or there is none.
    """
    num_rows = 0
    with open_lines(args.input) as lines:
        rows, tasks = open_rows(run, args, kind, lines)
        columns = column_names(rows, tasks, args.probabilities)
        empty = dict.fromkeys(name for names in columns.values() for name in names)
        for num_rows, row in enumerate(rows, start=1):
            for task in tasks.values():
                rows.texts(row, task)
            rows.written(row, empty)
    if not num_rows:
        raise InputError(f"{rows.name}: it is empty, expected one example per line")
    return num_rows


def check_output(output: str, source: str) -> None:
    """Raise InputError if --output is the input, or is there and no regular file."""
    try:
        mode = os.stat(output).st_mode
    except OSError:
        if not Path(output).absolute().parent.is_dir():
            raise InputError(f"--output {output}: there is no such folder") from None
        return
    if not stat.S_ISREG(mode):
        raise InputError(f"--output {output}: is a {kind_of(mode)}, expected a file to write")
    if source != "-" and os.path.samefile(output, source):
        raise InputError(f"--output {output}: is the input; name another file")


@contextmanager
def open_output(path: str | None) -> Iterator[Callable[[str], object]]:
    """Yield what writes a part of the output; a file appears once it is complete.

    Args:
        path: of the file; None for standard output.

    Raises:
        OSError: it cannot be written, or the reader of standard output is gone.
        Interrupted: a signal has come.
    """
    if path is not None:
        with caught_signals(StopAtOnce(f"{path} is not written")), atomic_write(path) as file:
            yield file.write
        return

    def write(text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise OSError("standard output was closed before all rows were written") from None

    with caught_signals(StopAtOnce("not all rows are written")):
        yield write
