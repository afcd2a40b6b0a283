"""Measure how start, memory, speed and checkpoint of a run grow with its number of training rows.

    python -m benchmarks.growth --data_dir data
    python -m benchmarks.growth --data_dir data --rows 10000 40000 --updates 5

The training files of each size are the given ones, cut or repeated with new ids, in a temporary
folder: so many rows of all tasks together, in the shares of the given files. The dev and test files
are the given ones. Every size has a process of its own, which does what train_multitask.py does
without flags. The seconds to the first update are from the start of the process to the end of that
update, the imports included. The rate is that of the updates after it, the memory what is resident
after them and the most that has been. The last line is the largest size over the smallest: a column
that is flat has 1 there, a linear one the ratio of the rows.
"""

import csv
import os
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.memory import resident_mib
from benchmarks.precision import default_precision, machine
from benchmarks.processes import hand_over, measure_apart
from benchmarks.setup import run_benchmark, run_updates, seconds_of, shared_parser
from datasets import SPLITS, load_data, read_examples, read_lines, split_record
from models import build_model
from options.parsing import ArgumentParser, parse_args
from options.run_options import get_args_parser as get_entry_parser
from options.task_table import built_in_tasks
from options.types import positive_int
from reporting.run_log import build_run_log
from reporting.start import open_run
from runtime import checkpoint
from runtime.device import connect
from training import build_training

COLUMNS = {  # what `work` measures -> its title
    "first": "s to first update",
    "rate": "examples/s",
    "resident": "MiB resident",
    "peak": "MiB peak",
    "checkpoint": "MiB checkpoint",
}


def main(options: Namespace) -> None:
    """Measure every size and print one line for each."""
    if options.started is not None:
        return hand_over(work(options))
    for task in built_in_tasks().values():  # a bad file is found before the first process starts
        read_examples(training_file(Path(options.data_dir), task.stem), task, require_labels=True)
    print(
        f"{machine(options.threads)}, {default_precision().name}, "
        f"{options.updates} updates of the entry's defaults"
    )
    print(f"{'rows':>8}" + "".join(f"{title:>19}" for title in COLUMNS.values()))
    figures = []
    for num_rows in sorted(set(options.rows)):
        figures.append(measure(options, num_rows))
        cells = "".join(f"{figures[-1][name]:>19.1f}" for name in COLUMNS)
        print(f"{figures[-1]['rows']:>8}{cells}", flush=True)
    cells = "".join(f"{figures[-1][name] / figures[0][name]:>18.2f}x" for name in COLUMNS)
    print(f"{figures[-1]['rows'] / figures[0]['rows']:>7.1f}x{cells}")


def measure(options: Namespace, num_rows: int) -> dict[str, float]:
    """Return the figures of one size, with its number of rows, from a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "data"
        words = ["--data_dir", folder, "--model_name", options.model_name]
        words += ["--updates", options.updates, "--threads", options.threads]
        made = make_files(Path(options.data_dir), folder, num_rows)
        found = measure_apart(
            f"{num_rows} rows",
            "benchmarks.growth",
            [*words, "--logdir", Path(directory) / "runs", "--started", time.time()],
            environment={"OMP_NUM_THREADS": str(options.threads)},
        )
    return found | {"rows": made}


def make_files(source: Path, folder: Path, num_rows: int) -> int:
    """Write the nine files of one size; return how many training rows they have.

    Args:
        source: the folder of the given files.
        folder: a new one.
        num_rows: training rows of all tasks together; each has at least one.
    """
    folder.mkdir()
    records = {}
    for task in built_in_tasks().values():
        header, *lines = read_lines(training_file(source, task.stem))
        num_columns = header.count(b"\t") + 1
        records[task.stem] = [split_record(line, num_columns) for line in (header, *lines)]
        for split, end in SPLITS.items():
            if split != "train":
                name = f"{task.stem}-{end}.csv"
                (folder / name).symlink_to((source / name).resolve())
    total = sum(len(rows) - 1 for rows in records.values())
    made = 0
    for stem, (columns, *rows) in records.items():
        count = max(1, round(num_rows * len(rows) / total))
        with open(training_file(folder, stem), "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(repeated(rows, columns.index("id"), count))
        made += count
    return made


def training_file(folder: Path, stem: str) -> Path:
    """Return the training file of a task."""
    return folder / f"{stem}-{SPLITS['train']}.csv"


def repeated(rows: list[list[str]], id_column: int, count: int) -> Iterator[list[str]]:
    """Yield `count` records, the given ones again and again, each with an id of its own."""
    for number, row in enumerate(islice(cycle(rows), count)):
        yield [*row[:id_column], f"{number:025x}", *row[id_column + 1 :]]


def work(options: Namespace) -> dict[str, float]:
    """Do what train_multitask.py does up to --updates updates and a checkpoint; return figures."""
    torch.set_num_threads(options.threads)
    words = ["--data_dir", options.data_dir, "--model_name", options.model_name]
    args = parse_args(get_entry_parser(), [*words, "--logdir", options.logdir])
    connect(args.use_gpu)
    with redirect_stdout(None), open_run(args) as start:
        args = start.args
        data = load_data(args, start.tokenizer, start.config.pad_token_id)
        training = build_training(args, build_model(args, start.build_encoder()), data["train"])
        start.write_directory(training.model)
        log = build_run_log(args, 0, 0)
        run_updates(training, log, 1)
        first = time.time() - options.started
        before = sum(training.progress.examples.values())
        seconds = seconds_of(lambda: run_updates(training, log, options.updates))
        resident, peak = resident_mib("VmRSS"), resident_mib("VmHWM")
        path = Path(args.filepath) / "last.pt"
        checkpoint.save(path, training.state_dict())
        log.writer.close()
    return {
        "first": first,
        "rate": (sum(training.progress.examples.values()) - before) / seconds,
        "resident": resident,
        "peak": peak,
        "checkpoint": os.path.getsize(path) / 2**20,
    }


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, threads=2)
    add = parser.add_argument
    add("--updates", type=positive_int, default=40, help="timed updates, after the first one")
    add(
        "--rows",
        type=positive_int,
        nargs="+",
        default=[10_000, 40_000, 100_000, 400_000],
        help="training rows of all tasks together, one measurement for each",
    )
    add("--started", type=float, help=SUPPRESS)  # when `measure` started this process
    add("--logdir", help=SUPPRESS)
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
