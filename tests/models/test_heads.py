"""models/heads.py: what holds for every head in the registry, and the formula of each."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from torch import nn

from models.attention import Dropout
from models.heads import HEADS, ClassifyHead, CosineHead, PairHead
from options.task_table import built_in_tasks

TASKS = built_in_tasks()

TAKES_PAIRS = {name for task in TASKS.values() if task.is_pair for name in [task.heads["bi"]]}


def make_head(name, num_hidden_layers=0, dropout=0.0, num_outputs=None):
    torch.manual_seed(0)
    num_outputs = num_outputs or (1 if name in TAKES_PAIRS else 5)
    return HEADS[name](6, num_outputs, num_hidden_layers, dropout)


def vectors(name, requires_grad=False):
    """Return the one or two arguments [4, 6] that the head takes."""
    generator = torch.Generator().manual_seed(1)
    number = 2 if name in TAKES_PAIRS else 1
    return [
        torch.randn(4, 6, generator=generator).requires_grad_(requires_grad) for _ in range(number)
    ]


def test_every_task_names_heads_that_exist():
    assert {name for task in TASKS.values() for name in task.heads.values()} == HEADS.keys()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("num_hidden_layers", [0, 1, 3])
def test_logits_have_one_row_per_example_and_everything_gets_a_gradient(name, num_hidden_layers):
    head, inputs = make_head(name, num_hidden_layers), vectors(name, requires_grad=True)
    logits = head(*inputs)
    assert logits.shape == (4, 1 if name in TAKES_PAIRS else 5)
    logits.square().sum().backward()
    for tensor in [*inputs, *head.parameters()]:
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0
    assert all((x.grad.abs().sum(1) > 0).all() for x in inputs)


@pytest.mark.parametrize("name", HEADS)
def test_examples_do_not_influence_each_other(name):
    head, inputs = make_head(name, 2), vectors(name)
    alone = torch.cat([head(*(x[i : i + 1] for x in inputs)) for i in range(4)])
    torch.testing.assert_close(head(*inputs), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_the_wrong_number_of_vectors_is_refused(name):
    u = torch.ones(4, 6)
    with pytest.raises(AssertionError, match="vector"):
        make_head(name)(*([u] if name in TAKES_PAIRS else [u, u]))


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"cosine"}))
@pytest.mark.parametrize("num_hidden_layers", [0, 1, 3])
def test_hidden_layers_are_linear_relu_dropout(name, num_hidden_layers):
    plain, head = make_head(name, 0), make_head(name, num_hidden_layers, dropout=0.3)
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    fewer = [module for module in plain.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == len(fewer) + num_hidden_layers
    kinds = [type(module) for module in head.hidden]
    assert kinds == [nn.Linear, nn.ReLU, Dropout] * num_hidden_layers
    assert all(m.p == 0.3 for m in head.modules() if isinstance(m, Dropout))


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"cosine"}))
def test_dropout_acts_only_in_training(name):
    head, inputs = make_head(name, dropout=0.5), vectors(name)
    assert not torch.equal(head(*inputs), head(*inputs))
    head.eval()
    assert torch.equal(head(*inputs), head(*inputs))


@pytest.mark.parametrize("head_class", [ClassifyHead, PairHead])
def test_hidden_layers_are_used(head_class):
    """If their weights are zero, the logits equal the bias of the output layer."""
    head = head_class(6, 1, 1, 0.0)
    nn.init.zeros_(head.hidden[0].weight)
    nn.init.zeros_(head.hidden[0].bias)
    inputs = vectors("pair" if head_class is PairHead else "classify")
    assert torch.equal(head(*inputs), head.output.bias.expand(4, 1))


@pytest.fixture
def halving_dropout(monkeypatch):
    """Replace every dropout by multiplication with 0.5, so that its place shows in the output."""
    monkeypatch.setattr(Dropout, "forward", lambda self, x: 0.5 * x)


def test_classify_head_is_a_linear_map_of_dropped_out_features(halving_dropout):
    head, (u,) = make_head("classify"), vectors("classify")
    torch.testing.assert_close(head(u), 0.5 * u @ head.output.weight.T + head.output.bias)


def test_pair_head_is_symmetric():
    head, (u, v) = make_head("pair", 1), vectors("pair")
    assert torch.equal(head(u, v), head(v, u))
    assert not torch.allclose(head(u, v), head(u, u))


def test_pair_head_follows_its_formula(halving_dropout):
    """Compute dropout, shared layer, |a - b| and |a + b|, two layers and the logit by hand."""
    head, (u, v) = make_head("pair"), vectors("pair")

    def layer(linear, x):
        return np.maximum(x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), 0)

    a, b = layer(head.shared, u.numpy() / 2), layer(head.shared, v.numpy() / 2)
    x = np.concatenate([np.abs(a - b), np.abs(a + b)], axis=1)
    x = layer(head.second, layer(head.first, x))
    expected = x @ head.output.weight.detach().numpy().T + head.output.bias.detach().numpy()
    np.testing.assert_allclose(head(u, v).detach().numpy(), expected, atol=1e-6)


def test_cosine_head_equals_scipys_cosine():
    u, v = vectors("cosine")
    expected = [5 * (1 - cosine(a, b)) for a, b in zip(u.numpy(), v.numpy())]
    np.testing.assert_allclose(make_head("cosine")(u, v)[:, 0].numpy(), expected, atol=1e-5)


def test_cosine_head_ranges_from_minus_five_to_five():
    u = vectors("cosine")[0]
    for v, score in ((3 * u, 5.0), (-u, -5.0)):
        torch.testing.assert_close(make_head("cosine")(u, v), torch.full((4, 1), score))


def test_cosine_of_a_zero_vector_is_zero():
    assert make_head("cosine")(torch.zeros(1, 6), torch.ones(1, 6)).item() == 0


def test_cosine_head_has_no_parameters_and_one_output():
    assert list(CosineHead(6, 1, 3, 0.1).parameters()) == []
    with pytest.raises(AssertionError, match="one output, asked for 5"):
        CosineHead(6, 5, 0, 0.1)
