"""Hyper-parameter search on Ray: complete searches, killed ones, and one on a running Ray."""

import csv
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import train_multitask_pal
from options.parsing import parse_args
from reporting.run_directory import read_options

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = "--num_batches_per_epoch 2 --batch_size 2 --epochs 3 --dev_samples 8 --no_tensorboard "


@pytest.fixture
def search(tiny_model, few_rows, tmp_path):
    """Run an entry script in a process of its own, with options of a small search."""

    def run(
        flags: str, script: str = "train_multitask.py", at: str = "", do=None
    ) -> subprocess.CompletedProcess:
        """Call `do(process)` once, at the first line of output that has `at` in it."""
        if "--hpo_resume" not in flags:
            flags += f" {SMALL} --model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path}"
        output = ""
        with (
            open(tmp_path / "stderr", "w+") as stderr,
            subprocess.Popen(
                [sys.executable, script, *flags.split()],
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            ) as process,
        ):
            limit = threading.Timer(400, process.kill)  # a search that hangs fails
            limit.daemon = True
            limit.start()
            for line in process.stdout:
                output += line
                if do is not None and at in line:
                    do(process)
                    do = None
            process.wait()
            limit.cancel()
            stderr.seek(0)
            return subprocess.CompletedProcess([], process.returncode, output, stderr.read())

    return run


def kill_a_trial(search: subprocess.Popen) -> None:
    """Kill the process of a trial with SIGKILL, as a machine that runs out of memory does."""
    while search.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it may end in between
                is_trial = path.read_bytes().startswith(b"ray::ImplicitFunc")
                if is_trial and is_child(path.parent, search.pid):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    return
    raise AssertionError("no trial was running")


def is_child(process: Path, ancestor: int) -> bool:
    """Tell whether a directory of /proc belongs to a descendant of the process `ancestor`."""
    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return parent == ancestor or parent > 1 and is_child(process.parent / str(parent), ancestor)


def split_failed(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Return failed trials and all others."""
    failed = [row for row in rows if row["state"] == "failed"]
    return failed, [row for row in rows if row not in failed]


def read_table(directory: Path) -> list[dict]:
    with open(directory / "trials.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_search_with_a_killed_trial_ends_with_table_figures_options_and_best_run(
    search, tmp_path
):
    space = tmp_path / "space.json"
    space.write_text('{"lr": [1e-4, 1e-3]}')
    flags = f"--hpo --hpo_trials 4 --run_name s --hpo_space {space} --seed 3"
    done = search(flags, "train_multitask_pal.py", at="epoch 1", do=kill_a_trial)
    assert done.returncode == 0, done.stderr[-3000:]
    directory = tmp_path / "s"
    [failed], rows = split_failed(read_table(directory))
    assert len(rows) == 3 and {row["state"] for row in rows} <= {"done", "stopped"}
    assert re.search(r"epoch 1: sst \S+  para \S+  sts \S+  mean \S+", done.stdout)
    assert f"trial {failed['trial']} failed: " in done.stdout and "Traceback" not in done.stderr
    means = [float(row["mean"]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert all(1e-4 <= float(row["lr"]) <= 1e-3 for row in rows)
    for figure in ("parallel_coordinates.png", "importance.png"):
        assert (directory / figure).read_bytes().startswith(b"\x89PNG")
    args = parse_args(
        train_multitask_pal.get_args_parser(), [f"@{directory / 'best.txt'}", "--run_name", "x"]
    )
    run = read_options(directory / "best")
    assert not args.write_summary and not run.write_summary
    assert {"lr", "projection", "model_name", "epochs", "seed"} <= set(args.given)
    for name in set(args.given) - {"run_name"}:
        assert getattr(args, name) == getattr(run, name), name
    # The killed trial may have been the one that HyperBand would have continued.
    chosen = next((row for row in rows if row["state"] == "done"), rows[0])
    assert float(chosen["lr"]) == pytest.approx(run.lr)
    assert (directory / "best" / "metrics-test.json").is_file() is False
    assert len(list((directory / "best" / "predictions").iterdir())) == 6
    trials = [path for path in (directory / "trials").iterdir() if path.is_dir()]
    assert len(trials) == 4 and not any((trial / "checkpoints").exists() for trial in trials)


@pytest.mark.slow
def test_without_a_single_epoch_there_is_no_best(search, tmp_path):
    """A task weight that is too large for float32 makes every loss infinite."""
    done = search("--hpo --hpo_only --hpo_trials 2 --run_name s --task_weights sst=1e39")
    assert done.returncode == 1
    assert done.stdout.count(" failed: FloatingPointError: gradient norm is nan") == 2
    assert done.stderr.count("error: ") == 1 and "no trial has finished an epoch" in done.stderr
    assert not (tmp_path / "s" / "best.txt").exists()


@pytest.mark.slow
def test_a_killed_search_resumes_and_repeats_nothing(search, tmp_path):
    """It is killed in a trial, and again in the run of the best options. Both resume."""
    directory = tmp_path / "s"
    flags = "--hpo --hpo_trials 6 --hpo_concurrent 1 --run_name s"
    kill = kill_at_a_file(directory, "trials/*/checkpoints/last.pt")
    ended = search(flags, at="2 of 6", do=kill)
    assert ended.returncode == -signal.SIGKILL
    before = epochs_of_trials(directory)
    # Trials that have ended have no checkpoints any more.
    [cut_off] = [path.parts[-3] for path in directory.glob("trials/*/checkpoints/last.pt")]
    assert before[cut_off]
    kill = kill_at_a_file(directory, "best/checkpoints/last.pt")
    ended = search(f"--hpo_resume {directory}", at="training the best", do=kill)
    assert ended.returncode == -signal.SIGKILL
    rows = read_table(directory)
    assert len(rows) == 6 and {row["state"] for row in rows} <= {"done", "stopped"}
    after = epochs_of_trials(directory)
    assert len(after) == 6
    for name in before:  # what was trained stays
        assert after[name][: len(before[name])] == before[name]
    done = search(f"--hpo_resume {directory}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed after" in done.stdout and "best checkpoint" in done.stdout
    assert epochs_of_trials(directory) == after


def kill_at_a_file(directory: Path, pattern: str):
    """Return a function that kills the search with SIGKILL as soon as a file exists."""

    def kill(search: subprocess.Popen) -> None:
        while not any(directory.glob(pattern)):
            assert search.poll() is None
        search.kill()

    return kill


def epochs_of_trials(directory: Path) -> dict[str, list[float]]:
    """Return trial -> examples per second of its epochs: a number that no two epochs share."""
    found = {}
    for path in directory.glob("trials/*/args.json"):
        metrics = path.with_name("metrics.jsonl")
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        found[path.parent.name] = [json.loads(line)["examples_per_second"] for line in lines]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("has_token", [False, True])
def test_a_search_on_a_ray_that_runs_already(search, tmp_path, monkeypatch, has_token):
    """Such a Ray asks for a token if its machine has one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ray = str(Path(sys.executable).with_name("ray"))
    if has_token:
        subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [ray, "start", "--head", "--block", "--port", str(port), "--num-cpus", "2"]
    command += ["--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as head:
        try:
            assert any(b"Ray runtime started" in line for line in head.stdout)
            flags = f"--hpo --hpo_only --hpo_trials 2 --run_name s --ray_address 127.0.0.1:{port}"
            done = search(flags)
        finally:
            head.terminate()
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read_table(tmp_path / "s")) == 2


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_stops_a_search_in_order(search, tmp_path, signum):
    """Its printed command resumes it, and runs nothing that was planted in the directory."""
    pids = []

    def stop(process: subprocess.Popen) -> None:
        pids.append(process.pid)
        os.killpg(process.pid, signum)

    flags = "--hpo --hpo_only --hpo_trials 3 --run_name s --hpo_concurrent 1"
    stopped = search(flags, at="epoch 1", do=stop)
    assert stopped.returncode == 128 + signum
    message, _, command = stopped.stderr.strip().partition("; resume with: ")
    assert message == f"stopped by {signum.name}" and "\n" not in command
    assert processes_of_session(pids[0]) == []
    directory = tmp_path / "s"
    before = epochs_of_trials(directory)
    shutil.rmtree(directory / "ray")
    (directory / "ray").mkdir()
    state = ("searcher-state-1.pkl", "search_gen_state-1.json", "experiment_state-1.json")
    for name in ("tuner.pkl", "trainable.pkl", *state):
        (directory / "ray" / name).write_bytes(pickle.dumps(Planted(tmp_path / "unpickled")))
    python, script, *flags = shlex.split(command)
    assert python == sys.executable and script == str(ROOT / "train_multitask.py")
    done = search(shlex.join(flags))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "unpickled").exists()
    assert [row["state"] for row in read_table(directory)].count("unfinished") == 0
    after = epochs_of_trials(directory)
    assert all(after[name][: len(before[name])] == before[name] for name in before)


def processes_of_session(session: int) -> list[str]:
    """Return the living processes of a session, as /proc names them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end in between
            name, _, rest = path.read_text().rpartition(")")
            state, _, _, number = rest.split()[:4]
            if int(number) == session and state != "Z":
                found.append(name)
    return found


@pytest.mark.slow
def test_a_search_of_an_earlier_version_resumes(search, tmp_path):
    """It left Ray's names, and no record: what was drawn is in each run's args.json."""
    directory = tmp_path / "s"
    flags = "--hpo --hpo_only --hpo_trials 2 --run_name s --hpo_concurrent 1"
    assert search(flags).returncode == 0
    trials = directory / "trials"
    (trials / "000").rename(trials / "5e0df7a1")
    for path in (*trials.glob("00*"), *directory.glob("trials.tsv")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = epochs_of_trials(directory)
    done = search(f"--hpo_resume {directory}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {row["trial"] for row in read_table(directory)} == {"5e0df7a1", "000"}
    lrs = {row["lr"] for row in read_table(directory)}
    assert len(lrs) == 2, "a resumed search draws other points"
    assert epochs_of_trials(directory)["5e0df7a1"] == before["5e0df7a1"]


@pytest.mark.parametrize("folder", ["missing", "full"])
def test_ray_without_a_folder_for_its_files_is_one_error(search, small_disk, monkeypatch, folder):
    monkeypatch.setenv("TMPDIR", str(small_disk / folder if folder == "missing" else small_disk))
    done = search("--hpo --hpo_trials 1 --run_name s")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1
    assert done.stderr.startswith(f"error: {small_disk}") and "set TMPDIR to" in done.stderr


def test_resuming_what_is_no_search_is_one_error(search, tmp_path):
    done = search(f"--hpo_resume {tmp_path}")
    assert done.returncode == 1 and "no search.json in it" in done.stderr


def test_no_ray_at_the_address_is_one_error(search):
    done = search("--hpo --hpo_trials 1 --ray_address 127.0.0.1:1 --run_name s")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1
    assert "no Ray answers there" in done.stderr
