"""Bad input in whole runs: one line that says what to fix, no traceback, no incomplete file.

`python -m pytest tests/test_bad_inputs.py -rP` prints what a user sees in every case.
"""

import re
import shlex
import shutil
import subprocess

import pytest
import torch
from bad_inputs import CASES, Place, truncate

import evaluation
import train_multitask
from options.parsing import parse_args
from runtime import checkpoint
from runtime.errors import exit_status

SMALL = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --dev_samples 4 --no_tensorboard"


@pytest.fixture
def place(tmp_path, data_copy, tiny_model, run_copy) -> Place:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    folder = tmp_path / "folder"
    folder.mkdir()
    return Place(data_copy, model, run_copy, folder)


def run_command(place: Place, flags: str, capfd) -> tuple[int, str]:
    """Run train_multitask.py in this process; return its exit status and stderr."""
    words = shlex.split(flags.format(**place._asdict()))
    if not {"--resume", "--hpo_resume"} & set(words):
        defaults = ["--data_dir", place.data, "--model_name", place.model]
        words = [*map(str, defaults), "--logdir", str(place.run.parent), *SMALL.split(), *words]
    capfd.readouterr()
    try:
        args = parse_args(train_multitask.get_args_parser(), words)
        status = exit_status(lambda: train_multitask.main(args))
    except SystemExit as stop:
        status = stop.code
    return status, capfd.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line(case, place, capfd, monkeypatch):
    damage, flags, message = CASES[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    damage(place)
    before = sorted(path for path in place.folder.parent.rglob("*"))
    status, err = run_command(place, flags, capfd)
    lines = [line for line in err.splitlines() if "error: " in line]
    assert status in (1, 2) and len(lines) == 1 and "Traceback" not in err, err
    assert len(err.splitlines()) == 1, err
    assert re.search(message, lines[0])
    print(f"{case}: {lines[0].replace(str(place.folder.parent) + '/', '')}")
    assert sorted(path for path in place.folder.parent.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(place, small_disk, capfd):
    status, err = run_command(place, f"--logdir {small_disk} --run_name a", capfd)
    assert status == 1 and len(err.splitlines()) == 1
    assert "No space left on device" in err or "cannot be written" in err
    assert not [path for path in small_disk.rglob("*") if "partial" in path.name]
    for path in small_disk.rglob("*.pt"):  # those written earlier are complete
        checkpoint.load(path)


def test_a_disk_that_fills_later_keeps_the_last_good_checkpoint(place, small_disk, capfd):
    """Only checkpoints are on the full disk. The other files stay complete, and the run resumes."""
    (small_disk / "ballast").write_bytes(bytes(100 * 1024))
    flags = f"--filepath {small_disk}/ckpt --run_name a"
    status, err = run_command(place, flags, capfd)
    assert status == 1 and "cannot be written" in err and len(err.splitlines()) == 1
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    resume = f"--resume {place.run.parent / 'a'}"
    status, err = run_command(place, resume, capfd)
    assert status == 1 and f"outside the run; if that is right, add --filepath {small_disk}" in err
    status, err = run_command(place, f"{resume} --filepath {small_disk}/ckpt", capfd)
    assert (status, err) == (0, "")
    assert checkpoint.load(small_disk / "ckpt" / "last.pt")["progress"]["epoch"] == 1


def test_a_damaged_run_is_one_line_for_evaluation(place, capfd):
    truncate("run", "checkpoints/best.pt")(place)
    args = evaluation.get_args_parser().parse_args(["--run", str(place.run)])
    assert exit_status(lambda: evaluation.main(args)) == 1
    assert "best.pt: truncated or not a checkpoint" in capfd.readouterr().err
