"""Compare two processes with one on this machine, one CPU thread each, as ratios.

    python -m benchmarks.parallel --data_dir data [--updates 20] [--rounds 3] [more flags]

Both train the same updates with the same total batch. Reported are the examples per second and the
peak memory of worker 0. --precisions chooses what to compute in; every ratio is within one of them.
More flags are those of train_multitask_pal.py.
"""

import argparse
import statistics
import tempfile
from argparse import Namespace

from benchmarks.precision import (
    Precision,
    add_precisions,
    chosen_precisions,
    default_precision,
    machine,
)
from benchmarks.processes import hand_over, measure_apart
from benchmarks.setup import run_benchmark, shared_parser
from options.parsing import ArgumentParser, parse_args
from train_multitask import main as train
from train_multitask_pal import get_args_parser as get_entry_parser

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
METHODS = {
    "joint": "--task_scheduler joint",
    "pcgrad": "--projection pcgrad",
    "smart": "--task_scheduler joint --use_smart_regularization",
    "sophiah": "--task_scheduler joint --optimizer sophiah",
}


def main(options: Namespace) -> None:
    """Measure the chosen methods and print one line for each."""
    precisions = chosen_precisions(options.precisions, [default_precision()])
    for method in options.methods:  # a wrong flag ends here, before a process starts
        for precision in precisions:
            parse_args(get_entry_parser(), entry_words(options, precision, method, "."))
    if options.logdir is not None:
        return work(options, *precisions)
    print(f"{machine(1)}, {options.rounds} rounds, medians")
    print(f"{'precision':<14}{'method':<10}{'speed 2/1':>11}{'range':>14}{'memory 2/1':>12}")
    for precision in precisions:
        for method in options.methods:
            speeds, memories = [], []
            for _ in range(options.rounds):
                one, two = (measure(options, precision, method, number) for number in (1, 2))
                speeds.append(two["rate"] / one["rate"])
                memories.append(two["memory"] / one["memory"])
            spread = f"{min(speeds):.2f}-{max(speeds):.2f}"
            print(
                f"{precision.name:<14}{method:<10}{statistics.median(speeds):>11.2f}{spread:>14}"
                f"{statistics.median(memories):>12.2f}",
                flush=True,
            )


def entry_words(options: Namespace, precision: Precision, method: str, logdir: str) -> list[str]:
    """Return the words of train_multitask_pal.py: two epochs, of which the first warms up."""
    words = ["--data_dir", options.data_dir, "--model_name", options.model_name, precision.flag]
    words += ["--logdir", logdir, "--num_batches_per_epoch", str(options.updates)]
    words += "--epochs 2 --dev_samples 8 --no_test_predictions --no_tensorboard".split()
    return [*words, *METHODS[method].split(), *options.entry_flags]


def measure(
    options: Namespace,
    precision: Precision,
    method: str,
    num_processes: int,
    threads: dict[str, str] = ONE_THREAD,
) -> dict[str, float]:
    """Return examples per second and peak MiB of a training in processes of its own.

    Args:
        options: the benchmark's options.
        precision: that they compute in.
        method: one of METHODS.
        num_processes: that train together.
        threads: variables that say how many threads a process has, and how they wait.

    Raises:
        InputError: the training failed.
    """
    with tempfile.TemporaryDirectory() as logdir:
        words = ["--data_dir", options.data_dir, "--model_name", options.model_name]
        words += ["--updates", options.updates, "--methods", method, "--logdir", logdir]
        return measure_apart(
            f"{method} on {num_processes} processes",
            "benchmarks.parallel",
            [*words, "--precisions", precision.name, *options.entry_flags],
            launcher=[*TORCHRUN, str(num_processes)] if num_processes > 1 else [],
            environment=threads | precision.environment,
        )


def work(options: Namespace, precision: Precision) -> None:
    """Train as one of the processes; worker 0 hands over the second epoch's speed.

    Evaluation is outside the clock.
    """
    lines: list[dict] = []
    [method] = options.methods
    words = entry_words(options, precision, method, options.logdir)
    train(parse_args(get_entry_parser(), words), lines.append)
    if lines:
        hand_over({"rate": lines[1]["examples_per_second"], "memory": lines[1]["peak_memory_mib"]})


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark's own options."""
    parser = shared_parser(__doc__, rounds=3, updates=20)
    add = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to measure")
    add_precisions(parser, unset="a run's default")
    add("--logdir", help=argparse.SUPPRESS)  # marks a process that `measure` started
    return parser


def parse(argv: list[str] | None = None) -> Namespace:
    """Return this benchmark's options; `entry_flags` are the words that it does not know."""
    options, entry_flags = get_args_parser().parse_known_args(argv)
    options.entry_flags = entry_flags
    return options


if __name__ == "__main__":
    run_benchmark(main, parse())
