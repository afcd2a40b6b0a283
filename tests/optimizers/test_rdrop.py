"""R-Drop against the authors' formulas, written with torch's own divergences."""

import pytest
import torch
import torch.nn.functional as F
from smart_model import gradients, new_batch, new_model
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from models.mixture import MixtureEncoder
from optimizers import build_regularizer
from optimizers.rdrop import RDrop
from options.parsing import parse_args
from options.task_table import built_in_tasks
from train_multitask_pal import get_args_parser

TASKS = built_in_tasks()
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
WEIGHT = 0.7


def batch_of(task) -> dict[str, Tensor]:
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    return new_batch() | {"labels": labels.float() if task.name == "sts" else labels}


def paper_loss(task, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """(ℓ(f) + ℓ(f')) / 2 + weight · (KL(f ‖ f') + KL(f' ‖ f)) / 2, as a mean over examples."""
    if task.name == "sst":
        losses = [F.cross_entropy(f, labels) for f in (first, second)]
        p, q = Categorical(logits=first), Categorical(logits=second)
    elif task.name == "para":
        p, q = Bernoulli(logits=first[:, 0]), Bernoulli(logits=second[:, 0])
        losses = [-p.log_prob(labels.float()).mean(), -q.log_prob(labels.float()).mean()]
    else:
        losses = [(f[:, 0] - labels).square().mean() for f in (first, second)]
        p, q = Normal(first[:, 0], 1.0), Normal(second[:, 0], 1.0)
    divergence = (kl_divergence(p, q) + kl_divergence(q, p)).mean() / 2
    return sum(losses) / 2 + WEIGHT * divergence


@every_task
def test_loss_and_gradient_are_those_of_the_paper(task):
    """The two passes draw other masks, one after the other."""
    model, batch = new_model(), batch_of(task)
    torch.manual_seed(3)
    first, second = model(task, batch), model(task, batch)
    assert not torch.equal(first, second)
    expected = paper_loss(task, first, second, batch["labels"])
    expected.backward()
    expected_gradients = gradients(model)
    model = new_model()
    regularizer = RDrop(model, WEIGHT)
    torch.manual_seed(3)
    logits = regularizer.logits(task, batch)
    loss = task.loss(logits, batch["labels"]) + regularizer.penalty(task, batch, logits)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    found = gradients(model)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@every_task
def test_without_dropout_the_gradient_is_the_plain_one(task):
    """So micro-batches and workers, whose gradients are weighted alike, change nothing."""
    found = []
    for weight in (None, WEIGHT):
        model, batch = new_model().eval(), batch_of(task)
        logits = model(task, batch)
        penalty = 0.0 if weight is None else RDrop(model, weight).penalty(task, batch, logits)
        assert penalty == 0
        (task.loss(logits, batch["labels"]) + penalty).backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_the_second_pass_is_not_in_the_statistics_of_combined_models():
    model, task = new_model(), TASKS["sst"]
    model.encoder = MixtureEncoder(model.encoder)
    regularizer, batch = RDrop(model, WEIGHT), batch_of(task)
    regularizer.penalty(task, batch, regularizer.logits(task, batch))
    assert model.encoder.gate_count == len(batch["labels"])


def test_the_flag_reaches_the_regularizer():
    args = parse_args(get_args_parser(), ["--rdrop_weight", "0.7"])
    regularizer = build_regularizer(args, new_model())
    assert isinstance(regularizer, RDrop) and regularizer.weight == WEIGHT


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight is -1"):
        RDrop(new_model(), -1)
