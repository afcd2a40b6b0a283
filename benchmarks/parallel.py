"""Data parallelism on this machine: one process against two, one thread each, as ratios.

    python benchmarks/parallel.py --data_dir data [--updates 20] [--rounds 3] [script flags]

The same updates, at the same total batch: examples a second, and the peak memory of a process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import workers  # noqa: E402
from batches import num_examples  # noqa: E402
from engine import train_step  # noqa: E402
from options import parse_args  # noqa: E402
from preparation import prepare  # noqa: E402
from run_log import peak_memory_mib  # noqa: E402
from train_multitask_pal import get_args_parser  # noqa: E402

WARM_UP = 3
METHODS = {
    "joint": "--task_scheduler joint",
    "pcgrad": "--projection pcgrad",
    "smart": "--task_scheduler joint --use_smart_regularization",
    "sophiah": "--task_scheduler joint --optimizer sophiah",
}


def work(flags: list[str], num_updates: int) -> None:
    """One worker: time `num_updates` updates; worker 0 prints the result as JSON."""
    args = parse_args(get_args_parser(), flags)
    workers.join(args.use_gpu)
    _, training, _ = prepare(args)
    training.start_epoch()
    updates = [training.task_scheduler.next_update() for _ in range(WARM_UP + num_updates)]
    for number, update in enumerate(updates):
        if number == WARM_UP:
            workers.barrier()
            started = time.perf_counter()
        train_step(
            training.model,
            update,
            training.projection,
            training.optimizer,
            training.clip,
            training.use_amp,
            training.smart,
        )
    seconds = time.perf_counter() - started
    examples = sum(num_examples(batch) for update in updates[WARM_UP:] for _, batch, _ in update)
    memory = peak_memory_mib(next(training.model.parameters()).device)
    if workers.is_main():
        print("RESULT", json.dumps({"rate": examples / seconds, "memory": memory}), flush=True)
    workers.leave()


def measure(num_processes: int, flags: list[str], num_updates: int) -> dict:
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(num_processes), __file__, "--worker"]
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
