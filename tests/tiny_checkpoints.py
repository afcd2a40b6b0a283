"""Tiny random encoders of every type that comes from transformers, written by transformers."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "initializer_range": 0.2,
}
# What makes each type different, as in its published checkpoints.
CONFIGS = {
    # The window is so small that padding far behind a text sees no token of it.
    "modernbert": {"num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 4},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "mpnet": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "distilbert": {},
}
TYPES = tuple(CONFIGS)
# For tests of every type, of which the fast ones take the two that differ most from BERT.
FAST = ("modernbert", "deberta-v2")
SOME = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TYPES]


def write_checkpoint(model_type: str, directory: Path, words: list[str]) -> None:
    """Write config.json, model.safetensors and the tokenizer's files.

    Args:
        model_type: key of `CONFIGS`.
        directory: where they go.
        words: of the vocabulary, beside the letters.
    """
    tokenizer = build_tokenizer(model_type, words)
    tokenizer.save_pretrained(directory)
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    sizes = SIZES | {name: getattr(tokenizer, name) for name in names}
    sizes["vocab_size"] = len(tokenizer)
    config = transformers.AutoConfig.for_model(model_type, **(sizes | CONFIGS[model_type]))
    if model_type == "distilbert":
        config.hidden_dim = SIZES["intermediate_size"]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    # Biases start at zero and ALBERT's positions are small, so that some mistakes would not show.
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(directory)


def build_tokenizer(model_type: str, words: list[str]) -> transformers.PreTrainedTokenizerBase:
    """Build the tokenizer that transformers has for this type, with a vocabulary of ours."""
    letters = [chr(code) for code in range(33, 127)]
    if model_type == "modernbert":
        return byte_pair_tokenizer(words)
    if model_type in ("deberta-v2", "albert"):
        specials = ["[PAD]", "[UNK]"] if model_type == "deberta-v2" else ["<pad>", "<unk>"]
        specials += ["[CLS]", "[SEP]", "[MASK]"]
        pieces = {f"▁{word}": -5.0 for word in words} | {"▁": -8.0} | dict.fromkeys(letters, -9.0)
        scores = [*((name, 0.0) for name in specials), *pieces.items()]
        kind = {"deberta-v2": "DebertaV2Tokenizer", "albert": "AlbertTokenizer"}[model_type]
        return getattr(transformers, kind)(vocab=scores)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if model_type == "mpnet":
        specials = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    kinds = {"mpnet": "MPNetTokenizer", "electra": "ElectraTokenizer"}
    return getattr(transformers, kinds.get(model_type, "DistilBertTokenizer"))(vocab=vocabulary)


def byte_pair_tokenizer(words: list[str]) -> transformers.PreTrainedTokenizerBase:
    """Build ModernBERT's kind of tokenizer: bytes joined to pairs, with BERT's special tokens."""
    specials = {name: f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=list(specials.values())
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": token for name, token in specials.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
