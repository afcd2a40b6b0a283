"""Hyper-parameter search: what is read back from a search's directory is checked, and never run."""

import json
import math
import pickle
from argparse import Namespace
from types import SimpleNamespace

import pytest

from options.parsing import parse_args
from options.run_options import get_pal_args_parser
from options.saved import options_to_save
from reporting.metrics_file import read_lines
from runtime.errors import InputError
from search import tune
from search.continued import ContinuedHyperBand, NumberedSearch
from search.ray_session import remove_stale
from search.records import Record, read_records, write_record
from search.space import Choice, Range
from search.trial import NAME, run_trial

SPACE = {"lr": Range(1e-5, 1e-3, True), "projection": Choice(("none", "pcgrad"))}
ARGS = Namespace(epochs=9, patience=None, seed=0, hpo_trials=8, smoketest=False)
POINT = {"lr": 1e-4, "projection": "none"}


def write_epochs(directory, name: str, means: list[float]) -> None:
    """Write a metrics.jsonl of these dev means."""
    (directory / "trials" / name).mkdir(parents=True, exist_ok=True)
    with open(directory / "trials" / name / "metrics.jsonl", "w") as file:
        for epoch, mean in enumerate(means, start=1):
            print(json.dumps(metrics_line(epoch) | {"mean": mean}), file=file)


def metrics_line(epoch: int) -> dict:
    """Return a line of metrics.jsonl."""
    line = {"epoch": epoch, "mean": 0.5, "loss": {"sst": 1.0}, "examples": {"sst": 8}}
    return line | {"dev": {"sst": {"accuracy": 0.5}}, "examples_per_second": 4.0}


def write_old_run(directory, name: str, means: list[float], has_checkpoints: bool, **options):
    """Write what a trial of an earlier version leaves: a run directory, and no record of ours."""
    run_dir = directory / "trials" / name
    write_epochs(directory, name, means)
    if has_checkpoints:
        (run_dir / "checkpoints").mkdir()
    folders = {"filepath": run_dir / "checkpoints", "predictions_path": run_dir / "predictions"}
    defaults = options_to_save(parse_args(get_pal_args_parser(), []))
    options = defaults | POINT | {"run_dir": run_dir} | folders | options
    (run_dir / "args.json").write_text(json.dumps({"options": options}, default=str))


def test_records_are_read_as_they_were_written(tmp_path):
    assert read_records(tmp_path, SPACE, ARGS) == []
    records = [Record("000", POINT, "failed", "no memory"), Record("001", POINT | {"lr": 1e-5})]
    for record in records:
        write_record(tmp_path, record)
    assert read_records(tmp_path, SPACE, ARGS) == records


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "000.json: holds a list"),
        ('{"state": "over", "error": "", "sampled": {}}', "000.json: state is 'over'"),
        ('{"state": "done", "error": 1, "sampled": {}}', "000.json: state is 'done' and error 1"),
        ('{"state": "done", "error": "", "sampled": {"lr": 1}}', "sampled are ['lr'], expected"),
        ('{"state": "done", "error": "", "sampled": null}', "sampled are None, expected"),
        (json.dumps({"sampled": POINT | {"lr": 1}}), "lr is 1, expected a number in [1e-05, 0.0"),
        (json.dumps({"sampled": POINT | {"lr": True}}), "lr is True, expected a number"),
        (json.dumps({"sampled": POINT | {"lr": math.nan}}), "000.json: cannot be read as JSON"),
        (json.dumps({"sampled": POINT | {"projection": []}}), "projection is [], expected one of"),
    ],
)
def test_a_wrong_record_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "trials").mkdir()
    if '"state"' not in content and "{" in content:
        content = '{"state": "done", "error": "", ' + content[1:]
    (tmp_path / "trials" / "000.json").write_text(content)
    with pytest.raises(InputError) as error:
        read_records(tmp_path, SPACE, ARGS)
    assert str(error.value).startswith(str(tmp_path)) and message in str(error.value)


def test_a_name_that_is_not_plain_and_a_linked_folder_are_refused(tmp_path):
    write_record(tmp_path, Record("a b", POINT))
    with pytest.raises(InputError, match="'a b' is no name of a trial"):
        read_records(tmp_path, SPACE, ARGS)
    (tmp_path / "trials" / "a b.json").unlink()
    write_record(tmp_path, Record("000", POINT))
    (tmp_path / "else").mkdir()
    (tmp_path / "trials" / "000").symlink_to(tmp_path / "else")
    with pytest.raises(InputError, match="trials/000: is not a folder itself"):
        read_records(tmp_path, SPACE, ARGS)


def test_a_trial_of_an_earlier_version_has_ended_if_its_checkpoints_are_removed(tmp_path):
    write_old_run(tmp_path, "a0", [0.1] * 9, False)
    write_old_run(tmp_path, "a1", [0.1], False)
    write_old_run(tmp_path, "a2", [], False)
    write_old_run(tmp_path, "a3", [0.1], True)
    records = read_records(tmp_path, SPACE, ARGS)
    assert [record.state for record in records] == ["done", "stopped", "failed", "unfinished"]
    assert all(record.sampled == POINT for record in records)


def test_a_trial_whose_checkpoints_are_said_to_be_elsewhere_is_refused(tmp_path):
    write_old_run(tmp_path, "a0", [0.1], True, filepath="/home/other/checkpoints")
    with pytest.raises(InputError, match="args.json: filepath is '/home/other/checkpoints'"):
        read_records(tmp_path, SPACE, ARGS)
    (tmp_path / "trials" / "a0" / "args.json").write_text('{"options": {"run_dir": 1}}')
    with pytest.raises(InputError, match="args.json: script is None, expected one of"):
        read_records(tmp_path, SPACE, ARGS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epoch": 0}, "epoch is 0, expected more than 0"),
        ({"epoch": True}, "epoch is True"),
        ({"mean": 10**400}, "mean is 1000"),
        ({"mean": 1.5}, "mean is 1.5, expected a number in [-1, 1]"),
        ({"mean": None}, "mean is None"),
        ({"loss": 1}, "loss is 1"),
        ({"examples": {"sst": "8"}}, "examples is "),
        ({"examples_per_second": 0}, "examples_per_second is 0"),
        ({"dev": []}, "dev is "),
        ({"dev": {"cola": {}}}, "dev of 'cola' is "),
        ({"dev": {"sst": {}}}, "dev of 'sst' is "),
        ({"dev": {"sst": {"accuracy": "1"}}}, "dev of 'sst' is "),
    ],
)
def test_a_wrong_line_of_metrics_is_one_clear_error(tmp_path, change, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(metrics_line(1)) + "\n")
    assert [line["epoch"] for line in read_lines(path)] == [1]
    path.write_text(json.dumps(metrics_line(1) | change) + "\n")
    with pytest.raises(InputError) as error:
        read_lines(path)
    assert str(error.value).startswith(f"{path}:1: not a line of metrics; ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hpo_trials": "four"}, "argument --hpo_trials: 'four' is not a positive integer"),
        ({"epochs": 0}, "argument --epochs: '0' is not a positive integer"),
        ({"given": "no"}, "given is 'no', expected a list of options"),
        ({"narrowed": []}, "narrowed is [], expected an object"),
        ({"script": "/bin/x"}, "script is '/bin/x', expected one of train_multitask.py"),
        ({"use_gpu": "yes"}, "use_gpu is 'yes', expected true or false"),
        ({"model_name": [1]}, "model_name is [1], expected a value as --model_name takes it"),
    ],
)
def test_a_wrong_search_json_is_one_clear_error(parse, tmp_path, change, message):
    options = options_to_save(parse("--hpo")) | {"narrowed": {}}
    given, path = parse("--hpo_resume", tmp_path), tmp_path / "search.json"
    path.write_text(json.dumps({"options": options}, default=str))
    assert tune.resumed_search(given)[0].seed == 0
    path.write_text(json.dumps({"options": options | change}, default=str))
    with pytest.raises(InputError) as error:
        tune.resumed_search(given)
    assert message in str(error.value)


def test_unfinished_trials_are_proposed_first_and_no_point_twice(tmp_path):
    write_old_run(tmp_path, "000", [0.5], False)
    records = [Record("000", POINT, "done"), Record("a1", POINT | {"lr": 2e-4})]
    searcher = NumberedSearch(tmp_path, SPACE, records, ARGS)
    assert searcher.suggest("x") == records[1].sampled | {NAME: "a1"}
    drawn = [searcher.suggest(f"x{number}") for number in range(3)]
    assert [config[NAME] for config in drawn] == ["001", "002", "003"]
    first = NumberedSearch(tmp_path / "new", SPACE, [], ARGS).suggest("x")
    assert first[NAME] == "000" and first["lr"] not in [config["lr"] for config in drawn]
    states = {record.name: record.state for record in read_records(tmp_path, SPACE, ARGS)}
    assert states == {"000": "stopped"} | dict.fromkeys(["001", "002", "003", "a1"], "unfinished")


def test_hyperband_remembers_ended_trials_and_judges_no_epoch_twice(tmp_path):
    """Trial a1 was continued after epoch 1, although it would be stopped there now."""
    records = [Record(f"00{n}", POINT, "stopped") for n in range(3)] + [Record("a1", POINT)]
    for record in records[:3]:
        write_epochs(tmp_path, record.name, [0.9])
    write_epochs(tmp_path, "a1", [0.1, 0.1])
    scheduler = ContinuedHyperBand(tmp_path, records, ARGS)
    verdicts = []
    for name in ("a1", "003"):
        trial = SimpleNamespace(trial_id=f"ray-{name}", config={NAME: name})
        scheduler.on_trial_add(None, trial)
        verdicts.append(scheduler.on_trial_result(None, trial, {"epoch": 1, "mean": 0.1}))
    assert verdicts == ["CONTINUE", "STOP"]


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_rays_folder_is_removed_unread_and_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tuner.pkl").write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    (tmp_path / "ray").symlink_to(tmp_path / "mine")
    remove_stale(tmp_path / "ray")
    assert not (tmp_path / "ray").is_symlink() and (tmp_path / "mine" / "tuner.pkl").is_file()
    (tmp_path / "mine").rename(tmp_path / "ray")
    remove_stale(tmp_path / "ray")
    assert not (tmp_path / "ray").exists() and not (tmp_path / "run").exists()
    remove_stale(tmp_path / "ray")


def test_a_trial_of_a_smoke_test_ends_after_its_one_epoch(tmp_path, monkeypatch):
    """It is stopped there, and a trial that has ended reports its epochs again, untrained."""
    args = Namespace(**vars(ARGS) | {"smoketest": True, "unfreeze_interval": None})
    scheduler = ContinuedHyperBand(tmp_path, [], args)
    trial = SimpleNamespace(trial_id="ray-000", config={NAME: "000"})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"epoch": 1, "mean": 0.1}) == "STOP"
    write_epochs(tmp_path, "000", [0.5])
    reported = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    run_trial({NAME: "000"}, vars(args), str(tmp_path), lambda *_: pytest.fail("it is trained"))
    assert [line["epoch"] for line in reported] == [1]


def test_ended_trials_need_no_ray_and_are_not_trained_on(tmp_path, monkeypatch):
    """Also one that HyperBand has stopped, whose checkpoints a kill has left."""
    monkeypatch.setattr(tune, "ray_session", lambda *_: pytest.fail("Ray is started"))
    write_old_run(tmp_path, "000", [0.1], True)
    write_record(tmp_path, Record("000", POINT, "stopped"))
    args = Namespace(**vars(ARGS) | {"hpo_trials": 1})
    tune.run_trials(args, tmp_path, SPACE, read_records(tmp_path, SPACE, args), None)
    assert not (tmp_path / "trials" / "000" / "checkpoints").exists()
