"""The moving average of the weights, against torch's AveragedModel and in whole runs."""

import json
from pathlib import Path

import pytest
import torch
from smart_model import new_model
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import train_multitask
from evaluation import load_run
from models.pretrained import load_pretrained
from optimizers.averaging import WeightAverage
from options.parsing import parse_args
from runtime import checkpoint
from train_multitask_pal import get_args_parser

DECAY = 0.7


def move(model) -> None:
    """Change every weight that is trained, as an update would."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.01)


def reference_of(model) -> AveragedModel:
    """torch's average with the warm-up of `WeightAverage`; it counts the initial weights as one."""

    def multi_avg_fn(averages, weights, num_averaged):
        decay = min(DECAY, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        get_ema_multi_avg_fn(decay)(averages, weights, num_averaged)

    reference = AveragedModel(model, multi_avg_fn=multi_avg_fn)
    reference.update_parameters(model)  # the first call copies
    return reference


def copies(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_equals_torchs_average_also_of_layers_that_are_unfrozen():
    """min(.7, (1 + t) / (10 + t)) is .7 from t = 20 on."""
    model = new_model()
    model.encoder.requires_grad_(False)
    reference, averaging = reference_of(model), WeightAverage(model, DECAY)
    assert set(averaging.average) == {n for n, p in model.named_parameters() if p.requires_grad}
    for t in range(1, 31):
        if t == 15:
            model.unfreeze_layer(0)
            averaging.include_trainable()
        move(model)
        averaging.after_step(t)
        reference.update_parameters(model)
        if t in (1, 14, 15, 30):
            with averaging.applied():
                for name, p in reference.module.named_parameters():
                    assert torch.equal(model.get_parameter(name), p), (t, name)
    assert "encoder.layer.1.output.weight" in averaging.average
    assert "encoder.layer.0.output.weight" not in averaging.average


def test_weights_come_back_to_the_bit_whatever_happens():
    model = new_model()
    averaging = WeightAverage(model, DECAY)
    move(model)
    averaging.after_step(1)
    weights, averages = copies(model), {n: x.clone() for n, x in averaging.average.items()}
    with pytest.raises(KeyboardInterrupt), averaging.applied():
        assert torch.equal(model.heads["sst"].output.bias, averages["heads.sst.output.bias"])
        raise KeyboardInterrupt
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name]) and torch.equal(
            averaging.average[name], averages[name]
        )
        assert not torch.equal(p, averages[name])


def test_nothing_is_averaged_before_a_layer_is_unfrozen():
    model = torch.nn.Linear(2, 2).requires_grad_(False)
    average = WeightAverage(model, 0.9)
    average.after_step(1)
    model.requires_grad_(True)
    average.include_trainable()
    assert torch.equal(average.average["weight"], model.weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay is {decay}"):
        WeightAverage(new_model(), decay)


@pytest.fixture(scope="module")
def averaged_run(tiny_model, few_rows, tmp_path_factory) -> Path:
    """A run of a single update."""
    flags = f"--model_name {tiny_model} --data_dir {few_rows} --average_weights .9 --lr 1e-3 "
    flags += "--num_batches_per_epoch 1 --epochs 1 --batch_size 4 --no_tensorboard --run_name a "
    flags += f"--task_scheduler joint --logdir {tmp_path_factory.mktemp('averaged')}"
    args = parse_args(get_args_parser(), flags.split())
    train_multitask.main(args)
    return Path(args.run_dir)


def test_the_average_is_evaluated_and_kept_as_best(averaged_run, tiny_model):
    run = averaged_run
    last, best = (checkpoint.load(run / "checkpoints" / f"{n}.pt") for n in ("last", "best"))
    assert best["model"].keys() == last["model"].keys() == last["average"].keys()
    for name, tensor in best["model"].items():
        assert torch.equal(tensor, last["average"][name])
        assert not torch.equal(tensor, last["model"][name]) or "pooler" in name, name
    for name, start in load_pretrained(str(tiny_model)).state_dict().items():  # d = 2 / 11
        expected = start * 2 / 11 + last["model"][f"encoder.{name}"] * 9 / 11
        torch.testing.assert_close(best["model"][f"encoder.{name}"], expected)
    [line] = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    written = json.loads((run / "metrics-dev.json").read_text())
    assert line["dev"] == written["metrics"]
    model = load_run(run).model
    assert torch.equal(model.heads["sst"].output.bias, last["average"]["heads.sst.output.bias"])
