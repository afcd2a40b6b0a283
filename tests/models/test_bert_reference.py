"""models/bert.py against transformers' BERT and RoBERTa on the same weights."""

import pytest
import torch
import transformers

from models.attention import Dropout
from models.bert_config import ACTIVATIONS
from models.pretrained import (
    find_checkpoint,
    load_config,
    load_encoder,
    load_pretrained,
    load_tokenizer,
    rename,
)

REFERENCES = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
}
SENTENCES = [
    "A grey heron stood in the shallow water.",
    "Fine.",
    "The ferry left at noon, although nobody on the quay had expected it to sail so early today!",
    "Where can I buy a second-hand accordion?",
]


def build_reference(directory, model_type, sizes, **values):
    """Write a transformers model with random weights to `directory`, and read it back."""
    config_class, model_class = REFERENCES[model_type]
    config = config_class(**sizes, **({"pad_token_id": 1} if model_type == "roberta" else {}))
    config.update(values)
    torch.manual_seed(0)
    model = model_class(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("LayerNorm.weight" in name), std=0.2)
    model.save_pretrained(directory)
    reference = model_class.from_pretrained(directory, attn_implementation="eager")
    return reference.eval()


@pytest.fixture(scope="module", params=REFERENCES)
def pair(request, tmp_path_factory, sizes):
    """Return transformers' model and ours, with the same random weights, in eval mode."""
    directory = tmp_path_factory.mktemp(request.param)
    reference = build_reference(directory, request.param, sizes)
    return reference, load_pretrained(str(directory)).eval()


def assert_same_states(reference, encoder, batch):
    """Compare hidden states at real tokens, and pooler outputs, to 1e-5."""
    with torch.no_grad():
        theirs = reference(**batch, output_hidden_states=True)
        ours = encoder(**batch, output_hidden_states=True)
    real = batch["attention_mask"] == 1
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for our_states, their_states in zip(ours.hidden_states, theirs.hidden_states):
        assert (our_states - their_states)[real].abs().max() <= 1e-5
    assert torch.equal(ours.last_hidden_state, ours.hidden_states[-1])
    assert (ours.pooler_output - theirs.pooler_output).abs().max() <= 1e-5


@pytest.mark.parametrize("lengths", [[7], [1, 2], [3, 12, 1, 30], [5, 5]], ids=str)
def test_equals_transformers(pair, lengths, make_batch):
    reference, encoder = pair
    assert_same_states(reference, encoder, make_batch(lengths, 400, encoder.config.pad_token_id))


def test_roberta_of_one_token_type_ignores_the_types(tmp_path, make_batch, sizes):
    """Published RoBERTa has one token type, which both sentences of a pair share."""
    reference = build_reference(tmp_path, "roberta", sizes, type_vocab_size=1)
    encoder = load_pretrained(str(tmp_path)).eval()
    batch = make_batch([4, 9], 400, encoder.config.pad_token_id, num_types=1)
    assert_same_states(reference, encoder, batch)
    ones = batch | {"token_type_ids": batch["attention_mask"]}
    assert torch.equal(encoder(**ones).pooler_output, encoder(**batch).pooler_output)


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_activations_equal_transformers(tmp_path, hidden_act, make_batch, sizes):
    reference = build_reference(tmp_path, "bert", sizes, hidden_act=hidden_act)
    encoder = load_pretrained(str(tmp_path)).eval()
    assert_same_states(reference, encoder, make_batch([6, 11], 400, encoder.config.pad_token_id))


def test_bundled_weights_on_real_sentences_equal_transformers():
    directory = find_checkpoint("minilm-l6")
    config = load_config(directory)
    tokenizer = load_tokenizer(directory, config)
    pairs = [(SENTENCES[0], SENTENCES[2]), SENTENCES[1], SENTENCES[2], tuple(SENTENCES[3:1:-1])]
    tokenizer.enable_padding(pad_id=config.pad_token_id)
    encodings = tokenizer.encode_batch(pairs)
    batch = {
        "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
        "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
        "token_type_ids": torch.tensor([encoding.type_ids for encoding in encodings]),
    }
    reference = transformers.BertModel.from_pretrained(directory, attn_implementation="eager")
    assert_same_states(reference.eval(), load_encoder(directory, config).eval(), batch)


def test_dropout_is_applied_where_transformers_applies_it(pair, make_batch, monkeypatch):
    """Replace every dropout in both models by multiplication with 0.5; the states agree."""

    def halve(x, *_, **__):
        return 0.5 * x

    reference, encoder = pair
    monkeypatch.setattr(Dropout, "forward", lambda self, x: halve(x))
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: halve(x))
    monkeypatch.setattr(torch.nn.functional, "dropout", halve)
    batch = make_batch([3, 8, 5], 400, encoder.config.pad_token_id)
    assert_same_states(reference, encoder, batch)


def test_gradients_equal_transformers(pair, make_batch):
    """Compare the gradients of all weights for a loss on states and pooler output."""
    reference, encoder = pair
    batch = make_batch([3, 8, 5], 400, encoder.config.pad_token_id)
    weight = torch.randn(3, 8, 24) * batch["attention_mask"][:, :, None]
    for model in pair:
        model.zero_grad()
        output = model(**batch)
        ((output.last_hidden_state * weight).sum() + output.pooler_output.sum()).backward()
    ours = dict(encoder.named_parameters())
    theirs = {rename(name): parameter for name, parameter in reference.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4)
