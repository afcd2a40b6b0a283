"""Which parameters all tasks share, which belong to one task, and the groups of the former."""

import pytest
import torch

from models.bert import BertModel
from models.bert_config import BertConfig
from models.features import Features
from models.heads import ClassifyHead
from models.multitask import MultitaskBert
from models.pal import ProjectedAttentionLayers
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


@pytest.fixture
def model(sizes):
    """A model whose every part has parameters, projected attention layers included."""
    config = BertConfig(**sizes)
    heads = {name: ClassifyHead(24, task.num_outputs, 1, 0.1) for name, task in TASKS.items()}
    pals = {name: ProjectedAttentionLayers(config, 6) for name in TASKS}
    return MultitaskBert(
        BertModel(config), Features(config, extension="attention"), heads, pals=pals
    )


def names_of(model, parameters):
    names = {p: name for name, p in model.named_parameters()}
    return [names[p] for p in parameters]


def test_every_parameter_except_the_poolers_is_shared_or_belongs_to_one_task(model):
    parts = [model.shared_parameters(), *(model.task_parameters(task) for task in TASKS.values())]
    names = names_of(model, [p for part in parts for p in part])
    everything = {name for name, _ in model.named_parameters()}
    assert len(names) == len(set(names))
    assert everything - set(names) == {"encoder.pooler.weight", "encoder.pooler.bias"}


def test_shared_parameters_are_those_of_the_encoder_then_those_of_the_features(model):
    """They come in the order of the modules."""
    encoder = [f"encoder.{name}" for name, _ in model.encoder.named_parameters()]
    expected = [name for name in encoder if "pooler" not in name]
    expected += [f"features.{name}" for name, _ in model.features.named_parameters()]
    assert names_of(model, model.shared_parameters()) == expected


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_task_parameters_are_those_of_its_head_and_its_layers(model, task):
    own = f"heads.{task.name}.", f"pals.{task.name}."
    expected = [name for name, _ in model.named_parameters() if name.startswith(own)]
    assert names_of(model, model.task_parameters(task)) == expected
    model.pals.clear()
    heads = [name for name in expected if name.startswith("heads")]
    assert names_of(model, model.task_parameters(task)) == heads


def test_a_loss_reaches_shared_parameters_and_those_of_its_task(model, make_batch):
    task = TASKS["para"]
    model(task, make_batch([4, 6], 400)).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    expected = [*model.shared_parameters(), *model.task_parameters(task)]
    assert reached == set(names_of(model, expected))


def test_groups_cover_the_shared_vector_in_order(model):
    groups = model.parameter_groups()
    assert list(groups) == ["embeddings", "layer.0", "layer.1", "layer.2", "features"]
    vector = torch.cat([p.flatten() for p in model.shared_parameters()])
    modules = [model.encoder.embeddings, *model.encoder.layer, model.features]
    end = 0
    for part, module in zip(groups.values(), modules):
        assert part.start == end
        end = part.stop
        expected = torch.cat([p.flatten() for p in module.parameters()])
        assert torch.equal(vector[part], expected)
    assert end == len(vector)


def test_frozen_parameters_are_in_no_list_and_no_group(model):
    model.encoder.embeddings.requires_grad_(False)
    model.encoder.layer[1].requires_grad_(False)
    model.encoder.layer[2].output.requires_grad_(False)
    model.features.requires_grad_(False)
    model.heads["sst"].requires_grad_(False)
    model.pals["sts"].requires_grad_(False)
    shared = model.shared_parameters()
    assert all(p.requires_grad for p in shared)
    groups = model.parameter_groups()
    assert list(groups) == ["layer.0", "layer.2"]
    sizes = [
        sum(p.numel() for p in model.encoder.layer[i].parameters() if p.requires_grad)
        for i in (0, 2)
    ]
    assert groups["layer.0"] == slice(0, sizes[0])
    assert groups["layer.2"] == slice(sizes[0], sum(sizes))
    assert sum(sizes) == sum(p.numel() for p in shared)
    own = names_of(model, model.task_parameters(TASKS["sst"]))
    assert own and all(name.startswith("pals.sst.") for name in own)
    own = names_of(model, model.task_parameters(TASKS["sts"]))
    assert own and all(name.startswith("heads.sts.") for name in own)


def test_a_frozen_encoder_shares_nothing(model):
    model.encoder.requires_grad_(False)
    model.features.requires_grad_(False)
    assert model.shared_parameters() == [] and model.parameter_groups() == {}
