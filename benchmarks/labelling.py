"""Measure how fast rows are labelled, and the memory over the rows of a long file.

    python -m benchmarks.labelling --data_dir data --rows 5000
    python -m benchmarks.labelling --data_dir data --rows 500 --long_rows 100000

The model has the encoder's published weights and an untrained head. Rows are the training rows of
--task, again and again. The two arms take turns on the same rows: one batch at a time in the order
of the file, and windows in which rows of similar length share a batch. Both read, predict and
write. Then a file of --long_rows rows is labelled, and a tenth of it at a time, the memory that the
process holds is printed.
"""

import tempfile
from argparse import Namespace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import resident_mib
from benchmarks.precision import machine
from benchmarks.setup import (
    build_seeded_model,
    open_arm,
    run_benchmark,
    seconds_of,
    shared_parser,
)
from datasets import read_lines, task_file
from engine import EVALUATION_BATCH_SIZE
from options.parsing import ArgumentParser
from options.types import positive_int
from predicting.labelling import WINDOW_ROWS, column_names, label
from predicting.rows import Table, open_lines
from predicting.run import Run
from runtime.errors import InputError

ARMS = {  # rows of a window by the arm's name
    "one batch at a time": EVALUATION_BATCH_SIZE,
    f"windows of {WINDOW_ROWS:,} rows": WINDOW_ROWS,
}


def main(options: Namespace) -> None:
    """Measure both arms, then a long file, and print a table of each."""
    torch.set_num_threads(options.threads)
    start = open_arm(options)
    run = Run(Path(), build_seeded_model(start).eval(), start.tokenizer, start.args, {})
    if options.task not in run.tasks:
        raise InputError(f"--task {options.task}: expected one of {', '.join(run.tasks)}")
    source = task_file(run.args, run.tasks[options.task], "train")
    print(f"{machine(options.threads)}, {options.rows} rows of {options.task}")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.tsv"
        repeat_rows(source, path, options.rows)
        seconds: dict[str, list[float]] = {name: [] for name in ARMS}
        for _ in range(options.rounds):
            for name, size in ARMS.items():
                seconds[name].append(seconds_of(lambda: label_rows(run, options.task, path, size)))
        print_speed(options.rows, seconds)
        repeat_rows(source, path, options.long_rows)
        print(f"{'rows written':>14}{'MiB resident':>14}")
        label_rows(run, options.task, path, WINDOW_ROWS, options.long_rows)


def repeat_rows(source: Path, path: Path, count: int) -> None:
    """Write `count` rows of a data file, the same again and again, under its header."""
    header, *lines = read_lines(source)
    with path.open("wb") as file:
        file.write(header + b"\n")
        file.writelines(line + b"\n" for line in islice(cycle(lines), count))


def label_rows(run: Run, name: str, path: Path, window_rows: int, num_shown: int = 0) -> None:
    """Label a file; write to a file beside it.

    Args:
        run: predicts.
        name: of its task.
        path: of the rows.
        window_rows: rows that are predicted together.
        num_shown: rows of the file, of which the memory is printed at every tenth; 0 prints none.
    """
    tasks = {name: run.tasks[name]}
    num_written, shown = -1, 0  # the header is no row
    with open_lines(str(path)) as lines, path.with_suffix(".out").open("w") as output:
        rows = Table(str(path), lines, "\t")

        def write(text: str) -> None:
            nonlocal num_written, shown
            output.write(text)
            num_written += text.count("\n")
            if num_shown and num_written * 10 // num_shown > shown:
                shown = num_written * 10 // num_shown
                print(f"{num_written:>14,}{resident_mib('VmRSS'):>14.0f}", flush=True)

        label(run, rows, tasks, column_names(rows, tasks, False), write, window_rows)


def print_speed(num_rows: int, seconds: dict[str, list[float]]) -> None:
    """Print the median rate of each arm, and how it compares with the first arm's."""
    print(f"{'arm':<24}{'rows/s':>10}{'ratio':>8}{'rounds':>16}")
    first, *_ = seconds.values()
    for name, values in seconds.items():
        ratios = np.array(first) / np.array(values)
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        rate = num_rows / np.median(values)
        print(f"{name:<24}{rate:>10.0f}{np.median(ratios):>8.2f}{spread:>16}", flush=True)


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rounds=3, threads=2)
    add = parser.add_argument
    add("--task", default="sst", help="whose rows are labelled")
    add("--rows", type=positive_int, default=5000, help="rows of a round")
    add("--long_rows", type=positive_int, default=100_000, help="rows of the long file")
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
