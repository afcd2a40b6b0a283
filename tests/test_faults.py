"""Faults during a write: kills, and disks that are full or read-only.

`python -m pytest tests/test_faults.py -rP` prints what a user sees.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from saved_state import assert_same, final_state

import train_multitask
from reporting import run_directory
from runtime import checkpoint
from runtime.errors import exit_status

SIZES = "--samples_per_epoch 8 --batch_size 4 --epochs 2 --dev_samples 40 --no_tensorboard".split()
SIZES += ["--lr", "2e-3", "--seed", "6"]  # the second epoch is clearly better
WRITTEN = {  # file -> how often a run of two epochs writes it
    "args.json": 1,
    "tokenizer.json": 1,
    "metrics.jsonl": 2,
    "last.pt": 3,
    "best.pt": 2,
    "metrics-dev.json": 1,
    "sst-sentiment-dev-output.csv": 1,
}


def killed_at(target: str, is_after: bool, count: int, command) -> None:
    """Run `command` in a process that is killed with SIGKILL when it writes a file.

    Args:
        target: name of the file.
        is_after: kill right after the file gets its name, not right before.
        count: which of the writes of this file, from 1.
        command: what the process runs.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        return
    original, calls = os.replace, []

    def replace(source: object, to: object) -> None:
        calls.append(Path(to).name)
        is_it = calls.count(target) == count and calls[-1] == target
        if is_it and not is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, to)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    try:
        command()
    finally:
        os._exit(1)  # a child of pytest must not run the other tests


@pytest.fixture(scope="module")
def whole(tiny_model, some_rows, tmp_path_factory):
    """A run that nothing disturbs."""

    from options.parsing import parse_args

    flags = [*SIZES, "--model_name", tiny_model, "--data_dir", some_rows, "--run_name", "whole"]
    flags += ["--logdir", tmp_path_factory.mktemp("whole")]
    args = parse_args(train_multitask.get_args_parser(), list(map(str, flags)))
    train_multitask.main(args)
    return Path(args.run_dir)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_run_killed_at_any_write_resumes_to_the_same_bits(train, whole, tmp_path, name, is_after):
    run = tmp_path / "runs" / "a"
    killed_at(name, is_after, WRITTEN[name], lambda: train(*SIZES, "--run_name", "a"))
    for path in run.rglob("*.pt"):  # every file that has its name is complete
        checkpoint.load(path)
    if run.exists():
        train("--resume", run)
    else:  # killed before the directory was made: repeat the command
        train(*SIZES, "--run_name", "a")
    for one, other in zip(final_state(whole), final_state(run)):
        assert_same(one, other)
    predictions = sorted((whole / "predictions").iterdir())
    assert [path.name for path in predictions] == sorted(
        path.name for path in (run / "predictions").iterdir() if not path.name.startswith(".")
    )
    for path in predictions:
        assert path.read_bytes() == (run / "predictions" / path.name).read_bytes()


@pytest.mark.parametrize("free", [0, 4, 12, 20, 24, 28, 32, 36, 40, 48, 72, 96])
def test_a_disk_that_fills_anywhere_is_one_line_and_loses_nothing(
    train, small_disk, whole, tmp_path, capfd, free
):
    """A disk with `free` KiB holds all but the checkpoints. With more space, the run resumes."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((200 - free) * 1024))
    run, folder = small_disk / "a", tmp_path / "checkpoints"
    flags = [flag for flag in SIZES if flag != "--no_tensorboard"]
    flags += ["--logdir", small_disk, "--run_name", "a", "--filepath", folder]
    status = exit_status(lambda: train(*flags))
    err = capfd.readouterr().err
    assert status in (0, 1) and len(err.splitlines()) == status and "Traceback" not in err, err
    assert not err or f"{small_disk}" in err and "No space left on device" in err
    print(f"{free} KiB: {err or 'enough'}")
    assert not [path for path in small_disk.rglob("*") if "partial" in path.name]
    ballast.unlink()
    if run.exists():
        train("--resume", run, "--filepath", folder)
    else:
        train(*flags)
    for one, other in zip(final_state(whole), final_state(run, folder)):
        assert_same(one, other)


@pytest.mark.parametrize("flag", ["--logdir {}", "--filepath {}/a", "--predictions_path {}/a"])
def test_a_read_only_folder_is_one_line_before_anything_is_trained(
    train, small_disk, monkeypatch, tmp_path, capfd, flag
):
    monkeypatch.setattr(train_multitask, "fit", None)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert exit_status(lambda: train(*SIZES, *flag.format(small_disk).split())) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert str(small_disk) in line and "Read-only file system" in line
    print(line)
    assert not list(tmp_path.glob("runs/*"))


def test_two_processes_do_not_work_on_one_run(train, run_copy, capfd):
    """The second --resume changes nothing: for example, a requeued job while another one runs."""
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")}
    with run_directory.run_lock(str(run_copy)):
        assert exit_status(lambda: train("--resume", run_copy, "--epochs", 3)) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert f"{run_copy}/config.json: in use by another process" in line
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")} == before
    train("--resume", run_copy, "--epochs", 2)


def test_a_name_taken_in_the_meantime_is_one_line(train, monkeypatch, tmp_path, capfd):
    """If two runs start at the same time with the same name, the later one changes nothing."""
    record, run = run_directory.run_record, tmp_path / "runs" / "a"

    def overtaken(args):
        (run / "checkpoints").mkdir(parents=True)
        return record(args)

    monkeypatch.setattr(run_directory, "run_record", overtaken)
    assert exit_status(lambda: train(*SIZES, "--run_name", "a")) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert f"{run}: another run has just taken this name" in line
    assert [path.name for path in run.parent.iterdir()] == ["a"] and len(list(run.iterdir())) == 1
