"""models/bert.py: hooks, independence of padding, limits, second derivatives."""

import pytest
import torch
import torch.nn.functional as F

from models.attention import attention_bias
from models.bert import BertLayer, BertModel
from models.bert_config import MODEL_TYPES, BertConfig


@pytest.fixture
def encoder(sizes):
    torch.manual_seed(0)
    return BertModel(BertConfig(**sizes, initializer_range=0.2)).eval()


def test_absent_token_types_are_type_zero(encoder, make_batch):
    batch = make_batch([4, 6], 400)
    zeros = batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}
    del batch["token_type_ids"]
    assert torch.equal(encoder(**batch).pooler_output, encoder(**zeros).pooler_output)


def test_hidden_states_only_on_request(encoder, make_batch):
    assert encoder(**make_batch([3], 400)).hidden_states == ()


def test_embeddings_replace_input_ids(encoder, make_batch):
    batch = make_batch([4, 9], 400)
    embeddings = encoder.embed(**batch)
    batch_without_tokens = {"input_ids": None, "attention_mask": batch["attention_mask"]}
    output = encoder(**batch_without_tokens, embeddings=embeddings)
    assert torch.equal(output.last_hidden_state, encoder(**batch).last_hidden_state)


def test_embeddings_receive_a_gradient(encoder, make_batch):
    """SMART needs it: it ascends this gradient."""
    batch = make_batch([4, 9], 400)
    embeddings = encoder.embed(**batch).detach().requires_grad_()
    encoder(**batch, embeddings=embeddings).pooler_output.sum().backward()
    reached = embeddings.grad.abs().amax(-1) > 0
    assert torch.equal(reached, batch["attention_mask"] == 1)


def test_residual_is_given_each_layers_input(encoder, make_batch):
    batch = make_batch([4, 9], 400)
    calls = []

    def residual(layer, hidden_states, attention_mask):
        assert attention_mask is batch["attention_mask"]
        calls.append((layer, hidden_states))
        return hidden_states * 0.3

    states = encoder(**batch, residual=residual, output_hidden_states=True).hidden_states
    assert [layer for layer, _ in calls] == [0, 1, 2]
    assert all(given is state for (_, given), state in zip(calls, states))


def test_residual_is_added_before_the_last_layer_norm(encoder, make_batch):
    """Compute a layer by hand: LN(a + FFN(a) + residual(h)), a the result of the attention."""
    batch = make_batch([4, 9], 400)
    states = encoder(
        **batch, residual=lambda layer, h, mask: h.flip(-1), output_hidden_states=True
    ).hidden_states
    layer, h = encoder.layer[0], states[0]
    a = layer.attention(h, attention_bias(batch["attention_mask"]))
    x = a + layer.output(F.gelu(layer.intermediate(a))) + h.flip(-1)
    x = (x - x.mean(-1, keepdim=True)) / x.var(-1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(states[1], x, rtol=0, atol=1e-5)  # LayerNorm weights are 1 at first


def test_zero_residual_changes_nothing(encoder, make_batch):
    batch = make_batch([4, 9], 400)
    output = encoder(**batch, residual=lambda layer, h, mask: torch.zeros_like(h))
    assert torch.equal(output.last_hidden_state, encoder(**batch).last_hidden_state)


def test_tag_embeddings_are_added_before_the_layer_norm(encoder, make_batch):
    batch = make_batch([4, 9], 400)
    tag_ids = torch.arange(2 * 9).view(2, 9) % 5
    embeddings = encoder.embeddings
    embeddings.tag_embeddings = torch.nn.Embedding(5, 24)
    expected = F.layer_norm(
        embeddings.word_embeddings(batch["input_ids"])
        + embeddings.position_embeddings.weight[:9]
        + embeddings.token_type_embeddings(batch["token_type_ids"])
        + embeddings.tag_embeddings(tag_ids),
        (24,),
        eps=1e-12,
    )
    actual = encoder.embed(**batch, tag_ids=tag_ids)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_tags_without_tag_embeddings_are_refused(encoder, make_batch):
    with pytest.raises(AssertionError, match="no tag embeddings"):
        encoder.embed(**make_batch([3], 400), tag_ids=torch.zeros(1, 3).long())


@pytest.mark.parametrize("filler", [0, 7], ids=["pad token", "any token"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_state_depends_on_no_batch_mate_and_no_padding(model_type, filler, make_batch, sizes):
    config = BertConfig(**sizes, model_type=model_type, initializer_range=0.2)
    encoder = BertModel(config).eval()
    lengths = [3, 9, 1, 6]
    batch = make_batch(lengths, 400)
    padded = {name: F.pad(tensor, (0, 4)) for name, tensor in batch.items()}
    padded["input_ids"][padded["attention_mask"] == 0] = filler
    states = encoder(**padded).last_hidden_state
    for i, length in enumerate(lengths):
        alone = {name: tensor[i : i + 1, :length] for name, tensor in batch.items()}
        expected = encoder(**alone).last_hidden_state[0]
        assert (states[i, :length] - expected).abs().max() <= 1e-5


def test_a_row_of_only_padding_gives_no_nan(encoder, make_batch):
    batch = make_batch([5, 5], 400)
    batch["attention_mask"][0] = 0
    assert encoder(**batch).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("model_type, num_positions", [("bert", 32), ("roberta", 30)])
def test_more_tokens_than_positions_name_both_numbers(model_type, num_positions, make_batch, sizes):
    """RoBERTa loses pad_token_id + 1 of its positions, because its first one comes after them."""
    config = BertConfig(**sizes, model_type=model_type, pad_token_id=1)
    encoder = BertModel(config)
    encoder(**make_batch([num_positions], 400, pad_token_id=1))
    with pytest.raises(ValueError, match=f"{num_positions + 1} tokens.* {num_positions}$"):
        encoder(**make_batch([num_positions + 1], 400, pad_token_id=1))


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_attention_heads", 5),
        ("num_attention_heads", 0),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", None),
        ("vocab_size", "60"),
        ("vocab_size", 400.0),
        ("hidden_size", True),
        ("pad_token_id", None),
        ("pad_token_id", -1),
        ("hidden_dropout_prob", 1.0),
        ("attention_probs_dropout_prob", -0.1),
        ("layer_norm_eps", None),
        ("hidden_act", "swish"),
        ("hidden_act", None),
        ("model_type", "distilbert"),
    ],
)
def test_a_bad_config_value_is_named(field, value, sizes):
    with pytest.raises(ValueError, match=f"{field} (is )?{value!r}"):
        BertConfig(**sizes | {field: value})


def test_fresh_weights_have_the_configs_range(encoder):
    std = encoder.embeddings.word_embeddings.weight.std().item()
    assert std == pytest.approx(0.2, rel=0.1)
    assert not encoder.layer[0].output.bias.any()


def test_bfloat16_weights_stay_bfloat16(encoder, make_batch):
    batch = make_batch([4, 9], 400)
    expected = encoder(**batch).pooler_output
    actual = encoder.bfloat16()(**batch).pooler_output
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused attention runs on a GPU")
def test_gpu_equals_cpu(encoder, make_batch):
    batch = make_batch([4, 9, 1], 400)
    expected = encoder(**batch)
    actual = encoder.cuda()(**{name: tensor.cuda() for name, tensor in batch.items()})
    real = batch["attention_mask"] == 1
    difference = (actual.last_hidden_state.cpu() - expected.last_hidden_state)[real]
    assert difference.abs().max() <= 1e-4


@pytest.mark.parametrize("is_training", [False, True])
def test_second_derivatives_of_a_layer(is_training):
    """Check them in training too, with the same dropout masks in each evaluation."""
    config = BertConfig(
        hidden_size=4, num_attention_heads=2, intermediate_size=3, initializer_range=0.5
    )
    torch.manual_seed(0)
    layer = BertLayer(config).double().train(is_training)
    bias = attention_bias(torch.tensor([[1, 1, 0]]))

    def function(hidden_states, weight):
        torch.manual_seed(3)
        weights = {"attention.query.weight": weight}
        return torch.func.functional_call(layer, weights, (hidden_states, bias))

    inputs = torch.randn(1, 3, 4).double(), torch.randn(4, 4).double()
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
