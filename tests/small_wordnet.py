"""A WordNet of a few words, and rows to augment with it."""

import os
from random import Random

import nltk
import pytest

from inputs import augmentation
from inputs.augmentation import bare
from options.task_table import built_in_tasks
from tasks import Example

TASKS = built_in_tasks()

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
SYNSETS = {  # a small WordNet: part of speech -> (its letter in the files, synsets)
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
    """Return the synonyms of a word in SYNONYMS."""
    return SYNONYMS.get(bare(word).lower(), [])


def draws(operation, words=WORDS, count=100):
    """Return the results of an operation for many seeds; assert that its input stays the same."""
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
    """Write the files that Debian's package has, in WordNet's own format (wndb(5))."""
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
    """Let WordNet be searched only in directories below tmp_path, where there is none."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    monkeypatch.setattr(augmentation, "DEBIAN_WORDNET", tmp_path / "debian")
    old_mask = os.umask(0o077)  # NLTK refuses data that other users may write
    yield tmp_path
    os.umask(old_mask)


@pytest.fixture
def tiny_wordnet(no_wordnet):
    write_wordnet(no_wordnet / "debian")


def rows(**sizes):
    """Return label0 examples of class 0, label1 of class 1 and so on, in random order."""
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
