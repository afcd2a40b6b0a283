"""Token ids, padded batches, and batches of rows of similar length."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import read_examples
from inputs.batches import MEGA_BATCHES, PAIR_ENCODINGS, BatchSampler, TokenizedTask
from models.pretrained import load_config, load_tokenizer
from options.task_table import built_in_tasks
from runtime.errors import InputError
from tasks import Example

TASKS = built_in_tasks()

SAMPLE = Path(__file__).resolve().parent.parent.parent / "data" / "sample"
PAD = 3  # not 0: token types are padded with 0
PAIRS = [
    Example("x", ("one two three", "four five six seven eight nine"), 3.75),
    Example("y", ("a", "b c"), 0.5),
    Example("z", ("red blue green", "grey"), 5.0),
]


@pytest.fixture
def new_tokenizer(tiny_model):
    """Return a function that makes a new tokenizer."""
    return lambda: load_tokenizer(tiny_model, load_config(tiny_model))


@pytest.fixture
def tokenize(new_tokenizer):
    def build(name, examples, **options):
        return TokenizedTask(TASKS[name], examples, new_tokenizer(), PAD, **options)

    return build


@pytest.fixture
def sample(tokenize):
    """Return a function that reads and tokenizes a training file of the sample."""

    def read(name, **options):
        path = SAMPLE / f"{TASKS[name].stem}-train.csv"
        return tokenize(name, read_examples(path, TASKS[name]), **options)

    return read


def unpadded(batch, row):
    """Return the token ids and types of one row; assert that the rest of it is padding."""
    length = int(batch["attention_mask"][row].sum())
    mask = torch.arange(batch["input_ids"].shape[1]) < length
    assert torch.equal(batch["attention_mask"][row], mask.long())
    assert (batch["input_ids"][row, length:] == PAD).all()
    assert (batch["token_type_ids"][row, length:] == 0).all()
    columns = batch["input_ids"], batch["token_type_ids"]
    return tuple(column[row, :length].tolist() for column in columns)


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("name", TASKS)
def test_ids_equal_direct_encoding(sample, new_tokenizer, name, pair_encoding, monkeypatch):
    monkeypatch.setattr("inputs.batches.TOKENIZER_CHUNK", 7)
    task, tokenizer = TASKS[name], new_tokenizer()
    examples = read_examples(SAMPLE / f"{task.stem}-train.csv", task)
    rows = sample(name, pair_encoding=pair_encoding)
    assert rows.ids == [example.id for example in examples] and rows.num_truncated == 0
    is_bi = task.is_pair and pair_encoding == "bi"
    chosen = np.array([5, 0, len(rows) - 1, 17, 8])
    batch = rows.batch(chosen)
    assert all(batch[key].dtype == torch.int64 for key in batch if key != "labels")
    for place, row in enumerate(chosen):
        texts = examples[row].texts
        # Under bi: all first sentences, then all second ones.
        sequences = [(text,) for text in texts] if is_bi else [texts]
        assert rows.lengths[row].tolist() == [len(tokenizer.encode(*s).ids) for s in sequences]
        for side, sequence in enumerate(sequences):
            encoding = tokenizer.encode(*sequence)
            expected = (encoding.ids, encoding.type_ids)
            assert unpadded(batch, place + side * len(chosen)) == expected
    assert batch["input_ids"].shape == (len(chosen) * (1 + is_bi), rows.lengths[chosen].max())


@pytest.mark.parametrize("name", TASKS)
def test_labels_keep_order_and_type(sample, name):
    rows, chosen = sample(name), np.array([3, 1, 4])
    task = TASKS[name]
    examples = read_examples(SAMPLE / f"{task.stem}-train.csv", task)
    labels = rows.batch(chosen)["labels"]
    assert labels.shape == (3,)
    assert labels.dtype == (torch.int64 if task.label_type is int else torch.float32)
    assert labels.tolist() == pytest.approx([examples[row].label for row in chosen])


def test_rows_without_labels_give_batches_without(tokenize):
    rows = tokenize("sst", [Example("x", ("one",), None), Example("y", ("two",), None)])
    assert rows.labels is None and "labels" not in rows.batch(np.array([1]))


def test_second_sentence_has_type_one_under_cross(tokenize):
    types = tokenize("sts", PAIRS).batch(np.array([1]))["token_type_ids"]
    assert types.tolist() == [[0, 0, 0, 1, 1, 1]]  # [CLS] a [SEP], b c [SEP]


def test_longest_sentence_is_cut_first(tokenize, new_tokenizer):
    rows = tokenize("sts", PAIRS, max_length=8)
    tokens = [new_tokenizer().id_to_token(i) for i in unpadded(rows.batch(np.array([0])), 0)[0]]
    first, second = tokens.index("[SEP]") - 1, 8 - 2 - tokens.index("[SEP]")
    assert len(tokens) == 8 and {first, second} == {2, 3}  # of 3 and 6 words or more
    assert rows.lengths.max() == 8 and tokenize("sts", PAIRS).lengths.max() > 8


def test_truncated_rows_are_counted_once(tokenize, new_tokenizer):
    lengths = [[len(new_tokenizer().encode(t).ids) for t in pair.texts] for pair in PAIRS]
    longest = np.array(lengths).max(axis=1)
    for max_length in (3, 4, 6, longest.max()):
        rows = tokenize("sts", PAIRS, pair_encoding="bi", max_length=int(max_length))
        assert rows.num_truncated == (longest > max_length).sum()
        assert rows.lengths.max() <= max_length
    assert tokenize("sts", PAIRS, pair_encoding="bi", max_length=3).num_truncated == 3


@pytest.mark.parametrize("name", TASKS)
def test_max_length_that_leaves_no_text_is_refused(sample, name):
    shortest = 5 if TASKS[name].is_pair else 3
    assert sample(name, max_length=shortest).lengths.max() == shortest
    with pytest.raises(InputError, match=f"is {shortest - 1}, but {name} needs at least"):
        sample(name, max_length=shortest - 1)
    assert sample(name, max_length=3, pair_encoding="bi").lengths.max() == 3


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
def test_chunks_cover_every_row_once_by_length(sample, pair_encoding):
    rows = sample("sts", pair_encoding=pair_encoding)
    chunks = rows.chunks(64)
    seen = np.concatenate(chunks)
    assert sorted(seen) == list(range(len(rows)))
    assert [len(chunk) for chunk in chunks[:-1]] == [64] * (len(chunks) - 1)
    assert (np.diff(rows.lengths[seen].max(axis=1)) >= 0).all()


def test_chunks_of_some_rows(sample):
    chosen = np.array([7, 3, 100, 50, 4])
    chunks = sample("sst").chunks(2, chosen)
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert sorted(np.concatenate(chunks)) == sorted(chosen)


def test_sample_of_rows_is_seeded_and_fixed(sample):
    rows = sample("sst")
    before = torch.get_rng_state()
    chosen = rows.sample_rows(50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(chosen.tolist())) == 50 and chosen.max() < len(rows)
    assert np.array_equal(rows.sample_rows(50, seed=1), chosen)
    assert not np.array_equal(rows.sample_rows(50, seed=2), chosen)
    assert chosen.max() > 100  # not the first ones
    for enough in (None, len(rows), len(rows) + 1):
        assert np.array_equal(rows.sample_rows(enough, seed=1), np.arange(len(rows)))


def walk(sampler):
    """Return the row numbers of all batches of one walk."""
    num_batches = -(-len(sampler.lengths) // sampler.batch_size)
    return [sampler.next_rows().tolist() for _ in range(num_batches)]


@pytest.mark.parametrize("num_rows, batch_size", [(1, 4), (7, 7), (23, 4), (700, 4), (64, 100)])
def test_every_walk_is_a_permutation(num_rows, batch_size):
    lengths = np.random.default_rng(0).integers(3, 40, num_rows)
    sampler = BatchSampler(lengths, batch_size, seed=0)
    walks = [walk(sampler) for _ in range(3)]
    for batches in walks:
        assert sorted(sum(batches, [])) == list(range(num_rows))
        assert max(map(len, batches)) <= batch_size
        assert sampler.mean_batch_size == pytest.approx(np.mean([len(b) for b in batches]))
    if num_rows > batch_size:
        assert walks[0] != walks[1] != walks[2]


def test_sampler_is_seeded_and_uses_its_own_generator_alone():
    lengths = np.random.default_rng(0).integers(3, 40, 100)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    walks = [walk(BatchSampler(lengths, 8, seed)) for seed in (1, 1, 2)]
    assert walks[0] == walks[1] != walks[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def padding(lengths, batches):
    """Return the number of tokens with padding, divided by that without."""
    return sum(len(b) * lengths[b].max() for b in batches) / lengths.sum()


@pytest.mark.parametrize("name", TASKS)
def test_batches_are_grouped_by_length(sample, name):
    lengths = sample(name).lengths.max(axis=1)
    order = np.random.default_rng(0).permutation(len(lengths))
    shuffled = [order[i : i + 32].tolist() for i in range(0, len(order), 32)]
    grouped = padding(lengths, walk(BatchSampler(lengths, 32, seed=0)))
    assert grouped <= 1.1 < padding(lengths, shuffled)


def test_batches_stay_random():
    """Batches come in random order, and their rows differ in length as mega-batches allow."""
    lengths = np.arange(10, 10_010)
    sampler = BatchSampler(lengths, 4, seed=0)
    batches = walk(sampler)
    means = [np.mean(batch) for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.1
    spans = [max(batch) - min(batch) for batch in batches]
    # Sorted over all rows, a batch would span 3 rows; within mega-batches, it spans about 3/160 of
    # all rows.
    assert np.median(spans) == pytest.approx(3 / (4 * MEGA_BATCHES) * len(lengths), rel=0.5)
    assert padding(lengths, batches) < 1.05


@pytest.mark.parametrize("num_batches", [0, 1, 5, 6, 7, 12, 15])  # a walk has 6
def test_sampler_resumes_exactly(num_batches, tmp_path):
    lengths = np.random.default_rng(0).integers(3, 40, 23)
    sampler = BatchSampler(lengths, 4, seed=0)
    for _ in range(num_batches):
        sampler.next_rows()
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = [sampler.next_rows().tolist() for _ in range(15)]
    resumed = BatchSampler(lengths, 4, seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [resumed.next_rows().tolist() for _ in range(15)] == expected
