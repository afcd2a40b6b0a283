"""The runner: what it runs, repeats and resumes, on tiny trainings."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from small_rows import ROOT, ROW_TEXTS, ROWS, read_result, words, write_rows

import train_multitask
import train_multitask_pal
from experiments import result_files, run, transformers_baseline
from experiments.row_files import SCRIPTS, read_row, read_rows
from experiments.runs import ForwardedStop, wait_for
from options.parsing import parse_args
from runtime.errors import InputError
from runtime.locks import locked

SAMPLE = ROOT / "data" / "sample"
MODULES = (train_multitask, train_multitask_pal, transformers_baseline)
PARSERS = {script: module.get_args_parser for script, module in zip(SCRIPTS, MODULES, strict=True)}


def test_a_failing_row_is_reported_and_the_rest_finishes(place):
    lines = (place / "output").read_text().splitlines()
    assert lines[0].startswith("runs: 3, finished before: 0;")
    starts = [
        "[1/3] joint seed 3 ... ",
        "[2/3] broken seed 3 ... failed",
        "[3/3] turns seed 3 ... ",
    ]
    assert [line[: len(start)] for line, start in zip(lines[1:4], starts, strict=True)] == starts
    error = (place / "error").read_text()
    assert error.startswith("1 of 3 runs failed; they are listed above")
    title, failure = lines[4:]
    assert title == "failed:"
    assert failure.startswith("  broken seed 3: train_multitask.py: error: ")
    assert "invalid choice: 'nothing'" in failure
    log = Path(failure.partition("(all of it: ")[2].rstrip(")"))
    assert "invalid choice" in log.read_text()
    names = sorted(path.name.split("-")[0] for path in (place / "results").glob("*.json"))
    assert names == ["dev_labels", "joint", "turns"]


def test_finished_runs_are_not_repeated_and_failed_ones_are(place, invoke):
    def stamps() -> dict:
        return {path: path.stat().st_mtime_ns for path in (place / "results").iterdir()}

    before = stamps()
    output, error = invoke(place, "--seeds 3 --epochs 1 --num_batches_per_epoch 1")  # in any order
    assert output.startswith("runs: 3, finished before: 2;")
    assert output.count("] ") == 1 and "[3/3] broken seed 3 ... failed" in output
    assert error.startswith("1 of 3 runs failed")
    assert stamps() == before


def test_a_row_with_an_obstacle_runs_only_where_it_is_named(place):
    rows = read_rows(place / "rows")
    assert [row.name for row in run.choose_rows([], rows)] == ["joint", "broken", "turns"]
    assert [row.name for row in run.choose_rows(["far"], rows)] == ["far"]
    with pytest.raises(InputError, match="row 'x' is unknown, expected some of joint, broken"):
        run.choose_rows(["x"], rows)


def test_other_settings_or_data_give_another_key(few_rows, tiny_model, tmp_path, monkeypatch):
    def key(flags: str, data: Path = few_rows) -> str:
        _, shared = run.parse(words(tmp_path, tiny_model, data, flags))
        options = result_files.portable_options(shared)
        return result_files.Settings(options, result_files.fingerprint(shared)).key

    other = Path(shutil.copytree(few_rows, tmp_path / "other"))
    same = key("joint --epochs 2 --use_amp --seeds 1")
    assert key("turns --use_amp --save_every 3 --epochs 2", other) == same
    assert key("--use_amp") == same  # two epochs are the default
    others = ("--use_amp --epochs 3", "--no_use_amp", "--use_amp --task_weights sst=2")
    changed = [key(flags) for flags in others]
    with open(other / "sts-similarity-train.csv", "ab") as file:
        file.write(b"x\ta\tb\t1.0\r\n")
    changed.append(key("--use_amp", other))
    assert len({same, *changed}) == 5
    for is_default, own in ((True, "--use_amp"), (False, "--no_use_amp")):
        monkeypatch.setattr(run, "prefers_bfloat16", lambda kind: is_default)
        assert key("") == key(own)


def plan_runs(place: Path, model: Path, data: Path, flags: str) -> list[run.Run]:
    return run.plan_runs(*run.parse(words(place, model, data, flags)))


def test_a_changed_row_is_run_again(place, tiny_model, few_rows, tmp_path):
    flags = "turns --seeds 3 --num_batches_per_epoch 1 --epochs 1"
    [turns] = plan_runs(place, tiny_model, few_rows, flags)
    assert turns.is_finished
    for text in (ROW_TEXTS["turns"] + "--clip 1\n", ROW_TEXTS["turns"].replace("1e-3", "1e-4")):
        (tmp_path / "turns.txt").write_text(text)
        assert not turns._replace(row=read_row(tmp_path / "turns.txt")).is_finished
    assert not turns._replace(result=tmp_path / "none.json").is_finished


def test_a_rate_on_the_command_line_replaces_the_rows_own(place, tiny_model, few_rows):
    own, given = ["--task_scheduler", "round_robin"], "turns --seeds 3 --lr 5e-4"
    [turns] = plan_runs(place, tiny_model, few_rows, "turns --seeds 3")
    assert turns.flags == [*own, "--lr", "1e-3"]  # last, as in results of rows that had it there
    [searched] = plan_runs(place, tiny_model, few_rows, given)
    assert (searched.flags, searched.settings.options["lr"]) == (own, 0.0005)
    result = result_files.identity(searched.row, 3, searched.settings)
    assert result["flags"] == own
    for one in (turns, searched):
        record = {"script": one.row.script, "flags": one.flags}
        found = [
            result_files.has_flags_of(record, one.row, x.settings.options) for x in (one, turns)
        ]
        assert found == [True, one is turns]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("precision", run.PRECISIONS)
def test_a_rows_flags_go_with_the_options_of_every_run(precision, name):
    args, _ = run.parse([precision, "--data_dir", str(SAMPLE)])
    row = ROWS[name]
    get_parser = PARSERS[row.script]
    parsed = parse_args(get_parser(), [*run.shared_words(args.passed, row), *row.flags_with({})])
    own = parse_args(get_parser(), [*row.flags])
    assert not row.lr or parsed.lr == float(row.lr)
    expected = precision == "--use_amp" if own.use_amp is None else own.use_amp
    assert parsed.use_amp is expected


@pytest.mark.parametrize("name", run.RESERVED)
def test_what_the_runner_gives_itself_is_refused(name, capsys):
    flags = {"seed": "--seed 3", "task": "--task sst"}
    flags |= {"smoketest": "--smoketest", "hpo": "--hpo"}
    with pytest.raises(SystemExit):
        run.parse(shlex.split(flags.get(name, f"--{name} x")))
    assert f"--{name} is set by the runner or by a row; drop it" in capsys.readouterr().err


def test_an_unknown_option_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit):
        run.parse(["joint", "--epoch", "3"])
    assert "unrecognized arguments: --epoch 3" in capsys.readouterr().err


def test_a_second_runner_is_refused(tmp_path):
    with run.locked(tmp_path / "a.lock"):
        with pytest.raises(InputError, match="a.lock: in use by another process"):
            with run.locked(tmp_path / "a.lock"):
                pass
        with run.locked(tmp_path / "b.lock"):  # another run is nobody's business
            pass
    with run.locked(tmp_path / "a.lock"):
        pass


def test_the_reason_of_a_failure(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("Traceback\n  File ...\nValueError: too late\n\n")
    assert run.failure(1, log) == f"ValueError: too late (all of it: {log})"
    assert run.failure(-9, log).startswith("killed by SIGKILL")
    log.write_text("")
    assert run.failure(1, log).startswith("no output")


def test_a_run_without_its_predictions_fails(place, tmp_path):
    row = read_row(place / "rows" / "turns.txt")
    (run_dir,) = (path for path in (place / "work").glob("turns*") if path.is_dir())
    copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    path = copy / "predictions" / "sts-similarity-dev-output.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="19 predictions, expected 20, one per dev row"):
        result_files.write_result(
            tmp_path / "a.json", row, result_files.Settings({}, "d"), copy, [1.0], []
        )
    path.unlink()
    with pytest.raises(InputError, match="sts-similarity-dev-output.csv: no such file"):
        result_files.write_result(
            tmp_path / "a.json", row, result_files.Settings({}, "d"), copy, [1.0], []
        )
    assert not (tmp_path / "a.json").exists()


def test_what_main_adds_to_its_metrics_is_taken_over(place, tmp_path):
    row = read_row(place / "rows" / "turns.txt")
    (run_dir,) = (path for path in (place / "work").glob("turns*") if path.is_dir())
    copy = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    dev = json.loads((copy / "metrics-dev.json").read_text())
    more = {"num_parameters": 12, "conflicts": {"sst-sts": 0.5}}
    (copy / "metrics-dev.json").write_text(json.dumps(dev | more))
    settings = result_files.Settings({}, "d")
    own = json.loads((copy / "args.json").read_text())["git_revision"]
    result = result_files.write_result(
        tmp_path / "a.json", row, settings, copy, [1.0, 2.5], [own, "later"]
    )
    assert result["git_revisions"] == [own, "later"] and result["git_revision"] == own
    assert {key: result[key] for key in more} == more
    assert (result["wall_seconds"], result["processes"]) == (3.5, 2)


def test_remaining_time_is_estimated_from_the_same_row(place, tiny_model, few_rows):
    plan = plan_runs(place, tiny_model, few_rows, "joint turns far --seeds 1 2 --epochs 9")
    assert [str(one) for one in plan[1:4]] == ["far seed 1", "turns seed 1", "joint seed 2"]
    assert run.time_left(plan, plan) == ""
    for one, seconds in ((plan[0], 120), (plan[2], 480)):
        flags = {"script": one.row.script, "flags": one.flags}
        one.result.write_text(json.dumps(flags | {"wall_seconds": seconds}))
    # far their mean, joint 2 min, far again, turns 8 min
    assert run.time_left(plan, [plan[1], *plan[3:]]) == ", about 20 min left"
    assert run.time_left(plan, []) == ""
    plan[0].result.unlink()
    plan[2].result.unlink()


def test_seconds_of_a_killed_process_end_at_its_last_checkpoint(
    place, tiny_model, few_rows, tmp_path
):
    [joint] = plan_runs(place, tiny_model, few_rows, "joint --seeds 1 --epochs 7")
    joint = joint._replace(directory=tmp_path / "joint")
    last = joint.directory / "checkpoints" / "last.pt"
    assert run.earlier_parts(joint, last) == []
    last.parent.mkdir(parents=True)
    run.write_state(joint, [20.0, None], ["a", "b"])
    assert run.read_revisions(joint) == ["a", "b"]
    assert run.earlier_parts(joint, last) == []  # no checkpoint: starts anew
    last.touch()
    started = json.loads(joint.beside(".json").read_text())["started"]
    os.utime(last, (started + 7, started + 7))
    assert run.earlier_parts(joint, last) == [20.0, 7.0]
    changed = joint._replace(row=joint.row._replace(flags=("--lr", "1e-3")))
    assert run.earlier_parts(changed, last) == []  # another run than the one that was stopped


def test_a_result_names_the_code_of_every_process_of_its_run(
    place, tiny_model, few_rows, tmp_path, monkeypatch
):
    flags = shlex.join(words(place, tiny_model, few_rows, "joint --seeds 1 --epochs 7"))
    args, shared = run.parse(shlex.split(flags))
    joint = run.plan_runs(args, shared)[0]._replace(directory=tmp_path / "joint")
    (joint.directory / "checkpoints").mkdir(parents=True)
    run.write_state(joint, [20.0], ["a"])
    written = []
    monkeypatch.setattr(run, "git_revision", lambda: "b")
    monkeypatch.setattr(run, "wait_for", lambda *_: 0)
    monkeypatch.setattr(run, "write_result", lambda *facts: written.append(facts[-1]))
    run.execute(args, joint, ForwardedStop(""))  # no checkpoint: starts anew
    (joint.directory / "checkpoints").mkdir(parents=True)
    (joint.directory / "checkpoints" / "last.pt").touch()
    run.write_state(joint, [20.0], ["a"])
    run.execute(args, joint, ForwardedStop(""))
    assert written == [["b"], ["a", "b"]]


def test_runs_of_a_row_with_a_dot_in_its_name_have_files_of_their_own(
    place, tiny_model, few_rows, tmp_path
):
    [joint, other] = plan_runs(place, tiny_model, few_rows, "joint --seeds 1 2 --epochs 7")
    one, two = (x._replace(directory=tmp_path / f"smart_0.1-seed{x.seed}") for x in (joint, other))
    assert one.beside(".json").name == "smart_0.1-seed1.json" != two.beside(".json").name


def test_a_signal_before_the_process_has_started_ends_it(tmp_path):
    stop = ForwardedStop("")
    stop.signum = signal.SIGINT
    with locked(tmp_path / "lock") as lock:
        assert wait_for(["sleep", "60"], tmp_path / "log", lock, stop) == -signal.SIGTERM


def test_an_error_of_the_system_ends_its_run_alone(place, tiny_model, few_rows, monkeypatch):
    plan = plan_runs(place, tiny_model, few_rows, "joint turns --seeds 1 --epochs 7")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(run, "execute", fail)
    failures = run.run_all(Namespace(results_dir="x"), plan, ForwardedStop(""))
    assert failures == [f"{one}: No space left on device" for one in plan]


@pytest.mark.slow
def test_killed_and_stopped_runs_are_resumed(tmp_path, invoke, tiny_model, few_rows):
    """SIGTERM saves; kill -9 of the runner alone keeps others out, and of both costs time alone."""
    write_rows(tmp_path / "rows", "single_sts")
    flags = "--seeds 3 --num_batches_per_epoch 150 --epochs 4 --save_every 2 --keep_checkpoints"
    command = [sys.executable, "-m", "experiments.run"]
    command += words(tmp_path, tiny_model, few_rows, flags)

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            command, start_new_session=True, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def wait_for(process: subprocess.Popen, pattern: str, text: str = "") -> None:
        while not any(text in path.read_text("latin-1") for path in tmp_path.glob(pattern)):
            try:
                raise AssertionError(f"ended with {process.wait(0.05)} before {pattern} {text}")
            except subprocess.TimeoutExpired:
                continue

    with start() as process:
        wait_for(process, "work/*/checkpoints/last.pt")
        process.send_signal(signal.SIGTERM)
        assert "stopped by SIGTERM; the same command resumes its run from" in process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    with start() as process:
        wait_for(process, "work/*.log", "resumed after")
        process.kill()
        process.wait()
        [lock] = (tmp_path / "work").glob("*.lock")
        output, error = invoke(tmp_path, flags)  # the child is at work
        assert "in use by another process" in output and error is not None
        os.killpg(process.pid, signal.SIGKILL)
    with run.locked(lock, wait=True):  # until the child's end
        assert not (tmp_path / "results").exists()
    output, error = invoke(tmp_path, flags)
    assert error is None and "[1/1] single_sts seed 3 ... " in output
    result = read_result(tmp_path, "single_sts")
    assert result["processes"] == 3 and result["updates"] == {"sts": 600}
    (log,) = (tmp_path / "work").glob("*.log")
    assert log.read_text().count("resumed after") == 2
    assert list((tmp_path / "work").glob("*/checkpoints/best.pt"))
