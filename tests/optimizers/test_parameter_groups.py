"""Learning rates by layer: which rate each parameter gets, and what an optimizer makes of it."""

import pytest
import torch
from smart_model import new_batch, new_model
from torch import nn

from datasets import load_data
from models import build_model
from models.hierarchical import HierarchicalEncoder
from models.mixture import MixtureEncoder
from models.pal import ProjectedAttentionLayers
from models.tag_embeddings import TagEmbeddings
from optimizers import build_lr_schedule, build_optimizer
from optimizers.parameter_groups import layer_groups, layer_number, parameter_groups
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting.start import open_run
from runtime.errors import InputError
from train_multitask_pal import get_args_parser
from training import build_training

TASKS = built_in_tasks()
LR, X = 0.1, 0.5
# Two layers, K = 2: BEiT's lr · X^(K + 1 − id) with id 0 of embeddings, 1 and 2 of layers, 3 of
# heads.
RATES = {"embeddings": LR * X**3, "layer.0": LR * X**2, "layer.1": LR * X, "others": LR}


def part_of(name: str) -> str:
    """The key of RATES for a parameter, found in another way than by the code under test."""
    if name.startswith(("heads.", "features.", "pals.")) or "pooler" in name or "tag_" in name:
        return "others"
    found = [part for part in RATES if f".{part}." in name]
    assert len(found) <= 1
    return found[0] if found else "others"


def rates_of(model: nn.Module, groups: list[dict]) -> dict[str, float]:
    """The rate of every parameter by name; each is in one group, and matrices alone decay."""
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} <= {group["weight_decay"] == 0.3}
    return {name: rates[p] for name, p in model.named_parameters() if p in rates}


def with_pals():
    model = new_model(extension="attention")
    pals = {name: ProjectedAttentionLayers(model.encoder.config, 6) for name in TASKS}
    model.pals.update(pals)
    model.encoder.embeddings.tag_embeddings = TagEmbeddings(model.encoder.config.hidden_size)
    return model


def with_segments():
    model = new_model()
    model.encoder = HierarchicalEncoder(model.encoder, "mean")
    return model


def with_experts():
    model = new_model()
    model.encoder = MixtureEncoder(model.encoder)
    return model


@pytest.mark.parametrize("build", [with_pals, with_segments, with_experts])
def test_every_parameter_has_the_rate_of_its_depth(build):
    model = build()
    groups = layer_groups(model, 0.3, LR, X)
    rates = rates_of(model, groups)
    assert rates.keys() == dict(model.named_parameters()).keys()
    for name, rate in rates.items():
        assert rate == pytest.approx(RATES[part_of(name)]), name
    assert {part_of(name) for name in rates} == RATES.keys()
    assert groups[0]["lr"] == LR and groups[0]["weight_decay"] == 0.3


def test_frozen_parameters_are_left_out_and_the_first_group_keeps_the_full_rate():
    model = new_model()
    model.requires_grad_(False)
    model.unfreeze_layer(0)
    groups = layer_groups(model, 0.3, LR, X)
    assert set(rates_of(model, groups).values()) == {LR * X}
    assert groups[0] == {"params": [], "weight_decay": 0.3, "lr": LR}


@pytest.mark.parametrize(
    "name, number",
    [
        ("encoder.model.embeddings_project.weight", -1),  # ELECTRA
        ("encoder.model.encoder.rel_embeddings.weight", -1),  # DeBERTa
        ("encoder.model.encoder.LayerNorm.weight", -1),
        ("encoder.model.encoder.relative_attention_bias.weight", -1),  # MPNet
        ("encoder.model.layers.3.attn.Wo.weight", 3),  # ModernBERT
        ("encoder.model.final_norm.weight", None),
        ("encoder.model.transformer.layer.2.ffn.lin1.weight", 2),  # DistilBERT
        ("heads.sst.output.weight", None),
    ],
)
def test_parameters_of_encoders_of_transformers_have_their_place(name, number):
    assert layer_number(name) == number


def test_layers_without_numbers_are_refused():
    model = new_model()
    model.encoder.layer = nn.ModuleList()
    with pytest.raises(InputError, match="--layer_decay gives every layer its own rate"):
        layer_groups(model, 0.3, LR, X)


def options(flags: str):
    return parse_args(get_args_parser(), f"--lr {LR} {flags}".split())


@pytest.mark.parametrize("name", ["adamw", "sophiah"])
def test_without_it_there_are_the_two_groups_of_old_runs(name):
    model = new_model()
    found = build_optimizer(options(f"--optimizer {name}"), model)
    assert [group["lr"] for group in found.param_groups] == [LR, LR]
    expected = parameter_groups(model.parameters(), 0.01)
    for group, own in zip(found.param_groups, expected, strict=True):
        assert all(p is q for p, q in zip(group["params"], own["params"], strict=True))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int = 3) -> None:
    for seed in range(num_steps):
        optimizer.zero_grad()
        torch.manual_seed(seed)
        batch = new_batch()
        sum(model(task, batch).square().mean() for task in TASKS.values()).backward()
        optimizer.step()


def test_updates_equal_those_of_a_plain_adamw_for_each_parameter():
    model, other = new_model(), new_model()
    step(model, build_optimizer(options(f"--layer_decay {X} --weight_decay .3"), model))
    groups = [
        {
            "params": [p],
            "lr": RATES[part_of(name)],
            "weight_decay": 0.3 if p.ndim >= 2 else 0.0,
        }
        for name, p in other.named_parameters()
    ]
    step(other, torch.optim.AdamW(groups, foreach=False, fused=False))
    for name, p in model.named_parameters():
        if "key.bias" not in name:  # its gradient is rounding alone
            torch.testing.assert_close(p, other.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_sophiah_has_the_same_rates():
    optimizer = build_optimizer(options(f"--optimizer sophiah --layer_decay {X}"), new_model())
    found = [group["lr"] for group in optimizer.param_groups]
    assert found == pytest.approx([LR * X ** (number // 2) for number in range(8)])


@pytest.mark.parametrize("schedule", ["linear_warmup", "cosine", "plateau", "none"])
def test_schedules_scale_all_rates_alike(schedule):
    args = options(f"--layer_decay {X} --scheduler {schedule}")
    optimizer = build_optimizer(args, new_model())
    lr_schedule = build_lr_schedule(args, optimizer, num_updates=10)
    bases = [LR * X ** (number // 2) for number in range(8)]
    for _ in range(6):
        rates = [group["lr"] for group in optimizer.param_groups]
        factors = [rate / base for rate, base in zip(rates, bases, strict=True)]
        assert factors == pytest.approx([factors[0]] * 8)
        optimizer.step()  # without any gradient, it changes nothing
        lr_schedule.after_update()
        lr_schedule.after_epoch(0.0)
    assert schedule == "none" or factors[0] < 1


def test_an_unfrozen_layer_gets_the_rate_of_its_depth(tiny_model, few_rows, tmp_path):
    flags = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} --epochs 3 "
    flags += "--option pretrain --unfreeze_interval 1 --scheduler none --no_train_classifier "
    args = parse_args(
        get_args_parser(), (flags + f"--layer_decay {X} --lr 1e-4 --average_weights .9").split()
    )
    with open_run(args) as start:
        data = load_data(args, start.tokenizer, start.config.pad_token_id)
        training = build_training(args, build_model(args, start.build_encoder()), data["train"])
    assert not training.averaging.average
    training.unfreeze(2)
    trained = {name for name, p in training.model.named_parameters() if p.requires_grad}
    assert training.averaging.average.keys() == trained
    rates = rates_of(training.model, [g | {"weight_decay": 0.3 * (g["weight_decay"] > 0)}
                                      for g in training.optimizer.param_groups])  # fmt: skip
    found = {part_of(name): rate for name, rate in rates.items()}
    assert found == pytest.approx({"layer.1": 1e-4 * X, "layer.0": 1e-4 * X**2})
    assert training.learning_rate == 1e-4
