"""Compare ways for threads to wait for each other, alone and beside another busy process.

    python -m benchmarks.waiting --data_dir data [--updates 20] [--rounds 3] [more flags]

A thread that has done its share of a product spins until the others have done theirs. On a core
that another process wants too, it takes away the time that the others need. GOMP_SPINCOUNT bounds
the spinning, and 0 ends it, as OMP_WAIT_POLICY=PASSIVE does. Reported are the examples per second
relative to the first row alone. Each measurement is a training in a process of its own, on as many
threads as there are cores; the settings take turns, round by round. More flags are those of
train_multitask_pal.py.
"""

import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.parallel import measure
from benchmarks.precision import default_precision, machine
from benchmarks.setup import run_benchmark, shared_parser
from options.parsing import ArgumentParser
from runtime.device import num_cores
from runtime.startup import SPIN_COUNT

UNBOUNDED = "GOMP_SPINCOUNT=300000"  # what GNU's OpenMP does without a setting
SETTINGS = {  # name -> environment variables
    "as GNU's OpenMP does": UNBOUNDED,
    "10,000 turns": "GOMP_SPINCOUNT=10000",
    "100,000 turns": "GOMP_SPINCOUNT=100000",
    "not at all": "GOMP_SPINCOUNT=0",  # what OMP_WAIT_POLICY=PASSIVE means, if the former is unset
    "one thread": "OMP_NUM_THREADS=1",
    "as ours do": f"GOMP_SPINCOUNT={SPIN_COUNT}",
}


def main(options: Namespace) -> None:
    """Measure all settings and print one line for each."""
    precision = default_precision()
    names = [name for name in SETTINGS if name in options.settings]
    speeds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.rounds):
        for name in names:
            for is_busy in (False, True):
                with busy_process(is_busy):
                    rate = measure(options, precision, "joint", 1, environment(name))["rate"]
                speeds.setdefault((name, is_busy), []).append(rate)
    medians = {key: statistics.median(rates) for key, rates in speeds.items()}
    first = medians[names[0], False]
    print(f"{machine(num_cores())}, {precision.name}, {options.rounds} rounds, medians")
    print(f"{'threads wait':<24}{'alone':>8}{'beside one':>12}")
    for name in names:
        alone, beside = medians[name, False] / first, medians[name, True] / first
        print(f"{name:<24}{alone:>8.2f}{beside:>12.2f}")


def environment(name: str) -> dict[str, str]:
    """Return the environment variables of a setting."""
    variable, value = SETTINGS[name].split("=")
    return {"OMP_NUM_THREADS": str(num_cores()), variable: value}


@contextmanager
def busy_process(is_wanted: bool) -> Iterator[None]:
    """Keep one core busy with another process while the block runs."""
    if not is_wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark's own options."""
    parser = shared_parser(__doc__, rounds=3, updates=20)
    add = parser.add_argument
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="what to measure")
    return parser


def parse(argv: list[str] | None = None) -> Namespace:
    """Return this benchmark's options; `entry_flags` are the words that it does not know."""
    options, entry_flags = get_args_parser().parse_known_args(argv)
    options.entry_flags = entry_flags
    return options


if __name__ == "__main__":
    run_benchmark(main, parse())
