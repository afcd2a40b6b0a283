"""SophiaH: its update compared with a hand computation, its arguments, and the real model."""

import pytest
import torch
from torch import Tensor, nn

from models.bert import BertModel
from models.bert_config import BertConfig
from models.features import Features
from models.heads import ClassifyHead
from models.multitask import MultitaskBert
from optimizers.sophia import SophiaH
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


def one_update(hessian: list[float], **options) -> Tensor:
    """θ after one update that is not due, from the state of the hand computation below."""
    p = nn.Parameter(torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=torch.float64))
    optimizer = SophiaH([p], lr=1e-3, **options)
    optimizer.num_updates = 1
    optimizer.state[p] = {
        "exp_avg": torch.tensor([0.1, -0.2, 0.05, 0.02], dtype=torch.float64),
        "hessian": torch.tensor(hessian, dtype=torch.float64),
    }
    p.grad = torch.tensor([0.3, 0.1, -0.4, -0.01], dtype=torch.float64)
    optimizer.step()
    return p.detach()


def test_update_equals_the_one_by_hand():
    """m = [.108, −.188, .032, .0188] and γh = [1e-5, .4, −.005, .05]; two steps are clipped."""
    expected = torch.tensor([0.49895, -0.249505, 0.9989, 1.999424], dtype=torch.float64)
    torch.testing.assert_close(one_update([1e-3, 40, -0.5, 5]), expected, rtol=0, atol=1e-12)


def test_both_signs_are_clipped():
    """Without curvature, or where it is negative, the step is lr·sign(m)."""
    expected = torch.tensor([0.499, -0.249, 0.999, 1.999], dtype=torch.float64)
    actual = one_update([0, -1, 1e-9, -1e-9], weight_decay=0.0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_options_take_the_place_they_name():
    """γh is 2 for every coordinate; with ε = 4, the larger ε divides."""
    m = torch.tensor([0.2, -0.05, -0.175, 0.005], dtype=torch.float64)
    theta = torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=torch.float64)
    options = {"betas": (0.5, 0.99), "gamma": 0.2, "weight_decay": 0.0}
    actual = one_update([10] * 4, **options)
    torch.testing.assert_close(actual, theta - 1e-3 * m / 2, rtol=0, atol=1e-12)
    actual = one_update([10] * 4, eps=4.0, **options)
    torch.testing.assert_close(actual, theta - 1e-3 * m / 4, rtol=0, atol=1e-12)


def test_decay_only_in_the_groups_that_ask_for_it():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [
        {"params": [matrix], "weight_decay": 0.5},
        {"params": [vector], "weight_decay": 0.0},
    ]
    optimizer = SophiaH(groups, lr=0.1)
    optimizer.accumulate_hessian((matrix * 0).sum() + (vector * 0).sum())
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 0.95))
    assert torch.equal(vector, torch.ones(2))


def test_parameters_without_a_gradient_and_frozen_ones_stay():
    model = nn.ModuleList([nn.Linear(2, 1) for _ in range(3)])
    model[1].requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    optimizer = SophiaH(model.parameters(), lr=0.1)
    loss = model[1](model[0](torch.ones(1, 2)).expand(1, 2)).square().sum()
    optimizer.accumulate_hessian(loss)
    loss.backward()
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before)]
    assert moved == [True] * 2 + [False] * 4
    assert list(optimizer.state) == list(model[0].parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, r"betas is \(-0.1, 0.9\)"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"eps": -1e-9}, "eps is -1e-09"),
        ({"hessian_interval": 0}, "hessian_interval is 0"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        SophiaH([nn.Parameter(torch.ones(1))], lr=0.1, **options)


def test_every_task_of_the_model_has_second_derivatives():
    """The model is in training mode, with dropout, attention and each task's loss."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        initializer_range=0.3,
    )
    heads = {name: ClassifyHead(8, task.num_outputs, 0, 0.1) for name, task in TASKS.items()}
    model = MultitaskBert(BertModel(config), Features(config), heads)
    optimizer = SophiaH(model.parameters(), lr=0.01)
    batch = {
        "input_ids": torch.arange(12).view(2, 6),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "token_type_ids": torch.zeros(2, 6).long(),
    }
    for task in TASKS.values():
        loss = task.loss(model(task, batch), torch.tensor([0, 1]))
        optimizer.accumulate_hessian(loss)
        loss.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.isfinite().all(), name
        if not name.startswith("encoder.pooler"):
            hessian = optimizer.state[p]["hessian"]
            assert hessian.isfinite().all() and hessian.any(), name
