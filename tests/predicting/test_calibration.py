"""Temperatures: fitted as torch would, measured by hand, kept in the run, used by predictions."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_kind import TASKS

import evaluation
from datasets import read_examples, task_file
from evaluation import load_run
from predicting.temperatures import (
    class_logits,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from runtime.errors import InputError


def drawn(scale: float, size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn from the softmax of logits, and these logits times `scale`."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(size, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return (scale * logits).numpy(), labels.numpy()


def fitted_by_lbfgs(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature as the authors of the paper fit it."""
    temperature = torch.ones(1, dtype=torch.float64, requires_grad=True)
    exact = {"tolerance_grad": 1e-12, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([temperature], 0.1, 200, **exact)
    inputs, targets = torch.from_numpy(logits), torch.from_numpy(labels)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs / temperature, targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return temperature.item()


@pytest.mark.parametrize("scale", [0.4, 1, 3])
def test_the_temperature_is_that_of_the_largest_likelihood(scale):
    logits, labels = drawn(scale)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.1)
    assert found == pytest.approx(fitted_by_lbfgs(logits, labels), rel=1e-4)
    expected = F.cross_entropy(torch.from_numpy(logits) / found, torch.from_numpy(labels))
    assert negative_log_likelihood(logits, labels, found) == pytest.approx(expected.item())


def test_what_no_temperature_improves_keeps_1():
    assert fit_temperature(np.zeros((5, 3)), np.array([0, 1, 2, 0, 1])) == 1
    sure = np.eye(3)[[0, 1, 2]]
    assert fit_temperature(sure, np.array([0, 1, 2])) < 0.05  # always right: as low as allowed
    assert fit_temperature(sure, np.array([1, 2, 0])) == pytest.approx(100, rel=1e-3)


def test_the_calibration_error_by_hand():
    """Confidences .9, .9, .6 of classes of which one of the first two is wrong."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    error = expected_calibration_error(np.log(probabilities), np.array([0, 0, 0]))
    assert error == pytest.approx(2 / 3 * abs(0.9 - 0.5) + 1 / 3 * abs(0.6 - 1))


def test_the_calibration_error_over_bins():
    logits, labels = drawn(2)
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    confidences, predicted = probabilities.max(1), probabilities.argmax(1)
    expected = 0.0
    for low in range(15):
        inside = (confidences > low / 15) & (confidences <= (low + 1) / 15)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).mean()
            expected += inside.mean() * abs(accuracy - confidences[inside].mean())
    assert expected_calibration_error(logits, labels) == pytest.approx(expected)
    assert expected_calibration_error(logits, labels, 2) < expected / 2


def test_the_logit_of_a_binary_task_is_a_pair():
    task, logits = TASKS["para"], np.array([[-2.0], [0.5]], dtype=np.float32)
    found = torch.from_numpy(class_logits(task, logits)).softmax(1).numpy()
    np.testing.assert_allclose(found, task.probabilities(logits), atol=1e-6)


def calibrate(run, *flags) -> None:
    words = ["--run", str(run), "--calibrate", *map(str, flags)]
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), words))


@pytest.fixture(scope="module")
def calibrated(finished_run, tmp_path_factory):
    """A calibrated copy of the finished run; look but do not touch."""
    directory = shutil.copytree(finished_run, tmp_path_factory.mktemp("calibrated") / "run")
    with pytest.warns(UserWarning, match="para: the temperature is 100, .* no better than chance"):
        calibrate(directory)
    return directory


def dev_logits(run, task):
    examples = read_examples(task_file(run.args, task, "dev"), task)
    labels = np.array([example.label for example in examples])
    return class_logits(task, run.logits(task, examples)), labels


def test_only_probabilities_follow_the_temperature(calibrated, finished_run, capsys):
    run, plain = load_run(calibrated), load_run(finished_run)
    assert run.temperatures.keys() == {"sst", "para"} and not plain.temperatures
    for name in ("sst", "para"):
        task = run.tasks[name]
        temperature = min(fitted_by_lbfgs(*dev_logits(plain, task)), 100)
        assert run.temperatures[name] == pytest.approx(temperature, rel=1e-3)
        texts = [("a fine film", "a bad one")] if task.is_pair else ["a fine film"]
        before, after = plain.predict(name, texts), run.predict(name, texts)
        assert before.values.tolist() == after.values.tolist()
        powers = before.probabilities ** (1 / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        assert np.abs(before.probabilities - expected).max() > 1e-4  # a run without one differs
        np.testing.assert_allclose(after.probabilities, expected, atol=1e-5)
    pairs = [("a", "b")]
    assert run.predict("sts", pairs).values == plain.predict("sts", pairs).values


def test_rows_are_labelled_with_calibrated_probabilities(calibrated, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a fine film\n")
    words = f"--run {calibrated} --task sst --input {tmp_path / 'text.txt'}".split()
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), words))
    cell = capsys.readouterr().out.split()[-1]
    expected = load_run(calibrated).predict("sst", ["a fine film"]).probabilities.max()
    assert float(cell) == pytest.approx(expected, abs=1e-6)


def test_it_is_measured_on_the_half_that_it_was_not_fitted_on(calibrated, finished_run):
    dev = json.loads((calibrated / "calibration.json").read_text())["dev"]
    run = load_run(finished_run)
    logits, labels = dev_logits(run, run.tasks["sst"])
    size = len(labels)
    generator = torch.Generator().manual_seed(run.args.seed)
    fitted = torch.randperm(size, generator=generator)[: size // 2].numpy()
    held_out = np.setdiff1d(np.arange(size), fitted)
    found = dev["sst"]["held_out"]
    assert dev["sst"]["num_rows"] == size and found["num_rows"] == len(held_out)
    half = fitted_by_lbfgs(logits[fitted], labels[fitted])
    assert found["temperature"] == pytest.approx(half, rel=1e-3)
    inputs, targets = torch.from_numpy(logits[held_out]), torch.from_numpy(labels[held_out])
    for name, temperature in (("before", 1), ("after", half)):
        expected = F.cross_entropy(inputs / temperature, targets).item()
        assert found["nll"][name] == pytest.approx(expected, rel=1e-4)
        error = expected_calibration_error(logits[held_out] / temperature, labels[held_out])
        assert found["ece"][name] == pytest.approx(error, abs=1e-3)


def test_some_tasks_are_calibrated_and_the_others_stay(calibrated, tmp_path, data_copy, capsys):
    run = shutil.copytree(calibrated, tmp_path / "run")
    before = load_run(run).temperatures
    path = data_copy / "sst-sentiment-dev.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:40]))
    calibrate(run, "--task", "sst", "--data_dir", data_copy)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sst dev: 39 examples" and "log-likelihood" in lines[2]
    assert lines[3].startswith("sst   39 ") and lines[-1] == f"written to {run}/calibration.json"
    after = load_run(run).temperatures
    assert after["para"] == before["para"] and after["sst"] != before["sst"]
    with pytest.raises(InputError, match="--calibrate: sts has no probabilities to calibrate"):
        calibrate(run, "--task", "sts")


def test_a_wrong_calibration_is_named_and_can_be_repaired(calibrated, tmp_path):
    run = shutil.copytree(calibrated, tmp_path / "run")
    path = run / "calibration.json"
    content = json.loads(path.read_text())
    repair = "; remove the file, or write it again with --calibrate"
    for temperatures, message in (
        ({"sst": 0}, r"temperatures.sst is 0.0, expected float in \[0.01, 100.0\]"),
        ({"sst": "1"}, "temperatures.sst is '1', expected a finite number"),
        ({"sst": True}, "temperatures.sst is True, expected a finite number"),
        ({"sts": 1.5}, "temperatures.sts is of no task with classes in this run"),
        ({"mood": 1.5}, "temperatures.mood is of no task with classes in this run"),
        ([1.5], "temperatures is a list, expected a dict"),
    ):
        path.write_text(json.dumps(content | {"temperatures": temperatures}))
        with pytest.raises(InputError, match=f"calibration.json: {message}{repair}"):
            load_run(run)
    for wrong in ({**content, "dev": 3}, {}, {**content, "checkpoint": {"epoch": 1}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=f"calibration.json: .*{repair}"):
            load_run(run)
    path.write_text("{")
    with pytest.raises(InputError, match="calibration.json: cannot be read as JSON"):
        load_run(run)
    with pytest.warns(UserWarning, match="at an end of"):
        calibrate(run)
    assert load_run(run).temperatures == pytest.approx(content["temperatures"])


def test_the_calibration_of_another_checkpoint_is_not_used(calibrated, tmp_path):
    run = shutil.copytree(calibrated, tmp_path / "run")
    path = run / "calibration.json"
    content = json.loads(path.read_text())
    content["checkpoint"]["epoch"] += 1
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="is of another checkpoint than best.pt"):
        assert load_run(run).temperatures == {}


def test_a_single_row_cannot_be_halved(run_copy, data_copy):
    path = data_copy / "sst-sentiment-dev.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(InputError, match="--calibrate: sst has 1 dev rows, expected at least 2"):
        calibrate(run_copy, "--data_dir", data_copy)
    assert not (run_copy / "calibration.json").exists()
