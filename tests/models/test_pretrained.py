"""Weights and config.json of published checkpoints; wrong ones are refused in one line."""

import errno
import json
import os

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import pretrained, weight_file
from models.bert import BertModel
from models.bert_config import BertConfig
from models.pretrained import load_config, load_encoder, load_pretrained
from models.weight_file import check_size, encoder_shapes


def save(model_name, directory, sizes):
    """Write a model of transformers' class `model_name` with random weights."""
    model_class = getattr(transformers, model_name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**sizes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(directory)
    return model


def change_weights(directory, change):
    """Replace the weights in the file by `change(weights)`."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path)


def change_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(directory):
    return load_encoder(directory, load_config(directory))


@pytest.fixture
def bert(tmp_path, sizes):
    """A directory with a BERT that transformers has written."""
    save("BertModel", tmp_path, sizes)
    return tmp_path


@pytest.mark.parametrize(
    "model_name, prefix, has_pooler",
    [
        ("BertModel", "", True),
        ("BertForMaskedLM", "bert.", False),
        ("BertForPreTraining", "bert.", True),
        ("RobertaForMaskedLM", "roberta.", False),
    ],
)
def test_loads_what_transformers_writes(tmp_path, capsys, model_name, prefix, has_pooler, sizes):
    reference = save(model_name, tmp_path, sizes)
    encoder = load(tmp_path)
    theirs = {
        pretrained.rename(name): tensor
        for name, tensor in reference.state_dict().items()
        if name.startswith(prefix)
    }
    for name, tensor in encoder.state_dict().items():
        if has_pooler or not name.startswith("pooler."):
            assert torch.equal(tensor, theirs[name]), name
    printed = capsys.readouterr().err
    assert ("missing, initialised: pooler.weight, pooler.bias" in printed) != has_pooler
    assert ("unexpected, not used: " in printed) == (model_name != "BertModel")


def test_position_buffers_of_old_checkpoints_are_ignored(bert, capsys):
    buffers = {"embeddings.position_ids": torch.arange(32)[None]}
    change_weights(bert, lambda weights: weights | buffers)
    load(bert)
    assert capsys.readouterr().err == ""


def test_gamma_and_beta_are_layer_norms_weight_and_bias(bert):
    expected = load(bert).state_dict()

    def change(weights):
        return {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in weights.items()
        }

    change_weights(bert, change)
    actual = load(bert).state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_become_float32(bert, dtype):
    change_weights(bert, lambda weights: {name: w.to(dtype) for name, w in weights.items()})
    encoder = load(bert)
    published = load_file(bert / "model.safetensors")
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
    expected = published["embeddings.word_embeddings.weight"].float()
    assert torch.equal(encoder.embeddings.word_embeddings.weight, expected)


def test_missing_weights(bert, one_line):
    change_weights(bert, lambda weights: {n: w for n, w in weights.items() if "query" not in n})
    message = one_line(load, bert)
    assert f"{bert / 'model.safetensors'}: 6 weights are missing" in message
    assert "layer.0.attention.query" in message


def test_wrong_shape_names_both(bert, one_line):
    change_config(bert, hidden_size=28)
    message = one_line(load, bert)
    assert "model.safetensors: embeddings.word_embeddings.weight has shape (400, 24)" in message
    assert message.endswith("config.json asks for (400, 28)")


def test_a_truncated_weights_file(bert, one_line):
    path = bert / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: truncated or not a safetensors file" in one_line(load, bert)


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_non_finite_weights(bert, one_line, number):
    change_weights(bert, lambda weights: weights | {"pooler.dense.bias": torch.full([24], number)})
    assert "holds non-finite weights, the first in pooler.bias" in one_line(load, bert)


def test_weights_of_integers(bert, one_line):
    change_weights(bert, lambda weights: weights | {"pooler.dense.bias": torch.ones(24).long()})
    assert "pooler.bias has dtype I64, expected one of F64, F32" in one_line(load, bert)


def test_a_large_config_is_refused_before_the_encoder_is_allocated(bert, one_line, monkeypatch):
    monkeypatch.setattr(pretrained, "BertModel", lambda config: pytest.fail("allocated"))
    change_config(bert, hidden_size=65_536, intermediate_size=1_048_576)  # 2 TB
    assert "has shape (400, 24), config.json asks for (400, 65536)" in one_line(load, bert)


def test_shapes_take_no_memory_and_no_random_numbers(sizes):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    shapes = encoder_shapes(BertConfig(**sizes | {"hidden_size": 65_536}))
    assert torch.equal(torch.get_rng_state(), state)
    own = BertModel(BertConfig(**sizes)).state_dict()
    assert shapes.keys() == own.keys() and shapes["pooler.bias"] == (65_536,)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_the_encoder_of_a_run_is_no_larger_than_its_checkpoint(bert, one_line, name):
    (bert / "checkpoints").mkdir()
    (bert / "checkpoints" / name).write_bytes(bytes(200_000))
    files = bert / "config.json", [bert / "checkpoints" / name, bert / "missing.pt"]
    check_size(load_config(bert), *files)
    change_config(bert, vocab_size=10_000_000)
    message = one_line(lambda path: check_size(load_config(path), *files), bert)
    assert "describes an encoder of 915.6 MiB" in message and "checkpoints have 0.2" in message


@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: Permission denied"),
        (MemoryError(), "there is not enough memory to read it"),
    ],
    ids=repr,
)
def test_only_a_damaged_weights_file_is_called_truncated(
    bert, one_line, monkeypatch, error, message
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(weight_file, "safe_open", fail)
    assert one_line(load, bert) == f"{bert / 'model.safetensors'}: {message}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_not_waited_for(bert, one_line, name):
    (bert / name).unlink()
    os.mkfifo(bert / name)
    assert "is a pipe, expected a regular file" in one_line(load, bert)


class Bomb:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_a_pickle_is_never_read(bert, one_line):
    (bert / "model.safetensors").unlink()
    torch.save(Bomb(), bert / "pytorch_model.bin")
    message = one_line(load, bert)
    assert f"{bert / 'model.safetensors'}: no such file" in message and "pickle" in message


def test_reads_a_published_config(bert, sizes):
    change_config(bert, layer_norm_eps=1e-5, hidden_dropout_prob=0, pad_token_id=3)
    config = load_config(bert)
    assert config == BertConfig(**sizes, layer_norm_eps=1e-5, hidden_dropout_prob=0, pad_token_id=3)
    assert BertConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        (b"\xff\xfe", "byte 1 is not UTF-8 text"),
        ("[]", "holds a list, expected a JSON object"),
        ("{}", "vocab_size is missing"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', known: bert, roberta"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
        ({"vocab_size": 10**7 + 1}, "vocab_size is 10000001, expected an integer in [1, 10000000]"),
        ({"hidden_size": 10**6}, "hidden_size is 1000000, expected an integer in [1, 65536]"),
        ({"num_hidden_layers": 1001}, "num_hidden_layers is 1001, expected"),
        ({"intermediate_size": 2**21}, "intermediate_size is 2097152, expected"),
        ({"max_position_embeddings": 2**21}, "max_position_embeddings is 2097152, expected"),
        ({"type_vocab_size": 257}, "type_vocab_size is 257, expected an integer in [1, 256]"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1, expected a number in [0, 1)"),
        ({"pad_token_id": 400}, "pad_token_id is 400, expected an integer in [0, 399]"),
        (
            {"model_type": "roberta", "max_position_embeddings": 2, "pad_token_id": 1},
            "max_position_embeddings is 2, expected more than pad_token_id + 1, 2",
        ),
        ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu'], known: gelu, gelu_new"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
    ids=str,
)
def test_a_wrong_config_is_refused(bert, content, message, one_line):
    path = bert / "config.json"
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        change_config(bert, **content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    actual = one_line(load_config, bert)
    assert actual.startswith(f"{path}: ") and message in actual


@pytest.mark.parametrize("field", ["num_attention_heads", "num_hidden_layers", "hidden_size"])
def test_a_missing_shape_is_not_guessed(bert, field, one_line):
    """A default of 12 heads would load without an error and compute something else."""
    values = json.loads((bert / "config.json").read_text())
    del values[field]
    (bert / "config.json").write_text(json.dumps(values))
    assert f"{field} is missing" in one_line(load_config, bert)


def test_from_pretrained_reads_a_directory(bert):
    weights = load_pretrained(str(bert)).state_dict()
    assert torch.equal(
        weights["pooler.bias"], load_file(bert / "model.safetensors")["pooler.dense.bias"]
    )
