"""Measure how much faster a frozen encoder trains when its states are cached.

    python -m benchmarks.frozen --data_dir data

Both arms train the same updates on the same rows in one process, in turns, without evaluation. The
ratio of the first epoch, which fills the cache, stands apart from the median of the later epochs.
"""

import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from benchmarks.precision import default_precision, machine
from benchmarks.setup import (
    build_seeded_model,
    load_rows,
    open_arm,
    run_benchmark,
    run_updates,
    seconds_of,
    shared_parser,
    silent_log,
)
from inputs.batches import Rows, TokenizedTask
from inputs.frozen_states import CachedRows
from options.parsing import ArgumentParser
from reporting.run_log import RunLog
from reporting.start import Start
from training import Training, build_training

ARMS = {  # what works on the frozen states -> its flags
    "mean pooling": "",
    "attention": "--extension attention",
    "bilstm": "--extension bilstm",
    "cnn": "--extension cnn",
    "hierarchical": "--extension hierarchical",
    "all layers' [CLS]": "--train_mode all_pooled",
}


def build(start: Start, rows: dict[str, TokenizedTask], directory: Path | None) -> Training:
    """Return a training on a frozen encoder.

    Args:
        start: the arm's options and encoder.
        rows: the training rows by task.
        directory: where cached states may lie; None caches nothing.
    """
    model = build_seeded_model(start)
    data: dict[str, Rows] = dict(rows)
    if directory is not None:
        use_amp = start.args.use_amp
        data = {name: CachedRows(model, part, directory, use_amp) for name, part in rows.items()}
    return build_training(start.args, model, data)


def main(options: Namespace) -> None:
    """Measure every arm and print one line for each."""
    torch.set_num_threads(options.threads)
    common = f"--option pretrain --task_scheduler joint --batch_size {options.batch_size}"
    print(f"{machine(options.threads)}, {default_precision().name}")
    print(f"{'features':<20}{'first epoch':>12}{'later epochs':>14}{'rounds':>16}")
    for name, flags in ARMS.items():
        # So many epochs that the learning rate never reaches 0.
        start = open_arm(options, f"{common} --epochs {options.rounds + 9} {flags}")
        rows = load_rows(start, options.rows)
        with tempfile.TemporaryDirectory() as directory:
            log = silent_log(directory)
            plain, cached = build(start, rows, None), build(start, rows, Path(directory))
            ratios = [
                epoch_seconds(plain, log) / epoch_seconds(cached, log)
                for _ in range(1 + options.rounds)
            ]
        first, later = ratios[0], np.array(ratios[1:])
        spread = f"{later.min():.1f} to {later.max():.1f}"
        print(f"{name:<20}{first:>12.2f}{np.median(later):>14.1f}{spread:>16}", flush=True)


def epoch_seconds(training: Training, log: RunLog) -> float:
    """Return the seconds of one epoch."""
    return seconds_of(lambda: run_updates(training, log, training.updates_per_epoch))


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    return shared_parser(__doc__, rows=480, batch_size=16, rounds=3, threads=2)


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
