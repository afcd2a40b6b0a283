"""Compare the speed and memory of our training loop with a loop around transformers' encoder.

    python -m benchmarks.throughput --data_dir data
    python -m benchmarks.throughput --data_dir data --arms abcd --profile
    python -m benchmarks.throughput --data_dir data --memory

Arms, all on the same examples, encoder weights, batch size, dropout, AdamW and clipping:
  a  our training loop, as it runs for a user
  b  transformers' BertModel, random batches padded to their longest example
  c  the same with our length-grouped batches
  d  our loop with dropout 0 (not comparable with the others; shows what dropout costs)
Each runs in every precision that the device has (`benchmarks.precision`). Everything runs in one
process. Arms take turns, round by round, so that a busy machine slows all of them. Tokenizing is
outside the clock, collating inside. The useful rate is 6 · non-embedding parameters · real tokens /
second, as a share of the best rate of the machine's own matrix products in that precision, on the
encoder's shapes and in the same rounds. The last line compares the defaults of both sides.

--memory measures the resident memory of our loop instead, in a process of its own per precision.
"""

from argparse import SUPPRESS, Namespace
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.arms import OurArm, Plan, ReferenceArm
from benchmarks.memory import peak_memory, resident_mib
from benchmarks.precision import (
    Precision,
    add_precisions,
    chosen_precisions,
    default_precision,
    device_precisions,
    machine,
    product_rate,
)
from benchmarks.processes import hand_over, measure_apart
from benchmarks.profiling import print_profile
from benchmarks.setup import (
    add_use_gpu,
    event_log,
    load_rows,
    open_arm,
    run_benchmark,
    run_updates,
    seconds_of,
    shared_parser,
)
from inputs.batches import TokenizedTask
from options.parsing import ArgumentParser
from options.types import positive_int
from reporting.run_log import RunLog
from reporting.start import Start
from runtime.device import select_device
from runtime.errors import InputError
from task_schedulers import TASK_SCHEDULERS

FIRST_MARK = 25  # updates after which --memory looks first; then at twice as many, and so on
ARMS = {
    "a": "our loop",
    "b": "transformers, random batches",
    "c": "transformers, length-grouped",
    "d": "our loop, dropout 0",
}


class Figures(NamedTuple):
    """What was measured in one precision.

    Attributes:
        seconds: of each round, [rounds], by arm.
        products: the best product rate of each round, [rounds], in operations per second.
        peaks: peak MiB by arm.
    """

    seconds: dict[str, np.ndarray]
    products: np.ndarray
    peaks: dict[str, float]


def main(options: Namespace) -> None:
    """Measure the chosen arms and print their speeds, memory and ratios.

    Raises:
        InputError: there is no GPU, --memory or --profile with --use_gpu, or a precision that the
            device does not have.
    """
    if options.use_gpu and (options.memory is not None or options.profile):
        raise InputError("--memory and --profile look at the CPU; leave out --use_gpu, or them")
    select_device(options.use_gpu)
    torch.set_num_threads(options.threads)
    unset = [*device_precisions(options.use_gpu).values()]
    precisions = chosen_precisions(options.precisions, unset, options.use_gpu)
    if options.is_apart:
        return hand_over(memory_of_updates(options, *precisions))
    start = open_arm(options, common_flags(options, precisions[0]))
    data = load_rows(start, options.rows)
    if options.memory is not None:
        return print_memory(options, precisions)
    warmup, *rounds = plan_rounds(options, start, data)
    # (b) draws its random batches from the rows of all rounds: those of one round alone are too
    # alike in length.
    plans = {name: [warmup, *rounds] for name in options.arms}
    plans["b"] = [*shuffled([warmup], start.args.seed), *shuffled(rounds, start.args.seed)]
    tokens = np.array([real_tokens(data, updates) for updates in rounds])
    with event_log() as log:
        build = partial(build_arm, options, data, log)
        mean_tokens = int(tokens.sum() / (len(rounds) * options.updates * len(data)))  # of a batch
        multiply = partial(product_rate, start.config, mean_tokens)
        if options.use_gpu:  # its products are too short to be timed from the host
            multiply = partial(float, 0)
        figures = measure(plans, precisions, build, multiply)
        print(machine(options.threads, options.use_gpu))
        print_speeds(options, figures, count_examples(rounds))
        default = default_precision(options.use_gpu)
        last = default if default in precisions else precisions[-1]
        ours = OurArm(open_arm(options, common_flags(options, last)), data, log)
        if not options.use_gpu:
            print_rates(figures, 6 * ours.num_layer_parameters * tokens)
        print_defaults(figures, default.name)
        if options.profile:
            with last.products():
                print_profile(f"(a) in {last.name}", partial(ours.run, rounds[0]))


def measure(
    plans: dict[str, list[Plan]],
    precisions: list[Precision],
    build: Callable[[str, Precision], OurArm | ReferenceArm],
    multiply: Callable[[Precision], float],
) -> dict[str, Figures]:
    """Train all arms in all precisions, in turns; return their figures by precision.

    Args:
        plans: by arm, the updates of the warm-up and of every round.
        precisions: to compute in.
        build: returns a new arm.
        multiply: returns the best product rate.
    """
    peaks: dict[Precision, dict[str, float]] = {}
    for precision in precisions:
        with precision.products():
            build("a", precision).run(plans["a"][0][:1])  # the libraries allocate their own buffers
            peaks[precision] = {
                name: peak_memory(lambda: build(name, precision).run(plan[0]))
                for name, plan in plans.items()
            }
    arms = {(p, name): build(name, p) for p in precisions for name in plans}
    times: dict[tuple[Precision, str], list[float]] = {key: [] for key in arms}
    products: dict[Precision, list[float]] = {p: [] for p in precisions}
    for number in range(len(plans["a"])):
        for precision in precisions:
            with precision.products():
                for name, plan in plans.items():
                    run = partial(arms[precision, name].run, plan[number])
                    times[precision, name].append(seconds_of(run))
            products[precision].append(multiply(precision))
    return {  # without the warm-up
        p.name: Figures(
            seconds={name: np.array(times[p, name][1:]) for name in plans},
            products=np.array(products[p][1:]),
            peaks=peaks[p],
        )
        for p in precisions
    }


def common_flags(options: Namespace, precision: Precision) -> str:
    """Return the flags of train_multitask_pal.py that all arms of a precision share."""
    flags = f"--task_scheduler joint --lr 1e-5 --batch_size {options.batch_size}"
    return f"{flags} {precision.flag}"


def build_arm(
    options: Namespace,
    data: dict[str, TokenizedTask],
    log: RunLog,
    name: str,
    precision: Precision,
) -> OurArm | ReferenceArm:
    """Return an arm with fresh weights."""
    dropout = "--hidden_dropout_prob 0" if name == "d" else ""
    start = open_arm(options, f"{common_flags(options, precision)} {dropout}")
    return OurArm(start, data, log) if name in "ad" else ReferenceArm(start, data)


def plan_rounds(options: Namespace, start: Start, data: dict[str, TokenizedTask]) -> list[Plan]:
    """Return the rows that the scheduler of our loop will draw: a warm-up, then every round."""
    scheduler = TASK_SCHEDULERS["joint"]({**data}, options.batch_size, seed=start.args.seed)
    return [
        [
            {name: sampler.next_rows() for name, sampler in scheduler.samplers.items()}
            for _ in range(options.updates)
        ]
        for _ in range(1 + options.rounds)
    ]


def shuffled(rounds: list[Plan], seed: int) -> list[Plan]:
    """Return the same rows of each task in random batches of the same sizes."""
    random = np.random.default_rng(seed)
    updates = [update for updates in rounds for update in updates]
    mixed: Plan = [{} for _ in updates]
    for name in updates[0]:
        sizes = [len(update[name]) for update in updates]
        rows = random.permutation(np.concatenate([update[name] for update in updates]))
        for update, part in zip(mixed, np.split(rows, np.cumsum(sizes)[:-1])):
            update[name] = part
    size = len(rounds[0])
    return [mixed[first : first + size] for first in range(0, len(mixed), size)]


def count_examples(rounds: list[Plan]) -> int:
    """Return the number of examples in these rounds."""
    return sum(len(rows) for updates in rounds for u in updates for rows in u.values())


def real_tokens(data: dict[str, TokenizedTask], updates: Plan) -> int:
    """Return the number of tokens in these updates, padding aside."""
    return sum(int(data[name].lengths[rows].sum()) for u in updates for name, rows in u.items())


def spread(ratios: np.ndarray) -> str:
    """Return the range of single rounds in words."""
    return f"{ratios.min():.2f} to {ratios.max():.2f}"


def print_speeds(options: Namespace, figures: dict[str, Figures], num_examples: int) -> None:
    """Print speed and memory of all arms, and the speed of (a) relative to each.

    Args:
        options: the benchmark's options.
        figures: by precision.
        num_examples: examples of all rounds.
    """
    print(f"{num_examples} examples in {options.rounds} rounds, batch {options.batch_size}")
    print(f"{'precision':<14}{'arm':<34}{'examples/s':>10}{'MiB':>7}{'(a)/arm':>9}{'rounds':>15}")
    for precision, (seconds, _, peaks) in figures.items():
        for name, times in seconds.items():
            ratio = times.sum() / seconds["a"].sum()
            print(
                f"{precision:<14}{f'({name}) {ARMS[name]}':<34}{num_examples / times.sum():>10.1f}"
                f"{peaks[name]:>7.0f}{ratio:>9.2f}{spread(times / seconds['a']):>15}"
            )


def print_rates(figures: dict[str, Figures], operations: np.ndarray) -> None:
    """Print the useful rate of (a) in each precision, and its speed relative to the first one.

    Args:
        figures: by precision.
        operations: of the layers on real tokens in each round, [rounds].
    """
    first, *_ = figures
    base = figures[first].seconds["a"]
    print(
        f"{'(a) in':<14}{'speed':>6}{'rounds':>15}{'GFLOP/s':>9}{'of products':>13}"
        f"{'share':>8}{'rounds':>19}"
    )
    for precision, (seconds, products, _) in figures.items():
        ratio, rates = base.sum() / seconds["a"].sum(), operations / seconds["a"]
        shares = rates / products
        print(
            f"{precision:<14}{ratio:>6.2f}{spread(base / seconds['a']):>15}"
            f"{np.median(rates) / 1e9:>9.1f}{np.median(products) / 1e9:>13.1f}"
            f"{np.median(shares):>8.1%}{f'{shares.min():.1%} to {shares.max():.1%}':>19}"
        )


def print_defaults(figures: dict[str, Figures], default: str) -> None:
    """Compare our loop in its default precision with what a plain user of transformers runs."""
    if {"float32", default} <= figures.keys():
        ours, theirs = figures[default].seconds["a"], figures["float32"].seconds["b"]
        print(
            f"defaults of both sides: (a) in {default} / (b) in float32 "
            f"{theirs.sum() / ours.sum():.2f}   rounds {spread(theirs / ours)}"
        )


def memory_marks(num_updates: int) -> list[int]:
    """Return after how many updates --memory looks: 25, 50, 100 and so on, and at the end."""
    marks = [num_updates]
    while FIRST_MARK << len(marks) - 1 < num_updates:
        marks.insert(-1, FIRST_MARK << len(marks) - 1)
    return marks


def memory_of_updates(options: Namespace, precision: Precision) -> dict[str, float]:
    """Train our loop; return the resident memory of this process, in MiB, by number of updates."""
    start = open_arm(options, common_flags(options, precision))
    with event_log() as log, precision.products():
        arm, sizes, done = OurArm(start, load_rows(start, options.rows), log), {}, 0
        for mark in memory_marks(options.memory):
            run_updates(arm.training, log, mark - done)
            sizes[str(mark)], done = resident_mib("VmRSS"), mark
    return sizes


def print_memory(options: Namespace, precisions: list[Precision]) -> None:
    """Measure --memory in a process for each precision; print one line per number of updates."""
    words = ["--data_dir", options.data_dir, "--model_name", options.model_name, "--is_apart"]
    for name in ("rows", "batch_size", "threads", "memory"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    columns = {
        p.name: measure_apart(
            f"memory in {p.name}", "benchmarks.throughput", [*words, "--precisions", p.name]
        )
        for p in precisions
    }
    print(f"{machine(options.threads)}\nresident MiB of our loop, batch {options.batch_size}")
    print(f"{'updates':<9}" + "".join(f"{name:>14}" for name in columns))
    for mark in memory_marks(options.memory):
        print(f"{mark:<9}" + "".join(f"{sizes[str(mark)]:>14.0f}" for sizes in columns.values()))


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None, batch_size=64, rounds=5, updates=4, threads=2)
    add = parser.add_argument
    add("--arms", choices=["ab", "abc", "abcd"], default="abc", help="arms to measure")
    add_precisions(parser, unset="all that the device has")
    add_use_gpu(parser)
    add("--profile", action="store_true", help="print where our time goes; off: ratios alone")
    add(
        "--memory",
        nargs="?",
        type=positive_int,
        const=300,
        metavar="UPDATES",
        help="measure the memory of our loop over so many updates (300) instead; unset: speeds",
    )
    add("--is_apart", action="store_true", help=SUPPRESS)  # marks a process of `print_memory`
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
