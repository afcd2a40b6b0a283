"""Task schedulers: tasks and weights of an update, micro-batches, epoch lengths, resuming."""

from pathlib import Path

import pytest
import torch
from torch import nn

from datasets import read_examples
from inputs.batches import PAIR_ENCODINGS, TokenizedTask
from models.pretrained import load_config, load_tokenizer
from options.task_table import built_in_tasks
from task_schedulers import TASK_SCHEDULERS, Joint

TASKS = built_in_tasks()

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
SIZES = dict(zip(TASKS, (50, 33, 7)))


@pytest.fixture
def tokenized(tiny_model):
    """A function that reads SIZES[task] training rows of every task."""

    def read(pair_encoding="cross"):
        data = {}
        for name, task in TASKS.items():
            tokenizer = load_tokenizer(tiny_model, load_config(tiny_model))
            rows = read_examples(SAMPLE / f"{task.stem}-train.csv", task)[: SIZES[name]]
            data[name] = TokenizedTask(task, rows, tokenizer, 0, pair_encoding)
        return data

    return read


class ToyModel(nn.Module):
    """A shared mean of token embeddings and one output layer per task, without dropout."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, 8)
        self.heads = nn.ModuleDict({name: nn.Linear(8, t.num_outputs) for name, t in TASKS.items()})

    def forward(self, task, batch):
        mask = batch["attention_mask"][..., None]
        x = (self.embeddings(batch["input_ids"]) * mask).sum(dim=1) / mask.sum(dim=1)
        if len(x) == 2 * len(batch["labels"]):
            u, v = x.chunk(2)
            x = u * v
        return self.heads[task.name](x)


def contents(update):
    """Tasks, token ids and weights of an update, in a form that can be compared."""
    return [(task.name, batch["input_ids"].tolist(), weight) for task, batch, weight in update]


def test_joint_is_in_the_registry():
    assert TASK_SCHEDULERS["joint"] is Joint


def test_joint_gives_one_batch_of_every_task(tokenized):
    scheduler = Joint(tokenized(), batch_size=4)
    for _ in range(15):
        update = scheduler.next_update()
        assert [task for task, _, _ in update] == list(TASKS.values())
        assert [weight for _, _, weight in update] == [1.0] * len(TASKS)
        # Only a walk's last batch may be smaller.
        assert {len(batch["labels"]) for _, batch, _ in update} <= {4, 50 % 4, 33 % 4, 7 % 4}


def test_joint_walks_every_task_without_replacement(tokenized):
    data = tokenized()
    scheduler = Joint(data, batch_size=4)
    seen = {name: [] for name in TASKS}
    for _ in range(13):  # a walk of the largest task
        for task, batch, _ in scheduler.next_update():
            rows = zip(batch["input_ids"], batch["attention_mask"].bool())
            seen[task.name] += [tuple(ids[mask].tolist()) for ids, mask in rows]
    for name, rows in data.items():
        offsets = rows.offsets.tolist()
        spans = zip(offsets[:-1], offsets[1:])
        expected = [tuple(rows.token_ids[start:end].tolist()) for start, end in spans]
        assert sorted(seen[name][: len(rows)]) == sorted(expected)


def test_task_weights_and_shares_of_uneven_micro_batches(tokenized):
    weights = {"para": 0.5, "sts": 3.0}
    scheduler = Joint(tokenized(), 16, micro_batch_size=3, task_weights=weights)
    for _ in range(10):
        update = scheduler.next_update()
        assert list(dict.fromkeys(task.name for task, _, _ in update)) == list(TASKS)
        for name in TASKS:
            parts = [(len(b["labels"]), w) for task, b, w in update if task.name == name]
            sizes = [size for size, _ in parts]
            assert sizes[:-1] == [3] * (len(sizes) - 1) and 1 <= sizes[-1] <= 3
            assert sum(weight for _, weight in parts) == pytest.approx(weights.get(name, 1.0))
            shares = [weights.get(name, 1.0) * size / sum(sizes) for size in sizes]
            assert [weight for _, weight in parts] == pytest.approx(shares)


def gradients(scheduler, vocab_size, num_updates):
    """The gradient [P] of each update's summed loss in a toy model, and its number of examples."""
    torch.manual_seed(0)
    model = ToyModel(vocab_size).double()
    result = []
    for _ in range(num_updates):
        model.zero_grad()
        update = scheduler.next_update()
        for task, batch, weight in update:
            (weight * task.loss(model(task, batch), batch["labels"])).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        result.append((flat, sum(len(batch["labels"]) for _, batch, _ in update)))
    return result


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("micro_batch_size", [1, 3, 7])
def test_micro_batches_keep_rows_and_gradients(
    tokenized, tiny_model, pair_encoding, micro_batch_size
):
    data, vocab_size = tokenized(pair_encoding), load_config(tiny_model).vocab_size
    weights = {"sst": 2.0, "sts": 0.25}
    whole, split = (
        gradients(Joint(data, 8, size, weights, seed=1), vocab_size, 8)
        for size in (None, micro_batch_size)
    )
    for (expected, num_expected), (gradient, num_examples) in zip(whole, split):
        assert num_examples == num_expected
        assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert not torch.equal(whole[0][0], whole[1][0])


def test_micro_batch_size_of_a_whole_batch_changes_nothing(tokenized):
    data = tokenized()
    whole, same = Joint(data, 8), Joint(data, 8, micro_batch_size=8)
    for _ in range(10):
        assert contents(whole.next_update()) == contents(same.next_update())


@pytest.mark.parametrize("batch_size, mean", [(1, 3), (4, 50 / 13 + 33 / 9 + 7 / 2), (64, 90)])
def test_epoch_is_all_examples_to_the_nearest_update(tokenized, batch_size, mean):
    scheduler = Joint(tokenized(), batch_size)
    assert scheduler.mean_examples == pytest.approx(mean)
    for num_examples in (1, sum(SIZES.values()), 1000):
        updates = scheduler.updates_per_epoch(num_examples)
        assert type(updates) is int and updates >= 1
        assert abs(updates * mean - num_examples) <= mean / 2 or updates == 1


def test_mean_examples_is_the_mean_over_whole_walks(tokenized):
    scheduler = Joint(tokenized(), batch_size=4)
    num_updates = 13 * 9 * 2  # whole walks of every task
    updates = [scheduler.next_update() for _ in range(num_updates)]
    sizes = [len(batch["labels"]) for update in updates for _, batch, _ in update]
    assert sum(sizes) / num_updates == pytest.approx(scheduler.mean_examples)


def test_order_of_one_task_does_not_depend_on_the_others(tokenized):
    data = tokenized()
    alone = Joint({"sts": data["sts"]}, 4, seed=5)
    together = Joint(data, 4, seed=5)
    for _ in range(5):
        assert contents(alone.next_update()) == contents(together.next_update()[-1:])


def test_seed_decides_the_order(tokenized):
    data = tokenized()
    first, same, other = (
        [contents(Joint(data, 4, seed=seed).next_update()) for _ in range(2)] for seed in (1, 1, 2)
    )
    assert first == same != other


@pytest.mark.parametrize("num_updates", [0, 1, 2, 9, 13, 20])
def test_scheduler_resumes_exactly(tokenized, num_updates, tmp_path):
    data = tokenized()
    scheduler = Joint(data, 4, micro_batch_size=3, seed=1)
    for _ in range(num_updates):
        scheduler.next_update()
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    expected = [contents(scheduler.next_update()) for _ in range(20)]
    resumed = Joint(data, 4, micro_batch_size=3, seed=7)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [contents(resumed.next_update()) for _ in range(20)] == expected


def test_rows_of_a_task_keep_their_order_when_it_trains_alone(tokenized):
    """The place of a task in its table seeds them, not its name or what it is trained with."""
    data = tokenized()
    alone = Joint({"sts": data["sts"]}, 4, seed=7)
    together = Joint(data, 4, seed=7)
    for name, number in zip(TASKS, range(3)):
        assert together.samplers[name].generator.initial_seed() == 7 + number
    assert together.generator.initial_seed() == 7 + 3
    rows = [scheduler.samplers["sts"].next_rows().tolist() for scheduler in (alone, together)]
    assert rows[0] == rows[1]
