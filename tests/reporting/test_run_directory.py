"""A run's directory: its name and folders are its own, and nothing is written outside or lost."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import evaluation
from reporting import run_directory, start
from reporting.summary import resume_command
from runtime.errors import InputError
from runtime.locks import reserved
from runtime.workers import WorkerLost

SIZES = "--num_batches_per_epoch 2 --batch_size 4 --epochs 2 --dev_samples 8 --no_tensorboard"
SIZES = SIZES.split()


def edit(run: Path, **options: object) -> None:
    """Change options in a run's args.json."""
    record = json.loads((run / "args.json").read_text())
    record["options"] |= options
    (run / "args.json").write_text(json.dumps(record))


def test_runs_without_a_name_that_start_in_one_second_get_different_ones(train, monkeypatch):
    monkeypatch.setattr(run_directory.time, "strftime", lambda form: "run-1")
    first = train(*SIZES)
    with reserved(first.parent / ".run-1-2.lock"):  # a run that is still loading its data
        third = train(*SIZES)
    assert (first.name, third.name) == ("run-1", "run-1-3")
    assert sorted(path.name for path in first.parent.iterdir()) == ["run-1", "run-1-3"]


def test_a_name_that_another_run_is_just_taking_is_refused_before_anything_is_loaded(
    train, tmp_path, monkeypatch
):
    monkeypatch.setattr(start, "load_config", None)
    (tmp_path / "runs").mkdir()
    with reserved(tmp_path / "runs" / ".a.lock"):
        with pytest.raises(InputError, match="runs/a: a run of this name is just starting"):
            train(*SIZES, "--run_name", "a")


@pytest.mark.parametrize("flag", ["--filepath", "--predictions_path"])
def test_two_runs_at_the_same_time_do_not_share_a_folder(train, tmp_path, flag):
    train(*SIZES, "--run_name", "free", flag, tmp_path / "free")
    assert not (tmp_path / "free" / run_directory.LOCK_NAME).exists()
    (tmp_path / "shared").mkdir()
    with reserved(tmp_path / "shared" / run_directory.LOCK_NAME):
        with pytest.raises(InputError, match=f"{flag} .*shared: in use by another run"):
            train(*SIZES, "--run_name", "a", flag, tmp_path / "shared")
    assert not (tmp_path / "runs" / "a").exists()


def test_one_folder_may_take_checkpoints_and_predictions(train, tmp_path):
    folder = tmp_path / "all"
    train(*SIZES, "--run_name", "a", "--filepath", folder, "--predictions_path", folder)
    assert (folder / "best.pt").is_file() and len(list(folder.glob("*-output.csv"))) == 6


def test_folders_inside_the_run_may_have_other_names(train, tmp_path):
    run = tmp_path / "runs" / "a"
    train(*SIZES, "--run_name", "a", "--filepath", run / "deep" / "weights")
    moved = run.rename(tmp_path / "moved")
    train("--resume", moved, "--epochs", 3)
    assert len((moved / "metrics.jsonl").read_text().splitlines()) == 3
    evaluation.load_run(moved)


@pytest.mark.parametrize("change", ["moved", "removed", "replaced"])
def test_a_run_whose_directory_disappears_stops(train, tmp_path, monkeypatch, change):
    run, original = tmp_path / "runs" / "a", start.Start.check_place
    checks = []

    def disturbed(self):
        checks.append(1)
        if len(checks) == 3:
            run.rename(tmp_path / "b") if change != "removed" else shutil.rmtree(run)
            if change == "replaced":
                shutil.copytree(tmp_path / "b", run)
        original(self)

    monkeypatch.setattr(start.Start, "check_place", disturbed)
    with pytest.raises(InputError, match="runs/a: moved or removed while the run was at work"):
        train(*SIZES, "--run_name", "a", "--save_every", "1")
    assert run.exists() == (change == "replaced")
    if change == "moved":
        monkeypatch.undo()
        train("--resume", tmp_path / "b")


def test_without_its_folder_no_checkpoint_is_written(train, tmp_path, monkeypatch):
    """Between two checks of the place, the missing folder itself stops the run."""
    run = tmp_path / "runs" / "a"
    monkeypatch.setattr(start.Start, "check_place", lambda self: shutil.rmtree(run, True))
    with pytest.raises(OSError, match="last.pt: cannot be written: No such file or directory"):
        train(*SIZES, "--run_name", "a")
    assert not run.exists()


@pytest.mark.parametrize("name", ["filepath", "predictions_path"])
def test_a_folder_outside_the_run_has_to_be_on_the_command_line(train, tmp_path, name):
    run = train(*SIZES, "--run_name", "a")
    edit(run, **{name: str(tmp_path / "elsewhere")})
    with pytest.raises(InputError, match=f"outside the run; if that is right, add --{name} "):
        train("--resume", run, "--epochs", 3)
    edit(run, **{name: str(run / "x" / ".." / ".." / "y")})
    with pytest.raises(InputError, match="outside the run"):
        train("--resume", run, "--epochs", 3)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["checkpoints", "predictions", "tensorboard"])
def test_nothing_is_written_through_a_link(train, tmp_path, name):
    run, outside = train(*SIZES, "--run_name", "a"), tmp_path / "outside"
    outside.mkdir()
    if (run / name).exists():
        shutil.copytree(run / name, outside, dirs_exist_ok=True)
        shutil.rmtree(run / name)
    (run / name).symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(InputError, match=f"a/{name}: leads to .*outside by a link"):
        train("--resume", run, "--epochs", 3)
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    ["metrics-dev.json", "metrics.jsonl", "args.json", "predictions/sst-sentiment-dev-output.csv"],
)
def test_a_link_in_place_of_a_file_is_replaced(train, tmp_path, name):
    run, target = train(*SIZES, "--run_name", "a"), tmp_path / "target"
    shutil.move(run / name, target)
    (run / name).symlink_to(target)
    before = target.read_bytes()
    train("--resume", run, "--epochs", 3)
    assert target.read_bytes() == before and not (run / name).is_symlink()


def test_a_planted_temporary_file_is_not_written_through(train, tmp_path):
    """Its name could be guessed once; now it is random, and an existing one is never opened."""
    run, target = train(*SIZES, "--run_name", "a"), tmp_path / "target"
    target.write_text("mine")
    (run / ".metrics-dev.json.partial").symlink_to(target)
    train("--resume", run, "--epochs", 3)
    assert target.read_text() == "mine"


def test_what_a_killed_process_left_is_removed_on_resume(train):
    run = train(*SIZES, "--run_name", "a")
    left = run / "checkpoints" / ".last.pt.0123456789abcdef.partial"
    left.write_bytes(b"half")
    train("--resume", run, "--epochs", 3)
    assert not left.exists()


def test_a_run_of_an_older_version_gets_its_table_on_resume(train):
    run = train(*SIZES, "--run_name", "a")
    table = (run / "tasks.toml").read_text()
    (run / "tasks.toml").unlink()
    train("--resume", run, "--epochs", 3)
    assert (run / "tasks.toml").read_text() == table


def test_a_folder_in_another_run_is_refused_also_before_its_first_checkpoint(train, tmp_path):
    run = train(*SIZES, "--run_name", "a")
    shutil.rmtree(run / "checkpoints")
    for folder in (run / "checkpoints", run / "new", run):
        with pytest.raises(InputError, match=f"--filepath .*: is in the run {run}; name another"):
            train(*SIZES, "--run_name", "b", "--filepath", folder)
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(InputError, match=f"is in the run {run}"):
        train(*SIZES, "--run_name", "b", "--filepath", tmp_path / "link" / "x")
    assert not (tmp_path / "runs" / "b").exists()


def test_files_of_the_user_stay_in_a_folder_outside_the_run(train, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    kept = [folder / ".lock", folder / ".doc.partial", folder / "notes"]
    for path in kept:
        path.write_text("mine")
    run = train(*SIZES, "--run_name", "a", "--filepath", folder)
    train("--resume", run, "--filepath", folder, "--epochs", 3)
    assert all(path.read_text() == "mine" for path in kept)


def test_a_run_that_began_with_a_checkpoint_resumes(train):
    best = train(*SIZES, "--run_name", "first") / "checkpoints" / "best.pt"
    run = train(*SIZES, "--run_name", "second", "--checkpoint", best)
    train("--resume", run, "--epochs", 3)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_search_resumes_its_trials(train):
    """It gives little more than the directory: `main` gets no parsed command line."""
    from search.trial import resumed
    from train_multitask import main

    run = train(*SIZES, "--run_name", "a")
    edit(run, epochs=3)
    told = []
    main(resumed(run, use_gpu=False), told.append)
    assert [line["epoch"] for line in told] == [1, 2, 3]


@pytest.mark.parametrize("before, now, what", [(True, False, "give"), (False, True, "drop")])
def test_another_device_on_resume_is_said(run_copy, parse, before, now, what):
    edit(run_copy, use_gpu=before)
    given = parse("--resume", run_copy, *["--use_gpu"] * now)
    with pytest.warns(UserWarning, match=f"as before, stop it and {what} --use_gpu"):
        assert run_directory.resumed_options(given).use_gpu is now
    edit(run_copy, use_gpu=now)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_directory.resumed_options(given)


def test_a_run_resumes_from_another_directory(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(*SIZES, "--logdir", "logs", "--run_name", "a", "--filepath", "logs/a/deep")
    monkeypatch.chdir("/")
    train("--resume", tmp_path / "logs" / "a", "--epochs", 3)
    assert (tmp_path / "logs" / "a" / "deep" / "last.pt").is_file()


def test_a_directory_whose_path_cannot_be_printed_is_refused(train, tmp_path, monkeypatch):
    (tmp_path / "a\nb").mkdir()
    monkeypatch.chdir(tmp_path / "a\nb")
    with pytest.raises(InputError, match="control characters in a path; rename the folder"):
        train(*SIZES, "--run_name", "a", "--logdir", "logs")


@pytest.mark.parametrize("removed", [[0], [0, 1]])
def test_a_run_resumes_without_what_its_metrics_have_lost(train, removed):
    run = train(*SIZES, "--run_name", "a")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for number, line in enumerate(lines) if number not in removed]
    (run / "metrics.jsonl").write_text("".join(kept))
    for epochs in (3, 4):
        train("--resume", run, "--epochs", epochs)
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").open()]
    assert epochs == [epoch for epoch in (1, 2, 3, 4) if epoch - 1 not in removed]


def test_a_profile_is_not_written_through_a_link(train, tmp_path):
    run, victim = train(*SIZES, "--run_name", "a", "--profiler"), tmp_path / "victim"
    victim.write_text("mine")
    assert json.loads((run / "profile.json").read_text())["traceEvents"]
    for path in [*(run / "checkpoints").iterdir(), run / "metrics.jsonl", run / "profile.json"]:
        path.unlink()
    for name in ("profile.json", "profile.json.tmp"):
        (run / name).symlink_to(victim)
    train("--resume", run)
    assert victim.read_text() == "mine" and not (run / "profile.json").is_symlink()


def test_an_empty_log_directory_of_a_refused_run_goes(train, tmp_path):
    with pytest.raises(InputError):
        train(*SIZES, "--logdir", tmp_path / "deep" / "logs", "--data_dir", tmp_path / "none")
    assert not (tmp_path / "deep").exists()


def test_a_lock_whose_holder_has_just_removed_it_is_not_taken(tmp_path, monkeypatch):
    from runtime import locks

    path, flock = tmp_path / "lock", locks.fcntl.flock

    def late(descriptor, how):
        path.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with reserved(path) as is_held:
        assert not is_held


@pytest.mark.parametrize(
    "flags, is_same",
    [
        ("--save_every 1", True),
        ("--profiler", True),
        ("--seed 1", False),
        ("--lr 1e-5", False),
        ("--sst_train {few}/sst-sentiment-train.csv", False),
        ("--checkpoint {best}", False),
    ],
)
def test_a_fingerprint_covers_what_a_run_starts_from(train, few_rows, flags, is_same):
    first = train(*SIZES, "--run_name", "a")
    best = first / "checkpoints" / "best.pt"
    second = train(*SIZES, "--run_name", "b", *flags.format(few=few_rows, best=best).split())
    one, other = (run_directory.read_options(run).fingerprint for run in (first, second))
    assert (one == other) == is_same


def test_the_resume_command_works_from_any_directory(train, tmp_path, parse, capsys):
    logdir = tmp_path / "a 'quoted' dir"
    run = train(*SIZES, "--run_name", "a", "--logdir", logdir, "--filepath", tmp_path / "w x")
    args = run_directory.read_options(run, {"filepath": str(tmp_path / "w x")})
    args.use_gpu = False
    python, *words = shlex.split(resume_command(args))
    assert python == sys.executable and Path(words[0]).is_file() and os.path.isabs(words[0])
    done = subprocess.run(
        [python, *words, "--epochs", "3"], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_changed_training_file_is_noticed(train, data_copy):
    run = train(*SIZES, "--run_name", "a", "--data_dir", data_copy)
    path = data_copy / "sts-similarity-train.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *reversed(lines[1:])]))  # as many rows as before
    with pytest.raises(InputError, match="sts-similarity-train.csv: is not the file that this run"):
        train("--resume", run, "--epochs", 3)
    path.write_bytes(b"".join(lines))
    train("--resume", run, "--epochs", 3)


def test_a_lost_worker_claims_no_checkpoint_that_is_not_there(tmp_path):
    from runtime.interrupts import stop_on_signals

    for said in ("no checkpoint yet", "the last checkpoint is complete"):
        with pytest.raises(WorkerLost, match=f"gone; {said}; resume with: this"):
            with stop_on_signals("this", tmp_path / "last.pt"):
                raise WorkerLost("gone")
        (tmp_path / "last.pt").touch()
