"""Measure the seconds of training until all of dev reaches a mean score.

    python -m benchmarks.time_to_score --data_dir data --target .70 --seeds 1 2 3

Arms, all with the same encoder weights, features, heads, losses, rows and token ids:
  ours      train_multitask.py without flags
  joint     a plain loop around transformers' BertModel: one encoder for all tasks
  separate  the same loop with an encoder for each task
The plain loops are those of `benchmarks.plain_loop`: batches of 16 random rows, AdamW at 5e-5,
three epochs of all rows, float32 as torch has it. The separate models take turns too, a batch each:
one after the other, the models whose turn has not come would hold the mean score down. The table
says the settings, and flags change them.

Everything runs in one process. The arms of a seed take turns, one interval of examples each, so
that a busy machine slows all of them. An arm is looked at after every interval, so its seconds are
rounded up to whole intervals, of as many examples in every arm. Start-up, tokenizing and evaluating
are outside the clock, collating inside.
"""

import math
import statistics
from argparse import Namespace
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import torch

from benchmarks.arms import OurArm
from benchmarks.plain_loop import MAX_NORM, PlainLoop, PlainSettings, add_plain_options
from benchmarks.precision import device_precisions, machine, precision_of
from benchmarks.setup import (
    event_log,
    load_rows,
    open_arm,
    run_benchmark,
    run_updates,
    seconds_of,
    shared_parser,
)
from engine import evaluate
from inputs.batches import TokenizedTask
from models import MultitaskBert
from options.parsing import ArgumentParser
from options.types import number, positive_float, positive_int
from options.types import seed as any_seed
from reporting.run_log import RunLog
from reporting.start import Start
from tasks import Metrics, mean_score, scores

Data = dict[str, TokenizedTask]


class Arm(Protocol):
    """What is trained until it reaches the score."""

    def train(self, num_examples: int) -> int:
        """Train on about so many more examples; return on how many. 0: the run is at its end."""

    def evaluate(self, dev: Data) -> Metrics:
        """Return the dev metrics by task."""

    def precision(self) -> AbstractContextManager[None]:
        """Return the context in which it computes."""


class Ours:
    """Our loop with the defaults of train_multitask.py."""

    def __init__(self, start: Start, data: Data, log: RunLog) -> None:
        self.arm = OurArm(start, data, log)
        self.num_left = self.arm.training.num_updates_left
        self.precision = precision_of(start.args.use_amp).products

    def train(self, num_examples: int) -> int:
        """Train on about so many more examples; return on how many. 0: the run is at its end."""
        training = self.arm.training
        before = sum(training.progress.examples.values())
        num_updates = max(1, round(num_examples / training.task_scheduler.mean_examples))
        num_updates = min(num_updates, self.num_left)
        if num_updates:
            run_updates(training, self.arm.log, num_updates)
        self.num_left -= num_updates
        return sum(training.progress.examples.values()) - before

    def evaluate(self, dev: Data) -> Metrics:
        """Return the dev metrics by task."""
        training = self.arm.training
        return evaluate(training.model, {**dev}, use_amp=training.use_amp)[0]


class Plain:
    """One plain loop, or several in turns, a batch each."""

    def __init__(self, loops: list[PlainLoop]) -> None:
        self.loops = loops
        self.precision = device_precisions()["float32"].products

    def train(self, num_examples: int) -> int:
        """Train on about so many more examples; return on how many. 0: the run is at its end."""
        seen = 0
        for loop in self.loops:
            loop.model.train()
        while seen < num_examples and any(loop.num_left for loop in self.loops):
            seen += sum(loop.step().num_examples for loop in self.loops if loop.num_left)
        return seen

    def evaluate(self, dev: Data) -> Metrics:
        """Return the dev metrics by task, each from the model that is trained on it."""
        metrics: Metrics = {}
        for loop in self.loops:
            own = {name: dev[name] for name in loop.data}
            metrics |= evaluate(cast(MultitaskBert, loop.model), {**own})[0]
        return metrics


@dataclass
class Result:
    """How far an arm has come: seconds of training, examples, and the best mean on dev."""

    seconds: float = 0.0
    examples: int = 0
    best: float = -math.inf
    is_reached: bool = False
    is_over: bool = False

    def shown(self) -> str:
        """Return the outcome in words."""
        best = f"{self.best:.3f}".removeprefix("0")
        return f"reached {best}" if self.is_reached else f"not reached (best {best})"


def main(options: Namespace) -> None:
    """Train every arm with every seed and print one line for each, then one per arm."""
    torch.set_num_threads(options.threads)
    start = open_ours(options, options.seeds[0])
    data, dev = load_rows(start, options.rows), load_rows(start, split="dev")
    print_settings(options, start, dev)
    print(
        f"{'seed':<6}{'arm':<10}{'seconds':>9}{'examples':>10}{'seconds / ours':>16}  mean on dev"
    )
    results = []
    for seed in options.seeds:
        results.append(train_arms(options, seed, data, dev))
        for name, result in results[-1].items():
            ratio = shown_ratio(result, results[-1]["ours"])
            print(
                f"{seed:<6}{name:<10}{result.seconds:>9.1f}{result.examples:>10}{ratio:>16}  "
                f"{result.shown()}",
                flush=True,
            )
    print_medians(results)


def plain_settings(options: Namespace) -> PlainSettings:
    """Return the settings of the plain loops."""
    return PlainSettings(options.plain_lr, options.plain_batch_size, options.plain_epochs)


def open_ours(options: Namespace, seed: int) -> Start:
    """Return the defaults of train_multitask.py, with a seed."""
    return open_arm(options, f"--task_scheduler joint --seed {seed}")


def train_arms(options: Namespace, seed: int, data: Data, dev: Data) -> dict[str, Result]:
    """Train all arms in turns until each is over; return their results by name."""
    start = open_ours(options, seed)
    settings = plain_settings(options)
    with event_log() as log:
        arms: dict[str, Arm] = {
            "ours": Ours(start, data, log),
            "joint": Plain([PlainLoop(settings, start, data, seed)]),
            "separate": Plain(
                [PlainLoop(settings, start, {name: rows}, seed) for name, rows in data.items()]
            ),
        }
        results = {name: Result() for name in arms}
        while not all(result.is_over for result in results.values()):
            for name, arm in arms.items():
                if not results[name].is_over:
                    with arm.precision():
                        train_interval(arm, results[name], options, dev)
    return results


def train_interval(arm: Arm, result: Result, options: Namespace, dev: Data) -> None:
    """Train an arm on one interval of examples, on the clock; then look at its score."""
    seen = 0

    def train() -> None:
        nonlocal seen
        seen = arm.train(options.every)

    result.seconds += seconds_of(train)
    result.examples += seen
    if seen:
        result.best = max(result.best, mean_score(scores(arm.evaluate(dev))))
    result.is_reached = result.best >= options.target
    is_late = result.seconds >= 60 * options.minutes
    result.is_over = result.is_reached or is_late or not seen


def print_settings(options: Namespace, start: Start, dev: Data) -> None:
    """Print what is compared."""
    args, num_dev = start.args, sum(len(rows) for rows in dev.values())
    print(machine(options.threads))
    print(
        f"target: a mean of {options.target:g} on all {num_dev} rows of dev, looked at after every "
        f"{options.every} examples; at most {options.minutes:g} minutes of training"
    )
    print(
        f"ours: train_multitask.py without flags: a batch of {args.batch_size} of every task in "
        f"each update, lr {args.lr:g}, {args.epochs} epochs, "
        f"{precision_of(args.use_amp).name}"
    )
    print(
        f"joint, separate: transformers, one batch of {options.plain_batch_size} random rows in "
        f"each update, tasks or models in turns, lr {options.plain_lr:g}, "
        f"{options.plain_epochs} epochs, float32"
    )
    print(
        f"all: {args.model_name}, at most {args.max_length} tokens, AdamW, linear warm-up and "
        f"decay, clipping at {MAX_NORM:g}, dropout {args.hidden_dropout_prob:g}"
    )


def shown_ratio(result: Result, ours: Result) -> str:
    """Return an arm's seconds over ours; a lower bound if it has not reached the target."""
    if not ours.is_reached:
        return "-"
    return f"{'' if result.is_reached else '> '}{result.seconds / ours.seconds:.2f}"


def print_medians(results: list[dict[str, Result]]) -> None:
    """Print the median of the seeds' ratios by arm, where every seed of ours reached the target."""
    if not all(by_arm["ours"].is_reached for by_arm in results):
        return
    for name in results[0]:
        ratios = [
            by_arm[name].seconds / by_arm["ours"].seconds if by_arm[name].is_reached else math.inf
            for by_arm in results
        ]
        median, *ends = (
            "not reached" if math.isinf(value) else f"{value:.2f}"
            for value in (statistics.median(ratios), min(ratios), max(ratios))
        )
        print(f"{'all':<6}{name:<29}{median:>16}  {' to '.join(ends)}")


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None, threads=2)
    add = parser.add_argument
    score = number(float, "a number in [-1, 1]", lambda value: -1 <= value <= 1)
    add("--target", type=score, default=0.7, help="mean on dev that ends an arm")
    add("--seeds", type=any_seed, nargs="+", default=[1, 2, 3], help="one training each per arm")
    add("--every", type=positive_int, default=2400, help="examples between evaluations")
    add("--minutes", type=positive_float, default=30.0, help="most minutes of training of an arm")
    add_plain_options(parser)
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
