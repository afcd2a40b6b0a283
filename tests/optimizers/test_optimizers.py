"""Optimizers as a run builds them: parameters, weight decay, and equality with PyTorch's AdamW."""

from argparse import Namespace

import pytest
import torch
from torch import nn

from optimizers import OPTIMIZERS, SophiaH, build_optimizer, default_lr

LR, WEIGHT_DECAY = 0.01, 0.3


class ToyModel(nn.Module):
    """Every kind of parameter a model has, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(11, 4)
        self.linear = nn.Linear(4, 4)
        self.LayerNorm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.output = nn.Linear(4, 1)

    def forward(self, input_ids):
        x = self.LayerNorm(torch.tanh(self.linear(self.embeddings(input_ids))))
        return self.output(self.frozen(x).relu().mean(dim=1))


MATRICES = ("embeddings.weight", "linear.weight", "output.weight")
VECTORS = ("linear.bias", "LayerNorm.weight", "LayerNorm.bias", "output.bias")


def new_model():
    torch.manual_seed(0)
    return ToyModel()


def build(model, name="adamw", weight_decay=WEIGHT_DECAY):
    options = {"optimizer": name, "lr": LR, "weight_decay": weight_decay, "layer_decay": 1.0}
    return build_optimizer(Namespace(**options, rho=0.01, hess_interval=2, seed=0), model)


def train(model, optimizer, num_steps=5):
    """Run a few steps on seeded batches that do not use every embedding."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        input_ids = torch.randint(0, 8, (6, 3), generator=generator)
        labels = torch.randn(6, 1, generator=generator)
        optimizer.zero_grad()
        loss = (model(input_ids) - labels).square().mean()
        if isinstance(optimizer, SophiaH):
            optimizer.accumulate_hessian(loss)
        loss.backward()
        optimizer.step()


def test_adamw_equals_pytorchs_plain_one():
    model, other = new_model(), new_model()
    named = dict(other.named_parameters())
    reference = torch.optim.AdamW(
        [
            {"params": [named[name] for name in MATRICES], "weight_decay": WEIGHT_DECAY},
            {"params": [named[name] for name in VECTORS], "weight_decay": 0.0},
        ],
        lr=LR,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=False,
        foreach=False,
    )
    train(model, build(model))
    train(other, reference)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(model.linear.weight, new_model().linear.weight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trainable_parameters_are_there_once_and_matrices_alone_decay(optimizer):
    model = new_model()
    decay = {}
    for group in build(model, optimizer).param_groups:
        assert group["lr"] == LR
        for parameter in group["params"]:
            assert parameter not in decay
            decay[parameter] = group["weight_decay"]
    named = {name: p for name, p in model.named_parameters() if not name.startswith("frozen.")}
    assert sorted(named) == sorted(MATRICES + VECTORS) and len(decay) == len(named)
    for name, parameter in named.items():
        assert decay[parameter] == (WEIGHT_DECAY if name in MATRICES else 0.0), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_parameters_keep_their_values(optimizer):
    model = new_model()
    train(model, build(model, optimizer))
    for name, parameter in new_model().frozen.named_parameters():
        assert torch.equal(parameter, getattr(model.frozen, name))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_resumes_exactly(optimizer, tmp_path):
    model = new_model()
    opt = build(model, optimizer)
    train(model, opt, 3)
    torch.save({"model": model.state_dict(), "optimizer": opt.state_dict()}, tmp_path / "state.pt")
    train(model, opt, 2)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = new_model()
    other.load_state_dict(state["model"])
    opt = build(other, optimizer)
    opt.load_state_dict(state["optimizer"])
    train(other, opt, 2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


@pytest.mark.parametrize(
    "option, hidden_size, lr",
    [
        ("finetune", 384, 2e-4),
        ("finetune", 767, 2e-4),
        ("finetune", 768, 3e-5),
        ("finetune", 1024, 3e-5),
        ("pretrain", 384, 1e-3),
        ("pretrain", 1024, 1e-3),
    ],
)
def test_default_learning_rate(option, hidden_size, lr):
    assert default_lr(option, hidden_size) == lr
    assert default_lr(option, hidden_size, "sophiah") == lr / 4
