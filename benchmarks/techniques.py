"""Measure what every technique costs over the plain sum of task losses, in time and peak memory.

    python -m benchmarks.techniques --data_dir data
    python -m benchmarks.techniques --data_dir data --to experiments/results/costs.json

All arms train on the same rows, in updates of one batch of every task. Where an update holds fewer
examples, as where tasks take turns, an arm makes as many more updates. Arms are measured in groups,
each beside a plain sum of its own, in one process and in turns; then the group is freed, so that
memory does not grow with the number of arms. A time is the median over the rounds of its ratio to
the plain sum's. A memory is the peak above the plain sum's, in float32 copies of the shared
parameters. --precisions prints a table for each of several precisions; every ratio is within one of
them. --to writes the figures for `experiments.report`, anew after each group.
"""

import gc
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost_file import Cost, Costs, write_costs
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
from options.types import positive_int
from reporting.run_log import RunLog
from runtime.errors import InputError
from runtime.memory import trim_memory
from training import build_training

PLAIN = "plain sum"
JOINT = "--task_scheduler joint"
SMART = f"{JOINT} --use_smart_regularization"
OWN_INPUTS = ("--additional_input", "hierarchical")  # with these, rows become other inputs
OWN_PRECISION = "--no_use_amp"
ARMS = {  # name -> flags, whether conflicts are logged
    PLAIN: (JOINT, False),
    "conflict log": (f"{JOINT} --log_conflicts", True),
    "pcgrad": ("--projection pcgrad", False),
    "pcgrad, conflict log": ("--projection pcgrad", True),
    "vaccine": ("--projection vaccine", False),
    "vaccine, conflict log": ("--projection vaccine", True),
    "smart": (SMART, False),
    "smart, bregman": (f"{SMART} --smart_mu 1", False),
    "rdrop": (f"{JOINT} --rdrop_weight 1", False),
    "average of weights": (f"{JOINT} --average_weights 0.999", False),
    "layer decay": (f"{JOINT} --layer_decay 0.9", False),
    "sophiah": (f"{JOINT} --optimizer sophiah", False),
    "pal": (f"{JOINT} --use_pal", False),
    "pcgrad, pal": ("--projection pcgrad --use_pal", False),
    "pcgrad, smart": ("--projection pcgrad --use_smart_regularization", False),
    "vaccine, sophiah, pal": ("--projection vaccine --optimizer sophiah --use_pal", False),
    "gradnorm, pcgrad": ("--loss_weighting gradnorm --projection pcgrad", False),
    "lora": (f"{JOINT} --lora_rank 8", False),
    "lora per task": (f"{JOINT} --lora_rank 8 --lora_per_task", False),
    "pcgrad, lora": ("--projection pcgrad --lora_rank 8", False),
    "gradient checkpointing": (f"{JOINT} --gradient_checkpointing", False),
    "round robin": ("--task_scheduler round_robin", False),
    "pal scheduler": ("--task_scheduler pal", False),
    "temperature": ("--task_scheduler temperature --temperature 2", False),
    "attention": (f"{JOINT} --extension attention", False),
    "bilstm": (f"{JOINT} --extension bilstm", False),
    "cnn": (f"{JOINT} --extension cnn", False),
    "hierarchical": (f"{JOINT} --extension hierarchical", False),
    "max pooling": (f"{JOINT} --pooling max", False),
    "last four layers": (f"{JOINT} --train_mode single_layers", False),
    "combined": (f"{JOINT} --combined_models", False),
    "pos ner": (f"{JOINT} --additional_input", False),
    "sophiah pos ner": (f"{JOINT} --optimizer sophiah --additional_input", False),
    "frozen": (f"{JOINT} --option pretrain", False),  # without the cache of its states
    "float32": (f"{JOINT} {OWN_PRECISION}", False),
}
WEIGHTINGS = [name for name in LOSS_WEIGHTINGS if name != "none"]
ARMS |= {name: (f"{JOINT} --loss_weighting {name}", False) for name in WEIGHTINGS}
ARMS |= {name: (f"--projection {name}", False) for name in AGGREGATORS}


class Arm:
    """One technique in the training loop.

    Args:
        options: the benchmark's options.
        data: the training rows by task.
        log: told every update.
        precision: what it computes in, unless its flags say float32.
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
        flags += f" --batch_size {options.batch_size} --lr 1e-5"
        if OWN_PRECISION not in flags:
            flags += f" {precision.flag}"
        start = open_arm(options, flags)
        if any(word in flags for word in OWN_INPUTS):
            data = load_rows(start, options.rows)
        self.training = build_training(start.args, build_seeded_model(start), {**data})
        self.log = log
        projection = self.training.projection
        if isinstance(projection, TaskGradients) and not self.logs_conflicts:
            projection.observe = lambda inner: None

    @property
    def mean_examples(self) -> float:
        """The mean number of examples per update."""
        return self.training.task_scheduler.mean_examples

    def run(self, num_updates: int) -> None:
        """Train on the next updates, and write their cosines if this arm logs conflicts."""
        first_update = self.training.progress.total_updates
        run_updates(self.training, self.log, num_updates)
        if self.logs_conflicts:
            for scalar in self.training.conflicts.scalars(first_update):
                self.log.writer.add_scalar(*scalar)


def main(options: Namespace) -> None:
    """Measure the chosen arms and print one line for each, in every precision.

    Raises:
        InputError: --to with several precisions.
    """
    if options.to is not None and len({*(options.precisions or [])}) > 1:
        raise InputError("--to holds the costs of one precision; name only one with --precisions")
    torch.set_num_threads(options.threads)
    precisions = chosen_precisions(options.precisions, [*device_precisions().values()][-1:])
    data = load_rows(open_arm(options), options.rows)
    print(machine(options.threads))
    for precision in precisions:
        with event_log() as log, precision.products():
            print_techniques(options, partial(Arm, options, data, log, precision), precision.name)


def print_techniques(options: Namespace, build: Callable[[str], Arm], precision: str) -> None:
    """Measure the chosen arms in one precision and print one line for each, group by group.

    Args:
        options: the benchmark's options.
        build: returns the arm of a name.
        precision: its name, for the head of the table.
    """
    print(f"{f'in {precision}':<24}{'time':>7}{'rounds':>16}{'memory':>9}", flush=True)
    build(PLAIN).run(1)  # the libraries allocate their own buffers once
    found: dict[str, Cost] = {}
    for names in groups(options):
        for name, cost in measure(options, build, names).items():
            if name not in found:  # the plain sum is in every group
                spread = f"{cost.smallest:.2f} to {cost.largest:.2f}"
                line = f"{name:<24}{cost.time:>7.2f}{spread:>16}{cost.memory:>+9.1f}"
                print(line, flush=True)
                found[name] = cost
        if options.to is not None:
            how = (options.batch_size, options.rounds, options.updates)
            model_name = Path(options.model_name).name
            write_costs(
                options.to, Costs(machine(options.threads), model_name, precision, *how, found)
            )
        gc.collect()
        trim_memory()


def groups(options: Namespace) -> Iterator[list[str]]:
    """Yield the names of the arms that are measured together, the plain sum first in each group."""
    chosen = [name for name in ARMS if name in (options.only or ARMS) and name != PLAIN]
    size = options.group_size
    for start in range(0, len(chosen) or 1, size):
        yield [PLAIN, *chosen[start : start + size]]


def measure(options: Namespace, build: Callable[[str], Arm], names: list[str]) -> dict[str, Cost]:
    """Return what each arm of a group costs over its first one.

    Args:
        options: the benchmark's options.
        build: returns the arm of a name.
        names: the group.
    """
    peaks = [peak_memory(lambda: build(name).run(2)) for name in names]
    arms = [build(name) for name in names]
    plain = arms[0]
    updates = [max(1, round(options.updates * plain.mean_examples / a.mean_examples)) for a in arms]
    rounds = [
        [seconds_of(lambda: arm.run(count)) for arm, count in zip(arms, updates)]
        for _ in range(1 + options.rounds)
    ]
    examples = np.array([count * arm.mean_examples for arm, count in zip(arms, updates)])  # [arms]
    # [rounds, arms], without the first round, which warms up
    seconds = np.array(rounds[1:]) / examples
    ratios = seconds / seconds[:, :1]
    shared = sum(p.numel() for p in plain.training.model.shared_parameters())
    copies = (np.array(peaks) - peaks[0]) * 2**20 / (4 * shared)
    return {
        name: Cost(float(np.median(ratio)), float(ratio.min()), float(ratio.max()), float(memory))
        for name, ratio, memory in zip(names, ratios.T, copies)
    }


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None, batch_size=16, rounds=3, updates=10, threads=2)
    add = parser.add_argument
    add("--only", nargs="+", choices=ARMS, help="techniques; unset: all")
    add("--group_size", type=positive_int, default=6, help="arms held beside a plain sum at a time")
    add("--to", metavar="FILE", help="JSON file to write the costs to, in one precision")
    add_precisions(parser, unset="a run's default")
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
