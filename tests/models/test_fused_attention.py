"""The attention of a GPU, on a CPU: torch's own function against the formula written out."""

import pytest
import torch
import torch.nn.functional as F

from models import attention as attention_module
from models.attention import Dropout, attention, attention_bias, fused_attention


@pytest.mark.parametrize("width", [34, 17, 45, 32])
def test_any_width_gives_the_same_outputs_and_gradients(width, monkeypatch):
    """34, 17 and 45 are the heads of PALs beside encoders of 768, 384 and 1024."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 2, 6, 9, width, generator=generator).requires_grad_()
    weights = torch.randn(2, 6, 9, width, generator=generator)
    mask = (torch.arange(9) < torch.tensor([9, 4])[:, None]).long()
    widths, function = [], F.scaled_dot_product_attention

    def recording(q, k, v, *args, **options):
        widths.append({x.shape[-1] for x in (q, k, v)})
        return function(q, k, v, *args, **options)

    monkeypatch.setattr(attention_module.F, "scaled_dot_product_attention", recording)
    found = fused_attention(*qkv, attention_bias(mask), 0.0)
    [taken] = widths
    assert taken == {-(-width // 8) * 8}
    expected = attention(*qkv, attention_bias(mask), Dropout(0.0))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((x * weights).sum(), qkv)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_device_that_is_no_cpu_gets_the_fused_attention():
    """Counted on tensors without numbers; dropout reaches it in training mode alone."""
    calls = []

    def recording(q, k, v, bias, dropout_p):
        calls.append(dropout_p)
        return v

    x, dropout = torch.empty(2, 6, 9, 17, device="meta"), Dropout(0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "fused_attention", recording)
        for mode in (True, False):
            attention(x, x, x, torch.empty(2, 1, 1, 9, device="meta"), dropout.train(mode))
    assert calls == [0.25, 0.0]
