"""Test when slurm.sh requeues a job and how it launches a script, with stubs of scontrol and srun.

`test_slurm` tests the same on a real SLURM.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import slurm_job

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = """
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))
for name in {written}:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
os.kill(os.getppid(), signal.{signum})
signal.pause()
"""


@pytest.fixture
def bash(tmp_path):
    """Run Bash code after slurm.sh, in an empty directory; the stubs print their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "scontrol": '[[ $1 == show ]] && printf "%s\\n" node1 node2 || echo "scontrol $*"',
        "srun": 'echo "srun $*"',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "job").mkdir()

    def run(code: str, **environ: object) -> subprocess.CompletedProcess:
        scripts = f"source {ROOT}/scripts/environment.sh; source {ROOT}/scripts/slurm.sh"
        code = f"set -euo pipefail; {scripts}; {code}"
        return subprocess.run(
            ["bash", "-c", code],
            cwd=tmp_path / "job",
            env={"PATH": f"{folder}:/usr/bin:/bin", **{k: str(v) for k, v in environ.items()}},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def job(bash, tmp_path):
    """Run a job that gets a signal once its command has written these files."""

    def run(signum: str, *written: str, saved: str = "runs/a/", status: int = 143, **environ):
        child = CHILD.format(signum=signum, written=list(written), status=status)
        (tmp_path / "job" / "child.py").write_text(child)
        code = f"run_job {saved} {sys.executable} child.py"
        return bash(code, SLURM_JOB_ID=7, **environ)

    return run


@pytest.mark.parametrize("written", ["runs/a/checkpoints/last.pt", "runs/a/trials/1/metrics.jsonl"])
def test_a_job_that_has_made_progress_is_requeued(job, written):
    done = job("SIGUSR1", written)
    assert done.returncode == 143
    assert done.stdout == "scontrol requeue 7\n" and done.stderr.startswith("Requeued after")


@pytest.mark.parametrize("written", [(), ("runs/b/last.pt",), ("runs/a/args.json",)])
def test_a_job_without_progress_before_its_limit_ends(job, written):
    done = job("SIGUSR1", *written, SLURM_JOB_END_TIME=int(time.time()) + 100)
    assert done.returncode == 143 and done.stdout == ""
    assert done.stderr.startswith("Nothing was saved before the time limit")


def test_a_slash_at_the_end_of_a_path_changes_nothing(tmp_path):
    for flags in ("--resume runs/a/", "--run_name a", "--hpo_resume runs/a//"):
        assert slurm_job.saved("train_multitask.py", flags.split()) == "runs/a"
    flags = ["--filepath", f"{tmp_path}/w/", "--run_name", "a"]
    assert slurm_job.saved("train_multitask.py", flags) == f"{tmp_path}/w"


def test_what_was_saved_before_the_job_is_no_progress(job, tmp_path):
    path = tmp_path / "job" / "runs" / "a" / "last.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert "Nothing was saved" in job("SIGUSR1").stderr


def test_a_preempted_job_is_requeued_whatever_it_has_saved(job):
    done = job("SIGUSR1", SLURM_JOB_END_TIME=int(time.time()) + 3600)
    assert done.stdout == "scontrol requeue 7\n"


def test_an_array_requeues_only_the_part_that_got_the_signal(job):
    done = job(
        "SIGUSR1",
        "runs/experiments/pals-seed1-ab/last.pt",
        saved="runs/experiments/pals-seed",
        SLURM_ARRAY_JOB_ID=5,
        SLURM_ARRAY_TASK_ID=2,
    )
    assert done.stdout == "scontrol requeue 5_2\n"


def test_a_cancelled_job_saves_and_ends(job):
    done = job("SIGTERM", "runs/a/last.pt")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_a_job_that_ends_by_itself_after_the_signal_is_done(job):
    done = job("SIGUSR1", "runs/a/last.pt", status=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_signal_before_the_command_is_not_lost(bash, tmp_path):
    """It comes while the batch script prepares; the command gets it as soon as it is started."""
    (tmp_path / "job" / "child.py").write_text(CHILD.format(signum="SIGURG", written=[], status=9))
    code = f"trap 'early_signal=yes' USR1; kill -USR1 $$; run_job a/ {sys.executable} child.py"
    done = bash(code, SLURM_JOB_ID=7, SLURM_JOB_END_TIME=int(time.time()) + 3600)
    assert done.stdout == "scontrol requeue 7\n" and done.returncode in (9, 143)


def test_a_killed_command_ends_the_job(bash):
    done = bash(f"run_job a {sys.executable} -c 'import os; os.kill(os.getpid(), 9)'")
    assert done.returncode == 128 + signal.SIGKILL


TORCHRUN = "python -u -m torch.distributed.run --shutdown_timeout 110 --nproc_per_node"


@pytest.mark.parametrize(
    "flags, environ, expected",
    [
        ("", {}, "python -u"),
        ("", {"SLURM_GPUS_ON_NODE": 1}, "python -u"),
        ("", {"SLURM_GPUS_ON_NODE": 4}, f"{TORCHRUN} 4 --standalone"),
        ("", {"SLURM_JOB_GPUS": "0,3"}, f"{TORCHRUN} 2 --standalone"),
        ("--hpo --use_gpu", {"SLURM_GPUS_ON_NODE": 4}, "python -u"),
        ("--hpo_resume runs/s", {"SLURM_GPUS_ON_NODE": 4}, "python -u"),
        (
            "",
            {"SLURM_GPUS_ON_NODE": 4, "SLURM_JOB_NUM_NODES": 2, "SLURM_CPUS_PER_TASK": 8},
            "srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --cpus-per-task 8 --kill-on-bad-exit=1 "
            f"{TORCHRUN} 4 --nnodes 2 --rdzv_backend c10d --rdzv_id 7-0 "
            "--rdzv_endpoint node1:20007",
        ),
    ],
)
def test_how_a_script_is_launched(bash, flags, environ, expected):
    code = f'python=python; set_launch {flags}; echo "${{launch[@]}}"'
    done = bash(code, SLURM_JOB_ID=7, SLURM_JOB_NODELIST="node[1-2]", **environ)
    assert done.stdout.strip() == expected


def test_a_search_on_several_nodes_is_one_line(bash):
    done = bash("python=python; set_launch --hpo", SLURM_JOB_NUM_NODES=2)
    assert done.returncode == 1 and done.stderr.startswith("A search is one process")


def test_an_unknown_row_is_one_line_before_anything_is_installed():
    words = ["bash", str(ROOT / "run_experiments.sh"), "joint", "no such row", "--seeds", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "there is no row no\\ such\\ row; see experiments/rows/*.txt" in line


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "error: expected versions, resume SCRIPT, or the name of a script"),
        ("resume", "error: expected versions, resume SCRIPT, or the name of a script"),
        ("train_multitask.py", "error: the run has no name yet; give --run_name"),
        ("setup.py", "error: there is no script setup.py, expected one of train_multitask.py"),
        ("train_multitask.py --epochs two", "train_multitask.py: error: argument --epochs: 'two'"),
    ],
)
def test_a_wrong_call_is_one_line(words, message):
    command = [sys.executable, "-m", "scripts.slurm_job", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    [line] = done.stderr.splitlines()
    assert done.returncode in (1, 2) and line.startswith(message)


def test_a_restarted_job_resumes_what_it_has_saved(tmp_path):
    script, flags = "train_multitask.py", ["--logdir", str(tmp_path), "--run_name", "a"]
    flags += ["--filepath", "weights", "--use_gpu"]
    assert slurm_job.resume_flags(script, flags) == flags
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "args.json").touch()
    expected = f"--resume {tmp_path}/a --filepath weights --use_gpu".split()
    assert slurm_job.resume_flags(script, flags) == expected
    (tmp_path / "a" / "search.json").touch()
    assert slurm_job.resume_flags(script, flags) == f"--hpo_resume {tmp_path}/a --use_gpu".split()
    assert slurm_job.resume_flags(script, ["--resume", "b"]) == ["--resume", "b"]
