"""Round robin, random and annealed sampling: probabilities, counts, weights and saved state."""

from argparse import Namespace
from collections import Counter

import pytest
import torch

from datasets import read_examples
from inputs.batches import TokenizedTask
from models.pretrained import load_config, load_tokenizer
from options.task_table import built_in_tasks
from runtime import checkpoint
from task_schedulers import (
    TASK_SCHEDULERS,
    annealed_probabilities,
    temperature_probabilities,
)

TASKS = built_in_tasks()

SIZES = [8544, 141506, 6041]


@pytest.fixture(scope="module")
def data(tiny_model, few_rows):
    """Return twenty tokenized rows per task."""
    tokenizer = load_tokenizer(tiny_model, load_config(tiny_model))
    return {
        name: TokenizedTask(
            task, read_examples(few_rows / f"{task.stem}-train.csv", task), tokenizer, 0
        )
        for name, task in TASKS.items()
    }


def build(name: str, data, **options):
    return TASK_SCHEDULERS[name](data, 4, **{"seed": 1} | options)


def drawn(scheduler) -> list[str]:
    return [task.name for task, _, _ in scheduler.next_update()]


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (1, [0.05473730, 0.90656092, 0.03870178]),
        (10, [0.27128343, 0.47560454, 0.25311203]),
    ],
)
def test_annealed_probabilities(epoch, expected):
    assert annealed_probabilities(SIZES, epoch, 10).tolist() == pytest.approx(expected, abs=1e-8)


def test_a_single_epoch_counts_as_the_last_one():
    torch.testing.assert_close(
        annealed_probabilities(SIZES, 1, 1), annealed_probabilities(SIZES, 10, 10)
    )


@pytest.mark.parametrize(
    "temperature, expected",
    [
        (1, [size / sum(SIZES) for size in SIZES]),
        (2, [0.1691902, 0.6885445, 0.1422653]),  # √8544 : √141506 : √6041
        (1e9, [1 / 3] * 3),
        (1e-3, [0, 1, 0]),  # a power that no float holds
    ],
)
def test_temperature_probabilities(temperature, expected):
    found = temperature_probabilities(SIZES, temperature).tolist()
    assert found == pytest.approx(expected, abs=1e-8)


def test_temperature_draws_by_the_sizes_of_the_files_in_every_epoch(data):
    scheduler = build("temperature", data, num_epochs=10, temperature=2.0)
    scheduler.data = {name: Namespace(num_in_file=size) for name, size in zip(data, SIZES)}
    for epoch in (1, 10):
        scheduler.start_epoch(epoch)
        expected = temperature_probabilities(SIZES, 2.0)
        torch.testing.assert_close(scheduler.probabilities, expected)


def test_round_robin_takes_turns_and_one_of_each_under_a_projection(data):
    scheduler = build("round_robin", data)
    assert [drawn(scheduler) for _ in range(4)] == [["sst"], ["para"], ["sts"], ["sst"]]
    assert drawn(build("round_robin", data, projects=True)) == list(TASKS)


@pytest.mark.parametrize("name", ["random", "pal", "temperature"])
def test_sampling_follows_the_probabilities(data, name):
    scheduler = build(name, data, num_epochs=2)
    scheduler.probabilities = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    counts = Counter(sum((drawn(scheduler) for _ in range(1000)), []))
    assert [counts[task] / 1000 for task in TASKS] == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_pal_anneals_with_the_epoch_and_random_does_not(data):
    sizes = {name: rows for name, rows in zip(data, SIZES)}
    scheduler = build("pal", data, num_epochs=10)
    scheduler.data = {name: Namespace(num_in_file=size) for name, size in sizes.items()}
    for epoch in (1, 5, 10):
        scheduler.start_epoch(epoch)
        expected = annealed_probabilities(SIZES, epoch, 10)
        torch.testing.assert_close(scheduler.probabilities, expected)
    assert build("random", data).probabilities.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("name", ["random", "pal", "temperature"])
def test_force_takes_one_of_each_and_averages_each_tasks_batches(data, name):
    scheduler = build(
        name, data, projects=True, combine_strategy="force", batches_per_update=8, num_epochs=3
    )
    for _ in range(5):
        update = scheduler.next_update()
        counts = Counter(task.name for task, _, _ in update)
        assert set(counts) == set(TASKS) and sum(counts.values()) == 8
        weights = {task: 0.0 for task in TASKS}
        for task, _, weight in update:
            assert weight == pytest.approx(1 / counts[task.name])
            weights[task.name] += weight
        assert list(weights.values()) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("epoch, power", [(1, 0.2), (2, 0.6), (3, 1.0)])
def test_encourage_draws_and_weighs_as_the_formula_says(data, epoch, power):
    scheduler = build(
        "pal",
        data,
        projects=True,
        combine_strategy="encourage",
        batches_per_update=8,
        num_epochs=3,
        task_weights={"sts": 2.0},
    )
    scheduler.data = {name: Namespace(num_in_file=size) for name, size in zip(data, SIZES)}
    scheduler.start_epoch(epoch)
    p = annealed_probabilities(SIZES, epoch, 3)
    rest = ((p * 8 - 1) / (8 - 3)).clamp(0.025, 1)
    torch.testing.assert_close(scheduler.probabilities, rest / rest.sum())
    scheduler.data = data
    update = scheduler.next_update()
    counts = Counter(task.name for task, _, _ in update)
    for task, _, weight in update:
        factor = 2.0 if task.name == "sts" else 1.0
        assert weight == pytest.approx(factor * counts[task.name] ** -power)


@pytest.mark.parametrize("name", TASK_SCHEDULERS)
@pytest.mark.parametrize("projects", [False, True])
def test_every_scheduler_resumes_exactly_and_counts_its_examples(data, name, projects, tmp_path):
    options = {"projects": projects, "num_epochs": 4, "micro_batch_size": 3}
    if projects:
        options |= {"combine_strategy": "force", "batches_per_update": 5}
    whole, part = build(name, data, **options), build(name, data, **options)
    for _ in range(7):  # more than twenty rows, so the order is drawn again
        whole.next_update(), part.next_update()
    checkpoint.save(tmp_path / "state.pt", part.state_dict())
    resumed = build(name, data, **options | {"seed": 99})
    resumed.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    sizes = []
    for _ in range(6):
        one, other = whole.next_update(), resumed.next_update()
        assert [(t.name, w) for t, _, w in one] == [(t.name, w) for t, _, w in other]
        for (_, batch, _), (_, twin, _) in zip(one, other):
            assert all(torch.equal(batch[key], twin[key]) for key in batch)
        sizes.append(sum(len(batch["labels"]) for _, batch, _ in one))
    assert sum(sizes) / len(sizes) == pytest.approx(whole.mean_examples)
    assert whole.updates_per_epoch(60) == max(1, round(60 / whole.mean_examples))
