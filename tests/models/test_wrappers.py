"""models/hierarchical.py and models/mixture.py: the encoders that wrap another one."""

import pytest
import torch

from models.bert import BertModel
from models.bert_config import BertConfig
from models.hierarchical import HierarchicalEncoder
from models.mixture import MixtureEncoder
from models.multitask import group_name
from models.tag_embeddings import TagEmbeddings

STATES = ("last_hidden_state", "pooler_output", "hidden_states")


@pytest.fixture
def encoder(sizes):
    torch.manual_seed(0)
    return BertModel(BertConfig(**sizes, initializer_range=0.2)).eval()


def segmented(make_batch):
    """Return three texts of 2, 1 and 3 segments of at most 5 tokens, [3, 3, 5]."""
    batch = make_batch([5, 3, 0, 4, 0, 0, 2, 5, 1], 400)
    return {name: tensor.unflatten(0, (3, 3)) for name, tensor in batch.items()}


def test_segments_are_encoded_separately(encoder, make_batch):
    """A segment gets the state it would get alone; missing segments are zero and masked."""
    batch = segmented(make_batch)
    output = HierarchicalEncoder(encoder, "mean")(**batch, output_hidden_states=True)
    assert output.attention_mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert len(output.hidden_states) == encoder.config.num_hidden_layers + 1
    for b, s in output.attention_mask.nonzero().tolist():
        length = int(batch["attention_mask"][b, s].sum())
        alone = {name: tensor[b, s, :length][None] for name, tensor in batch.items()}
        expected = encoder(**alone).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(output.last_hidden_state[b, s], expected, atol=1e-5, rtol=0)
    assert not output.last_hidden_state[output.attention_mask == 0].any()
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert output.pooler_output.shape == (3, 24)


def test_a_hierarchical_encoder_takes_its_own_embeddings(encoder, make_batch):
    """SMART calls `embed` and passes the result to the encoder."""
    batch = segmented(make_batch)
    hierarchical = HierarchicalEncoder(encoder, "max")
    embeddings = hierarchical.embed(**batch)
    assert embeddings.shape == (3, 3, 5, 24)
    output = hierarchical(batch["input_ids"], batch["attention_mask"], embeddings=embeddings)
    plain = hierarchical(**batch)
    assert torch.equal(output.last_hidden_state, plain.last_hidden_state)


def test_one_expert_starts_as_a_copy_of_the_encoder_and_the_others_close_to_it(encoder, make_batch):
    mixture = MixtureEncoder(encoder, seed=1).eval()
    plain = dict(encoder.named_parameters())
    for number, expert in enumerate(mixture.experts):
        for name, p in expert.named_parameters():
            difference, spread = (p - plain[name]).std(), plain[name].std()
            if number == 0:
                assert torch.equal(p, plain[name])
            elif plain[name].numel() > 500:
                assert 0.005 * spread < difference < 0.02 * spread
    again = MixtureEncoder(encoder, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(mixture.parameters(), again.parameters()))


def test_states_are_the_weighted_sum_of_the_experts_states(encoder, make_batch):
    mixture = MixtureEncoder(encoder).eval()
    batch = make_batch([4, 6], 400)
    output = mixture(**batch, output_hidden_states=True)
    gate = mixture.gate_output(mixture.gate(**batch).last_hidden_state[:, 0]).softmax(-1)
    experts = [expert(**batch, output_hidden_states=True) for expert in mixture.experts]
    for name in STATES[:2]:
        parts = torch.stack([getattr(expert, name) for expert in experts])  # [3, B, ...]
        weights = gate.T.reshape(3, 2, *[1] * (parts.ndim - 2))
        torch.testing.assert_close(getattr(output, name), (weights * parts).sum(0))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_the_gradient_reaches_the_gate_and_every_expert(encoder, make_batch):
    """Without the noise, the gradient of the gate would be zero in the first update."""
    mixture = MixtureEncoder(encoder)
    (mixture(**make_batch([4, 6], 400)).last_hidden_state ** 2).sum().backward()
    for part in (*mixture.experts, mixture.gate):
        assert all(layer.intermediate.weight.grad.any() for layer in part.layer)
    with_noise = mixture.gate_output.weight.grad.abs().max()
    for expert in mixture.experts:
        expert.load_state_dict(mixture.experts[0].state_dict())
    mixture.zero_grad()
    (mixture.eval()(**make_batch([4, 6], 400)).last_hidden_state ** 2).sum().backward()
    assert mixture.gate_output.weight.grad.abs().max() < 1e-3 * with_noise


def test_mean_gate_weights_count_only_training_examples(encoder, make_batch):
    mixture = MixtureEncoder(encoder)
    mixture.eval()(**make_batch([4, 6], 400))
    assert mixture.take_gate_means() == [0, 0, 0]
    mixture.train()
    for module in mixture.modules():  # no dropout, so that the weights can be computed again
        module.p = 0.0
    batch = make_batch([4, 6, 5], 400)
    mixture(**batch)
    gate = mixture.gate_output(mixture.gate(**batch).last_hidden_state[:, 0]).softmax(-1).mean(0)
    means = mixture.take_gate_means()
    assert means == pytest.approx(gate.tolist(), rel=1e-6) and sum(means) == pytest.approx(1)
    assert mixture.take_gate_means() == [0, 0, 0]


@pytest.mark.parametrize("wrap", [MixtureEncoder, lambda e: HierarchicalEncoder(e, "mean")])
def test_wrappers_pass_tags_on(encoder, make_batch, wrap):
    encoder.embeddings.tag_embeddings = TagEmbeddings(24)
    torch.nn.init.normal_(encoder.embeddings.tag_embeddings.pos.weight)
    wrapper = wrap(encoder).eval()
    batch = make_batch([4, 6], 400)
    tag_ids = torch.ones(2, 6, 2, dtype=torch.int64)
    if isinstance(wrapper, HierarchicalEncoder):
        batch = {name: tensor[:, None] for name, tensor in batch.items()}
        tag_ids = tag_ids[:, None]
    plain, tagged = wrapper.embed(**batch), wrapper.embed(**batch, tag_ids=tag_ids)
    assert not torch.allclose(plain, tagged)


def test_group_names():
    names = {
        "encoder.layer.3.output.bias": "layer.3",
        "encoder.inner.layer.3.output.bias": "layer.3",
        "encoder.experts.1.layer.3.output.bias": "experts.1.layer.3",
        "encoder.inner.experts.1.embeddings.LayerNorm.bias": "experts.1.embeddings",
        "encoder.gate.layer.0.output.bias": "gate.layer.0",
        "encoder.gate_output.weight": "gate_output",
        "encoder.embeddings.tag_embeddings.pos.weight": "embeddings",
        "features.extension.lstm.weight_hh_l0": "features",
    }
    assert {name: group_name(name) for name in names} == names
