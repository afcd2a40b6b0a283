"""config.json and weights of encoders of transformers: wrong ones are refused in one line."""

import json
import re
import shutil
from pathlib import Path

import damage
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoints import TYPES

from models.pretrained import load_config, load_encoder, load_tokenizer
from runtime.errors import InputError
from runtime.files import read_json


def change_config(source, directory, **values):
    """Copy a checkpoint, with some values of its config.json changed or, for ..., removed."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    config = read_json(source / "config.json") | values
    config = {name: value for name, value in config.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_code_and_kernels_that_a_config_names_are_ignored(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("electra")
    harmful = {
        "auto_map": {"AutoModel": "modeling.Harmful", "AutoConfig": "modeling.Harmful"},
        "attn_implementation": "someone/kernel",
        "_attn_implementation": "someone/kernel",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "torch_dtype": "float16",
        "dtype": "float16",
        "is_decoder": True,
        "chunk_size_feed_forward": 1,
    }
    directory = change_config(source, tmp_path, **harmful)
    (directory / "modeling.py").write_text("raise SystemExit('this code was run')")
    config = load_config(directory)
    assert not harmful.keys() & config.to_dict().keys()
    encoder = load_encoder(directory, config)
    for one, other in zip(encoder.parameters(), load_encoder(source, config).parameters()):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    assert encoder.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "model_type, values, message",
    [
        ("electra", {"model_type": "gpt2"}, "model_type is 'gpt2', known: bert, roberta, mod"),
        ("electra", {"model_type": ["a"]}, r"model_type is \['a'\], known: bert"),
        ("electra", {"num_attention_heads": ...}, "num_attention_heads is missing"),
        ("distilbert", {"dim": ...}, "dim is missing"),
        ("distilbert", {"n_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ("electra", {"embedding_size": 10**9}, r"1000000000, expected an integer in \[1, 65536\]"),
        ("electra", {"hidden_act": "exec"}, "hidden_act is 'exec', expected one of gelu"),
        ("electra", {"position_embedding_type": "relative_key"}, "not 'absolute', the only known"),
        ("electra", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0, expected a number"),
        ("electra", {"pad_token_id": 10**6}, "pad_token_id is 1000000, expected an integer in"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is 2, expected 1"),
        ("albert", {"num_hidden_groups": 3}, "num_hidden_groups is 3, which does not fit"),
        ("mpnet", {"relative_attention_num_buckets": 8}, "num_buckets is 8, expected an integer"),
        ("mpnet", {"max_position_embeddings": 2}, "max_position_embeddings is 2, which does not"),
        ("modernbert", {"layer_types": ["full_attention"]}, "refuses it: .*num_hidden_layers"),
        ("modernbert", {"layer_types": "full_attention"}, "expected a list of full_attention, sl"),
        ("modernbert", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling is .*expected null"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_theta",
        ),
        ("modernbert", {"num_attention_heads": 32}, "num_attention_heads is 32, which does not"),
        ("deberta-v2", {"position_buckets": 1}, "position_buckets is 1, which does not fit"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4, which does not fit"),
        ("deberta-v2", {"pos_att_type": "c2p|x"}, r"'c2p\|x', expected a list of c2p, p2c"),
    ],
)
def test_a_wrong_config_is_one_line(
    tiny_checkpoint, tmp_path, one_line, model_type, values, message
):
    directory = change_config(tiny_checkpoint(model_type), tmp_path, **values)
    assert re.search(message, one_line(load_config, directory))


def test_published_forms_of_a_config_are_read(tiny_checkpoint, tmp_path):
    """Some published files write these in another way than transformers does today."""
    source = tiny_checkpoint("deberta-v2")
    one = load_config(change_config(source, tmp_path, pos_att_type="p2c|c2p", pad_token_id=...))
    assert one.build().pos_att_type == ["p2c", "c2p"] and one.pad_token_id == 0
    values = {"layer_types": ..., "rope_parameters": ..., "global_rope_theta": 160000.0}
    source = tiny_checkpoint("modernbert")
    one = load_config(change_config(source, tmp_path, local_rope_theta=10000.0, **values)).build()
    other = load_config(source).build()
    assert one.layer_types == other.layer_types and one.rope_parameters == other.rope_parameters


def test_only_safetensors_and_whole_tokenizers_are_read(tiny_checkpoint, tmp_path, one_line):
    directory = change_config(tiny_checkpoint("deberta-v2"), tmp_path)
    config = load_config(directory)
    (directory / "tokenizer.json").rename(directory / "spm.model")
    message = one_line(load_tokenizer, directory, config)
    assert "tokenizer.json: missing, and deberta-v2 has no other; load the tokenizer" in message
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "only safetensors weights are read" in one_line(load_encoder, directory, config)


def test_weights_of_another_shape_are_refused_before_they_are_allocated(
    tiny_checkpoint, tmp_path, one_line
):
    directory = change_config(tiny_checkpoint("albert"), tmp_path, intermediate_size=2**20)
    message = one_line(load_encoder, directory, load_config(directory))
    assert re.search(
        r"ffn.weight has shape \(64, 32\), config.json asks for \(1048576, 32", message
    )


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_a_damaged_config_is_refused_or_works(tiny_checkpoint, tmp_path, model_type):
    """Whatever is changed: an encoder that computes finite states, or one InputError."""
    source = tiny_checkpoint(model_type)
    tokenizer = load_tokenizer(source, load_config(source))
    ids = torch.tensor([tokenizer.encode("where can i buy a second hand accordion").ids])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    content = (source / "config.json").read_bytes()
    directory = Path(shutil.copytree(source, tmp_path / "damaged"))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        (directory / "config.json").write_bytes(data.draw(damage.json_damage(content)))
        try:
            encoder = load_encoder(directory, load_config(directory)).eval()
            states = encoder(**batch, output_hidden_states=True).hidden_states
        except InputError as error:
            assert "\n" not in str(error)
            return
        assert len(states) == encoder.config.num_hidden_layers + 1
        assert states[-1].isfinite().all()

    check()
