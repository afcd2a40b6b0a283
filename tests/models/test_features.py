"""models/features.py: every --train_mode, --extension and --pooling, in every legal combination."""

import itertools

import pytest
import torch
from torch import nn

from inputs.batches import PAIR_ENCODINGS
from models import FEATURES, POOLINGS, TRAIN_MODES, build_model
from models.bert import BertModel, BertOutput
from models.bert_config import BertConfig
from models.features import Features
from options.task_table import built_in_tasks

TASKS = built_in_tasks()

LEGAL = [
    (mode, extension, pooling)
    for mode, extension, pooling in itertools.product(TRAIN_MODES, FEATURES, POOLINGS)
    if not (mode == "all_pooled" and (extension != "none" or pooling != "mean"))
    and not (extension == "attention" and pooling != "mean")
]
LENGTHS = [5, 11, 2, 7, 3, 9]


@pytest.fixture
def build(parse, sizes):
    """Build a model without dropout on a small random encoder."""

    def build_from_flags(*flags):
        args = parse("--hidden_dropout_prob", "0", *flags)
        torch.manual_seed(0)
        config = BertConfig(
            **sizes, initializer_range=0.2, hidden_dropout_prob=0, attention_probs_dropout_prob=0
        )
        return build_model(args, BertModel(config))

    return build_from_flags


def flags_of(mode, extension, pooling, pair_encoding):
    flags = ["--train_mode", mode, "--extension", extension, "--pair_encoding", pair_encoding]
    return flags + (["--pooling", pooling] if pooling != "mean" else [])


def in_segments(batch, width=4):
    """Cut rows [B, L] into segments of `width` tokens [B, S, W], padded at the end."""
    num_tokens = batch["input_ids"].shape[1]
    pad = -num_tokens % width
    return {
        key: nn.functional.pad(tensor, (0, pad)).unflatten(1, (-1, width))
        for key, tensor in batch.items()
    }


def select(batch, rows):
    """Select rows of a batch, without columns that hold only padding."""
    chosen = {name: tensor[rows] for name, tensor in batch.items()}
    mask = chosen["attention_mask"]
    used = mask.any(0) if mask.ndim == 2 else mask.any(2).any(0)
    return {name: tensor[:, used] for name, tensor in chosen.items()}


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("mode, extension, pooling", LEGAL)
def test_vectors_depend_on_no_padding_and_no_batch_mate(
    build, make_batch, mode, extension, pooling, pair_encoding
):
    """Check sentence vectors [B, F] of every combination, and the logits of every task."""
    model = build(*flags_of(mode, extension, pooling, pair_encoding)).eval()
    batch = make_batch(LENGTHS, 400)
    if extension == "hierarchical":
        batch = in_segments(batch)
    for task in TASKS.values():
        is_two_rows = task.is_pair and pair_encoding == "bi"
        examples = [[0, 3], [1, 4], [2, 5]] if is_two_rows else [[row] for row in range(6)]
        states, mask = model.prefix(task, batch)
        vectors = states if mask is None else model.features(states, mask)
        assert vectors.shape == (6, model.features.num_features)
        logits = model(task, batch)
        assert logits.shape == (len(examples), task.num_outputs)
        for i, rows in enumerate(examples):
            assert (model(task, select(batch, rows))[0] - logits[i]).abs().max() <= 1e-5


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("mode, extension, pooling", LEGAL)
def test_all_shared_parameters_get_a_gradient(
    build, make_batch, mode, extension, pooling, pair_encoding
):
    """Only the key bias is exempt: it adds the same number to all scores of a softmax."""
    layers = ["--layers", "1", "3"] if mode == "single_layers" else []
    model = build(*flags_of(mode, extension, pooling, pair_encoding), *layers)
    batch = make_batch(LENGTHS, 400)
    if extension == "hierarchical":
        batch = in_segments(batch)
    (model(TASKS["sst"], batch) ** 2).sum().backward()
    still = {name for name, p in model.named_shared_parameters() if not p.grad.any()}
    assert [name for name in still if not name.endswith("key.bias")] == []


@pytest.mark.parametrize(
    "extension", [e for e in FEATURES if FEATURES[e](BertConfig()).ends_sequence]
)
def test_an_extension_that_ends_the_sequence_returns_one_vector_per_row(extension):
    config = BertConfig(hidden_size=24, num_attention_heads=4)
    module = FEATURES[extension](config).eval()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert module(torch.randn(2, 3, 24), mask).shape == (2, module.num_features)


def test_attention_follows_its_formula():
    """The weights are softmax(w · tanh(W h + b)) over real tokens, here computed one by one."""
    torch.manual_seed(0)
    module = FEATURES["attention"](BertConfig(hidden_size=4, num_attention_heads=2))
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    for row, length in enumerate(mask.sum(1).tolist()):
        real = states[row, :length]
        scores = [(module.score.weight[0] @ torch.tanh(module.hidden(h))).item() for h in real]
        weights = torch.tensor(scores).exp() / torch.tensor(scores).exp().sum()
        torch.testing.assert_close(module(states, mask)[row], weights @ real)


def test_lstm_and_convolutions_have_their_documented_sizes():
    config = BertConfig(hidden_size=24, num_attention_heads=4)
    lstm, cnn = FEATURES["bilstm"](config), FEATURES["cnn"](config)
    assert lstm.num_features == 256 and lstm.lstm.hidden_size == 128 and lstm.lstm.bidirectional
    assert [tuple(c.weight.shape) for c in cnn.convolutions] == [
        (512, 24, 5),
        (512, 512, 5),
        (512, 512, 5),
    ]
    assert cnn.num_features == 512


def test_the_lstm_reads_both_ways(make_batch):
    config = BertConfig(hidden_size=24, num_attention_heads=4)
    lstm = FEATURES["bilstm"](config)
    states = torch.randn(1, 4, 24, requires_grad=True)
    lstm(states, torch.ones(1, 4).long())[0, 1].sum().backward()
    assert (states.grad[0].abs().sum(-1) > 0).all()


def test_under_cls_pooling_the_lstm_gives_the_last_state_of_each_direction(make_batch):
    """Each row of a padded batch equals PyTorch's own h_n on that row alone."""
    config = BertConfig(hidden_size=24, num_attention_heads=4)
    torch.manual_seed(0)
    features = Features(config, extension="bilstm", pooling="cls")
    mask = make_batch(LENGTHS, 400)["attention_mask"]
    states = torch.randn(*mask.shape, 24)
    vectors = features(states, mask)
    for row, length in enumerate(LENGTHS):
        last = features.extension.lstm(states[row, None, :length])[1][0]  # h_n: [2, 1, F / 2]
        torch.testing.assert_close(vectors[row], last[:, 0].flatten(), rtol=0, atol=1e-6)
    vectors.sum().backward()
    assert features.extension.lstm.weight_hh_l0.grad.any()


def test_every_train_mode_selects_its_layers():
    """All states of layer l hold the number l, so the mean of layers 1 and 3 is 2."""
    config = BertConfig(hidden_size=2, num_attention_heads=1, num_hidden_layers=3)
    hidden_states = tuple(torch.full((1, 2, 2), float(layer)) for layer in range(4))
    output = BertOutput(hidden_states[-1], torch.zeros(1, 2), hidden_states, torch.ones(1, 2))

    def states(**options):
        return Features(config, **options).states(output)[0]

    assert (states() == 3).all()
    assert (states(train_mode="single_layers", layers=[1, 3]) == 2).all()
    assert (states(train_mode="single_layers") == 2).all()  # of all three layers
    assert states(train_mode="all_pooled")[0, :, 0].tolist() == [1, 2, 3]


def test_an_unknown_layer_is_an_error():
    config = BertConfig(hidden_size=2, num_attention_heads=1, num_hidden_layers=3)
    with pytest.raises(ValueError, match="layer 4: expected 1 to 3"):
        Features(config, "single_layers", [4])


@pytest.mark.parametrize("extension", FEATURES)
def test_second_derivatives_for_sophiah(build, make_batch, extension):
    model = build("--extension", extension)
    batch = make_batch([4, 3], 400)
    if extension == "hierarchical":
        batch = in_segments(batch)
    params = [p for p in model.features.parameters()] + list(model.heads["sst"].parameters())
    loss = (model(TASKS["sst"], batch) ** 2).sum()
    grads = torch.autograd.grad(loss, params, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), params)
    assert any(g.any() for g in second) and all(g.isfinite().all() for g in second)
