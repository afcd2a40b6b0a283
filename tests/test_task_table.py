"""Tables of tasks: what they may hold, and the one line that a wrong one gets."""

import pickle
import re
import tomllib
from pathlib import Path

import pytest
from test_imports import MODULES
from torch import nn

from options.parsing import parse_args
from options.run_options import get_args_parser, get_pal_args_parser
from options.task_table import (
    ALLOWED_NAME,
    BUILT_IN,
    MODULE_NAMES,
    built_in_table,
    read_table,
    select,
)
from tasks import Binary, Classification, Multilabel, Regression

ROOT = Path(__file__).resolve().parent.parent
GOOD = {
    "kind": '"classification"',
    "files": '"films"',
    "text": '["line"]',
    "label": '"grade"',
    "classes": '["bad", "good"]',
    "metric": '"accuracy"',
}
REGRESSION = {"kind": '"regression"', "metric": '"pearson"', "classes": None, "range": "[0, 1]"}


def entry(name: str = "mood", **changes: str | None) -> str:
    """Return a task of a table, correct but for the changes; None drops a key."""
    keys = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


@pytest.fixture
def table(tmp_path):
    """table(text) -> the path of a table that holds it."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_no_task_can_have_a_name_that_torch_refuses_for_a_head():
    names = {name for name in dir(nn.ModuleDict()) if ALLOWED_NAME.fullmatch(name)}
    assert "training" in names and names <= MODULE_NAMES


def test_the_built_in_table_is_the_one_of_the_root():
    assert BUILT_IN == ROOT / "tasks.toml" and built_in_table() is built_in_table()
    assert list(tomllib.loads(BUILT_IN.read_text())) == list(built_in_table().tasks)
    assert [task.number for task in built_in_table().tasks.values()] == [0, 1, 2]


def test_every_key_is_read(table):
    text = entry("mood", prediction='"Mood"', aliases='["m", "n"]')
    text += entry("pairs", kind='"binary"', files='"p"', text='["a", "b"]', classes=None)
    text += entry("degrees", **REGRESSION | {"files": '"d"', "range": "[-40, 60.5]"})
    text += entry("subjects", kind='"multilabel"', files='"s"', metric='"f1"')
    text += entry("order", kind='"binary"', files='"o"', text='["a", "b"]', ordered="true")
    tasks = read_table(table(text)).tasks
    kinds = [Classification, Binary, Regression, Multilabel, Binary]
    assert [type(task) for task in tasks.values()] == kinds
    mood, pairs, degrees, subjects, order = tasks.values()
    assert (mood.stem, mood.text_columns, mood.label_column) == ("films", ("line",), "grade")
    assert (mood.prediction_column, mood.aliases) == ("Mood", ("m", "n"))
    assert (mood.class_names, mood.label_range, mood.num_outputs) == (("bad", "good"), (0, 1), 2)
    assert (pairs.class_names, pairs.label_range, pairs.num_outputs) == (None, (0, 1), 1)
    assert pairs.is_pair and not pairs.is_ordered and order.is_ordered
    assert pairs.prediction_column == "Predicted_grade"
    assert degrees.label_range == (-40, 60.5) and degrees.heads["bi"] == "classify"
    assert subjects.num_outputs == 2 and [task.number for task in tasks.values()] == [*range(5)]


def test_a_table_is_plain_data_that_another_process_can_have(table):
    found = read_table(table(b"\xef\xbb\xbf" + entry().replace("\n", "\r\n").encode()))
    assert pickle.loads(pickle.dumps(found)) == found


def test_selected_tasks_keep_the_order_of_the_table():
    assert list(select(built_in_table(), ["sts", "sst"])) == ["sst", "sts"]
    assert select(built_in_table(), None) == built_in_table().tasks


WRONG = {  # what is wrong: (the table, the message after the file)
    "unknown kind": (entry(kind='"ranking"'), "task 'mood': kind is 'ranking', expected one of cl"),
    "kind of another type": (entry(kind="3"), "task 'mood': kind is 3, expected one of classifica"),
    "no kind": (
        entry(kind=None),
        "task 'mood': kind is missing, expected the keys kind, files, te",
    ),
    "unknown key": (
        entry(clases="[]"),
        "task 'mood': clases is [], expected only the keys kind, f",
    ),
    "no metric": (entry(metric=None), "task 'mood': metric is missing, expected the keys kind"),
    "metric of another kind": (
        entry(metric='"pearson"'),
        "task 'mood': metric is 'pearson', expected one of accuracy, macro_f1, matthews",
    ),
    "no classes": (entry(classes=None), "task 'mood': classes is missing, expected it for a task"),
    "one class": (entry(classes='["a"]'), "classes is ['a'], expected a list of 2 to 10,000 diff"),
    "a class twice": (entry(classes='["a", "a"]'), "classes is ['a', 'a'], expected a list of 2"),
    "classes that are numbers": (
        entry(classes="[0, 1]"),
        "classes is [0, 1], expected a list of 2",
    ),
    "three classes of a binary task": (
        entry(kind='"binary"', classes='["a", "b", "c"]'),
        "classes is ['a', 'b', 'c'], expected a list of 2 different texts",
    ),
    "a class with a comma": (
        entry(kind='"multilabel"', classes='["a,b", "c"]'),
        "task 'mood': classes is ['a,b', 'c'], expected names without commas",
    ),
    "classes of a regression": (
        entry(**REGRESSION | {"classes": '["a", "b"]'}),
        "classes is ['a', 'b'], expected none for a task of kind regression",
    ),
    "no range": (
        entry(**REGRESSION | {"range": None}),
        "task 'mood': range is missing, expected it",
    ),
    "an empty range": (
        entry(**REGRESSION | {"range": "[5, 5]"}),
        "task 'mood': range is [5, 5], expected [low, high], two numbers",
    ),
    "a range of words": (
        entry(**REGRESSION | {"range": '["a", "b"]'}),
        "range is ['a', 'b'], expected [low, high]",
    ),
    "a range without an end": (
        entry(**REGRESSION | {"range": "[0, inf]"}),
        "range is [0, inf], ex",
    ),
    "a range of nothing": (
        entry(**REGRESSION | {"range": "[nan, 1]"}),
        "range is [nan, 1], expect",
    ),
    "a range of a classification": (entry(range="[0, 1]"), "range is [0, 1], expected none but f"),
    "three texts": (
        entry(text='["a", "b", "c"]'),
        "text is ['a', 'b', 'c'], expected a list of 1 t",
    ),
    "no text": (entry(text="[]"), "text is [], expected a list of 1 to 2 different texts"),
    "text that is no list": (
        entry(text='"line"'),
        "text is 'line', expected a list of 1 to 2 diff",
    ),
    "text that is the label": (entry(text='["grade"]'), "label is 'grade', expected other columns"),
    "a label that is the id": (
        entry(label='"id"'),
        "label is 'id', expected other columns than id",
    ),
    "a prediction that is the id": (
        entry(prediction='"id"'),
        "prediction is 'id', expected another",
    ),
    "a header with a tab": (
        entry(prediction='"a\\tb"'),
        "prediction is 'a\\tb', expected the name",
    ),
    "files with a path": (entry(files='"../x"'), "files is '../x', expected the beginning of file"),
    "files that are a number": (
        entry(files="7"),
        "files is 7, expected the beginning of file names",
    ),
    "an ordered single sentence": (entry(ordered="true"), "ordered is True, expected it for two"),
    "ordered by a word": (entry(ordered='"yes"'), "ordered is 'yes', expected true or false"),
    "a name that is no file name": (
        entry('"a/b"'),
        "task 'a/b': the name is not allowed, expected a",
    ),
    "a name with a dot": (entry('"a.b"'), "task 'a.b': the name is not allowed, expected a letter"),
    "a name with a dash": (entry("a-b"), "task 'a-b': the name is not allowed, expected a letter"),
    "an empty name": (entry('""'), "task '': the name is not allowed, expected a letter, then let"),
    "a name of PyTorch": (
        entry("type"),
        "task 'type': the name has another meaning here; choose a",
    ),
    "a name that means all": (entry("multitask"), "task 'multitask': the name has another meaning"),
    "an alias that is no name": (
        entry(aliases='["a b"]'),
        "aliases is ['a b'], expected names that",
    ),
    "two tasks on one prediction file": (
        entry() + entry("again", files='"Films"'),
        "task 'again': files is 'Films', as of task 'mood', so both would write Films-dev-output.c",
    ),
    "two tasks with one flag": (
        entry() + entry("again", files='"x"', aliases='["mood"]'),
        "task 'again': aliases or name 'mood' is also of task 'mood', expected one task for each",
    ),
    "no tasks": ("# nothing\n", "has 0 tasks, expected 1 to 1000"),
    "keys without a task": (
        'kind = "binary"\n',
        "task 'kind': is 'binary', expected [kind] and keys",
    ),
    "no TOML": ("[mood\n", "cannot be read as TOML: "),
    "a task twice": (entry() + entry(), "cannot be read as TOML: "),
    "nested without end": ("a = " + "[" * 5000, "cannot be read as TOML: "),
    "no text at all": (b"\xff\xfe", "byte 1 is not UTF-8 text"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_table_is_one_line(wrong, table, one_line):
    text, expected = WRONG[wrong]
    path = table(text)
    message = one_line(read_table, path)
    assert message.startswith(f"{path}: ") and len(message) < 500
    assert expected in message, message


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("--tasks {folder}/none.toml", "none.toml: no such file; expected a table of tasks"),
        ("--tasks {folder}", "is a folder, expected a regular file"),
        ("--tasks", "argument --tasks: expected one argument"),
        ("--tasks {table} --task sst", "argument --task: invalid choice: 'sst' (choose from"),
        ("--task sst sst", "--task sst sst: name each task once, or multitask alone"),
        ("--task multitask sst", "--task multitask sst: name each task once"),
        ("--tasks {table} --sst_train x", "unrecognized arguments: --sst_train x"),
        ("--tasks {table} --task_weights sst=2", "'sst=2' is not TASK=WEIGHT, tasks mood"),
    ],
)
def test_wrong_flags_are_one_line(flags, expected, table, tmp_path, capsys):
    words = flags.format(folder=tmp_path, table=table(entry())).split()
    with pytest.raises(SystemExit):
        parse_args(get_args_parser(), words)
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["joint", "pal", "seed", "lr"])
def test_a_task_is_not_called_like_an_option_or_a_scheduler(name, table, capsys):
    with pytest.raises(SystemExit):
        parse_args(get_pal_args_parser(), ["--tasks", str(table(entry(name)))])
    assert re.search(rf"mine.toml: task '{name}': an option or", capsys.readouterr().err)


def test_the_named_table_gives_the_flags(table):
    text = entry(aliases='["m"]') + entry("other", files='"x"')
    words = f"--tasks {table(text)} --m_train a --mood_dev b --task_weights other=2".split()
    args = parse_args(get_pal_args_parser(), [*words, "--task_scheduler", "other"])
    assert (args.mood_train, args.mood_dev, args.other_test) == ("a", "b", None)
    assert list(args.tasks) == ["mood", "other"] and args.task_scheduler == "other"
    assert args.table.text == text and args.task_weights == {"other": 2.0}
    subset = parse_args(get_args_parser(), [*words[:2], "--task", "other"])
    assert list(subset.tasks) == ["other"]


def test_a_subset_is_in_the_order_of_the_table():
    args = parse_args(get_args_parser(), ["--task", "sts", "sst"])
    assert list(args.tasks) == ["sst", "sts"] and args.task == ["sts", "sst"]
    args = parse_args(get_args_parser(), ["--task", "multitask"])
    assert args.tasks == built_in_table().tasks


ALLOWED = {"options/task_table", "options/parsing", "options/run_options"}


def test_a_run_never_reads_the_built_in_table_in_place_of_its_own():
    """Only the options may ask for it, and what compares methods on the built-in tasks."""
    for path in MODULES:
        place = str(path.with_suffix(""))
        if place.startswith(("experiments/", "benchmarks/")) or place in ALLOWED:
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        assert "built_in_t" not in text and "BUILT_IN" not in text, place
