"""Compare two processes with one on this machine, one CPU thread each, as ratios.

    python -m benchmarks.parallel --data_dir data [--updates 20] [--rounds 3] [more flags]

Both train the same updates with the same total batch. Reported are the examples per second and the
peak memory of worker 0. More flags are those of train_multitask_pal.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import torch

from benchmarks.setup import run_benchmark, shared_parser
from options.parsing import ArgumentParser, parse_args
from runtime.errors import InputError
from train_multitask import main as train
from train_multitask_pal import get_args_parser as get_entry_parser

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
MARK = "RESULT "
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
METHODS = {
    "joint": "--task_scheduler joint",
    "pcgrad": "--projection pcgrad",
    "smart": "--task_scheduler joint --use_smart_regularization",
    "sophiah": "--task_scheduler joint --optimizer sophiah",
}


def main(options: Namespace) -> None:
    """Measure the chosen methods and print one line for each."""
    for method in options.methods:  # a wrong flag ends here, before a process starts
        parse_args(get_entry_parser(), entry_words(options, method, "."))
    if options.logdir is not None:
        return work(options)
    print(f"torch {torch.__version__}, one thread per process, {options.rounds} rounds, medians")
    print(f"{'method':<10}{'speed 2/1':>11}{'range':>14}{'memory 2/1':>12}")
    for method in options.methods:
        speeds, memories = [], []
        for _ in range(options.rounds):
            one, two = (measure(options, method, number) for number in (1, 2))
            speeds.append(two["rate"] / one["rate"])
            memories.append(two["memory"] / one["memory"])
        spread = f"{min(speeds):.2f}-{max(speeds):.2f}"
        memory = statistics.median(memories)
        print(f"{method:<10}{statistics.median(speeds):>11.2f}{spread:>14}{memory:>12.2f}")


def entry_words(options: Namespace, method: str, logdir: str) -> list[str]:
    """Return the words of train_multitask_pal.py: two epochs, of which the first warms up."""
    words = ["--data_dir", options.data_dir, "--model_name", options.model_name]
    words += ["--logdir", logdir, "--num_batches_per_epoch", str(options.updates)]
    words += "--epochs 2 --dev_samples 8 --no_test_predictions --no_tensorboard".split()
    return [*words, *METHODS[method].split(), *options.entry_flags]


def measure(
    options: Namespace, method: str, num_processes: int, environment: dict[str, str] = ONE_THREAD
) -> dict[str, float]:
    """Return examples per second and peak MiB of a training in processes of its own.

    Args:
        options: the benchmark's options.
        method: one of METHODS.
        num_processes: that train together.
        environment: variables that are set for them.

    Raises:
        InputError: the training failed.
    """
    launcher = [*TORCHRUN, str(num_processes)] if num_processes > 1 else []
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, *launcher, "-m", "benchmarks.parallel"]
        command += ["--data_dir", options.data_dir, "--model_name", options.model_name]
        command += ["--updates", str(options.updates), "--methods", method, "--logdir", logdir]
        done = subprocess.run(
            [*command, *options.entry_flags],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    lines = done.stderr.splitlines()
    reason = next((line for line in lines if "error: " in line), "\n".join(lines[-20:]))
    raise InputError(f"{method} on {num_processes} processes: {reason.removeprefix('error: ')}")


def work(options: Namespace) -> None:
    """Train as one of the processes; worker 0 prints the second epoch's speed as JSON.

    Evaluation is outside the clock.
    """
    lines: list[dict] = []
    [method] = options.methods
    words = entry_words(options, method, options.logdir)
    train(parse_args(get_entry_parser(), words), lines.append)
    if lines:
        result = {"rate": lines[1]["examples_per_second"], "memory": lines[1]["peak_memory_mib"]}
        print(MARK + json.dumps(result), flush=True)


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark's own options."""
    parser = shared_parser(__doc__, rounds=3, updates=20)
    add = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to measure")
    add("--logdir", help=argparse.SUPPRESS)  # marks a process that `measure` started
    return parser


def parse(argv: list[str] | None = None) -> Namespace:
    """Return this benchmark's options; `entry_flags` are the words that it does not know."""
    options, entry_flags = get_args_parser().parse_known_args(argv)
    options.entry_flags = entry_flags
    return options


if __name__ == "__main__":
    run_benchmark(main, parse())
