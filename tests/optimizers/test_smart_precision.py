"""SMART in bfloat16 and under TF32: the ascent in float32, and masks that divergences share."""

import pytest
import torch
from smart_model import gradients, new_batch, new_model, new_smart, penalty_of
from torch import nn

from inputs.batches import PAIR_ENCODINGS
from models.attention import Dropout
from optimizers import smart as smart_module
from options.task_table import built_in_tasks

TASKS = built_in_tasks()

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
every_pairing = pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)


def test_ascent_runs_in_float32_under_autocast():
    model, batch, task = new_model(), new_batch(), TASKS["sst"]
    smart = new_smart(model, radius=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(3)
        logits = smart.logits(task, batch)
        delta = smart.perturbation(task, batch, logits)
    smart.num_rows = 0
    with smart.passes.replay(smart.after_embedding), torch.no_grad():
        exact = model(task, batch, embeddings=smart.x.float())
    assert not torch.equal(exact, logits)
    assert torch.equal(smart.perturbation(task, batch, exact), delta)


def test_divergences_compare_equal_masks_where_bfloat16_draws_others(monkeypatch):
    """As the kernels of a GPU may: here, dropout of bfloat16 skips some random numbers."""
    drop = Dropout.forward

    def dtype_dependent(self, x):
        if x.dtype == torch.bfloat16:
            torch.rand(5)
        return drop(self, x)

    monkeypatch.setattr(Dropout, "forward", dtype_dependent)
    model, batch, task = new_model(), new_batch(), TASKS["sst"]
    smart = new_smart(model, radius=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert penalty_of(new_smart(model, radius=0.0, mu=1.0), task, batch) == 0
        torch.manual_seed(3)
        delta = smart.perturbation(task, batch, smart.logits(task, batch))
    smart.num_rows = 0
    with smart.passes.replay(smart.after_embedding), torch.no_grad():
        exact = model(task, batch, embeddings=smart.x.float())
    assert torch.equal(smart.perturbation(task, batch, exact), delta)


@pytest.mark.parametrize("extension", ["cnn", "bilstm"])
def test_the_ascent_runs_without_tf32(monkeypatch, extension):
    """TF32, emulated: convolutions and LSTMs round their results to 10 bits where cuDNN may."""
    monkeypatch.setattr(
        smart_module, "rounds_float32", lambda model, device: torch.backends.cudnn.allow_tf32
    )
    model, batch, task = new_model(extension=extension), new_batch(), TASKS["sst"]
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.LSTM)):
            module.register_forward_hook(as_tf32)
    found = []
    for is_allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", is_allowed)
        smart = new_smart(model, radius=0.1)
        torch.manual_seed(3)
        found.append(smart.perturbation(task, batch, smart.logits(task, batch)))
        assert torch.backends.cudnn.allow_tf32 == is_allowed
    assert torch.equal(*found)


def as_tf32(module, inputs, output):
    """A forward hook that rounds to 10 bits of mantissa while TF32 is allowed."""
    if not torch.backends.cudnn.allow_tf32:
        return output
    if isinstance(output, tuple):  # an LSTM's packed states, and its last ones
        return output[0]._replace(data=rounded(output[0].data)), output[1]
    return rounded(output)


def rounded(x):
    """x with 10 bits of mantissa; the gradient passes as it is."""
    scale = 2.0 ** (x.detach().abs().clamp(min=1e-30).log2().floor() - 10)
    return x + ((x / scale).round() * scale - x).detach()


@every_task
@every_pairing
def test_the_other_passes_keep_the_callers_precision(task, pair_encoding):
    """While nothing moves, the passes are equal in bfloat16 as well."""
    model, batch = new_model(pair_encoding), new_batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert penalty_of(new_smart(model, radius=0.0, mu=1.0), task, batch) == 0
        penalty = penalty_of(new_smart(model, radius=0.1, mu=1.0), task, batch)
    penalty.backward()
    assert penalty > 0 and penalty.dtype == torch.float32
    assert gradients(model)["encoder.layer.0.attention.query.weight"].any()
