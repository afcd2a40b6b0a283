"""Easy Data Augmentation: which rows get variants, and where WordNet is found."""

import random
import shutil
import sys
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from every_kind import DEGREES, MULTILABEL
from small_wordnet import CLASSES, PAIRS, nltk, pairs, rows, write_wordnet

from inputs.augmentation import augment, find_synonyms, open_wordnet
from options.task_table import built_in_tasks
from runtime.errors import InputError, exit_status
from tasks import Example

TASKS = built_in_tasks()


def test_only_classes_below_the_median_get_variants(tiny_wordnet):
    examples = rows(label0=2, label1=9, label2=5, label3=6, label4=4)
    labels = {example.id: example.label for example in examples}
    added = augment(examples, CLASSES, 3, seed=0)[len(examples) :]
    assert {example.label for example in added} == {0, 4}
    for variant in added:
        assert variant.label == labels[variant.id.partition("-eda")[0]]
    per_original = Counter(variant.id.partition("-eda")[0] for variant in added)
    assert len(per_original) == 6 and set(per_original.values()) == {3}


def test_equal_classes_and_missing_classes_get_no_variants(tiny_wordnet):
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
    for task in (DEGREES, MULTILABEL):
        assert augment(examples, task, 2, seed=0) == examples


def test_pairs_whose_order_matters_are_not_swapped(no_wordnet):
    task = replace(PAIRS[0], is_ordered=True)
    assert augment(pairs(task), task, 1, seed=0) == pairs(task)


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
    with pytest.raises(
        InputError, match=r"--augment: .*nltk.* -m pip install -r requirements-extras.txt$"
    ):
        open_wordnet()


def test_the_installed_wordnet_varies_sentences(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    try:
        wordnet = open_wordnet()
    except InputError as error:
        pytest.skip(str(error))
    assert {"movie", "motion picture"} <= set(find_synonyms(wordnet, "film"))
    assert "movie" in find_synonyms(wordnet, "Movies")
    assert find_synonyms(wordnet, "us") == []  # without STOP_WORDS: those of the country
    examples = rows(label0=2, label1=5, label2=5)
    added = augment(examples, CLASSES, 8, seed=0)[len(examples) :]
    assert len(added) == 16
