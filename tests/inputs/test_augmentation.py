"""Easy Data Augmentation: what always holds for the results of each operation."""

from collections import Counter
from random import Random

import pytest
from small_wordnet import SYNONYMS, WORDS, draws, is_subsequence, lookup, punctuation_places

from inputs import augmentation
from inputs.augmentation import (
    MAX_TRIES,
    OPERATIONS,
    eda,
    num_changes,
    random_deletion,
    random_insertion,
    random_swap,
    synonym_replacement,
)


@pytest.mark.parametrize(
    "num_words, expected", [(1, 1), (5, 1), (14, 1), (16, 2), (24, 2), (30, 3), (104, 10)]
)
def test_a_tenth_of_the_words_is_changed_and_at_least_one(num_words, expected):
    assert num_changes(["word"] * num_words) == expected
    assert num_changes([*["word"] * num_words, *[".", "...", "--"] * 20]) == expected


def test_synonym_replacement_replaces_n_words_by_their_synonyms():
    for words in draws(synonym_replacement):
        changed = [(old, new) for old, new in zip(WORDS, words, strict=True) if old != new]
        assert len(changed) == num_changes(WORDS) == 3
        assert all(new in SYNONYMS[old] for old, new in changed)
    replaced = {new for words in draws(synonym_replacement) for new in words} - set(WORDS)
    assert replaced == {name for names in SYNONYMS.values() for name in names}


def test_synonym_replacement_replaces_what_it_can():
    words = ["one", "song", *["word"] * 30]
    assert draws(synonym_replacement, words, 5) == [["one", "tune", *["word"] * 30]] * 5
    assert draws(synonym_replacement, ["word", "."], 5) == [["word", "."]] * 5


def test_synonym_replacement_keeps_capitals_and_punctuation_around_the_word():
    words = ["“Film,”"]
    results = draws(synonym_replacement, words)
    assert {word for (word,) in results} == {"“Motion picture,”", "“Movie,”"}


def test_random_insertion_adds_n_synonyms():
    for words in draws(random_insertion):
        assert len(words) == len(WORDS) + num_changes(WORDS)
        assert is_subsequence(WORDS, words)
        added = Counter(words) - Counter(WORDS)
        assert all(name in sum(SYNONYMS.values(), []) for name in added)


def test_random_insertion_reaches_both_ends():
    results = draws(random_insertion, ["song"])
    assert {tuple(words) for words in results} == {("tune", "song"), ("song", "tune")}


def test_random_insertion_without_synonyms_adds_nothing():
    assert draws(random_insertion, ["word", "."], 5) == [["word", "."]] * 5


def test_random_swap_keeps_the_words_and_the_places_of_punctuation():
    for words in draws(random_swap):
        assert sorted(words) == sorted(WORDS)
        assert punctuation_places(words) == punctuation_places(WORDS)
        assert sum(old != new for old, new in zip(WORDS, words)) <= 2 * num_changes(WORDS)
    assert (
        max(sum(old != new for old, new in zip(WORDS, words)) for words in draws(random_swap)) > 2
    )


def test_random_swap_of_few_words_exchanges_two():
    for words in draws(random_swap, ["one", "two", "three", "."]):
        assert sum(old != new for old, new in zip(["one", "two", "three"], words)) == 2
    assert draws(random_swap, ["one", "."], 5) == [["one", "."]] * 5


def test_random_deletion_keeps_the_order_and_punctuation():
    num_punctuation = len(punctuation_places(WORDS))
    for words in draws(random_deletion):
        assert is_subsequence(words, WORDS)
        assert len(punctuation_places(words)) == num_punctuation


def test_random_deletion_deletes_a_tenth_of_the_words():
    num_deleted = sum(100 - len(words) for words in draws(random_deletion, ["word"] * 100))
    assert num_deleted / (100 * 100) == pytest.approx(augmentation.ALPHA, rel=0.1)


def test_random_deletion_never_deletes_every_word(monkeypatch):
    monkeypatch.setattr(augmentation, "ALPHA", 1.0)
    results = draws(random_deletion, ["one", "two", "."])
    assert {tuple(words) for words in results} == {("one", "."), ("two", ".")}
    assert draws(random_deletion, ["...", "!"], 5) == [["...", "!"]] * 5


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_follows_its_generator(operation):
    assert draws(operation) == draws(operation)
    assert len({tuple(words) for words in draws(operation)}) > 1


def test_variants_differ_from_the_sentence_and_each_other():
    for seed in range(20):
        variants = eda(" ".join(WORDS), 12, lookup, Random(seed))
        assert len({*variants, " ".join(WORDS)}) == 13


def test_operations_take_turns(monkeypatch):
    marks = [
        lambda words, synonyms, generator, mark=mark: [mark, str(generator.random())]
        for mark in "abcd"
    ]
    monkeypatch.setattr(augmentation, "OPERATIONS", tuple(marks))
    variants = eda("words", 8, lookup, Random(0))
    assert Counter(variant[0] for variant in variants) == dict.fromkeys("abcd", 2)
    assert variants[0][0] == variants[4][0]
    single = Counter(eda("words", 1, lookup, Random(seed))[0][0] for seed in range(400))
    assert sorted(single) == list("abcd") and min(single.values()) > 70


def test_a_variant_that_is_not_new_is_tried_again_a_limited_number_of_times(monkeypatch):
    calls = []

    def fail(words, synonyms, generator):
        calls.append(words)
        return words

    def always_the_same(words, synonyms, generator):
        return ["other", "words"]

    monkeypatch.setattr(augmentation, "OPERATIONS", (fail, always_the_same))
    assert eda("two  words", 3, lookup, Random(0)) == ["other words"]
    assert len(calls) == 3 * MAX_TRIES / 2
