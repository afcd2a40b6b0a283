"""Texts cut into segments: special tokens, token types and limits."""

import numpy as np
import pytest

from inputs.batches import PAIR_ENCODINGS, TokenizedTask
from inputs.segments import SegmentedTask
from models.pretrained import load_config, load_tokenizer
from options.task_table import built_in_tasks
from runtime.errors import InputError
from tasks import Example

TASKS = built_in_tasks()

TEXTS = [("a b c d e f g", "h i"), ("k", "l m n o p"), ("q r s", "t")]


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model, load_config(tiny_model))


def examples(task):
    pairs = TEXTS if task.is_pair else [texts[:1] for texts in TEXTS]
    return [Example(str(i), texts, 1) for i, texts in enumerate(pairs)]


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_segments_hold_every_token_once_in_order(tokenizer, task, pair_encoding):
    """A segment has three tokens of text between [CLS] and [SEP]."""
    build = dict(tokenizer=tokenizer, pad_token_id=0, pair_encoding=pair_encoding)
    rows = SegmentedTask(task, examples(task), **build, segment_length=5)
    batch = rows.batch(np.arange(3))
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    texts = [t for pair in zip(*(e.texts for e in examples(task))) for t in pair]
    is_cross_pair = task.is_pair and pair_encoding == "cross"
    sentences = [e.texts for e in examples(task)] if is_cross_pair else [(text,) for text in texts]
    assert batch["input_ids"].ndim == 3 and batch["input_ids"].shape[0] == len(sentences)
    for row, group in enumerate(sentences):
        expected = []
        for kind, text in enumerate(group):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            parts = [ids[i : i + 3] for i in range(0, len(ids), 3)]
            expected += [([cls, *part, sep], kind * is_cross_pair) for part in parts]
        mask = batch["attention_mask"][row].bool()
        assert mask.any(1).sum() == len(expected)
        for s, (ids, kind) in enumerate(expected):
            assert batch["input_ids"][row, s][mask[s]].tolist() == ids
            assert batch["token_type_ids"][row, s][mask[s]].tolist() == [kind] * len(ids)
    assert not batch["input_ids"][batch["attention_mask"] == 0].any()
    assert rows.state_counts().sum() == batch["attention_mask"].any(2).sum()


def test_the_limit_counts_as_without_segments(tokenizer):
    """--max_length keeps the same tokens of the text with segments and without."""
    task = TASKS["para"]
    plain = TokenizedTask(task, examples(task), tokenizer, 0, max_length=7)
    cut = SegmentedTask(task, examples(task), tokenizer, 0, max_length=7, segment_length=4)
    assert cut.num_truncated == plain.num_truncated > 0
    specials = [tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")]
    for row in range(3):
        ids = [rows.batch(np.array([row]))["input_ids"].flatten() for rows in (plain, cut)]
        kept = [[i for i in part.tolist() if i and i not in specials] for part in ids]
        assert kept[0] == kept[1]


def test_a_text_without_tokens_is_one_empty_segment(tokenizer):
    rows = SegmentedTask(TASKS["sst"], [Example("1", ("\u200b",), 1)], tokenizer, 0)
    assert rows.batch(np.arange(1))["attention_mask"].sum() == 2


def test_a_segment_length_that_leaves_no_text_is_an_error(tokenizer):
    with pytest.raises(InputError, match="--segment_length is 2, expected at least 3"):
        SegmentedTask(TASKS["sst"], examples(TASKS["sst"]), tokenizer, 0, segment_length=2)
