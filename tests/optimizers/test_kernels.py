"""Kernels of a GPU that some passes cannot use: what is switched, and that the rest stays."""

import pytest
import torch
from torch import nn

from models.bert_config import BertConfig
from models.features import FEATURES
from optimizers.kernels import cudnn_switches, rounds_float32
from optimizers.sophia import SophiaH
from runtime import checkpoint

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


def flatten_as_cudnn_does(self: nn.LSTM) -> None:
    """What `flatten_parameters` does on a GPU: the weights become views of one new buffer."""
    with torch.no_grad():
        buffer = torch.cat([weight.flatten() for weight in self._flat_weights])
        parts = buffer.split([weight.numel() for weight in self._flat_weights])
        for weight, part in zip(self._flat_weights, parts):
            weight.data = part.view_as(weight)


def test_an_lstm_trains_on_after_the_proximal_term_and_an_evaluation(train, monkeypatch):
    """The proximal term swaps its weights, so the evaluation, in inference mode, moves them."""
    flags = "--extension bilstm --num_batches_per_epoch 2 --batch_size 4 --epochs 2 --dev_samples 8"
    flags = ["train_multitask_pal.py", *flags.split(), "--no_tensorboard"]
    flags += ["--no_test_predictions", "--use_smart_regularization", "--smart_mu", "1"]
    runs = [train(*flags, "--run_name", "plain")]
    monkeypatch.setattr(nn.LSTM, "flatten_parameters", flatten_as_cudnn_does)
    runs += [train(*flags, "--run_name", "flattened")]
    states = [checkpoint.load(run / "checkpoints" / "last.pt")["model"] for run in runs]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor), name


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_an_lstm_keeps_no_graph_where_there_is_no_gradient(context):
    config = BertConfig(hidden_size=8, num_attention_heads=2)
    lstm, states = FEATURES["bilstm"](config), torch.ones(2, 3, 8)
    with context():
        assert not lstm(states + 0, torch.ones(2, 3).long()).requires_grad
    assert lstm(states, torch.ones(2, 3).long()).requires_grad


def test_tf32_is_for_convolutions_and_lstms_on_a_gpu_that_may_use_it(monkeypatch):
    gpu, config = torch.device("cuda"), BertConfig(hidden_size=8, num_attention_heads=2)
    convolutions, lstm = FEATURES["cnn"](config), FEATURES["bilstm"](config)
    assert rounds_float32(convolutions, gpu) and rounds_float32(lstm, gpu)
    assert not rounds_float32(lstm, torch.device("cpu"))
    assert not rounds_float32(FEATURES["attention"](config), gpu)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not rounds_float32(lstm, gpu)
