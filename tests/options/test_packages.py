"""Test what runs without requirements-extras.txt, and what a flag says without its package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train_multitask
from inputs import tags
from optimizers.aggregators import AGGREGATORS
from options.parsing import parse_args
from runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "data" / "sample"
REMEDY = f"; run {sys.executable} -m pip install -r requirements-extras.txt"
# flags -> the flag that the message names, and packages that it needs
NEEDED = {
    "--hpo": ("--hpo", ("ray", "optuna")),
    "--hpo_resume runs/none": ("--hpo_resume", ("ray", "optuna")),
    "--additional_input": ("--additional_input", ("spacy",)),
    "--augment 1": ("--augment", ("nltk",)),
    "--lora_rank 4": ("--lora_rank", ("peft",)),
} | {
    f"--projection {key}": (f"--projection {key}", ("torchjd", *method.packages))
    for key, method in AGGREGATORS.items()
}
# An import of any of these fails. Training installs transformers, but only its weights' package
# needs that.
WITHOUT_EXTRAS = """
import sys
names = ("ray", "optuna", "spacy", "nltk", "torchjd", "peft")
for name in (*names, "transformers", "sentence_transformers"):
    sys.modules[name] = None
import runpy
for command in {commands}:
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (command, end.code)
"""


@pytest.mark.parametrize(
    "flags, flag, package",
    [(flags, flag, name) for flags, (flag, names) in NEEDED.items() for name in names],
)
def test_flag_without_its_package_is_one_line_before_any_work(
    parse, one_line, monkeypatch, tmp_path, flags, flag, package
):
    if flag == "--hpo_resume":  # it takes every other option from the search
        args = parse_args(train_multitask.get_args_parser(), flags.split())
    else:
        script = "train_multitask_pal.py"  # has every flag
        args = parse(script, *flags.split(), "--data_dir", tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, package, None)
    message = one_line(train_multitask.main, args)
    assert message == f"{flag}: package {package} is not installed{REMEDY}"
    assert not (tmp_path / "runs").exists()


def test_missing_spacy_model_is_one_line_before_any_work(parse, one_line, monkeypatch, tmp_path):
    monkeypatch.setattr(tags, "SPACY_MODELS", ("no_such_model",))
    args = parse("--additional_input", "--data_dir", tmp_path / "nowhere")
    message = one_line(train_multitask.main, args)
    assert message.startswith("--additional_input: ") and "no_such_model" in message
    assert message.endswith(REMEDY)


@pytest.mark.parametrize("key", ["upgrad", "dualproj"])
def test_missing_solver_leaves_no_run_directory(train, monkeypatch, tmp_path, key):
    """torchjd itself is there, but not its extra."""
    flags = f"--smoketest --no_test_predictions --task_scheduler round_robin --projection {key}"
    for package in ("quadprog", "qpsolvers"):
        monkeypatch.setitem(sys.modules, package, None)
    forget_torchjd(monkeypatch)
    with pytest.raises(InputError) as caught:
        train("train_multitask_pal.py", *flags.split())
    assert str(caught.value).startswith(f"--projection {key}: ")
    assert str(caught.value).endswith(REMEDY) and not (tmp_path / "runs").exists()


def forget_torchjd(monkeypatch):
    """Let torchjd be imported anew, and put the loaded one back after the test."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)


def test_training_and_evaluation_need_no_extra_package(tiny_model, tmp_path):
    """All in one process, as most of the time goes into its start."""
    flags = f"--model_name {tiny_model} --data_dir {SAMPLE} --logdir {tmp_path} --run_name a"
    commands = [
        "train_multitask_pal.py --help",
        f"train_multitask.py --smoketest {flags}",
        f"evaluation.py --run {tmp_path / 'a'}",
        f"export.py --run {tmp_path / 'a'} --to {tmp_path / 'b'} --format sentence-transformers",
    ]
    code = WITHOUT_EXTRAS.format(commands=[command.split() for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "rewritten" in done.stdout or "written to" in done.stdout
