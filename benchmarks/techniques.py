"""Measure what every technique costs over the plain sum of task losses, in time and peak memory.

    python -m benchmarks.techniques --data_dir data
    python -m benchmarks.techniques --data_dir data --to experiments/results/costs.json

All arms train on the same rows, in updates of one batch of every task. Where an update holds fewer
examples, as where tasks take turns, an arm makes as many more updates. SophiaH makes a multiple of
--hess_interval, so that every round has its share of estimates. Arms are measured in groups,
each beside a plain sum of its own, in one process and in turns; then the group is freed, so that
memory does not grow with the number of arms. A time is the median over the rounds of its ratio to
the plain sum's. A memory is the peak above the plain sum's, in float32 copies of the shared
parameters. --precisions prints a table for each of several precisions; every ratio is within one of
them. Every arm's options are resolved and its rows tokenized before the first one is measured, so
neither tokenizing nor tagging is in a time or a memory. --to writes the figures for
`experiments.report`, after each group. In a file that is there, the arms that are measured replace
those of the same name and the others stay.
"""

import gc
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost_file import Cost, Costs, read_costs, write_costs
from benchmarks.memory import peak_memory
from benchmarks.precision import (
    Precision,
    add_precisions,
    chosen_precisions,
    default_precision,
    machine,
)
from benchmarks.setup import (
    add_use_gpu,
    build_seeded_model,
    event_log,
    kernels_of_a_run,
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
from reporting.start import Start
from runtime.device import select_device
from runtime.errors import InputError
from runtime.memory import trim_memory
from training import build_training

PLAIN = "plain sum"
JOINT = "--task_scheduler joint"
LOG = "--log_conflicts"  # surgery logs them anyway: the other arms of it do not
TURNS = "--task_scheduler round_robin"
SMART = "--use_smart_regularization"
RDROP = "--rdrop_weight 1"
OWN_INPUTS = ("--additional_input", "hierarchical")  # with these, rows become other inputs
OWN_PRECISION = "--no_use_amp"
ARMS = {  # name -> flags
    PLAIN: JOINT,
    "conflict log": f"{JOINT} {LOG}",
    "pcgrad": "--projection pcgrad",
    "pcgrad, conflict log": f"--projection pcgrad {LOG}",
    "vaccine": "--projection vaccine",
    "vaccine, conflict log": f"--projection vaccine {LOG}",
    "smart": f"{JOINT} {SMART}",
    "smart, bregman": f"{JOINT} {SMART} --smart_mu 1",
    "rdrop": f"{JOINT} {RDROP}",
    "average of weights": f"{JOINT} --average_weights 0.999",
    "layer decay": f"{JOINT} --layer_decay 0.9",
    "sophiah": f"{JOINT} --optimizer sophiah",
    "pal": f"{JOINT} --use_pal",
    "pcgrad, pal": "--projection pcgrad --use_pal",
    "pcgrad, smart": f"--projection pcgrad {SMART}",
    "vaccine, sophiah, pal": "--projection vaccine --optimizer sophiah --use_pal",
    "gradnorm, pcgrad": "--loss_weighting gradnorm --projection pcgrad",
    "lora": f"{JOINT} --lora_rank 8",
    "lora per task": f"{JOINT} --lora_rank 8 --lora_per_task",
    "pcgrad, lora": "--projection pcgrad --lora_rank 8",
    "gradient checkpointing": f"{JOINT} --gradient_checkpointing",
    "round robin": TURNS,
    "round robin, smart": f"{TURNS} {SMART}",
    "round robin, rdrop": f"{TURNS} {RDROP}",
    "round robin, pal": f"{TURNS} --use_pal",
    "pal scheduler": "--task_scheduler pal",
    "temperature": "--task_scheduler temperature --temperature 2",
    "attention": f"{JOINT} --extension attention",
    "bilstm": f"{JOINT} --extension bilstm",
    "cnn": f"{JOINT} --extension cnn",
    "hierarchical": f"{JOINT} --extension hierarchical",
    "max pooling": f"{JOINT} --pooling max",
    "last four layers": f"{JOINT} --train_mode single_layers",
    "combined": f"{JOINT} --combined_models",
    "pos ner": f"{JOINT} --additional_input",
    "sophiah pos ner": f"{JOINT} --optimizer sophiah --additional_input",
    "frozen": f"{JOINT} --option pretrain",  # without the cache of its states
    "float32": f"{JOINT} {OWN_PRECISION}",
}
WEIGHTINGS = [name for name in LOSS_WEIGHTINGS if name != "none"]
ARMS |= {name: f"{JOINT} --loss_weighting {name}" for name in WEIGHTINGS}
ARMS["dwa"] += " --epochs 3"  # it needs two to weigh the third; the updates are as many
ARMS |= {name: f"--projection {name}" for name in AGGREGATORS}
Inputs = dict[tuple[str, ...], dict[str, TokenizedTask]]  # kind of input -> rows by task


class Arm:
    """One technique in the training loop.

    Args:
        options: the benchmark's options.
        inputs: the training rows of every kind of input, as `load_inputs` returns them.
        log: told every update.
        precision: what it computes in, unless its flags say float32.
        name: a key of `ARMS`.
    """

    def __init__(
        self,
        options: Namespace,
        inputs: Inputs,
        log: RunLog,
        precision: Precision,
        name: str,
    ) -> None:
        start = open_technique(options, precision, name)
        data = inputs[input_kind(name)]
        self.training = build_training(start.args, build_seeded_model(start), {**data})
        is_sophia = start.args.optimizer == "sophiah"
        self.interval = start.args.hess_interval if is_sophia else 1  # one estimate of the Hessian
        self.logs_conflicts, self.log = LOG in ARMS[name], log
        projection = self.training.projection
        if isinstance(projection, TaskGradients) and not self.logs_conflicts:
            projection.observe = lambda inner: None

    @property
    def mean_examples(self) -> float:
        """The mean number of examples per update."""
        return self.training.task_scheduler.mean_examples

    def updates_of(self, num_examples: float) -> int:
        """Return how many updates hold about so many examples, in whole intervals."""
        return self.interval * max(1, round(num_examples / self.mean_examples / self.interval))

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
        InputError: --to with several precisions, or with a file that cannot take the costs; the
            package of an arm, or the GPU, is missing.
    """
    select_device(options.use_gpu)
    if options.to is not None and len({*(options.precisions or [])}) > 1:
        raise InputError("--to holds the costs of one precision; name only one with --precisions")
    torch.set_num_threads(options.threads)
    default = default_precision(options.use_gpu)
    precisions = chosen_precisions(options.precisions, [default], options.use_gpu)
    known = known_costs(options, precisions[0].name)
    inputs = load_inputs(options, precisions)
    print(machine(options.threads, options.use_gpu))
    for precision in precisions:
        with event_log() as log, precision.products(), kernels_of_a_run(options.use_gpu):
            build = partial(Arm, options, inputs, log, precision)
            print_techniques(options, build, precision.name, known)


def known_costs(options: Namespace, precision: str) -> dict[str, Cost]:
    """Return the costs in the file of --to that stay there, by arm.

    Raises:
        InputError: the file cannot be written, or holds costs that were measured in another way.
    """
    if options.to is None:
        return {}
    path = Path(options.to)
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--to {path}: {path.parent} is not a folder that can be written to")
    if not path.exists():
        return {}
    old, new = read_costs(path), costs_of(options, precision, {})
    for key, value in new._replace(arms=old.arms)._asdict().items():
        if (was := getattr(old, key)) != value:
            raise InputError(
                f"--to {path}: its costs have {key} {was!r}, these would have {value!r}; remove "
                "it, or name another file"
            )
    return old.arms


def costs_of(options: Namespace, precision: str, arms: dict[str, Cost]) -> Costs:
    """Return the costs of arms together with how they were measured."""
    how = (options.batch_size, options.rounds, options.updates)
    name = Path(options.model_name).name
    device = machine(options.threads, options.use_gpu)
    return Costs(device, name, precision, *how, arms, options.rows)


def load_inputs(options: Namespace, precisions: list[Precision]) -> Inputs:
    """Resolve the options of every chosen arm, and load the rows of each kind of input once.

    Raises:
        InputError: the package of an arm is missing, or a data file is wrong.
    """
    starts: dict[tuple[str, ...], Start] = {}
    for name in dict.fromkeys(name for group in groups(options) for name in group):
        for precision in precisions:
            starts.setdefault(input_kind(name), open_technique(options, precision, name))
    return {kind: load_rows(start, options.rows) for kind, start in starts.items()}


def open_technique(options: Namespace, precision: Precision, name: str) -> Start:
    """Resolve the options of an arm. Raises InputError if one of its packages is missing."""
    flags = f"{ARMS[name]} --batch_size {options.batch_size} --lr 1e-5"
    return open_arm(options, flags if OWN_PRECISION in flags else f"{flags} {precision.flag}")


def input_kind(name: str) -> tuple[str, ...]:
    """Return those words of an arm's flags that make other inputs of the rows."""
    return tuple(word for word in OWN_INPUTS if word in ARMS[name].split())


def print_techniques(
    options: Namespace, build: Callable[[str], Arm], precision: str, known: dict[str, Cost]
) -> None:
    """Measure the chosen arms in one precision and print one line for each, group by group.

    Args:
        options: the benchmark's options.
        build: returns the arm of a name.
        precision: its name, for the head of the table.
        known: what --to's file already holds.
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
            merged = known | found
            arms = {name: merged[name] for name in ARMS if name in merged}
            write_costs(options.to, costs_of(options, precision, arms))
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
    plain_examples = build(PLAIN).mean_examples

    # As many examples for all: an arm in turns then meets every task. One that draws may miss one.
    def make_updates(name: str) -> None:
        arm = build(name)
        arm.run(arm.updates_of(2 * plain_examples))

    peaks = [peak_memory(lambda: make_updates(name)) for name in names]
    arms = [build(name) for name in names]
    plain = arms[0]
    updates = [arm.updates_of(options.updates * plain.mean_examples) for arm in arms]
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
    add_use_gpu(parser)
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
