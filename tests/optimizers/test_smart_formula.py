"""SMART's formulas, on a linear model whose divergences have a closed form."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from optimizers.noise import normal_noise
from optimizers.smart import PROBE, Smart
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


def new_batch():
    """Six uneven rows of ids 1 to 9."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([7, 4, 9, 2, 6, 3])[:, None]).long()
    ids = torch.randint(1, 10, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}


class LinearModel(nn.Module):
    """Logits = Σ over tokens of scale[id] · x[id] W + b.

    Unlike an encoder it reads padding. Token 1 has scale 0, and so no gradient.
    """

    def __init__(self, num_outputs):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(10, 4, generator=generator))
        self.weight = nn.Parameter(torch.randn(4, num_outputs, generator=generator))
        self.bias = nn.Parameter(torch.randn(num_outputs, generator=generator))
        self.register_buffer("scale", torch.linspace(0.1, 1, 10))
        self.scale[1] = 0

    def embed(self, batch):
        return self.table[batch["input_ids"]]

    def without_statistics(self):
        return nullcontext()

    def forward(self, task, batch, embeddings=None):
        x = self.table[batch["input_ids"]] if embeddings is None else embeddings
        return (x * self.scale[batch["input_ids"]][..., None]).sum(1) @ self.weight + self.bias


def kl_terms(z, other):
    """ℓ [B] and ∂ℓ/∂other [B, C] of the symmetric KL divergence."""
    log_p, log_q = z.log_softmax(1), other.log_softmax(1)
    p, q, log_ratio = log_p.exp(), log_q.exp(), log_p - log_q
    gradient = q - p - q * (log_ratio - (q * log_ratio).sum(1, keepdim=True))
    return ((p - q) * log_ratio).sum(1), gradient


def bernoulli_terms(z, other):
    p, q = 1 / (1 + (-z).exp()), 1 / (1 + (-other).exp())
    return ((p - q) * (z - other))[:, 0], q - p - q * (1 - q) * (z - other)


def squared_terms(z, other):
    return ((z - other) ** 2)[:, 0], 2 * (other - z)


TERMS = {"sst": kl_terms, "para": bernoulli_terms, "sts": squared_terms}
SETTINGS = {"weight": 0.7, "radius": 0.3, "mu": 0.0, "noise_std": 0.002, "step_size": 0.005}


def reference_delta(model, batch, terms, seed):
    """δ [B, L, H], computed token by token from the formula in the docstring of `Smart`."""
    shape = (1, batch["input_ids"].shape[1], 4)
    noise = normal_noise(seed, torch.arange(6), shape)[:, 0]
    noise = SETTINGS["noise_std"] * noise.double() * batch["attention_mask"][..., None]
    x = model.table[batch["input_ids"]]
    clean, moved = (model(None, batch, embeddings=e) for e in (x, x + PROBE * noise))
    slope = terms(clean, moved)[1] @ model.weight.T  # [B, C] -> [B, H]
    delta = torch.zeros_like(x)
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        for j in range(length):
            g = model.scale[batch["input_ids"][i, j]] * slope[i]
            ascent = noise[i, j] + SETTINGS["step_size"] * (g / g.abs().max() if g.any() else 0)
            delta[i, j] = SETTINGS["radius"] * ascent / ascent.abs().max()
    return delta.detach()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_penalty_and_gradient_equal_the_papers_formula(task):
    model, batch, terms = LinearModel(task.num_outputs), new_batch(), TERMS[task.name]
    assert (batch["input_ids"] == 1).any() and (batch["attention_mask"] == 0).any()
    exact = copy.deepcopy(model).double()
    smart = Smart(model, seed=5, **SETTINGS)
    logits = smart.logits(task, batch)
    delta = reference_delta(exact, batch, terms, 5)
    torch.testing.assert_close(
        smart.perturbation(task, batch, logits).double(), delta, rtol=1e-3, atol=1e-5
    )
    smart.num_rows = 0
    penalty = smart.penalty(task, batch, logits)
    x = exact.table[batch["input_ids"]]
    clean, moved = (exact(None, batch, embeddings=e) for e in (x, x + delta))
    expected = 0.7 * terms(clean, moved)[0].sum() / 6
    assert penalty.shape == () and penalty.item() == pytest.approx(expected.item(), rel=1e-4)
    penalty.backward()
    expected.backward()
    for name, p in exact.named_parameters():
        if p.grad.abs().max() > 1e-9:  # a bias cancels in a squared difference
            found = model.get_parameter(name).grad.double()
            torch.testing.assert_close(found, p.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, bias", [("sts", 1e4), ("para", 30.0), ("sst", 30.0)])
def test_an_output_that_rounding_holds_still_has_a_direction(name, bias):
    """δ follows the weights, not the noise."""
    task = TASKS[name]
    model, batch = LinearModel(task.num_outputs), new_batch()
    with torch.no_grad():
        model.bias[0] = bias
        model.weight[:, 1:] = 0
    smart = Smart(model, weight=1.0, radius=1.0, mu=0.0, noise_std=1e-9, step_size=1e-3)
    delta = smart.perturbation(task, batch, smart.logits(task, batch))
    real = batch["attention_mask"].bool() & (batch["input_ids"] != 1)
    cosines = torch.cosine_similarity(delta[real], model.weight[None, :, 0].detach())
    assert cosines.abs().min() > 0.999
