"""Easy Data Augmentation: each operation's invariants, which rows grow, and where WordNet lies."""

import os
import random
import shutil
import sys
import warnings
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

import augmentation
from augmentation import (
    MAX_TRIES,
    OPERATIONS,
    augment,
    bare,
    eda,
    find_synonyms,
    num_changes,
    open_wordnet,
    random_deletion,
    random_insertion,
    random_swap,
    synonym_replacement,
)
from datasets import Example
from errors import InputError, exit_status
from tasks import TASKS

nltk = pytest.importorskip("nltk")

CLASSES = next(task for task in TASKS.values() if task.class_names)
PAIRS = [task for task in TASKS.values() if task.is_pair]

WORDS = (
    "A cheerful film , yet its brave hero gets lost in a sea of tired jokes ; "
    "only the quiet town and one odd song stay in memory ."
).split()
SYNONYMS = {
    "film": ["motion picture", "movie"],
    "brave": ["bold", "fearless"],
    "tired": ["weary"],
    "song": ["tune"],
    "a": [],
}
SYNSETS = {  # a WordNet of our own: part of speech -> (letter in the files, synsets)
    "noun": (
        "n",
        [
            ["film", "movie", "Motion_Picture", "picture", "flick", "pic", "moving_picture"],
            ["film", "thin_layer", "coating"],
            ["joke", "gag"],
            ["angstrom", "A"],
        ],
    ),
    "verb": ("v", [["sing", "chant", "intone"], ["drag", "haul"]]),
    "adj": ("a", [["tired", "weary"], ["brave", "bold", "fearless"]]),
    "adv": ("r", [["slowly", "tardily"]]),
}


def lookup(word):
    """Stand-in for WordNet."""
    return SYNONYMS.get(bare(word).lower(), [])


def draws(operation, words=WORDS, count=100):
    """Results of an operation over many seeds; the words given must stay as they are."""
    given = list(words)
    results = [operation(given, lookup, Random(seed)) for seed in range(count)]
    assert given == list(words)
    return results


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


def punctuation_places(words):
    return [(place, word) for place, word in enumerate(words) if not bare(word)]


def write_wordnet(directory):
    """Files as Debian's package has them, in WordNet's own format (wndb(5))."""
    directory.mkdir(parents=True)
    header = "  1 A WordNet of a few words.\n"
    for suffix, (letter, synsets) in SYNSETS.items():
        data, offsets = header, {}
        for names in synsets:
            for name in names:
                offsets.setdefault(name.lower(), []).append(len(data))
            lemmas = " ".join(f"{name} 0" for name in names)
            data += f"{len(data):08d} 03 {letter} {len(names):02x} {lemmas} 000 | a meaning  \n"
        index = header
        for name, places in sorted(offsets.items()):
            where = " ".join(f"{place:08d}" for place in places)
            index += f"{name} {letter} {len(places)} 0 {len(places)} 0 {where}  \n"
        (directory / f"data.{suffix}").write_text(data)
        (directory / f"index.{suffix}").write_text(index)
        (directory / f"{suffix}.exc").write_text("sang sing\n" if suffix == "verb" else "")


@pytest.fixture
def no_wordnet(monkeypatch, tmp_path):
    """Let WordNet be searched for below tmp_path only, where none is."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    monkeypatch.setattr(augmentation, "DEBIAN_WORDNET", tmp_path / "debian")
    old_mask = os.umask(0o077)  # NLTK reads no data that others may write
    yield tmp_path
    os.umask(old_mask)


@pytest.fixture
def tiny_wordnet(no_wordnet):
    write_wordnet(no_wordnet / "debian")


def rows(**sizes):
    """Examples of the task with classes, as many of class 0, 1, ... as label0, label1, ... say."""
    labels = [int(name[-1]) for name, size in sizes.items() for _ in range(size)]
    Random(1).shuffle(labels)
    texts = [f"{' '.join(WORDS)} {place}" for place in range(len(labels))]
    return [Example(f"row{i}", (texts[i],), label) for i, label in enumerate(labels)]


def pairs(task):
    low, high = task.label_range
    return [
        Example("p0", ("A dog runs .", "A dog is running ."), task.label_type(high)),
        Example("p1", ("The same words", "The same words"), task.label_type(high)),
        Example("p2", ("Rain falls .", "A car stops ."), task.label_type(low)),
    ]


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


def test_variants_go_round_the_operations(monkeypatch):
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


def test_a_variant_that_is_nothing_new_is_tried_again_but_not_for_ever(monkeypatch):
    calls = []

    def fail(words, synonyms, generator):
        calls.append(words)
        return words

    def always_the_same(words, synonyms, generator):
        return ["other", "words"]

    monkeypatch.setattr(augmentation, "OPERATIONS", (fail, always_the_same))
    assert eda("two  words", 3, lookup, Random(0)) == ["other words"]
    assert len(calls) == 3 * MAX_TRIES / 2


def test_only_classes_below_the_median_grow(tiny_wordnet):
    examples = rows(label0=2, label1=9, label2=5, label3=6, label4=4)
    labels = {example.id: example.label for example in examples}
    added = augment(examples, CLASSES, 3, seed=0)[len(examples) :]
    assert {example.label for example in added} == {0, 4}
    for variant in added:
        assert variant.label == labels[variant.id.partition("-eda")[0]]
    per_original = Counter(variant.id.partition("-eda")[0] for variant in added)
    assert len(per_original) == 6 and set(per_original.values()) == {3}


def test_equal_classes_and_missing_classes_grow_nothing(tiny_wordnet):
    examples = rows(label0=3, label2=3, label4=3)
    assert augment(examples, CLASSES, 3, seed=0) == examples


def test_originals_stay_first_and_unchanged(tiny_wordnet):
    examples = rows(label0=2, label1=5, label2=5)
    copies = [replace(example) for example in examples]
    augmented = augment(examples, CLASSES, 2, seed=0)
    assert examples == copies and augmented[: len(examples)] == copies
    assert len(augmented) == len(examples) + 4


def test_ids_of_variants_are_derived_and_unique(tiny_wordnet):
    examples = [*rows(label0=1, label1=5, label2=5), Example("other", ("Some words",), 1)]
    small = next(example for example in examples if example.label == 0)
    examples.append(Example(f"{small.id}-eda2", ("More words",), 1))
    added = augment(examples, CLASSES, 3, seed=0)[len(examples) :]
    assert [variant.id for variant in added] == [f"{small.id}-eda{n}" for n in (1, 3, 4)]


def test_rows_with_one_id_get_variants_with_ids_of_their_own(tiny_wordnet):
    examples = [replace(example, id="same") for example in rows(label0=2, label1=5, label2=5)]
    added = augment(examples, CLASSES, 1, seed=0)[len(examples) :]
    assert [variant.id for variant in added] == ["same-eda1", "same-eda2"]


def test_variants_depend_on_the_seed_alone(tiny_wordnet):
    examples = rows(label0=4, label1=9, label2=9)
    random.seed(0)
    first = augment(examples, CLASSES, 2, seed=7)
    random.seed(1)
    assert augment(examples, CLASSES, 2, seed=7) == first
    assert augment(examples, CLASSES, 2, seed=8) != first


def test_global_random_state_is_untouched(tiny_wordnet):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    augment(rows(label0=4, label1=9, label2=9), CLASSES, 4, seed=0)
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == torch.get_rng_state().tolist()


@pytest.mark.parametrize("num_variants", [1, 3])
@pytest.mark.parametrize("task", PAIRS, ids=lambda task: task.name)
def test_a_pair_is_swapped_once(task, num_variants, no_wordnet):
    examples = pairs(task)
    low, high = task.label_range
    assert augment(examples, task, num_variants, seed=0) == [
        *examples,
        Example("p0-eda1", ("A dog is running .", "A dog runs ."), high),
        Example("p2-eda1", ("A car stops .", "Rain falls ."), low),
    ]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_zero_variants_leave_the_rows_and_ask_for_no_wordnet(task, no_wordnet):
    examples = pairs(task) if task.is_pair else rows(label0=1, label1=5, label2=5)
    assert augment(examples, task, 0, seed=0) == examples


def test_sentences_without_classes_get_no_variants(no_wordnet):
    examples = rows(label0=1, label1=5, label2=5)
    assert augment(examples, replace(CLASSES, class_names=None), 2, seed=0) == examples


def test_the_number_of_variants_is_printed_in_one_line(tiny_wordnet, capsys):
    augment(rows(label0=2, label1=5, label2=5), CLASSES, 2, seed=0)
    assert capsys.readouterr().out == f"{CLASSES.name}: 4 variants added to 12 training examples\n"


@pytest.mark.parametrize("place", ["nltk_data/corpora/wordnet", "zip", "debian"])
def test_wordnet_is_read_from_each_of_its_places(place, no_wordnet):
    if place == "zip":
        write_wordnet(no_wordnet / "files" / "wordnet")
        archive = no_wordnet / "nltk_data" / "corpora" / "wordnet"
        archive.parent.mkdir(parents=True)
        shutil.make_archive(str(archive), "zip", no_wordnet / "files", "wordnet")
    else:
        write_wordnet(no_wordnet / place)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        wordnet = open_wordnet()
    assert find_synonyms(wordnet, "tired") == ["weary"]


def test_synonyms_are_sorted_lower_case_words_without_the_word_itself(tiny_wordnet):
    wordnet = open_wordnet()
    of_film = "coating flick motion_picture movie moving_picture pic picture thin_layer"
    of_film = [name.replace("_", " ") for name in of_film.split()]
    assert find_synonyms(wordnet, "film") == of_film
    assert find_synonyms(wordnet, "“Film,") == of_film
    assert find_synonyms(wordnet, "jokes") == ["gag", "joke"]
    assert find_synonyms(wordnet, "sang") == ["chant", "intone", "sing"]
    assert find_synonyms(wordnet, "slowly") == ["tardily"]


@pytest.mark.parametrize("word", ["a", "A", "the", "unheard-of", ".", "...", "''", ""])
def test_function_words_punctuation_and_unknown_words_have_no_synonyms(word, tiny_wordnet):
    assert find_synonyms(open_wordnet(), word) == []


def test_missing_wordnet_is_one_line_that_names_both_ways(no_wordnet):
    with pytest.raises(InputError) as error:
        augment(rows(label0=1, label1=5, label2=5), CLASSES, 1, seed=0)
    message = str(error.value)
    assert "\n" not in message and str(no_wordnet / "debian") in message
    assert "python -m nltk.downloader wordnet" in message
    assert "apt install wordnet-base" in message


def test_an_incomplete_wordnet_is_one_line(no_wordnet, monkeypatch, capsys):
    write_wordnet(no_wordnet / "debian")
    (no_wordnet / "debian" / "index.verb").unlink()
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    assert exit_status(open_wordnet) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "index.verb" in line


def test_missing_nltk_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(InputError, match=r"NLTK \(.*\): pip install nltk==[0-9.]+$"):
        open_wordnet()


def test_the_installed_wordnet_varies_sentences(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    try:
        wordnet = open_wordnet()
    except InputError as error:
        pytest.skip(str(error))
    assert {"movie", "motion picture"} <= set(find_synonyms(wordnet, "film"))
    assert "movie" in find_synonyms(wordnet, "Movies")
    assert find_synonyms(wordnet, "us") == []  # the country, but for STOP_WORDS
    examples = rows(label0=2, label1=5, label2=5)
    added = augment(examples, CLASSES, 8, seed=0)[len(examples) :]
    assert len(added) == 16
