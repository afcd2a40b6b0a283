"""Gradients of word embeddings as rows, compared with torch's gradients of the whole table."""

import pytest
import torch
from tiny_checkpoints import SOME
from torch import nn

from datasets import load_data
from engine import train_step
from models import build_model
from models.bert import BertModel
from models.bert_config import BertConfig
from optimizers.projections import PCGrad
from optimizers.task_gradients import SummedGradients, TaskGradients
from optimizers.word_gradients import sparse_tables
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting.start import open_run
from train_multitask_pal import get_args_parser
from training import build_training

TASKS = built_in_tasks()
V, H = 50, 4  # words and hidden size of the small model


class Words(nn.Module):
    """Two tables of words around a matrix, all three shared; each task weighs the sum itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Embedding(V, H), nn.Embedding(V, H, padding_idx=0)
        self.matrix = nn.Parameter(torch.randn(H, H))
        self.heads = nn.ParameterDict({name: nn.Parameter(torch.randn(H)) for name in TASKS})

    def shared(self) -> list[nn.Parameter]:
        return [self.first.weight, self.matrix, self.second.weight]

    def loss(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        states = self.first(ids) @ self.matrix + self.second(ids) * self.first(ids + 1)
        return (states * self.heads[name]).tanh().sum()


def some_updates() -> list[dict[str, torch.Tensor]]:
    """Updates with few words each, other ones every time, and one update without a task."""
    generator = torch.Generator().manual_seed(1)
    updates = []
    for number in range(4):
        names = [name for name in TASKS if number != 2 or name != "sst"]
        low = 12 * number
        draw = {n: torch.randint(low, low + 8, (4, 5), generator=generator) for n in names}
        updates.append(draw)
    return updates


def train(model: Words, feeder: SummedGradients | TaskGradients, parts: int) -> list:
    """After each update: the norm, J as the projection found it, and all gradients."""
    found = []
    for update in some_updates():
        model.zero_grad()
        for name, ids in update.items():
            for part in ids.chunk(parts):
                feeder.backward(TASKS[name], model.loss(name, part))
        measured = feeder.measure(model).tolist()
        J = feeder.J.clone() if isinstance(feeder, TaskGradients) else None
        norm = torch.tensor(feeder.combine(measured, 1.0))
        assert all(p.grad.layout == torch.strided for p in model.parameters() if p.grad is not None)
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((norm, J, *grads))
    return found


SIZE = V * H
GROUPS = {
    "one": {"all": slice(0, 2 * SIZE + H * H)},
    "three": {
        "first": slice(0, SIZE),
        "matrix": slice(SIZE, SIZE + H * H),
        "second": slice(SIZE + H * H, 2 * SIZE + H * H),
    },
}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("parts", [1, 2])
def test_rows_make_the_same_j_and_the_same_update(groups, parts):
    found = []
    for is_sparse in (False, True):
        model = Words()
        tables = [model.second, model.first] * is_sparse  # the order does not matter
        shared, names = model.shared(), list(TASKS)
        feeder = TaskGradients(PCGrad(3), shared, names, GROUPS[groups], tables=tables)
        found.append(train(model, feeder, parts))
    for dense, rows in zip(*found, strict=True):
        for expected, own in zip(dense, rows, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
        if parts == 1:  # one use of a table in one backward pass: tokens add up in the same order
            assert torch.equal(dense[1][:, -SIZE:], rows[1][:, -SIZE:])


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_add_up_to_the_plain_sum(parts):
    found = []
    for is_sparse in (False, True):
        model = Words()
        tables = [model.first, model.second] * is_sparse
        feeder = SummedGradients(tables)
        found.append(train(model, feeder, parts))
    met = [word for table in feeder.tables for word in table.words().tolist()]
    assert set(met) <= set(range(36, 45))  # those of the last update alone
    for dense, rows in zip(*found, strict=True):
        torch.testing.assert_close(rows, dense, rtol=1e-5, atol=1e-6)


LINES = {  # flags, whose runs keep rows -> how many tables of words they have
    "--task_scheduler joint": 1,
    "--task_scheduler joint --micro_batch_size 3 --clip .1": 1,
    "--task_scheduler joint --rdrop_weight 1 --gradient_checkpointing": 1,
    "--task_scheduler joint --optimizer sophiah --hess_interval 2": 1,
    "--task_scheduler round_robin --use_smart_regularization --smart_mu 1": 1,
    "--projection pcgrad": 1,
    "--projection pcgrad --use_amp --use_smart_regularization --smart_mu 1": 1,
    "--projection vaccine --vaccine_groups layer --micro_batch_size 3": 1,
    "--projection mgda --optimizer sophiah --hess_interval 2": 1,
    "--projection pcgrad --loss_weighting famo --combined_models": 4,
    "--projection pcgrad --extension hierarchical": 1,
}


@pytest.fixture(scope="module")
def losses_of(tiny_model, few_rows, tmp_path_factory):
    """losses_of(flags, model): the losses and norm of four updates, and the number of tables."""
    logdir = tmp_path_factory.mktemp("runs")

    def run(flags: str, model=tiny_model):
        words = f"--model_name {model} --data_dir {few_rows} --batch_size 4 --epochs 1 "
        words += f"--num_batches_per_epoch 4 --scheduler none --logdir {logdir} "
        args = parse_args(get_args_parser(), (words + flags).split())
        with open_run(args) as start:
            data = load_data(start.args, start.tokenizer, start.config.pad_token_id)
            training = build_training(
                start.args, build_model(start.args, start.build_encoder()), data["train"]
            )
        training.start_epoch()
        lines = []
        for _ in range(4):
            losses, norm = train_step(training, training.task_scheduler.next_update(), "a test")
            training.after_update()
            lines.append([*losses.values(), norm])
        return torch.tensor(lines), len(training.projection.tables)

    return run


def check_equal(losses_of, flags: str, num_tables: int, **options) -> None:
    """Compare a run as it is with the same one without rows."""
    lines, found = losses_of(flags, **options)
    assert found == num_tables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimizers.sparse_tables", lambda model: [])
        expected, found = losses_of(flags, **options)
    assert found == 0
    # bfloat16 rounds to 8 bits, so that a weight's last bit of float32 may matter there.
    tolerance = 1e-2 if "amp" in flags else 1e-5
    torch.testing.assert_close(lines, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lines[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flags", LINES)
def test_a_run_that_keeps_rows_equals_one_that_does_not(flags, losses_of):
    check_equal(losses_of, flags, LINES[flags])


@pytest.mark.parametrize("model_type", SOME)
def test_encoders_of_transformers_keep_rows_too(model_type, losses_of, tiny_checkpoint):
    check_equal(losses_of, "--projection pcgrad", 1, model=tiny_checkpoint(model_type))


@pytest.mark.parametrize("flags", ["--option pretrain", "--lora_rank 4 --projection pcgrad"])
def test_frozen_embeddings_have_no_rows(flags, losses_of):
    assert losses_of(flags)[1] == 0


def test_several_workers_and_gpus_keep_whole_gradients(sizes, monkeypatch):
    encoder = BertModel(BertConfig(**sizes))
    assert sparse_tables(encoder) == [encoder.word_embeddings]
    assert sparse_tables(encoder.to("meta")) == []
    encoder = BertModel(BertConfig(**sizes))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sparse_tables(encoder) == []
