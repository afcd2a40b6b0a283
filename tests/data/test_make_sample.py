"""Check the committed sample files.

The files must have the format of the real ones, the script must reproduce them, and no simple cue
may solve a task.
"""

import csv
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from data import make_sample as sample

ROOT = Path(__file__).parents[2]
SAMPLE_DIR = ROOT / "data" / "sample"
SPLITS = ("train", "dev", "test-student")
NUM_TRAIN = {"sst-sentiment": 1800, "quora-paraphrase": 600, "sts-similarity": 600}
# stem: header, pattern of a label, line end
FORMATS = {
    "sst-sentiment": (["id", "sentence", "sentiment"], r"[0-4]", b"\r\n"),
    "quora-paraphrase": (["id", "sentence1", "sentence2", "is_duplicate"], r"[01]\.0", b"\n"),
    "sts-similarity": (["id", "sentence1", "sentence2", "similarity"], r"[0-4]\.\d|5\.0", b"\r\n"),
}
CASES = [(stem, split) for stem in FORMATS for split in SPLITS]


def num_rows(stem: str, split: str) -> int:
    return NUM_TRAIN[stem] if split == "train" else 200


def read(stem: str, split: str, folder: Path = SAMPLE_DIR) -> list[list[str]]:
    with open(folder / f"{stem}-{split}.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", strict=True))


def read_texts(stem: str, split: str) -> list[list[str]]:
    """Return each row's one or two sentences."""
    num_texts = len(FORMATS[stem][0]) - 2
    return [row[1 : 1 + num_texts] for row in read(stem, split)[1:]]


def read_labels(stem: str, split: str) -> np.ndarray:
    return np.array([float(row[-1]) for row in read(stem, split)[1:]])


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("stem, split", CASES)
def test_rows_header_and_labels(stem, split):
    columns, label_pattern, _ = FORMATS[stem]
    header, *rows = read(stem, split)
    has_label = split != "test-student"
    assert header == (columns if has_label else columns[:-1])
    assert len(rows) == num_rows(stem, split)
    for row in rows:
        assert len(row) == len(header) and all(cell == cell.strip() != "" for cell in row)
        assert not has_label or re.fullmatch(label_pattern, row[-1])
        assert not re.search(r"[{}]|\s\s|\s[,.?]", " ".join(row)), "a gap in a template"
        assert all(text[0].isupper() for text in row[1 : len(columns) - 1])


@pytest.mark.parametrize("stem, split", CASES)
def test_line_ends(stem, split):
    content = (SAMPLE_DIR / f"{stem}-{split}.csv").read_bytes()
    line_end = FORMATS[stem][2]
    assert content.endswith(line_end) and content.count(b"\n") == num_rows(stem, split) + 1
    assert content.count(line_end) == content.count(b"\n")
    assert content.count(b"\r") == (content.count(b"\n") if line_end == b"\r\n" else 0)


def test_only_pair_files_have_quoted_cells_and_non_ascii_letters():
    for stem, split in CASES:
        content = (SAMPLE_DIR / f"{stem}-{split}.csv").read_text(encoding="utf-8")
        num_quoted_cells = len(re.findall(r'(?:^|\t)"[^\t]*""\S[^\t]*"(?=\t|$)', content, re.M))
        num_cells_with_quotes = sum('"' in text for row in read_texts(stem, split) for text in row)
        assert num_quoted_cells == num_cells_with_quotes
        assert (num_quoted_cells >= 5) == ("é" in content or "ü" in content) == ("sst" not in stem)


def test_sample_is_small():
    assert sum(NUM_TRAIN.values()) <= 3000
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir()) < 1_000_000


def test_ids_are_opaque_and_unique():
    ids = [row[0] for stem, split in CASES for row in read(stem, split)[1:]]
    assert all(re.fullmatch("[0-9a-f]{25}", id_) for id_ in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("stem", FORMATS)
def test_no_example_repeats_within_or_across_splits(stem):
    examples = [frozenset(texts) for split in SPLITS for texts in read_texts(stem, split)]
    assert len(set(examples)) == len(examples)
    assert all(len(example) == len(FORMATS[stem][0]) - 2 for example in examples)


def test_distinct_examples_drops_repetitions_and_pairs_of_equal_sentences():
    pairs = [("a", "b"), ("a", "a"), ("a", "b"), ("b", "a"), ("c", "d")]
    drawn = iter([(*texts, "0.0") for texts in pairs])
    examples = sample.distinct_examples(random.Random(0), lambda rng: next(drawn))
    assert [next(examples), next(examples)] == [("a", "b", "0.0"), ("c", "d", "0.0")]


def run_script(*options: str) -> str:
    """Return what the script prints when it runs without a UTF-8 locale and with a hash seed of 7.

    Neither may change the files.
    """
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env["PYTHONHASHSEED"] = "7"
    command = [sys.executable, str(ROOT / "data" / "make_sample.py"), *options]
    return subprocess.run(command, check=True, env=env, capture_output=True, text=True).stdout


def test_command_remakes_the_committed_files_byte_for_byte(tmp_path):
    out_dir = tmp_path / "new" / "folder"
    assert "9 files from seed 2024" in run_script("--out", str(out_dir))
    names = [f"{stem}-{split}.csv" for stem, split in CASES]
    assert sorted(path.name for path in out_dir.iterdir()) == sorted(names)
    for path in out_dir.iterdir():
        assert path.read_bytes() == (SAMPLE_DIR / path.name).read_bytes(), path.name


def test_another_seed_gives_other_sentences_and_ids(tmp_path):
    run_script("--out", str(tmp_path / "command"), "--seed", "7")
    sample.make_sample(tmp_path / "function", 7)
    for stem, split in CASES:
        rows = read(stem, split, tmp_path / "function")
        assert rows == read(stem, split, tmp_path / "command")
        committed = read(stem, split)
        assert rows[0] == committed[0] and len(rows) == len(committed)
        assert not {row[0] for row in rows[1:]} & {row[0] for row in committed[1:]}
        assert sum(row[1:] == other[1:] for row, other in zip(rows[1:], committed[1:])) <= 2


def test_sst_grades_a_clause_as_a_whole():
    rng = random.Random(0)
    values = {}
    for text, value in (sample.draw_clause(rng) for _ in range(4000)):
        values[re.sub(r"^the [\w ]+? (?=is )", "", text)] = value
    for predicate, value in {
        **{"is bad": -1, "is truly bad": -1.4, "is not bad": 0.6, "is far from bad": 0.9},
        **{"is superb": 2, "is rather superb": 1, "is not superb": 0.4, "is far from superb": -1.8},
    }.items():
        assert values[predicate] == pytest.approx(value), predicate


def test_sst_weighs_clauses_by_the_conjunction(monkeypatch):
    clauses = [("it is good", 1.0), ("it is bad", -1.0)]
    monkeypatch.setattr(sample, "draw_clause", lambda rng: rng.choice(clauses))
    monkeypatch.setattr(sample, "LABEL_WEIGHTS", (0, 1, 0, 1, 0))
    rng = random.Random(0)
    labels = dict(sample.draw_sst(rng) for _ in range(500))
    for good, bad in (("good", "bad"), ("bad", "good")):
        label, opposite = ("3", "1") if good == "good" else ("1", "3")
        assert labels[f"It is {good}."] == labels[f"It is {good}, and it is {good}."] == label
        assert labels[f"It is {bad}, but it is {good}."] == label
        assert labels[f"Although it is {bad}, it is {good}."] == label
        assert labels[f"It is {good}, even if it is {bad}."] == label
        assert labels[f"I was told that it is {bad}; in truth it is {good}."] == label
        assert labels[f"For a sequel, I wish I could say that it is {good}."] == opposite
    assert not any(re.search("(good|bad), but it is \\1", text) for text in labels)


def test_sst_labels_follow_from_the_text_alone():
    """Each sentence has exactly one reading, and grading this reading gives the label."""
    rng = random.Random(0)
    subject = "|".join(re.split("[;,] ", sample.SUBJECTS))
    clauses = (sample.draw_clause(rng) for _ in range(20000))
    values = {re.sub(f"^({subject}) ", "", text): value for text, value in clauses}
    parts = {
        "a": f"(?:{subject}) (?P<a>{'|'.join(values)})",
        "b": f"(?:{subject}) (?P<b>{'|'.join(values)})",
        "opening": "|".join(sample.OPENINGS.split(", ")),
    }
    readings = []
    for _, weight_a, weight_b, _, template in sample.JOINS:
        pattern = re.escape(template.lower())
        for name, part in parts.items():
            pattern = pattern.replace(re.escape(f"{{{name}}}"), f"(?:{part})")
        readings.append((re.compile(pattern), {"a": weight_a, "b": weight_b}))
    for row in read("sst-sentiment", "train")[1:] + read("sst-sentiment", "dev")[1:]:
        matches = [(pattern.fullmatch(row[1].lower()), weights) for pattern, weights in readings]
        [(match, weights)] = [(match, weights) for match, weights in matches if match]
        score = sum(weights[name] * values[text] for name, text in match.groupdict().items())
        assert row[2] == str(sum(score > bound for bound in sample.LABEL_BOUNDS)), row[1]


@pytest.mark.parametrize("mark", ["", "=", ">"])
@pytest.mark.parametrize("same", [True, False])
def test_para_varies_one_slot_or_exchanges_two(mark, same):
    rng = random.Random(0)
    concepts = [("u",), ("v",), ("w",)]
    slots = {"a": [concepts], "b": [concepts]}
    meaning = {"a": ("u",), "b": ("v",)}
    results = [sample.vary_meaning(rng, mark, slots, meaning, same) for _ in range(200)]
    found = {result["a"] + result["b"] for result in results}
    allowed = {("u", "v")} if same else {("w", "v"), ("u", "w")}
    if (mark == "=" and same) or (mark == ">" and not same):
        allowed |= {("v", "u")}
    assert found == allowed


def test_sts_scores_the_mean_agreement_of_the_parts(monkeypatch):
    events = "\n".join(
        ["{a} {v} {o} {p} {t}"] + [f"{x}: {x}1/{x}9, {x}2; {x}3, {x}4" for x in "avopt"]
    )
    monkeypatch.setattr(sample, "EVENTS", events)
    monkeypatch.setattr(sample, "NOISE", 0.0)
    group = {"1": 0, "9": 0, "2": 0, "3": 1, "4": 1}
    rng = random.Random(0)
    for _ in range(300):
        first, second, label = sample.draw_sts(rng)
        parts = [dict(re.findall(r"([avopt])(\d)", text.lower())) for text in (first, second)]
        agreements = []
        for name in sorted(set(parts[0]) | set(parts[1])):
            x, y = (part.get(name, "").replace("9", "1") for part in parts)
            related = not x or not y or group[x] == group[y]
            agreements.append(1.0 if x == y else 0.5 * related)
        assert float(label) == pytest.approx(5 * sum(agreements) / len(agreements), abs=0.051)


def bag_of_words_accuracy(stem: str) -> float:
    """Return the dev accuracy of a logistic regression on the counts of words."""
    vectorizer = CountVectorizer(token_pattern=r"\w+")
    train = vectorizer.fit_transform(" ".join(texts) for texts in read_texts(stem, "train"))
    dev = vectorizer.transform(" ".join(texts) for texts in read_texts(stem, "dev"))
    model = LogisticRegression(max_iter=1000).fit(train, read_labels(stem, "train"))
    return model.score(dev, read_labels(stem, "dev"))


def majority(labels: np.ndarray) -> tuple[float, float]:
    """Return the most frequent label and its share."""
    values, counts = np.unique(labels, return_counts=True)
    return values[counts.argmax()], counts.max() / len(labels)


def best_split_accuracy(stem: str, train: np.ndarray, dev: np.ndarray) -> float:
    """Return the dev accuracy of the best threshold on one number per row, chosen on train.

    Either side of the threshold predicts its own majority on train.
    """
    labels, dev_labels = read_labels(stem, "train"), read_labels(stem, "dev")
    predictions, best_accuracy = majority(labels)
    for threshold in np.unique(train)[1:]:
        below, above = train < threshold, train >= threshold
        (low, low_share), (high, high_share) = majority(labels[below]), majority(labels[above])
        accuracy = (low_share * below.sum() + high_share * above.sum()) / len(labels)
        if accuracy > best_accuracy:
            best_accuracy, predictions = accuracy, np.where(dev < threshold, low, high)
    return (predictions == dev_labels).mean()


def numbers(stem: str, split: str, measure: Callable) -> np.ndarray:
    return np.array([measure(*texts) for texts in read_texts(stem, split)])


def overlap(text: str, other: str) -> float:
    """Return the Jaccard index of two sentences' words."""
    a, b = set(words(text)), set(words(other))
    return len(a & b) / len(a | b)


LENGTHS = (
    lambda *texts: sum(len(words(text)) for text in texts),
    lambda *texts: sum(len(text) for text in texts),
    lambda *texts: abs(len(texts[0]) - len(texts[-1])),
)


def test_label_distributions():
    for split in ("train", "dev"):
        shares = np.bincount(read_labels("sst-sentiment", split).astype(int))
        shares = shares / num_rows("sst-sentiment", split)
        assert len(shares) == 5 and 0.1 < shares.min() < 0.18 and 0.2 < shares.max() < 0.3
    for split in ("train", "dev"):
        assert 0.35 < read_labels("quora-paraphrase", split).mean() < 0.45
    histogram = np.histogram(read_labels("sts-similarity", "train"), bins=5, range=(0, 5))[0] / 600
    assert histogram.min() > 0.05 and histogram.max() < 0.4
    assert {0.0, 5.0} <= set(read_labels("sts-similarity", "train"))


def test_bag_of_words_grades_sst_in_part():
    assert 0.45 < bag_of_words_accuracy("sst-sentiment") < 0.7


def test_bag_of_words_does_not_decide_para():
    assert bag_of_words_accuracy("quora-paraphrase") < 0.68


@pytest.mark.parametrize("stem, most", [("sst-sentiment", 0.33), ("quora-paraphrase", 0.68)])
def test_no_single_word_decides(stem, most):
    vectorizer = CountVectorizer(token_pattern=r"\w+", binary=True, min_df=10)
    train = vectorizer.fit_transform(" ".join(t) for t in read_texts(stem, "train")).toarray()
    dev = vectorizer.transform(" ".join(t) for t in read_texts(stem, "dev")).toarray()
    labels = read_labels(stem, "train")
    for column, word in enumerate(vectorizer.get_feature_names_out()):
        accuracy = best_split_accuracy(stem, train[:, column], dev[:, column])
        assert accuracy < most, word
        seen_labels = labels[train[:, column] == 1]
        assert majority(seen_labels)[1] < 1.0, word
        if stem == "sst-sentiment":
            assert majority(seen_labels)[1] < 0.65 and len(np.unique(seen_labels)) >= 4, word


@pytest.mark.parametrize("stem, most", [("sst-sentiment", 0.3), ("quora-paraphrase", 0.65)])
def test_length_does_not_decide(stem, most):
    for measure in LENGTHS:
        train, dev = (numbers(stem, split, measure) for split in ("train", "dev"))
        assert best_split_accuracy(stem, train, dev) < most


def test_word_overlap_and_question_word_do_not_decide_para():
    stem = "quora-paraphrase"
    train, dev = (numbers(stem, split, overlap) for split in ("train", "dev"))
    assert best_split_accuracy(stem, train, dev) < 0.75
    same = [
        numbers(stem, split, lambda a, b: words(a)[0] == words(b)[0]) for split in ("train", "dev")
    ]
    assert best_split_accuracy(stem, *same) < 0.65
    labels = read_labels(stem, "train")
    for label in (0, 1):
        assert (train[labels == label] > 0.7).mean() > 0.15, "overlapping pairs of either label"
        assert (train[labels == label] < 0.5).mean() > 0.15, "differing pairs of either label"


def test_similarity_follows_word_overlap_only_in_part():
    for split in ("train", "dev"):
        labels = read_labels("sts-similarity", split)
        overlaps = numbers("sts-similarity", split, overlap)
        assert 0.3 < np.corrcoef(overlaps, labels)[0, 1] < 0.75
        for measure in LENGTHS:
            lengths = numbers("sts-similarity", split, measure)
            assert abs(np.corrcoef(lengths, labels)[0, 1]) < 0.25
