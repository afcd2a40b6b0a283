"""Which libraries a command waits for: none of the slow ones before its options are read."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "train_multitask.py",
    "train_multitask_pal.py",
    "evaluation.py",
    "compare.py",
    "export.py",
)
# Each takes a tenth of a second or more.
SLOW = {"torch", "transformers", "tokenizers", "scipy", "sklearn", "pandas", "huggingface_hub"}
SLOW |= {"tensorboard", "matplotlib", "ray", "optuna", "spacy", "nltk", "torchjd"}
# Not needed by a run without TensorBoard, a search, tags, or a model from the hub.
UNUSED = {"transformers", "matplotlib", "ray", "optuna", "spacy", "nltk", "torchjd", "tensorboard"}
UNUSED |= {"huggingface_hub"}


def modules_after(script: str, *flags: str) -> tuple[int, set[str]]:
    """Run a script in a new process; return its exit status and which packages it imported."""
    code = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('', end.code, *sys.modules, sep='\\n')\n"
    )
    words = [sys.executable, "-c", code, str(ROOT / script), *flags]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    status = len(lines) - lines[::-1].index("")
    assert "runtime.errors" in lines[status:], done.stdout + done.stderr
    return int(lines[status]), {name.split(".")[0] for name in lines[status:]}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_slow(script):
    status, packages = modules_after(script, "--help")
    assert (status, packages & SLOW) == (0, set())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistyped_flag_is_answered_before_anything_slow_is_imported(script):
    status, packages = modules_after(script, "--hlep")
    assert (status, packages & SLOW) == (2, set())


def test_a_run_imports_only_what_it_uses(tiny_model, tmp_path):
    flags = f"--smoketest --no_tensorboard --model_name {tiny_model} --logdir {tmp_path}".split()
    status, packages = modules_after("train_multitask.py", *flags)
    assert (status, packages & UNUSED) == (0, set())
