"""Measure what every technique costs over the plain sum of task losses, in time and peak memory.

    python -m benchmarks.techniques --data_dir data

All arms train on the same batches, one of every task in each update, in one process and in turns.
A time is the median over the rounds of its ratio to the plain sum's. A memory is the peak above the
plain sum's, in float32 copies of the shared parameters. --precisions prints a table for each of
several precisions; every ratio is within one of them.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.memory import peak_memory
from benchmarks.precision import (
    Precision,
    add_precisions,
    chosen_precisions,
    device_precisions,
    machine,
)
from benchmarks.setup import (
    build_seeded_model,
    event_log,
    load_rows,
    open_arm,
    run_benchmark,
    run_updates,
    seconds_of,
    shared_parser,
)
from inputs.batches import TokenizedTask
from optimizers import LOSS_WEIGHTINGS
from optimizers.aggregators import AGGREGATORS
from optimizers.task_gradients import TaskGradients
from options.parsing import ArgumentParser
from reporting.run_log import RunLog
from training import build_training

PLAIN = "plain sum"
SMART = "--use_smart_regularization"
WEIGHTING = "--task_scheduler joint --loss_weighting"
ARMS = {  # name -> flags, whether conflicts are logged
    PLAIN: ("--task_scheduler joint", False),
    "conflict log": ("--task_scheduler joint --log_conflicts", True),
    "pcgrad": ("--projection pcgrad", False),
    "pcgrad, conflict log": ("--projection pcgrad", True),
    "vaccine": ("--projection vaccine", False),
    "vaccine, conflict log": ("--projection vaccine", True),
    "smart": (f"--task_scheduler joint {SMART}", False),
    "smart, bregman": (f"--task_scheduler joint {SMART} --smart_mu 1", False),
    "rdrop": ("--task_scheduler joint --rdrop_weight 1", False),
    "average of weights": ("--task_scheduler joint --average_weights 0.999", False),
    "layer decay": ("--task_scheduler joint --layer_decay 0.9", False),
    "sophiah": ("--task_scheduler joint --optimizer sophiah", False),
    "pal": ("--task_scheduler joint --use_pal", False),
    "pcgrad, pal": ("--projection pcgrad --use_pal", False),
    "pcgrad, smart": (f"--projection pcgrad {SMART}", False),
    "vaccine, sophiah, pal": ("--projection vaccine --optimizer sophiah --use_pal", False),
    "gradnorm, pcgrad": ("--loss_weighting gradnorm --projection pcgrad", False),
    "lora": ("--task_scheduler joint --lora_rank 8", False),
    "lora per task": ("--task_scheduler joint --lora_rank 8 --lora_per_task", False),
    "pcgrad, lora": ("--projection pcgrad --lora_rank 8", False),
    "gradient checkpointing": ("--task_scheduler joint --gradient_checkpointing", False),
}
ARMS |= {name: (f"{WEIGHTING} {name}", False) for name in LOSS_WEIGHTINGS if name != "none"}
ARMS |= {name: (f"--projection {name}", False) for name in AGGREGATORS}


class Arm:
    """One technique in the training loop.

    Args:
        options: the benchmark's options.
        data: the training rows by task.
        log: told every update.
        precision: what it computes in.
        name: a key of `ARMS`.
    """

    def __init__(
        self,
        options: Namespace,
        data: dict[str, TokenizedTask],
        log: RunLog,
        precision: Precision,
        name: str,
    ) -> None:
        flags, self.logs_conflicts = ARMS[name]
        flags += f" --batch_size {options.batch_size} --lr 1e-5 {precision.flag}"
        start = open_arm(options, flags)
        self.training = build_training(start.args, build_seeded_model(start), {**data})
        self.log = log
        projection = self.training.projection
        if isinstance(projection, TaskGradients) and not self.logs_conflicts:
            projection.observe = lambda inner: None

    def run(self, num_updates: int) -> None:
        """Train on the next updates, and write their cosines if this arm logs conflicts."""
        first_update = self.training.progress.total_updates
        run_updates(self.training, self.log, num_updates)
        if self.logs_conflicts:
            for scalar in self.training.conflicts.scalars(first_update):
                self.log.writer.add_scalar(*scalar)


def main(options: Namespace) -> None:
    """Measure the chosen arms and print one line for each, in every precision."""
    torch.set_num_threads(options.threads)
    precisions = chosen_precisions(options.precisions, [*device_precisions().values()][-1:])
    data = load_rows(open_arm(options), options.rows)
    print(machine(options.threads))
    for precision in precisions:
        with event_log() as log, precision.products():
            print_techniques(options, partial(Arm, options, data, log, precision), precision.name)


def print_techniques(options: Namespace, build: Callable[[str], Arm], precision: str) -> None:
    """Measure the chosen arms in one precision and print one line for each.

    Args:
        options: the benchmark's options.
        build: returns the arm of a name.
        precision: its name, for the head of the table.
    """
    chosen = [name for name in ARMS if name in (options.only or ARMS) or name == PLAIN]
    build(PLAIN).run(1)  # the libraries allocate their own buffers once
    peaks = {name: peak_memory(lambda: build(name).run(2)) for name in chosen}
    arms = {name: build(name) for name in chosen}
    rounds = []
    for _ in range(1 + options.rounds):
        rounds.append([seconds_of(lambda: arm.run(options.updates)) for arm in arms.values()])
    seconds = np.array(rounds[1:])  # [rounds, arms], without the first round, which warms up
    ratios = seconds / seconds[:, [chosen.index(PLAIN)]]
    shared = sum(p.numel() for p in arms[PLAIN].training.model.shared_parameters())
    print(f"{f'in {precision}':<24}{'time':>7}{'rounds':>16}{'memory':>9}")
    for name, column in zip(arms, ratios.T):
        copies = (peaks[name] - peaks[PLAIN]) * 2**20 / (4 * shared)
        spread = f"{column.min():.2f} to {column.max():.2f}"
        print(f"{name:<24}{np.median(column):>7.2f}{spread:>16}{copies:>+9.1f}")


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None, batch_size=16, rounds=3, updates=10, threads=2)
    parser.add_argument("--only", nargs="+", choices=ARMS, help="techniques; unset: all")
    add_precisions(parser, unset="a run's default")
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
