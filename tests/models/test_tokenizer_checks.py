"""A tokenizer that cannot serve is refused in one line before a run starts."""

import json
import os

import pytest
from tokenizers import Tokenizer

from models.bert_config import BertConfig
from models.pretrained import load_config, load_tokenizer
from models.tokenizer_checks import check_structure, growth_of, steps_of


@pytest.fixture
def directory(tmp_path, tiny_model):
    """A directory with a whole tokenizer.json."""
    tokenizer = load_tokenizer(tiny_model, load_config(tiny_model))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def config(tiny_model):
    return load_config(tiny_model)


def change(directory, **parts):
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(name: str, *steps: dict) -> dict:
    return {"type": "Sequence", name: list(steps)}


def template(single: str, pair: str, sep: int = 3) -> dict:
    """A TemplateProcessing from words: [CLS], [SEP], A, B; B:1 is B with type 1."""

    def pieces(words: str) -> list[dict]:
        parts = [word.partition(":") for word in words.split()]
        return [
            {("Sequence" if word in "AB" else "SpecialToken"): {"id": word, "type_id": int(t or 0)}}
            for word, _, t in parts
        ]

    ids = {"[CLS]": 2, "[SEP]": sep}
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": special,
    }


def split(pattern: dict) -> dict:
    """A pre-tokenizer that cuts a text where a pattern matches."""
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


SINGLE, PAIR = "[CLS] A [SEP]", "[CLS] A [SEP] B:1 [SEP]:1"
WORDY = [replace({"String": "a"}, "a" * 9)] * 2
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CASES = {  # what is wrong: (parts of tokenizer.json, message)
    "an id without embedding": (
        {"post_processor": template(SINGLE, PAIR, sep=10**6)},
        "gives the id 1000000, but config.json has embeddings for",
    ),
    "an expression that may match forever": (
        {"pre_tokenizer": split({"Regex": "(x+x+)+y"})},
        "may take forever to match a text",
    ),
    "a repeated group of repetitions": (
        {"normalizer": replace({"Regex": "(a*b{2,})*"}, "a")},
        "may take forever to match a text",
    ),
    "parts of no length": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "it cuts a text into parts of length 0",
    ),
    "a type without embedding": (
        {"post_processor": template(SINGLE, PAIR.replace(":1", ":2"))},
        "gives the token type 2, expected one below 2",
    ),
    "nothing between the sentences": (
        {"post_processor": template(SINGLE, "[CLS] A B [SEP]")},
        "special tokens are missing",
    ),
    "nothing before the sentences": (
        {"post_processor": template("A [SEP]", "A [SEP] B [SEP]")},
        "special tokens are missing",
    ),
    "nothing after a sentence": (
        {"post_processor": template("[CLS] A", PAIR)},
        "special tokens are missing",
    ),
    "no special tokens": ({"post_processor": None}, "special tokens are missing"),
    "another first token for pairs": (
        {"post_processor": template(SINGLE, "[SEP] A [SEP] B [SEP]")},
        "a text starts with '[CLS]', a pair with '[SEP]'",
    ),
    "too many special tokens": (
        {"post_processor": template(SINGLE, PAIR + " [SEP]" * 64)},
        "adds more than 64 special tokens",
    ),
    "a text that is repeated": (
        {"post_processor": template("[CLS] A A [SEP]", PAIR)},
        "its template single holds the texts ['A', 'A'], not ['A']",
    ),
    "an unknown special token": (
        {"post_processor": template(SINGLE, PAIR) | {"special_tokens": {}}},
        "its template single names '[CLS]', not in special_tokens",
    ),
    "sentences in another order": (
        {"post_processor": template(SINGLE, "[CLS] B [SEP] A [SEP]")},
        "its template pair holds the texts ['B', 'A']",
    ),
    "replacements that grow": (
        {"normalizer": sequence("normalizers", *WORDY)},
        "may make a text 81 times as long",
    ),
    "replacements in nested sequences": (
        {"normalizer": sequence("normalizers", *[sequence("normalizers", WORDY[0])] * 2)},
        "may make a text 81 times as long",
    ),
    "an expression that matches everywhere": (
        {"normalizer": replace({"Regex": "x*"}, "a" * 64)},
        "may make a text 65 times as long",
    ),
    "a long start": ({"normalizer": {"type": "Prepend", "prepend": "a" * 64}}, "65 times as long"),
    "bytes of bytes": (
        {"pre_tokenizer": sequence("pretokenizers", *[BYTES] * 7)},
        "may make a text 128 times as long",
    ),
    "many steps": (
        {"normalizer": sequence("normalizers", *[{"type": "NFC"}] * 65)},
        "more than 64 steps",
    ),
    "a step of no kind": ({"normalizer": {"type": "Nothing"}}, "no tokenizer can be read from it"),
    "a model of no kind": ({"model": 5}, "no tokenizer can be read from it"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tokenizer_that_cannot_serve(directory, config, one_line, case):
    parts, message = CASES[case]
    change(directory, **parts)
    found = one_line(load_tokenizer, directory, config)
    assert found.startswith(f"{directory / 'tokenizer.json'}: ") and message in found, found


MODEL_CASES = {
    "dropout": (0.1, "its model has dropout 0.1"),
    "continuing_subword_prefix": ("#" * 65, "more than 64 characters"),
    "max_input_chars_per_word": (1001, "cuts words of more than 1000 characters"),
    "unk_token": ("[NONE]", "no tokenizer can be read from it: WordPiece error: Missing [UNK]"),
}


@pytest.mark.parametrize("name", MODEL_CASES)
def test_a_model_that_cannot_serve(directory, config, one_line, name):
    value, message = MODEL_CASES[name]
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    change(directory, model=model | {name: value})
    assert message in one_line(load_tokenizer, directory, config)


def test_an_added_token_without_embedding(directory, config, one_line):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    assert f"tokens, but config.json has embeddings for {config.vocab_size}" in one_line(
        load_tokenizer, directory, config
    )


def test_padding_and_truncation_do_not_hide_what_is_wrong(directory, config):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding(length=50_000)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(directory / "tokenizer.json"))
    assert len(load_tokenizer(directory, config).encode("the lamp on the desk")) < 100


def test_types_are_free_where_the_encoder_does_not_read_them(directory, sizes):
    config = BertConfig(**sizes | {"vocab_size": 10_000, "type_vocab_size": 1})
    assert max(load_tokenizer(directory, config).encode("a", "b").type_ids) == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_pipe_is_not_waited_for(directory, config, one_line, name):
    (directory / "tokenizer.json").unlink()
    os.mkfifo(directory / name)
    assert f"{name}: is a pipe, expected a regular file" in one_line(
        load_tokenizer, directory, config
    )


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_an_option_that_is_no_truth_value(directory, config, one_line, name):
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({name: "no"}))
    message = one_line(load_tokenizer, directory, config)
    assert f"tokenizer_config.json: {name} is 'no', expected true or false" in message


def test_a_panic_of_the_tokenizers_package_is_one_line(directory, config, one_line, monkeypatch):
    class PanicException(BaseException):
        """As Rust's panics arrive in Python."""

    def fail(*_):
        raise PanicException("index out of bounds")

    monkeypatch.setattr("models.pretrained.check_tokenizer", fail)
    assert "read from it: index out of bounds" in one_line(load_tokenizer, directory, config)


def test_what_published_tokenizers_use_is_accepted():
    """The chains of sentence-piece and byte-level models stay far below the limit."""
    chain = [{"type": "Precompiled"}, replace({"Regex": " {2,}"}, " ")]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    check_structure({"normalizer": sequence("normalizers", *chain), "pre_tokenizer": BYTES})
    check_structure({"normalizer": chain[0], "pre_tokenizer": metaspace})
    assert [growth_of(step) for step in steps_of(BYTES)] == [2.0]
