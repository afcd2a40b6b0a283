"""Token ids equal those of transformers' tokenizers; wrong files are refused in one line."""

import json
import shutil

import pytest
import transformers
from tokenizers import ByteLevelBPETokenizer

from inputs.batches import TokenizedTask
from models.bert_config import BertConfig
from models.pretrained import find_checkpoint, load_config, load_tokenizer
from options.task_table import built_in_tasks
from tasks import Example

TASKS = built_in_tasks()

TEXTS = [
    "the lamp on the old desk glows",
    "Crème brûlée, PLEASE!!  (two of them)",
    "naïve 北京 42nd—street… 🙂 unseenword's",
    "is [MASK] one token, or is <mask>? [SEP] </s>",
    " leading and trailing ",
    "a",
]


@pytest.fixture
def bert(tmp_path):
    """A directory with only vocab.txt, like the first BERT checkpoints."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "the lamp on old desk glows is or one token street two of them a ##s Please please"
    vocabulary = [*specials, *words.split(), *"[]()<>!?.,'—…/", "creme", "Cr", "##è", "crème", "北"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """A directory with vocab.json and merges.txt, like the first RoBERTa checkpoints."""
    directory = tmp_path_factory.mktemp("bpe")
    tokenizer = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        TEXTS * 2, vocab_size=400, special_tokens=specials, show_progress=False
    )
    tokenizer.save_model(str(directory))
    return directory


def assert_same_tokens(ours, theirs):
    """Compare ids and type ids of all texts and pairs, and pairs truncated longest first."""
    for first in TEXTS:
        check_tokens(ours.encode(first), theirs(first, return_token_type_ids=True))
        for second in TEXTS:
            check_tokens(
                ours.encode(first, second), theirs(first, second, return_token_type_ids=True)
            )
    for max_length in (6, 9, 10, 17):
        pairs = [(first, second) for first in TEXTS for second in TEXTS]
        examples = [Example(str(i), texts, None) for i, texts in enumerate(pairs)]
        rows = TokenizedTask(TASKS["para"], examples, ours, 0, "cross", max_length)
        for i, texts in enumerate(pairs):
            expected = theirs(*texts, truncation="longest_first", max_length=max_length)
            span = slice(rows.offsets[i], rows.offsets[i + 1])
            assert rows.token_ids[span].tolist() == expected["input_ids"]


def check_tokens(encoding, expected):
    assert encoding.ids == expected["input_ids"]
    assert encoding.type_ids == expected["token_type_ids"]


def test_bundled_tokenizer_equals_transformers():
    directory = find_checkpoint("minilm-l6")
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert_same_tokens(load_tokenizer(directory, load_config(directory)), theirs)


@pytest.mark.parametrize(
    "options",
    [
        None,
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
    ids=str,
)
def test_vocab_txt_equals_transformers(bert, options, sizes):
    if options is not None:
        (bert / "tokenizer_config.json").write_text(json.dumps(options))
    theirs = transformers.BertTokenizer.from_pretrained(bert, **options or {})
    assert_same_tokens(load_tokenizer(bert, BertConfig(**sizes)), theirs)


def test_tokenizer_json_equals_transformers(bert, sizes):
    """Read it without vocab.txt, and turn off the padding and truncation that it asks for."""
    theirs = transformers.BertTokenizer.from_pretrained(bert)
    theirs(TEXTS, padding="max_length", truncation=True, max_length=64)
    theirs.save_pretrained(bert)
    (bert / "vocab.txt").unlink()
    assert '"padding": {' in (bert / "tokenizer.json").read_text()
    ours = load_tokenizer(bert, BertConfig(**sizes))
    assert len(ours.encode("a " * 80)) == 82
    assert_same_tokens(ours, transformers.BertTokenizer.from_pretrained(bert))


@pytest.mark.parametrize("with_tokenizer_json", [False, True])
def test_roberta_equals_transformers(tmp_path, bpe, with_tokenizer_json, sizes):
    config = BertConfig(**sizes, model_type="roberta")
    shutil.copytree(bpe, tmp_path, dirs_exist_ok=True)
    theirs = transformers.RobertaTokenizer.from_pretrained(bpe)
    if with_tokenizer_json:
        theirs.save_pretrained(tmp_path)
        (tmp_path / "merges.txt").unlink(missing_ok=True)
    ours = load_tokenizer(tmp_path, config)
    assert_same_tokens(ours, theirs)
    tokens = ours.encode("a", "the").tokens
    assert tokens == ["<s>", "a", "</s>", "</s>", "the", "</s>"]


@pytest.mark.parametrize("words", [map(str, range(400)), ["twice"] * 400], ids=["words", "gaps"])
def test_more_tokens_than_embeddings(bert, sizes, one_line, words):
    """The largest id counts, because a word that vocab.txt repeats leaves a gap in the ids."""
    (bert / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", *words]))
    message = one_line(load_tokenizer, bert, BertConfig(**sizes))
    assert f"{bert / 'vocab.txt'}: 403 tokens, but config.json has embeddings for 400" in message


@pytest.mark.parametrize(
    "model_type, present, named",
    [
        ("bert", {}, "vocab.txt"),
        ("bert", {"vocab.txt": "a\n[CLS]\n"}, "[SEP]"),
        ("bert", {"vocab.txt": "a\n[SEP]\n"}, "[CLS]"),
        ("bert", {"tokenizer.json": "{}"}, "tokenizer.json"),
        ("roberta", {"vocab.txt": "a"}, "vocab.json"),
        ("roberta", {"vocab.json": "{}"}, "merges.txt"),
    ],
    ids=str,
)
def test_no_tokenizer(tmp_path, model_type, present, named, sizes, one_line):
    for name, content in present.items():
        (tmp_path / name).write_text(content)
    config = BertConfig(**sizes, model_type=model_type)
    message = one_line(load_tokenizer, tmp_path, config)
    assert message.startswith(str(tmp_path)) and named in message


def test_damaged_tokenizer_options(bert, one_line, sizes):
    (bert / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json: cannot be read" in one_line(
        load_tokenizer, bert, BertConfig(**sizes)
    )
