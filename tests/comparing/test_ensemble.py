"""Ensembles: the mean of predictions, whatever the models."""

import json
import shutil

import numpy as np
import pytest
import torch
from every_kind import TASKS

from options.task_table import built_in_tasks
from runtime.errors import InputError


@pytest.mark.parametrize("name", TASKS)
def test_averages_are_those_of_probabilities_or_numbers(name):
    task = TASKS[name]
    generator = np.random.default_rng(0)
    outputs = [generator.normal(size=(50, task.num_outputs)).astype(np.float32) for _ in range(3)]
    average = task.average(outputs)
    if name == "sts":
        expected = np.mean([x[:, 0].clip(0, 5).round(6) for x in outputs], axis=0)
        np.testing.assert_allclose(task.decode(average), expected, atol=1e-6)
        return
    squash = (lambda x: x.softmax(1)) if name == "sst" else torch.sigmoid
    mean = torch.stack([squash(torch.from_numpy(x).double()) for x in outputs]).mean(0).numpy()
    found = task.probabilities(average)
    np.testing.assert_allclose(found[:, 1:] if name == "para" else found, mean, atol=1e-12)
    decoded = {"sst": mean.argmax(1), "para": mean[:, 0] > 0.5}.get(name, mean > 0.5)
    np.testing.assert_array_equal(task.decode(average), decoded)
    assert (task.decode(average) != task.decode(outputs[0])).any()


def test_extreme_logits_stay_certain():
    for name, sure in (("sst", [[0, 0, 900, 0, 0]]), ("para", [[900]]), ("subjects", [[900] * 3])):
        logits = np.array(sure, dtype=np.float32)
        with np.errstate(all="raise"):
            decoded = TASKS[name].decode(TASKS[name].average([logits, logits / 900]))
        np.testing.assert_array_equal(decoded, TASKS[name].decode(logits))


@pytest.mark.parametrize("copies", [1, 3])
def test_an_ensemble_of_one_run_equals_it(runs, command, tmp_path, copies):
    command("--ensemble", *[runs["a"]] * copies, "--to", "mean")
    found = json.loads((tmp_path / "mean" / "metrics-dev.json").read_text())
    expected = json.loads((runs["a"] / "metrics-dev.json").read_text())
    assert found["metrics"] == expected["metrics"] and found["mean"] == expected["mean"]
    for path in (runs["a"] / "predictions").iterdir():
        assert (tmp_path / "mean" / "predictions" / path.name).read_bytes() == path.read_bytes()
    record = json.loads((tmp_path / "mean" / "ensemble.json").read_text())
    assert record == {"runs": [str(runs["a"])] * copies}


def test_different_models_are_averaged_and_compared_with_the_first(runs, command, tmp_path, capsys):
    command("--ensemble", runs["a"], runs["c"], "--to", tmp_path / "new" / "mean")
    out = capsys.readouterr().out
    assert "minus a  c " in out and " ensemble\n" in out and "written to new/mean" in out
    written = tmp_path / "new" / "mean" / "predictions"
    assert len(list(written.iterdir())) == 2 * len(built_in_tasks())
    lines = [
        (folder / "predictions" / "sts-similarity-dev-output.csv").read_text().splitlines()
        for folder in (runs["a"], runs["c"], written.parent)
    ]
    one, two, mean = (np.array([float(s.split("\t")[1]) for s in text[1:]]) for text in lines)
    np.testing.assert_allclose(mean, (one + two) / 2, atol=1e-6)


def test_other_tasks_or_rows_are_refused_and_nothing_is_written(
    runs, train, few_rows, command, tmp_path
):
    flags = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --no_tensorboard".split()
    sst = train(*flags, "--task", "sst", "--data_dir", few_rows)
    with pytest.raises(InputError, match="cannot be averaged with .*a: its tasks are sst, not sst"):
        command("--ensemble", runs["a"], sst, "--to", "mean")
    data = shutil.copytree(few_rows, tmp_path / "data")
    path = data / "sts-similarity-dev.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    other = train(*flags, "--data_dir", data, "--run_name", "other")
    for extra in (["--ensemble"], ["--soup", "--greedy"]):
        with pytest.raises(InputError, match="dev data differ: (19|20) rows of sts, not (20|19)"):
            command(*extra, runs["a"], other, "--to", "mean")
    shutil.copy(few_rows / path.name, path)
    other = train(*flags, "--data_dir", data, "--run_name", "third")
    path = data / "sst-sentiment-test-student.csv"
    *lines, last = path.read_bytes().splitlines(keepends=True)
    for changed, reason in (
        ([last.replace(b"\t", b"\tIndeed, ")], "row 20 of sst has another text"),
        ([b"x" + last], "row 20 of sst has another id"),
        ([], "19 rows of sst, not 20"),
    ):
        path.write_bytes(b"".join([*lines, *changed]))
        message = f"third: cannot be averaged with .*a: its test data differ: {reason}"
        with pytest.raises(InputError, match=message):
            command("--ensemble", runs["a"], other, "--to", "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "runs"]


def test_a_full_disk_leaves_no_half_ensemble(runs, command, small_disk):
    (small_disk / "ballast").write_bytes(bytes(196 * 1024))
    with pytest.raises(OSError, match="/.mean.*: cannot be written: No space left on device"):
        command("--ensemble", runs["a"], "--to", small_disk / "mean")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
