"""models/pal.py: the layers computed by hand, their sizes and first weights, and their task."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.bert import BertModel
from models.bert_config import BertConfig
from models.features import Features
from models.heads import ClassifyHead
from models.multitask import MultitaskBert
from models.pal import ProjectedAttentionLayers, default_pal_size
from options.task_table import built_in_tasks

TASKS = built_in_tasks()

PAL_SIZE = 12


def randomize(module: nn.Module, std: float = 0.4) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


@pytest.fixture
def config(sizes):
    return BertConfig(**sizes, initializer_range=0.2)


@pytest.fixture
def pal(config):
    """The layers of one task, with random weights and without dropout."""
    torch.manual_seed(0)
    pal = ProjectedAttentionLayers(config, PAL_SIZE).eval()
    randomize(pal)
    return pal


@pytest.fixture
def build(config):
    """A model with new layers for every task, and the plain model on the same encoder."""
    torch.manual_seed(0)
    encoder, features = BertModel(config), Features(config)
    heads = {name: ClassifyHead(24, task.num_outputs, 0, 0.1) for name, task in TASKS.items()}
    pals = {name: ProjectedAttentionLayers(config, PAL_SIZE) for name in TASKS}
    model = MultitaskBert(encoder, features, heads, pals=pals)
    return model.eval(), MultitaskBert(encoder, features, heads).eval()


def by_hand(pal, layer, hidden_states, attention_mask):
    """Compute gelu(V_D · MHA(V_E h)) with PyTorch's attention, its output matrix the identity."""
    own = pal.attention[layer]
    attention = nn.MultiheadAttention(PAL_SIZE, num_heads=6, batch_first=True)
    linears = own.query, own.key, own.value
    weights = {
        "in_proj_weight": torch.cat([linear.weight for linear in linears]),
        "in_proj_bias": torch.cat([linear.bias for linear in linears]),
        "out_proj.weight": torch.eye(PAL_SIZE),
        "out_proj.bias": torch.zeros(PAL_SIZE),
    }
    attention.load_state_dict(weights)
    x = hidden_states @ pal.encode.weight.T + pal.encode.bias
    x, _ = attention(x, x, x, key_padding_mask=attention_mask == 0)
    return F.gelu(x @ pal.decode.weight.T + pal.decode.bias)


@pytest.mark.parametrize("layer", range(3))
def test_layer_equals_the_one_by_hand(pal, layer):
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    hidden_states = torch.randn(2, 7, 24)
    actual = pal(layer, hidden_states, mask)
    expected = by_hand(pal, layer, hidden_states, mask)
    assert (actual - expected)[mask == 1].abs().max() <= 1e-5
    assert expected.std() > 0.1


def test_parameters_for_bert_base():
    """Count two maps between 768 and 204, and 12 · 3 maps from 204 to 204, with biases."""
    with torch.device("meta"):
        pal = ProjectedAttentionLayers(BertConfig(), default_pal_size(768))
    assert sum(p.numel() for p in pal.parameters()) == 1_819_836


@pytest.mark.parametrize("hidden_size, size", [(768, 204), (384, 102), (1024, 270), (512, 138)])
def test_default_size(hidden_size, size):
    assert default_pal_size(hidden_size) == size


@pytest.mark.parametrize("size", [100, 0, -6])
def test_a_size_that_is_not_a_multiple_of_six_is_named(config, size):
    with pytest.raises(ValueError, match=f"pal_size is {size}, expected a positive multiple of 6"):
        ProjectedAttentionLayers(config, size)


def test_fresh_weights(config):
    torch.manual_seed(0)
    pal = ProjectedAttentionLayers(config, 60)
    for name, p in pal.named_parameters():
        if name.endswith("bias") or name.startswith("decode"):
            assert not p.any(), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), name


def test_dropout_on_attention(config):
    """If all attention weights are dropped, only the bias of V_D is left."""
    config.attention_probs_dropout_prob = 0.999999
    pal = ProjectedAttentionLayers(config, PAL_SIZE).train()
    randomize(pal)
    hidden_states, mask = torch.randn(2, 3, 24), torch.ones(2, 3)
    expected = F.gelu(pal.decode.bias).expand(2, 3, 24)
    torch.manual_seed(0)
    torch.testing.assert_close(pal(0, hidden_states, mask), expected)
    assert not torch.allclose(pal.eval()(0, hidden_states, mask), expected, atol=0.1)


# In the model


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_new_layers_do_not_change_the_model(build, make_batch, task):
    model, plain = build
    batch = make_batch([4, 9, 2], 400)
    difference = model(task, batch) - plain(task, batch)
    assert difference.abs().max() <= 1e-6
    randomize(model.pals[task.name])
    assert not torch.allclose(model(task, batch), plain(task, batch), atol=1e-2)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_logits_depend_on_no_batch_mate_and_no_padding(build, make_batch, task):
    model, _ = build
    randomize(model.pals)
    lengths = [5, 11, 2, 7]
    batch = make_batch(lengths, 400)
    logits = model(task, batch)
    for i, length in enumerate(lengths):
        alone = {name: tensor[i : i + 1, :length] for name, tensor in batch.items()}
        assert (model(task, alone)[0] - logits[i]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", TASKS)
def test_a_task_reads_only_its_own_layers(build, make_batch, name):
    model, _ = build
    randomize(model.pals)
    batch = make_batch([4, 9], 400)
    before = {task.name: model(task, batch) for task in TASKS.values()}
    randomize(model.pals[name])
    changed = [n for n, task in TASKS.items() if not torch.equal(model(task, batch), before[n])]
    assert changed == [name]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_weight_of_the_tasks_layers_gets_a_gradient(build, make_batch, task):
    """This holds once V_D is not zero.

    The key bias is exempt: it adds the same number to all scores, so its gradient is zero up to
    rounding.
    """
    model, _ = build
    randomize(model.pals)
    model.train()(task, make_batch([4, 9, 6], 400)).square().sum().backward()
    learns = {
        name: p.grad is not None and p.grad.abs().max() > 1e-4
        for name, p in model.pals.named_parameters()
    }
    for name, is_reached in learns.items():
        expected = name.startswith(f"{task.name}.") and not name.endswith("key.bias")
        assert is_reached == expected, name


def test_new_layers_get_a_gradient(build, make_batch):
    """V_D is zero but its gradient is not, because the slope of gelu at zero is 0.5."""
    model, _ = build
    model(TASKS["sst"], make_batch([4, 9], 400)).square().sum().backward()
    decode = model.pals["sst"].decode
    assert decode.weight.grad.any() and decode.bias.grad.any()


def test_a_task_without_layers_of_its_own_is_an_error(build, make_batch):
    model, _ = build
    del model.pals["sts"]
    with pytest.raises(KeyError, match="sts"):
        model(TASKS["sts"], make_batch([4], 400))
