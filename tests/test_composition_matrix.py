"""Task scheduler × projection × loss weighting × optimizer × {SMART, PALs, LoRA, …}: legal or not.

Every combination of all but the optimizer is legal or refused as `is_legal` says, a second
statement of the rules beside options/legal.py. The fast tests train combinations that together hold
every legal pair of values; the slow ones train all.
"""

from collections.abc import Iterator
from itertools import combinations, product, starmap
from typing import NamedTuple

import pytest
import torch

from datasets import load_data
from engine import train_step
from models import build_model
from optimizers import LOSS_WEIGHTINGS, OPTIMIZERS, PROJECTIONS
from optimizers.aggregators import AGGREGATORS
from options.legal import contradiction_of
from options.parsing import parse_args
from options.task_table import built_in_table, built_in_tasks
from reporting.start import open_run
from task_schedulers import TASK_SCHEDULERS
from train_multitask_pal import get_args_parser
from training import build_training

TASKS = built_in_tasks()

ONE_TASK = next(iter(TASKS))
SCHEDULERS = [name for name in TASK_SCHEDULERS if name not in TASKS] + [ONE_TASK]
SAMPLED = ("random", "pal", "temperature")
FEW_PROJECTIONS = ("none", "pcgrad", "vaccine", "mgda")  # the others are trained with one setting
LORA = {"lora": "--lora_rank 4 ", "own": "--lora_rank 4 --lora_per_task "}
EXTRAS = ("", "smart", "pal", "smart pal", "lora", "smart lora", "own", "smart own", "recipe pal")
REFUSED_EXTRAS = ("pal lora", "pal own")
# Parameters that need not move: the gradient of key biases is zero in theory, and nothing reads the
# pooler.
EXEMPT = ("key.bias", "pooler.")


class Combination(NamedTuple):
    """One value of each of the five."""

    scheduler: str
    projection: str
    weighting: str
    optimizer: str = "adamw"
    extra: str = ""

    @property
    def flags(self) -> str:
        flags = f"--task_scheduler {self.scheduler} --projection {self.projection} "
        flags += f"--loss_weighting {self.weighting} --optimizer {self.optimizer} "
        flags += "--epochs 3 " if self.weighting == "dwa" else ""
        if self.scheduler in SAMPLED and self.projection != "none":
            strategy = "force" if self.optimizer == "sophiah" else "encourage"
            flags += f"--combine_strategy {strategy} --batches_per_update 4 "
        flags += "--use_smart_regularization --smart_mu 1 " if "smart" in self.extra else ""
        flags += "--use_pal " if "pal" in self.extra else ""
        flags += "".join(LORA.get(word, "") for word in self.extra.split())
        if "recipe" in self.extra:
            flags += "--rdrop_weight 1 --average_weights .9 --layer_decay .9 "
        return flags + ("--hess_interval 2" if self.optimizer == "sophiah" else "")


def is_legal(case: Combination) -> bool:
    """The rules: several tasks need each other, two weightings all of them, FAMO no Hessian.

    PALs and LoRA exclude each other, and adapters of each task leave nothing that is shared.
    """
    own = "own" in case.extra.split()
    if case.extra in REFUSED_EXTRAS:
        return False
    if own and (case.projection != "none" or case.weighting in ("gradnorm", "famo")):
        return False
    if case.scheduler == ONE_TASK:
        return case.projection == "none" and case.weighting == "none" and not own
    if case.weighting == "famo" and case.optimizer == "sophiah":
        return False
    has_all = case.scheduler == "joint" or case.projection != "none"
    return has_all or case.weighting not in ("gradnorm", "famo")


def legal_cases() -> Iterator[Combination]:
    axes = (SCHEDULERS, FEW_PROJECTIONS, LOSS_WEIGHTINGS, OPTIMIZERS, EXTRAS)
    return filter(is_legal, starmap(Combination, product(*axes)))


def pairs(case: Combination) -> set[tuple]:
    """Every pair of values in a combination, with their places."""
    return set(combinations(enumerate(case), 2))


def covering(cases: list[Combination]) -> list[Combination]:
    """A few of the combinations that together hold every pair of values that any of them holds."""
    missing = set().union(*map(pairs, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


ALL = list(legal_cases())
FEW = covering(ALL)
FEW += [Combination("joint", key, "none") for key in PROJECTIONS if key not in FEW_PROJECTIONS]


def test_every_combination_is_legal_or_refused_by_the_table():
    parser = get_args_parser()
    axes = (SCHEDULERS, PROJECTIONS, LOSS_WEIGHTINGS, ["adamw"], [*EXTRAS, *REFUSED_EXTRAS])
    for case in starmap(Combination, product(*axes)):
        flags = case.flags
        args = parser.parse_args(flags.split())
        args.task_weights, args.given = {}, []
        args.table, args.tasks = built_in_table(), TASKS
        message = contradiction_of(args)
        assert (message is None) == is_legal(case), (flags, message)


def test_the_few_hold_every_pair_of_the_many():
    assert set().union(*map(pairs, ALL)) <= set().union(*map(pairs, FEW))
    assert len(FEW) < 80


@pytest.fixture(scope="module")
def train_two(tiny_model, few_rows, tmp_path_factory):
    """train_two(case): build what a combination names, make two updates, and check what moved."""
    loaded: list[dict] = []
    logdir = tmp_path_factory.mktemp("runs")

    def train(case: Combination) -> None:
        if case.projection in AGGREGATORS:
            for package in AGGREGATORS[case.projection].packages:
                pytest.importorskip(package)
        words = f"--model_name {tiny_model} --data_dir {few_rows} --batch_size 2 --epochs 1 "
        words += f"--num_batches_per_epoch 2 --scheduler none --logdir {logdir} "
        args = parse_args(get_args_parser(), (words + case.flags).split())
        with open_run(args) as start:
            if not loaded:
                loaded.append(load_data(start.args, start.tokenizer, start.config.pad_token_id))
            model = build_model(start.args, start.build_encoder())
            training = build_training(start.args, model, loaded[0]["train"])
        training.start_epoch()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for _ in range(2):
            update = training.task_scheduler.next_update()
            losses, norm = train_step(training, update, "a test")
            training.progress.count(update, losses)
            training.after_update()
            assert norm > 0
        after = dict(model.named_parameters())
        assert all(p.isfinite().all() for p in after.values())
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        frozen = {name for name, p in after.items() if not p.requires_grad}
        assert bool(frozen) == ("lora" in case.flags) and not frozen & moved
        idle = TASKS.keys() - training.progress.updates.keys() if "own" in case.extra else ()
        encoder = {name for name in after if name.startswith("encoder.")} - frozen
        encoder -= {name for name in encoder if any(f".{task}." in name for task in idle)}
        assert all(any(part in name for part in EXEMPT) for name in encoder - moved), (
            encoder - moved
        )
        parts = {name.split(".")[0] for name in moved}
        assert parts == {"encoder", "heads"} | ({"pals"} if "pal" in case.extra else set())
        names = set(TASKS) if case.weighting != "none" else set()
        assert training.loss_weighting.logged.keys() == names

    return train


@pytest.mark.parametrize("case", FEW, ids=lambda case: "-".join(filter(None, case)))
def test_a_legal_combination_trains_two_updates(case, train_two):
    train_two(case)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_every_legal_combination_trains_two_updates(scheduler, weighting, train_two):
    for case in ALL:
        if (case.scheduler, case.weighting) == (scheduler, weighting):
            train_two(case)
