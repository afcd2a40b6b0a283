"""Two runs side by side: options, scores, paired differences, curves, and what cannot be paired."""

import dataclasses
import json
import re
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from every_kind import DEGREES, MULTILABEL, NAMED_BINARY, TASKS
from matplotlib import image

import compare
from comparing import finished
from comparing.curves import draw_curves
from comparing.finished import read_predictions, read_run, read_runs, titles
from comparing.tables import MEAN, Difference, difference_text, differences
from options.comparison_options import get_args_parser, parse_args
from reporting.outputs import write_predictions
from runtime.errors import InputError
from tasks import Classification

STARS = Classification(
    name="stars",
    stem="stars",
    text_columns=("text",),
    label_column="stars",
    prediction_column="Predicted",
    metric_name="accuracy",
    label_range=(0, 2),
    class_names=("1", "2", "3"),
)


def test_only_0_itself_has_no_sign():
    assert difference_text(Difference(-0.00004, -0.001, 0.00004)) == "−0.0000 [−0.0010, +0.0000]"
    assert difference_text(Difference(-0.0, 0.3 - 0.1 - 0.2, 1)) == "0.0000 [0.0000, +1.0000]"


def test_a_run_differs_from_itself_by_nothing(runs, command, tmp_path, capsys):
    command(runs["a"], runs["a"])
    out = capsys.readouterr().out
    assert "options: the same in all runs" in out
    table = out.partition("minus a  a (2)")[2].splitlines()[1:5]
    assert [line.split()[0] for line in table] == ["sst", "para", "sts", "mean"]
    assert all(line.endswith(" 0.0000 [0.0000, 0.0000]") for line in table)
    assert image.imread(tmp_path / "compare.png").shape[2] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["compare.png"]


def test_two_seeds_side_by_side(runs, command, tmp_path, capsys):
    command(runs["a"], runs["b"], "--figure", "figures/curves.png")
    out = capsys.readouterr().out
    options, scores, *_ = out.split("\n\n")
    assert [line.split() for line in options.splitlines()] == [
        ["option", "a", "b"],
        ["seed", *"01"],
    ]
    metrics = [json.loads((runs[n] / "metrics-dev.json").read_text()) for n in "ab"]
    assert scores.splitlines()[-1].split() == ["mean", *(f"{m['mean']:.4f}" for m in metrics)]
    for task, of_task in metrics[0]["metrics"].items():
        for name, value in of_task.items():
            cells = [task, name, f"{value:.4f}", f"{metrics[1]['metrics'][task][name]:.4f}"]
            assert cells in [line.split() for line in scores.splitlines()]
    [found], [reasons] = differences(*both(runs["a"], runs["b"]))
    assert reasons == {} and list(found) == ["sst", "para", "sts", MEAN]
    assert found[MEAN].value == pytest.approx(metrics[1]["mean"] - metrics[0]["mean"])
    assert all(d.low <= d.value <= d.high for d in found.values())
    assert found[MEAN].low < found[MEAN].high
    assert (tmp_path / "figures" / "curves.png").is_file()


@pytest.mark.parametrize("flags", [[], ["--use_gpu"]])
def test_the_gpu_is_asked_for(runs, command, monkeypatch, flags):
    asked = []
    cpu = torch.device("cpu")
    monkeypatch.setattr(compare, "connect", lambda use_gpu: asked.append(use_gpu) or cpu)
    command("--ensemble", runs["a"], "--to", "mean", *flags)
    assert asked == [bool(flags)]


def both(one, two):
    first, second = read_runs([str(one), str(two)])
    return first, [second]


def test_the_resamples_of_two_tasks_are_independent(runs):
    """Of two equal tasks, the mean then varies less than each: by the root of two."""
    pair = []
    for run in read_runs([str(runs["a"]), str(runs["b"])]):
        two = {"sts": run.tasks["sts"], "sts2": dataclasses.replace(run.tasks["sts"], name="sts2")}
        args = Namespace(**(vars(run.args) | {"tasks": two}))
        metrics, dev = (dict.fromkeys(two, part["sts"]) for part in (run.metrics, run.dev))
        pair.append(dataclasses.replace(run, args=args, metrics=metrics, dev=dev))
    [found], _ = differences(pair[0], pair[1:])
    widths = {name: d.high - d.low for name, d in found.items()}
    assert widths["sts2"] == pytest.approx(widths["sts"], rel=0.1)
    assert widths[MEAN] == pytest.approx(widths["sts"] / np.sqrt(2), rel=0.1)
    assert found[MEAN].value == pytest.approx(found["sts"].value)


def test_a_task_of_a_third_run_does_not_hide_the_mean_of_the_second(runs):
    first, second, third = read_runs([str(runs[name]) for name in "abb"])
    tasks = third.tasks | {"extra": dataclasses.replace(third.tasks["sts"], name="extra")}
    args = Namespace(**(vars(third.args) | {"tasks": tasks}))
    third = dataclasses.replace(third, args=args)
    alone, _ = differences(first, [second])
    found, reasons = differences(first, [second, third])
    assert found[0] == alone[0] and MEAN in found[0] and MEAN not in found[1]
    assert reasons == [{}, {"extra": "a has no task extra"}]


def test_a_smoketest_and_a_run_without_a_data_folder_are_read(train, runs, tmp_path):
    run = read_run(str(train("--smoketest", "--no_tensorboard")), "small")
    assert len(run.dev["sst"].labels) == 8 and run.obstacles == {}
    other = shutil.copytree(runs["a"], tmp_path / "other")
    record = json.loads((other / "args.json").read_text())
    record["options"]["data_dir"] = None  # then the sample's, which has more rows
    (other / "args.json").write_text(json.dumps(record))
    assert "its 20 ids are not those of the " in read_run(str(other), "other").obstacles["sst"]


def edit_file(path, change) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def test_other_dev_rows_cannot_be_paired_and_one_line_says_why(
    runs, few_rows, command, tmp_path, capsys
):
    data, other = shutil.copytree(few_rows, tmp_path / "data"), tmp_path / "other"
    shutil.copytree(runs["b"], other)
    edit_file(
        other / "args.json", lambda lines: [s.replace(str(few_rows), str(data)) for s in lines]
    )
    path = data / "sst-sentiment-dev.csv"
    edit_file(path, lambda lines: lines[:-1])
    edit_file(other / "predictions" / "sst-sentiment-dev-output.csv", lambda lines: lines[:-1])
    for task in TASKS:  # the run's metrics are of the new rows
        change_score(other, task)
    command(runs["a"], other)
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if "not paired" in line]
    assert line == "other: not paired in sst: its dev data differ: 19 rows of sst, not 20"
    table = "\n".join(lines)
    assert "[95 % by paired bootstrap over dev rows: para 20, sts 20]" in table
    assert not [line for line in lines if line.startswith("mean") and "[" in line]


def change_score(run, name: str) -> None:
    """Make the run's metrics those of its prediction file on its dev file."""
    args = finished.read_options(run, needed=())
    if name not in args.tasks:
        return
    task = args.tasks[name]
    examples = finished.read_split(args, task, "dev")
    path = run / "predictions" / f"{task.stem}-dev-output.csv"
    predictions = read_predictions(path, task, [example.id for example in examples])
    labels = np.array([example.label for example in examples], dtype=task.label_dtype)
    record = json.loads((run / "metrics-dev.json").read_text())
    record["metrics"][name] = task.evaluate(predictions, labels)
    (run / "metrics-dev.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.replace("film", "movie"), "row .* of sst has another text"),
        (
            lambda s: "\n".join(move_id(s.splitlines())) + "\n",
            "ids are not those of the 20 dev rows",
        ),
        (
            lambda s: "\n".join(line[:-1] + "0" for line in s.splitlines()),
            "column .* occurs 0 times in",
        ),
        (None, "no such file; name it with --data_dir"),
    ],
)
def test_dev_rows_that_have_changed_cannot_be_paired(runs, few_rows, tmp_path, change, message):
    data, other = shutil.copytree(few_rows, tmp_path / "data"), tmp_path / "other"
    shutil.copytree(runs["a"], other)
    edit_file(
        other / "args.json", lambda lines: [s.replace(str(few_rows), str(data)) for s in lines]
    )
    path = data / "sst-sentiment-dev.csv"
    path.write_text(change(path.read_text())) if change else path.unlink()
    [found], [reasons] = differences(*both(runs["a"], other))
    assert list(found) == ["para", "sts"] and list(reasons) == ["sst"]
    assert "\n" not in reasons["sst"]
    assert re.search(message, reasons["sst"]), reasons["sst"]


def move_id(lines: list[str]) -> list[str]:
    """Give the last row another id."""
    return [*lines[:-1], "x" + lines[-1]]


def test_changed_labels_are_noticed(runs, few_rows, tmp_path):
    data, other = shutil.copytree(few_rows, tmp_path / "data"), tmp_path / "other"
    shutil.copytree(runs["a"], other)
    edit_file(
        other / "args.json", lambda lines: [s.replace(str(few_rows), str(data)) for s in lines]
    )
    path = data / "sts-similarity-dev.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-2], lines[-2].rpartition("\t")[0] + "\t0", lines[-1]]))
    _, [reasons] = differences(*both(runs["a"], other))
    assert "pearson is" in reasons["sts"] and "evaluate the run again" in reasons["sts"]


def test_other_tasks_and_other_metrics_are_not_paired(train, runs, few_rows, tmp_path):
    flags = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --no_tensorboard --run_name d"
    one_task = train(*flags.split(), "--task", "sst", "--data_dir", few_rows)
    [found], [reasons] = differences(*both(runs["a"], one_task))
    assert list(found) == ["sst"]
    assert reasons == {name: f"d has no task {name}" for name in ("para", "sts")}
    other = shutil.copytree(runs["a"], tmp_path / "other")
    edit_file(
        other / "tasks.toml", lambda s: [line.replace('"pearson"', '"spearman"') for line in s]
    )
    record = json.loads((other / "metrics-dev.json").read_text())
    record["metrics"]["sts"] = dict(reversed(record["metrics"]["sts"].items()))
    (other / "metrics-dev.json").write_text(json.dumps(record))
    _, [reasons] = differences(*both(runs["a"], other))
    assert reasons == {"sts": "task sts has another metric"}


@pytest.mark.parametrize("task", [*TASKS.values(), MULTILABEL, NAMED_BINARY, DEGREES, STARS])
def test_a_prediction_file_gives_back_what_was_predicted(task, tmp_path):
    logits = np.random.default_rng(0).normal(size=(6, task.num_outputs)).astype(np.float32)
    predictions = task.decode(logits)
    ids = ["1", "a b", '"quoted"', "1", "é", ""]
    write_predictions(tmp_path / "file", task, ids, predictions)
    found = read_predictions(tmp_path / "file", task, ids)
    assert found.dtype == predictions.dtype
    np.testing.assert_array_equal(found, predictions)


@pytest.mark.parametrize(
    "text, message",
    [
        ("id\tOther\n0\t1\n", "file:1: the columns are 'id, Other', expected id, Predicted_Sent"),
        ("id\tPredicted_Sentiment\n0\t7\n", "file:2: '7' is not an integer in"),
        ("id\tPredicted_Sentiment\n0\tnan\n", "file:2: 'nan' is not an integer in"),
        ("id\tPredicted_Sentiment\n0\n", "file:2: 1 columns in '0', expected 2"),
        ("id\tPredicted_Sentiment\n1\t1\n", "its 1 ids are not those of the 1 dev rows"),
        ("", "the file is empty"),
    ],
)
def test_a_damaged_prediction_file_is_one_line(tmp_path, text, message, one_line):
    (tmp_path / "file").write_text(text)
    assert message in one_line(read_predictions, tmp_path / "file", TASKS["sst"], ["0"])


def test_unfinished_and_damaged_runs_are_one_line(runs, tmp_path, one_line):
    run = shutil.copytree(runs["a"], tmp_path / "run")
    (run / "metrics-dev.json").write_text('{"metrics": {"sst": {"f1": 1}}}')
    assert "metrics of 'sst' are {'f1': 1}, expected accuracy" in one_line(read_run, str(run), "a")
    (run / "metrics-dev.json").unlink()
    assert "expected a finished run; resume it, or" in one_line(read_run, str(run), "a")
    assert "expected the directory of a run" in one_line(read_run, str(tmp_path), "a")


def test_titles_are_short_and_different():
    assert titles(["runs/a", "runs/b/"]) == ["a", "b"]
    assert titles(["x/a", "./y/a", "x/b", "x/a"]) == ["x/a", "y/a", "b", "x/a (2)"]


def test_curves_are_those_of_the_metrics_files(runs, tmp_path):
    """Of the tasks that all runs have; a run without epochs is a horizontal line."""
    other = shutil.copytree(runs["b"], tmp_path / "b")
    (other / "metrics.jsonl").unlink()
    figure = draw_curves(read_runs([str(runs["a"]), str(other)]))
    curve, star, level = figure.axes[0].lines
    lines = [json.loads(line) for line in (runs["a"] / "metrics.jsonl").read_text().splitlines()]
    assert curve.get_xdata().tolist() == [24, 48]  # two updates of four examples of three tasks
    np.testing.assert_allclose(curve.get_ydata(), [line["mean"] for line in lines])
    assert star.get_ydata() == [max(line["mean"] for line in lines)]
    mean = json.loads((other / "metrics-dev.json").read_text())["mean"]
    assert level.get_ydata() == pytest.approx([mean, mean])
    assert [text.get_text() for text in figure.legends or figure.axes[0].get_legend().texts] == [
        "a",
        "b",
    ]


def test_any_name_stands_in_the_legend(runs):
    figure = draw_curves([read_run(str(runs["a"]), title) for title in ("_a", "a$b_{$")])
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.axes[0].get_legend().texts]
    assert texts == [" _a", r"a\$b_{\$"]


def test_a_curve_of_nonsense_is_one_line(runs, tmp_path, one_line):
    run = shutil.copytree(runs["a"], tmp_path / "run")
    path = run / "metrics.jsonl"
    text = path.read_text()
    for changed, message in (
        (re.sub(r'"sst": \d+,', '"sst": 1e300,', text), "examples are"),
        (re.sub(r'"accuracy": [\d.]+', '"accuracy": 1e300', text), "dev means are"),
    ):
        path.write_text(changed)
        assert message in one_line(draw_curves, [read_run(str(run), "a")])


@pytest.mark.parametrize(
    "flags, message",
    [
        ("a", "one run is named, a; name another one"),
        ("a b --greedy", "--greedy does nothing without --soup"),
        ("a b --to c", "--to does nothing without --ensemble or --soup"),
        ("a b --use_gpu", "--use_gpu does nothing without"),
        ("--soup a b", "need a new folder: add --to DIR"),
        ("--ensemble a --to c --figure d.png", "--figure is of a comparison"),
        ("--ensemble --soup a b --to c", "not allowed with argument"),
        ("a b --figure c.pdf", "--figure is c.pdf, expected the name of a file that ends in .png"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(get_args_parser(), flags.split())
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_folder_that_exists_is_refused_before_anything_is_read(command, tmp_path):
    for flag in ("--ensemble", "--soup"):
        with pytest.raises(InputError, match=f"--to {tmp_path}: exists; name a new folder"):
            command(flag, "nothing", "--to", tmp_path)
