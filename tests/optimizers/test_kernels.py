"""Kernels of a GPU that some passes cannot use: what is switched, and that the rest stays."""

import pytest
import torch
from torch import nn

from optimizers.kernels import cudnn_switches
from optimizers.sophia import SophiaH

SWITCHES = ("enabled", "benchmark", "deterministic", "allow_tf32")


def switches() -> dict[str, bool]:
    return {name: getattr(torch.backends.cudnn, name) for name in SWITCHES}


@pytest.fixture(params=[{"deterministic": True, "allow_tf32": False}, {"benchmark": True}])
def chosen(request, monkeypatch) -> dict[str, bool]:
    """Values of a run's own choice, none of them torch's default."""
    for name, value in request.param.items():
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    return switches()


def test_a_hessian_update_turns_cudnn_off_and_nothing_else(chosen):
    optimizer = SophiaH([nn.Parameter(torch.ones(1))], lr=0.1)
    with optimizer.twice_differentiable():
        assert switches() == chosen | {"enabled": False}
    assert switches() == chosen
    optimizer.num_updates = 1  # not due
    with optimizer.twice_differentiable():
        assert switches() == chosen


def test_switches_are_those_of_before_after_an_error(chosen):
    with pytest.raises(ArithmeticError), cudnn_switches(allow_tf32=False, enabled=False):
        assert switches() == chosen | {"allow_tf32": False, "enabled": False}
        raise ArithmeticError
    assert switches() == chosen
