"""Data parallelism on this machine: one process against two, one thread each, as ratios.

    python -m benchmarks.parallel --data_dir data [--updates 20] [--rounds 3] [script flags]

The same updates, at the same total batch: examples a second, and the peak memory of a process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from options.parsing import parse_args
from runtime import workers
from train_multitask import main as train
from train_multitask_pal import get_args_parser

ROOT = Path(__file__).resolve().parent.parent

METHODS = {
    "joint": "--task_scheduler joint",
    "pcgrad": "--projection pcgrad",
    "smart": "--task_scheduler joint --use_smart_regularization",
    "sophiah": "--task_scheduler joint --optimizer sophiah",
}


def work(flags: list[str], num_updates: int) -> None:
    """Train two epochs of `num_updates` updates; worker 0 prints the second one's speed as JSON.

    The first epoch warms up. Evaluation is outside the clock.
    """
    sizes = f"--epochs 2 --num_batches_per_epoch {num_updates} --dev_samples 8".split()
    sizes += ["--no_test_predictions", "--no_tensorboard"]
    lines: list[dict] = []
    train(parse_args(get_args_parser(), [*flags, *sizes]), lines.append)
    if lines:
        result = {"rate": lines[1]["examples_per_second"], "memory": lines[1]["peak_memory_mib"]}
        print("RESULT", json.dumps(result), flush=True)
    workers.leave()


def measure(num_processes: int, flags: list[str], num_updates: int) -> dict:
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(num_processes), "-m", "benchmarks.parallel", "--worker"]
        command += ["--updates", str(num_updates), *flags, "--logdir", logdir]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        sys.exit(f"failed: {' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(results[0].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, default=20, help="timed updates of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of one process, then two")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args, flags = parser.parse_known_args()
    if args.worker:
        return work(flags, args.updates)
    print(f"torch {torch.__version__}, one thread a process, {args.rounds} rounds, medians")
    print(f"{'method':<10}{'speed 2/1':>11}{'range':>14}{'memory 2/1':>12}")
    for method in args.methods:
        speeds, memories = [], []
        for _ in range(args.rounds):
            one, two = (
                measure(n, [*METHODS[method].split(), *flags], args.updates) for n in (1, 2)
            )
            speeds.append(two["rate"] / one["rate"])
            memories.append(two["memory"] / one["memory"])
        spread = f"{min(speeds):.2f}-{max(speeds):.2f}"
        print(
            f"{method:<10}{statistics.median(speeds):>11.2f}{spread:>14}"
            f"{statistics.median(memories):>12.2f}"
        )


if __name__ == "__main__":
    main()
