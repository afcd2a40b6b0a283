"""The runner: what it runs, repeats and goes on with, on tiny trainings; and the rows' files."""

import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import train_multitask
import train_multitask_pal
from errors import InputError
from experiments import result_files, run
from experiments.row_files import SCRIPTS, read_row, read_rows
from options import parse_args
from tasks import TASKS

ROOT = Path(__file__).parents[2]
ROWS = read_rows(ROOT / "experiments" / "rows")
SIZES = "--batch_size 2 --no_tensorboard --no_test_predictions"
ROW_TEXTS = {
    "broken": "# Broken on purpose\n--pooling nothing\n",
    "joint": "# Joint sum\n",
    "turns": f"# Taking turns\n# script: {SCRIPTS[1]}\n--task_scheduler round_robin\n",
    "single_sts": "# Single task\n# part of: single_task\n--task sts\n",
    "far": "# Far away\n# not run by default: needs a dream\n",
}


def write_rows(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        (directory / f"{name}.txt").write_text(ROW_TEXTS[name], encoding="utf-8")
    return directory


def words(place: Path, model: Path, data: Path, flags: str) -> list[str]:
    folders = f"--rows_dir {place}/rows --results_dir {place}/results --work_dir {place}/work"
    return shlex.split(f"{flags} {folders} --model_name {model} --data_dir {data} {SIZES}")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Children compute on one thread, as the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def invoke(tiny_model, few_rows):
    """Call the runner in this process; its output, and its failure or None."""

    def run_in(place: Path, flags: str) -> tuple[str, str | None]:
        output, error = io.StringIO(), None
        with redirect_stdout(output):
            try:
                run.main(*run.parse(words(place, tiny_model, few_rows, flags)))
            except InputError as failure:
                error = str(failure)
        return output.getvalue(), error

    return run_in


@pytest.fixture(scope="module")
def place(tmp_path_factory, invoke):
    """A finished invocation: three rows with one seed, of which one fails."""
    directory = tmp_path_factory.mktemp("experiments")
    write_rows(directory / "rows", "broken", "joint", "turns", "far")
    flags = "--seeds 3 --num_batches_per_epoch 1 --epochs 1"
    output, error = invoke(directory, flags)
    (directory / "output").write_text(output)
    (directory / "error").write_text(error)
    return directory


def read_result(place: Path, row: str) -> dict:
    (path,) = (place / "results").glob(f"{row}-seed3-*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_accepted_by_its_script(name):
    row = ROWS[name]
    parsers = dict(zip(SCRIPTS, [train_multitask, train_multitask_pal]))
    args = parse_args(parsers[row.script].get_args_parser(), [f"@{row.path}"])
    assert args.script == row.script
    assert bool(args.given) == (name != "joint")


def test_the_rows_name_their_controls():
    assert [name for name, row in ROWS.items() if row.obstacle] == ["bert_large"]
    assert list(ROWS)[:2] == ["joint", "round_robin"]
    in_turns = {name for name, row in ROWS.items() if row.control == "round_robin"}
    assert in_turns == {"pal_scheduler", "pals", "smart"}
    parts = [row for row in ROWS.values() if row.method == "single_task"]
    assert {row.flags for row in parts} == {("--task", name) for name in TASKS}
    assert len({row.title for row in parts}) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("--pooling max\n", ":1: expected '# ' and the row's title"),
        ("# A\n# script: other.py\n", "script is 'other.py', expected one of train_multitask.py, "),
        ("# A\n# control: nobody\n", "control is 'nobody', expected one of "),
    ],
)
def test_a_bad_row_file_is_one_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path)


def test_a_row_file_is_read_as_a_script_reads_it(tmp_path):
    (tmp_path / "a.txt").write_text("# It's 'A'\n# note: script: no\n--lr 1e-3 # high\n--x 'b c'\n")
    row = read_row(tmp_path / "a.txt")
    assert (row.title, row.script, row.control, row.method) == (
        "It's 'A'",
        SCRIPTS[0],
        "joint",
        "a",
    )
    assert row.flags == ("--lr", "1e-3", "--x", "b c")


def test_a_failing_row_is_reported_and_the_rest_finishes(place):
    lines = (place / "output").read_text().splitlines()
    assert lines[0].startswith("runs: 3, finished before: 0;")
    starts = [
        "[1/3] joint seed 3 ... ",
        "[2/3] broken seed 3 ... failed",
        "[3/3] turns seed 3 ... ",
    ]
    assert [line[: len(start)] for line, start in zip(lines[1:], starts, strict=True)] == starts
    error = (place / "error").read_text()
    assert error.startswith("1 of 3 runs failed:\n  broken seed 3: train_multitask.py: error: ")
    assert "invalid choice: 'nothing'" in error
    log = Path(error.partition("(all of it: ")[2].rstrip(")"))
    assert "invalid choice" in log.read_text()
    names = sorted(path.name.split("-")[0] for path in (place / "results").iterdir())
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


def test_a_result_holds_what_the_run_wrote(place):
    result = read_result(place, "turns")
    (run_dir,) = (path for path in (place / "work").glob("turns*") if path.is_dir())
    dev = json.loads((run_dir / "metrics-dev.json").read_text())
    assert (result["dev"], result["mean"]) == (dev["metrics"], dev["mean"])
    assert result["flags"] == ["--task_scheduler", "round_robin"]
    assert result["options"]["task_scheduler"] == "round_robin"
    assert "task_scheduler" not in result["settings"]
    assert (result["seed"], result["best_epoch"], result["processes"]) == (3, 1, 1)
    assert result["examples"] == {"sst": 2} and result["updates"] == {"sst": 1}
    assert 0 < result["training_seconds"] + 0.1 < result["wall_seconds"]
    assert result["peak_memory_mib"] > 1
    assert len(result["git_revision"]) >= 40 and result["versions"]["torch"]
    assert read_result(place, "joint")["examples"] == dict.fromkeys(TASKS, 2)


def test_predictions_survive_their_encoding(place):
    results = result_files.read_results(place / "results")
    assert [result["row"] for result in results] == ["joint", "turns"]
    labels = result_files.read_dev_labels(place / "results", results[0]["data"])
    for result in results:
        for name, task in TASKS.items():
            values = result["predictions"][name]
            assert len(values) == 20
            score = result["dev"][name][task.metric_name]
            if result_files.is_score(task):
                assert task.metric(values, labels[name]) == pytest.approx(
                    score, abs=1e-3, nan_ok=True
                )
            else:
                assert values.mean() == pytest.approx(score)


def test_no_path_and_no_checkpoint_is_left_behind(place, tiny_model):
    result = read_result(place, "joint")
    assert result["settings"]["model_name"] == tiny_model.name
    for path in (place / "results").iterdir():
        text = path.read_text()
        assert '"/' not in text and str(place) not in text and str(ROOT) not in text
    assert not list((place / "work").glob("*/checkpoints"))


def test_right_and_scores_are_decoded_as_they_were():
    is_right = np.random.default_rng(0).random(21) < 0.5
    assert (result_files.decode_right(result_files.encode_right(is_right), 21) == is_right).all()
    scores = np.array([0, 5, 3.14159, 2.5, 0.00004])
    text = result_files.encode_scores(scores)
    assert text == "0 5 3.1416 2.5 0"
    np.testing.assert_allclose(result_files.decode_scores(text), scores, atol=5e-5)


def test_other_settings_or_data_give_another_key(few_rows, tiny_model, tmp_path):
    def key(flags: str, data: Path = few_rows) -> str:
        _, shared = run.parse(words(tmp_path, tiny_model, data, flags))
        options = result_files.portable_options(shared)
        return result_files.Settings(options, result_files.fingerprint(shared)).key

    other = Path(shutil.copytree(few_rows, tmp_path / "other"))
    same = key("joint --epochs 2 --use_amp --seeds 1")
    assert key("turns --use_amp --save_every 3 --epochs 2", other) == same
    assert key("--use_amp") == same  # two epochs are the default
    changed = [key("--use_amp --epochs 3"), key(""), key("--use_amp --task_weights sst=2")]
    with open(other / "sts-similarity-train.csv", "ab") as file:
        file.write(b"x\ta\tb\t1.0\r\n")
    changed.append(key("--use_amp", other))
    assert len({same, *changed}) == 5


def test_a_changed_row_is_run_again(place, tmp_path):
    path = next((place / "results").glob("turns-*"))
    row = read_row(place / "rows" / "turns.txt")
    assert result_files.is_finished(path, row)
    (tmp_path / "turns.txt").write_text(ROW_TEXTS["turns"] + "--lr 1e-3\n")
    assert not result_files.is_finished(path, read_row(tmp_path / "turns.txt"))
    assert not result_files.is_finished(tmp_path / "none.json", row)


@pytest.mark.parametrize("name", run.RESERVED)
def test_what_the_runner_gives_itself_is_refused(name, capsys):
    flags = {"seed": "--seed 3", "task": "--task sst", "smoketest": "--smoketest"}
    with pytest.raises(SystemExit):
        run.parse(shlex.split(flags.get(name, f"--{name} x")))
    assert f"--{name} is the runner's or a row's own; leave it out" in capsys.readouterr().err


def test_an_unknown_option_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit):
        run.parse(["joint", "--epoch", "3"])
    assert "unrecognized arguments: --epoch 3" in capsys.readouterr().err


def test_a_second_runner_is_refused(tmp_path):
    with run.locked(tmp_path / "results"):
        with pytest.raises(InputError, match="another runner, or a run of one that was killed"):
            with run.locked(tmp_path / "results"):
                pass
    with run.locked(tmp_path / "results"):
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
    with pytest.raises(InputError, match="19 predictions, expected 20, one a dev row"):
        result_files.write_result(
            tmp_path / "a.json", row, result_files.Settings({}, "d"), copy, [1.0]
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
    result = result_files.write_result(tmp_path / "a.json", row, settings, copy, [1.0, 2.5])
    assert {key: result[key] for key in more} == more
    assert (result["wall_seconds"], result["processes"]) == (3.5, 2)


def test_remaining_time_is_estimated_from_the_same_row(place, tiny_model, few_rows):
    args, shared = run.parse(words(place, tiny_model, few_rows, "--epochs 9"))
    runner = run.Runner(args, shared, -1, run.ForwardedStop(""))
    rows = read_rows(place / "rows")
    plan = [(rows[name], seed) for seed in (1, 2) for name in ("joint", "turns", "far")]
    assert run.time_left(runner, plan, plan) == ""
    for (row, seed), seconds in zip(plan, (120, 480)):
        flags = {"script": row.script, "flags": list(row.flags)}
        runner.result_path(row, seed).write_text(json.dumps(flags | {"wall_seconds": seconds}))
    # joint 2 min, turns 8 min, far twice their mean
    assert run.time_left(runner, plan, plan[2:]) == ", about 20 min left"
    for row, seed in plan[:2]:
        runner.result_path(row, seed).unlink()


def test_seconds_of_a_killed_process_end_at_its_last_checkpoint(place, tiny_model, few_rows):
    args, shared = run.parse(words(place, tiny_model, few_rows, "--epochs 7"))
    runner = run.Runner(args, shared, -1, run.ForwardedStop(""))
    row = read_row(place / "rows" / "joint.txt")
    assert runner.earlier_parts(row, 1) == []
    last = runner.run_dir(row, 1) / "checkpoints" / "last.pt"
    last.parent.mkdir(parents=True)
    runner.write_state(row, 1, [20.0, None])
    assert runner.earlier_parts(row, 1) == []  # no checkpoint: starts anew
    last.touch()
    started = json.loads(runner.run_dir(row, 1).with_suffix(".json").read_text())["started"]
    os.utime(last, (started + 7, started + 7))
    assert runner.earlier_parts(row, 1) == [20.0, 7.0]
    (place / "rows" / "joint.txt").write_text(ROW_TEXTS["joint"] + "--lr 1e-3\n")
    changed = read_row(place / "rows" / "joint.txt")
    assert runner.earlier_parts(changed, 1) == []  # another run than the one that was stopped
    (place / "rows" / "joint.txt").write_text(ROW_TEXTS["joint"])


@pytest.mark.slow
def test_killed_and_stopped_runs_go_on(tmp_path, invoke, tiny_model, few_rows):
    """SIGTERM saves; kill -9 of the runner alone keeps others out, and of both costs time alone."""
    write_rows(tmp_path / "rows", "single_sts")
    flags = "--seeds 3 --num_batches_per_epoch 150 --epochs 4 --save_every 2 --keep_checkpoints"
    command = [sys.executable, ROOT / "experiments" / "run.py"]
    command += words(tmp_path, tiny_model, few_rows, flags)

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def wait_for(process: subprocess.Popen, pattern: str, text: str = "") -> None:
        while not any(text in path.read_text("latin-1") for path in tmp_path.glob(pattern)):
            try:
                raise AssertionError(f"ended with {process.wait(0.05)} before {pattern} {text}")
            except subprocess.TimeoutExpired:
                continue

    with start() as process:
        wait_for(process, "work/*/checkpoints/last.pt")
        process.send_signal(signal.SIGTERM)
        assert "stopped by SIGTERM; its run is saved" in process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    with start() as process:
        wait_for(process, "work/*.log", "resumed after")
        process.kill()
        process.wait()
        with pytest.raises(InputError, match="another runner"):  # the child is at work
            with run.locked(tmp_path / "results"):
                pass
        os.killpg(process.pid, signal.SIGKILL)
    descriptor = os.open(tmp_path / "results", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for the child's end
    os.close(descriptor)
    assert not list((tmp_path / "results").iterdir())
    output, error = invoke(tmp_path, flags)
    assert error is None and "[1/1] single_sts seed 3 ... " in output
    result = read_result(tmp_path, "single_sts")
    assert result["processes"] == 3 and result["updates"] == {"sts": 600}
    (log,) = (tmp_path / "work").glob("*.log")
    assert log.read_text().count("resumed after") == 2
    assert list((tmp_path / "work").glob("*/checkpoints/best.pt"))
