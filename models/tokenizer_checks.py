"""Check a tokenizer before a run starts: what it adds to a text, and how far it may grow one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from models.bert_config import BertConfig
from runtime.errors import InputError

MAX_GROWTH = 64  # bytes after normalizing, per byte of a text; RoBERTa's own is 2
MAX_STEPS = 64  # of the normalizer and the pre-tokenizer together
MAX_SPECIAL_TOKENS = 64  # around a text or a pair
MAX_WORD = 1000  # characters of a word that WordPiece cuts; it tries all its parts; BERT: 100
MAX_AFFIX = 64  # characters of "##" and its like
MAP_GROWTH = 16  # of a precompiled map of characters, whose real growth is not known
NESTED = re.compile(r"[*+}]\)[?]?[*+{]|[*+}]\)[^()]*\)[*+{]")  # a repetition that is repeated
PROBE = "a \u16a0"  # a letter, and a rune, which hardly any vocabulary has


def check_structure(values: dict[str, Any]) -> None:
    """Check the content of a tokenizer.json before the tokenizer sees its first text.

    Raises:
        ValueError: the tokenizer might turn a text into a far longer one, or into random tokens.
    """
    steps = [*steps_of(values.get("normalizer")), *steps_of(values.get("pre_tokenizer"))]
    if len(steps) > MAX_STEPS:
        raise ValueError(f"it has more than {MAX_STEPS} steps before the model")
    growth = 1.0
    for step in steps:
        growth *= growth_of(step)
    if growth > MAX_GROWTH:
        raise ValueError(
            f"its normalizer and pre-tokenizer may make a text {growth:,.0f} times as long, "
            f"expected at most {MAX_GROWTH}"
        )
    model = values.get("model", {})
    if model.get("dropout"):
        raise ValueError(f"its model has dropout {model['dropout']}, expected none")
    if model.get("max_input_chars_per_word", 0) > MAX_WORD:
        raise ValueError(f"its model cuts words of more than {MAX_WORD} characters")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(model.get(name) or "") > MAX_AFFIX:
            raise ValueError(f"its {name} has more than {MAX_AFFIX} characters")
    for step in steps:
        expression = (step.get("pattern") or {}).get("Regex", "")
        if NESTED.search(expression):
            raise ValueError(f"its expression {expression!r:.80} may take forever to match a text")
        if step["type"] == "FixedLength" and not step.get("length"):
            raise ValueError("it cuts a text into parts of length 0")
    for step in steps_of(values.get("post_processor")):
        check_template(step)


def steps_of(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part of a tokenizer.json, those of nested sequences too."""
    waiting = [part]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict) and step.get("type") == "Sequence":
            for name in ("normalizers", "pretokenizers", "processors"):
                waiting += step.get(name, [])
        elif step is not None:
            yield step


def growth_of(step: dict[str, Any]) -> float:
    """Return how many bytes a step may make of one; decomposing Unicode twice adds nothing."""
    kind = step["type"]
    if kind == "Replace":
        content = len(step["content"].encode())
        plain = step["pattern"].get("String")
        # An expression, or no text at all, may match between any two characters.
        return max(1.0, content / len(plain.encode())) if plain else 1.0 + content
    if kind == "Prepend":
        return 1.0 + len(step["prepend"].encode())
    if kind == "Precompiled":
        return MAP_GROWTH
    return 2.0 if kind in ("ByteLevel", "Metaspace") else 1.0


def check_template(step: dict[str, Any]) -> None:
    """Check that a template holds each text once, and that it has the special tokens it names.

    The tokenizers package would panic over one that it does not have.
    """
    if step.get("type") != "TemplateProcessing":
        return
    for name, expected in (("single", ["A"]), ("pair", ["A", "B"])):
        texts = [piece["Sequence"]["id"] for piece in step[name] if "Sequence" in piece]
        if texts != expected:
            raise ValueError(f"its template {name} holds the texts {texts}, not {expected}")
        for piece in step[name]:
            token = piece.get("SpecialToken", {}).get("id")
            if token is not None and token not in step["special_tokens"]:
                raise ValueError(f"its template {name} names {token!r}, not in special_tokens")


def check_tokenizer(path: Path, tokenizer: Tokenizer, config: BertConfig) -> None:
    """Check the ids that a tokenizer gives, and that it separates the sentences of a pair.

    Args:
        path: where the tokenizer comes from, for an error message.
        tokenizer: without padding and truncation.
        config: of the encoder.

    Raises:
        InputError: the encoder has no embedding for an id or a type, or special tokens are missing.
        Exception: the tokenizer cannot encode a text. It raises nothing more specific.
    """
    # The ids of a vocabulary that repeats a token have gaps, so the largest id counts.
    num_tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if num_tokens > config.vocab_size:
        raise InputError(
            f"{path}: {num_tokens} tokens, but config.json has embeddings for "
            f"{config.vocab_size}; tokenizer and weights do not belong together"
        )
    if tokenizer.num_special_tokens_to_add(True) > MAX_SPECIAL_TOKENS:
        raise InputError(f"{path}: adds more than {MAX_SPECIAL_TOKENS} special tokens to a pair")
    single, pair = tokenizer.encode(PROBE), tokenizer.encode(PROBE, PROBE)
    check_ids(path, pair, config)
    check_ids(path, single, config)
    for encoding, expected in ((single, [None, 0, None]), (pair, [None, 0, None, 1, None])):
        if parts_of(encoding) != expected:
            raise InputError(
                f"{path}: special tokens are missing: {PROBE!r} becomes {encoding.tokens}, "
                "expected one before each text, between two, and at the end"
            )
    if single.ids[0] != pair.ids[0]:
        raise InputError(
            f"{path}: a text starts with {single.tokens[0]!r}, a pair with {pair.tokens[0]!r}; "
            "expected the same special token"
        )


def check_ids(path: Path, encoding: Encoding, config: BertConfig) -> None:
    """Check that the encoder has an embedding for every id and type of an encoding."""
    if max(encoding.ids, default=0) >= config.vocab_size:
        raise InputError(
            f"{path}: gives the id {max(encoding.ids)}, but config.json has embeddings for "
            f"{config.vocab_size}; tokenizer and weights do not belong together"
        )
    # An encoder of one type does not read the types.
    num_types = max(2, config.type_vocab_size)
    if max(encoding.type_ids, default=0) >= num_types:
        raise InputError(
            f"{path}: gives the token type {max(encoding.type_ids)}, expected one below {num_types}"
        )


def parts_of(encoding: Encoding) -> list[int | None]:
    """Return the texts that the tokens belong to, each run of equal ones once; None: no text."""
    owners = encoding.sequence_ids
    return [owner for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
