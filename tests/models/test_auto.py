"""models/auto.py: encoders of transformers behind our interface, against transformers itself."""

import itertools

import pytest
import torch
import transformers
from tiny_checkpoints import SOME

from models import pretrained
from models.auto import TransformersEncoder
from models.auto_config import TransformersConfig
from models.multitask import group_name
from models.pretrained import find_checkpoint, load_config, load_encoder, load_tokenizer
from models.tag_embeddings import TagEmbeddings
from runtime.errors import InputError
from runtime.files import read_json

TEXTS = [
    ("a grey heron stood in the shallow water of the old harbour", "where can i buy one"),
    ("fine", "good"),
    ("the ferry left at noon although nobody had expected it to sail so early", "it was late"),
]


@pytest.fixture(scope="module")
def load(tiny_checkpoint):
    """load(model_type) -> our encoder in eval mode, transformers' own model, and a batch."""
    loaded: dict[str, tuple] = {}

    def get(model_type):
        if model_type not in loaded:
            directory = tiny_checkpoint(model_type)
            config = load_config(directory)
            reference = transformers.AutoModel.from_pretrained(directory).eval()
            batch = encode(load_tokenizer(directory, config), config, TEXTS)
            loaded[model_type] = load_encoder(directory, config).eval(), reference, batch
        encoder, reference, batch = loaded[model_type]
        encoder.zero_grad()
        reference.zero_grad()
        return encoder, reference, batch

    return get


def encode(tokenizer, config, texts):
    """Return the padded batch of some texts or pairs."""
    tokenizer.enable_padding(pad_id=config.pad_token_id)
    encodings = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
        "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
        "token_type_ids": torch.tensor([encoding.type_ids for encoding in encodings]),
    }


def loss_of(states, mask):
    """A number that depends on every real token's state, through its sign too."""
    weights = torch.linspace(-1, 1, states.shape[-1])
    return (torch.tanh(states) * weights * mask[..., None]).sum()


@pytest.mark.parametrize("model_type", SOME)
def test_equals_transformers(load, model_type):
    """The states and the gradient of every weight: cutting the model in two changes nothing."""
    encoder, reference, batch = load(model_type)
    assert isinstance(encoder, TransformersEncoder)
    own = encoder(**batch, output_hidden_states=True)
    known = (
        batch
        if encoder.config.architecture.takes_types
        else {name: batch[name] for name in ("input_ids", "attention_mask")}
    )
    if encoder.config.type_vocab_size == 1:
        known.pop("token_type_ids", None)
    theirs = reference(**known, output_hidden_states=True)
    real = batch["attention_mask"] == 1
    assert len(own.hidden_states) == encoder.config.num_hidden_layers + 1
    for states, their_states in zip(own.hidden_states, theirs.hidden_states, strict=True):
        assert (states - their_states)[real].abs().max() <= 1e-5
    assert torch.equal(own.last_hidden_state, own.hidden_states[-1])
    pooled = getattr(theirs, "pooler_output", None)
    pooled = theirs.last_hidden_state[:, 0] if pooled is None else pooled
    assert (own.pooler_output - pooled).abs().max() <= 1e-5
    loss_of(own.last_hidden_state, batch["attention_mask"]).backward()
    loss_of(theirs.last_hidden_state, batch["attention_mask"]).backward()
    their_parameters = dict(reference.named_parameters())
    for name, parameter in encoder.named_parameters():
        their_gradient = their_parameters.pop(name.removeprefix("model.")).grad
        if "pooler." in name:
            assert parameter.grad is None
        else:
            assert (parameter.grad - their_gradient).abs().max() <= 1e-5, name
    assert not their_parameters


@pytest.mark.parametrize("model_type", SOME)
def test_a_row_does_not_depend_on_its_batch(load, model_type):
    encoder, _, batch = load(model_type)
    with torch.no_grad():
        together = encoder(**batch).last_hidden_state
        assert together.isfinite().all()  # also at padding, where nan times 0 would be nan
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = encoder(**{name: x[row : row + 1, :length] for name, x in batch.items()})
            difference = alone.last_hidden_state[0] - together[row, :length]
            assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("model_type", SOME)
def test_pairs_are_joined_as_transformers_joins_them(tiny_checkpoint, model_type):
    directory = tiny_checkpoint(model_type)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer = load_tokenizer(directory, load_config(directory))
    for first, second in TEXTS:
        assert tokenizer.encode(first).ids == theirs(first)["input_ids"]
        assert tokenizer.encode(first, second).ids == theirs(first, second)["input_ids"]


def test_token_types_count_only_where_the_model_has_them(load):
    for model_type in ("electra", "distilbert", "modernbert"):
        encoder, _, batch = load(model_type)
        other = batch | {"token_type_ids": torch.zeros_like(batch["token_type_ids"])}
        with torch.no_grad():
            difference = encoder(**batch).last_hidden_state - encoder(**other).last_hidden_state
        assert bool(difference.abs().max() > 1e-3) == (model_type == "electra")


def test_bundled_weights_equal_our_own_encoder():
    """The same weights through AutoModel: states, and gradients of weights and embeddings."""
    directory = find_checkpoint("minilm-l6")
    own_config = load_config(directory)
    config = TransformersConfig.from_dict(read_json(directory / "config.json"))
    own, wrapped = (load_encoder(directory, c).eval() for c in (own_config, config))
    assert isinstance(wrapped, TransformersEncoder) and not isinstance(own, TransformersEncoder)
    batch = encode(load_tokenizer(directory, own_config), config, TEXTS)
    real = batch["attention_mask"] == 1
    gradients, states = [], []
    for encoder in (own, wrapped):
        embeddings = encoder.embed(**{k: batch[k] for k in batch})
        embeddings.retain_grad()
        output = encoder(**batch, embeddings=embeddings, output_hidden_states=True)
        loss_of(output.last_hidden_state, batch["attention_mask"]).backward()
        states.append([*output.hidden_states, output.pooler_output[:, None]])
        gradients.append(embeddings.grad)
    for one, other in zip(*states, strict=True):
        assert (one - other)[real[:, : one.shape[1]]].abs().max() <= 1e-5
    scale = gradients[0].abs().max().clamp(min=1)
    assert (gradients[0] - gradients[1])[real].abs().max() / scale <= 1e-5
    theirs = {
        pretrained.rename(name.removeprefix("model.")): p.grad
        for name, p in wrapped.named_parameters()
    }
    for name, parameter in own.named_parameters():
        if not name.startswith("pooler."):
            scale = parameter.grad.abs().max().clamp(min=1)  # sums over all tokens are large
            assert (parameter.grad - theirs[name]).abs().max() / scale <= 1e-5, name


@pytest.mark.parametrize("model_type", SOME)
def test_tags_join_the_word_embeddings(load, model_type):
    encoder, _, batch = load(model_type)
    tag_ids = torch.ones(*batch["input_ids"].shape, 2, dtype=torch.long)
    plain = encoder.embed(**batch)
    try:
        tags = encoder.embeddings.tag_embeddings = TagEmbeddings(encoder.embedding_size)
        assert torch.equal(encoder.embed(**batch, tag_ids=tag_ids), plain)  # they start at zero
        torch.nn.init.normal_(tags.pos.weight)
        changed = encoder.embed(**batch, tag_ids=tag_ids)
        # As if the word embeddings themselves had this vector added.
        encoder.embeddings.tag_embeddings = None
        table = encoder.word_embeddings.weight.data
        table += tags.pos.weight[1]
        assert torch.allclose(encoder.embed(**batch), changed, atol=1e-6)
        table -= tags.pos.weight[1]
    finally:
        encoder.embeddings.tag_embeddings = None
    assert not torch.allclose(changed, plain)


def num_kept(call):
    """The number of tensors that autograd keeps for the backward pass of a call, and its result."""
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)
    with hooks:
        result = call()
    return len(kept), result


@pytest.mark.parametrize("model_type", SOME)
def test_gradient_checkpointing_changes_no_gradient(tiny_checkpoint, model_type):
    """With dropout: the second forward pass of a layer has the masks of the first."""
    directory = tiny_checkpoint(model_type)
    config = load_config(directory)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1
    encoder = load_encoder(directory, config)
    batch = encode(load_tokenizer(directory, config), config, TEXTS)
    if model_type in ("mpnet", "albert"):
        with pytest.raises(InputError, match=f"none for {model_type}; drop it"):
            encoder.checkpoint_gradients()
        return
    results, counts = [], []
    for is_enabled in (False, True):
        if is_enabled:
            encoder.checkpoint_gradients()
        torch.manual_seed(0)
        encoder.zero_grad()
        count, output = num_kept(lambda: encoder(**batch, output_hidden_states=True))
        states = output.hidden_states[1] + output.last_hidden_state
        loss_of(states, batch["attention_mask"]).backward()
        results.append([p.grad for p in encoder.parameters() if p.grad is not None])
        counts.append(count)
    assert counts[1] < counts[0] / 2
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-5)
    encoder.requires_grad_(False)
    assert not encoder(**batch).last_hidden_state.requires_grad


@pytest.mark.parametrize("model_type", SOME)
def test_dropout_follows_the_config(tiny_checkpoint, model_type):
    """Both probabilities are our own, whatever the published ones are."""
    directory = tiny_checkpoint(model_type)
    config = load_config(directory)
    batch = encode(load_tokenizer(directory, config), config, TEXTS)

    def is_random(hidden: float, attention: float) -> bool:
        config.hidden_dropout_prob, config.attention_probs_dropout_prob = hidden, attention
        encoder = load_encoder(directory, config).train()
        assert not any(type(module) is torch.nn.Dropout for module in encoder.modules())
        one, other = (encoder(**batch).last_hidden_state for _ in range(2))
        return not torch.equal(one, other)

    assert [is_random(0, 0), is_random(0.5, 0), is_random(0, 0.5)] == [False, True, True]


@pytest.mark.parametrize("model_type", SOME)
def test_loads_an_encoder_with_the_head_of_a_language_model(
    tiny_checkpoint, model_type, tmp_path, capsys
):
    config = transformers.AutoConfig.from_pretrained(tiny_checkpoint(model_type))
    model = transformers.AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path, load_config(tmp_path))
    inside = getattr(model, model.base_model_prefix).state_dict()
    for name, tensor in encoder.state_dict().items():
        if "pooler." not in name:
            assert torch.equal(tensor, inside[name.removeprefix("model.")]), name
    assert "unexpected, not used" in capsys.readouterr().err


@pytest.mark.parametrize("model_type", ["electra", "distilbert"])
def test_a_vocabulary_alone_is_enough_for_the_tokenizer_of_bert(
    tiny_checkpoint, tmp_path, model_type
):
    source = tiny_checkpoint(model_type)
    config = load_config(source)
    tokenizer = load_tokenizer(source, config)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in by_id))
    assert load_tokenizer(tmp_path, config).encode(*TEXTS[0]).ids == tokenizer.encode(*TEXTS[0]).ids


def test_parameters_are_grouped_by_layer(load):
    """As for our own encoder: each group is one slice of the shared parameters."""
    for model_type, own in (("modernbert", ["final_norm"]), ("mpnet", ["relative_attention_bias"])):
        encoder, _, _ = load(model_type)
        names = [
            f"encoder.{name}" for name, _ in encoder.named_parameters() if "pooler" not in name
        ]
        groups = [group for group, _ in itertools.groupby(names, group_name)]
        layers = [f"layer.{number}" for number in range(encoder.config.num_hidden_layers)]
        assert groups == ["embeddings", *layers, *own]
    for wrapper in ("inner.", "experts.1.", "gate.", "inner.experts.1."):
        name = group_name(f"encoder.{wrapper}model.transformer.layer.3.ffn.lin1.bias")
        assert name == wrapper.removeprefix("inner.") + "layer.3"
