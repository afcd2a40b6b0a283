"""Properties of reader, collator, samplers and parsers, on inputs that Hypothesis invents.

For a longer search: HYPOTHESIS_EXAMPLES=2000 bash run_tests.sh tests/test_properties.py
"""

import csv
import io
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train_multitask_pal
from datasets import is_visible, read_examples
from inputs.batches import PAIR_ENCODINGS, BatchSampler, TokenizedTask
from models.pretrained import load_config, load_tokenizer
from options.parsing import parse_args
from options.task_table import built_in_tasks
from runtime.errors import InputError
from search.report import write_best
from tasks import Example

TASKS = built_in_tasks()

settings.register_profile(
    "ours",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 50)),
    deadline=None,
    derandomize="HYPOTHESIS_EXAMPLES" not in os.environ,  # the same examples in every run
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("ours")

# Any text of a cell, without line ends, which would end the record, and without NUL, which no csv
# reader accepts.
cells = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1, max_size=30
).filter(is_visible)
tasks = st.sampled_from(list(TASKS.values()))
LABELS = {int: st.sampled_from([0, 1]), float: st.floats(0, 5).map(lambda x: round(x, 3))}


@st.composite
def example_lists(draw, task=None):
    """Draw a task and some examples of it."""
    task = task or draw(tasks)
    texts = st.tuples(*[cells] * len(task.text_columns))
    rows = draw(st.lists(st.tuples(cells, texts, LABELS[task.label_type]), min_size=1, max_size=8))
    return task, [Example(*row) for row in rows]


def as_file(task, examples, line_end: str, quoting: int) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator=line_end, quoting=quoting)
    writer.writerow(["id", *task.text_columns, task.label_column])
    writer.writerows([e.id, *e.texts, e.label] for e in examples)
    return buffer.getvalue().encode()


@given(example_lists(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([0, 1]))
def test_what_a_csv_writer_writes_is_read_back(tmp_path, case, line_end, quoting):
    """Quoting is 0 where needed and 1 everywhere, as the csv module numbers it."""
    task, examples = case
    path = tmp_path / "file.csv"
    path.write_bytes(as_file(task, examples, line_end, quoting))
    assert read_examples(path, task, require_labels=True) == examples


@given(tasks, st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused_with_file_and_line(tmp_path, task, content, has_header):
    path = tmp_path / "file.csv"
    header = "\t".join(["id", *task.text_columns, task.label_column]).encode() + b"\n"
    path.write_bytes(header * has_header + content)
    try:
        examples = read_examples(path, task, require_labels=True)
    except InputError as error:
        assert str(error).startswith(f"{path}:") and "\n" not in str(error)
        return
    lines = (header * has_header + content).decode("utf-8-sig").split("\n")
    while lines and not lines[-1].strip("\r"):
        lines.pop()
    assert len(examples) == len(lines) - 1  # no record is lost; each is one line
    assert all(text.strip() for example in examples for text in example.texts)


@pytest.fixture(scope="module")
def new_tokenizer(tiny_model):
    return lambda: load_tokenizer(tiny_model, load_config(tiny_model))


@given(example_lists(), st.sampled_from(PAIR_ENCODINGS), st.integers(6, 40))
def test_a_row_of_a_batch_is_the_row_alone(new_tokenizer, case, pair_encoding, max_length):
    task, examples = case
    rows = TokenizedTask(task, examples, new_tokenizer(), 0, pair_encoding, max_length)
    batch = rows.batch(np.arange(len(examples)))
    assert (batch["attention_mask"].sum(1) <= max_length).all()
    for number in range(len(examples)):
        alone = rows.batch(np.array([number]))
        assert torch.equal(alone["labels"], batch["labels"][number : number + 1])
        for sequence in range(rows.num_sequences):
            place = sequence * len(examples) + number  # all first sentences, then all second ones
            length = int(alone["attention_mask"][sequence].sum())
            for key in ("input_ids", "token_type_ids", "attention_mask"):
                assert torch.equal(batch[key][place, :length], alone[key][sequence, :length])
                assert not batch[key][place, length:].any()  # padding is 0 here


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=300),
    st.integers(1, 20),
    st.integers(0, 2**31),
    st.integers(0, 30),
)
def test_a_pass_has_every_row_once_and_resumes_where_it_was_saved(
    lengths, batch_size, seed, num_drawn
):
    lengths = np.array(lengths)
    sampler, other = (BatchSampler(lengths, batch_size, s) for s in (seed, seed + 1))
    num_batches = -(-len(lengths) // batch_size)
    for _ in range(2):
        walk = [sampler.next_rows() for _ in range(num_batches)]
        assert sorted(np.concatenate(walk)) == list(range(len(lengths)))
        assert all(1 <= len(rows) <= batch_size for rows in walk)
    for _ in range(num_drawn):
        sampler.next_rows()
    other.load_state_dict(sampler.state_dict())
    for _ in range(num_batches + 1):
        np.testing.assert_array_equal(sampler.next_rows(), other.next_rows())


def flag_values(action):
    """Draw one option with good and bad values."""
    words = st.sampled_from(["-1", "0", "1", "3", "0.5", "nan", "1e999", "", "x", "../x", "sst=2"])
    if action.choices is not None:
        words = st.sampled_from([*action.choices, "wrong"])
    if action.nargs == 0:
        return st.just([action.option_strings[0]])
    return st.lists(words, min_size=1, max_size=2).map(lambda v: [action.option_strings[0], *v])


ACTIONS = [a for a in train_multitask_pal.get_args_parser()._actions if a.dest != "help"]


@given(st.lists(st.sampled_from(ACTIONS).flatmap(flag_values), max_size=5))
def test_any_flags_are_taken_or_end_in_a_usage_error(capsys, flags):
    words = [word for flag in flags for word in flag]
    try:
        args = parse_args(train_multitask_pal.get_args_parser(), words)
    except SystemExit as stop:
        assert stop.code == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert line
        return
    assert set(args.given) <= vars(args).keys()
    capsys.readouterr()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-6, 1.0),
            "epochs": st.integers(1, 9),
            "projection": st.sampled_from(["none", "pcgrad", "vaccine"]),
            "task_weights": st.dictionaries(
                st.sampled_from(list(TASKS)), st.floats(0.1, 9), min_size=1
            ),
            "train_mode": st.just("single_layers"),
            "use_pal": st.booleans(),
            "model_name": cells.filter(
                lambda text: not text.startswith(("-", "@")) and text.isprintable()
            ),
        },
    )
)
def test_best_options_of_a_search_are_read_back(tmp_path, options):
    """What `write_best` writes to a file, `@file` gives to an entry script."""
    path = tmp_path / "best.txt"
    blank = parse_args(train_multitask_pal.get_args_parser(), [])
    write_best(path, blank, options)
    args = parse_args(train_multitask_pal.get_args_parser(), [f"@{path}"])
    for name, value in options.items():
        assert getattr(args, name) == value
