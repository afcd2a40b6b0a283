"""The SLURM scripts on a real SLURM of one node (see `slurm_machine`); skipped without one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from slurm_machine import missing, running_slurm

from runtime import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
CPU = ("--gres=none", "--mem=500", "--cpus-per-task=1")  # none of the node's GPUs
SIZES = "--batch_size 4 --dev_samples 8 --no_tensorboard --no_test_predictions"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environ:
        # The scripts take the active environment if it has our torch.
        yield environ | {"CONDA_PREFIX": sys.prefix, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def submit(slurm, tmp_path):
    """Return a function that submits run_train.sh in a copy of the repository.

    It returns the job's number and the copy.
    """
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "*.out", "results", "*.lock")
    shutil.copytree(ROOT, repository, ignore=ignored)

    def run(*words: object, options: tuple[str, ...] = ()) -> tuple[int, Path]:
        command = ["sbatch", "--parsable", *CPU, *options, "run_train.sh", *map(str, words)]
        done = subprocess.run(command, cwd=repository, env=slurm, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout), repository

    return run


def wait_for(job: int | str, environ: dict) -> None:
    """Wait until the job with all its parts and restarts is over.

    Only then does SLURM start a job that depends on it.
    """
    command = ["srun", "--quiet", f"--dependency=afterany:{job}", "--mem=10", "true"]
    subprocess.run(command, env=environ, check=True, timeout=900)


def test_a_smoketest_job(submit, slurm):
    job, repository = submit("--smoketest", "--seed", 1)
    wait_for(job, slurm)
    output = (repository / f"slurm_files/multitask-bert-{job}.out").read_text()
    lines = output.splitlines()
    starts = ["host", "revision", "packages", "command", "options"]
    assert [line.partition(":")[0] for line in lines[:5]] == starts
    assert "  seed: 1" in lines and "torch 2.13.0" in lines[2]
    assert "best checkpoint, epoch 1" in output
    assert (repository / "runs" / f"job-{job}" / "metrics-dev.json").is_file()


def test_a_wrong_flag_ends_the_job_at_once(submit, slurm):
    job, repository = submit("--epochs", 0)
    wait_for(job, slurm)
    output = (repository / f"slurm_files/multitask-bert-{job}.out").read_text()
    assert output.count("error: ") == 1 and "argument --epochs" in output


def test_a_gpu_job_is_accepted(slurm):
    command = ["sbatch", "--test-only", "--mem=500", "--cpus-per-task=1", "run_train.sh"]
    done = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True)
    assert done.returncode == 0 and "to start at" in done.stderr


def test_rows_are_submitted_as_an_array(submit, slurm, tiny_model, few_rows):
    _, repository = submit("--help")  # for its copy of the repository
    flags = f"joint pcgrad single_sst --seeds 1 --data_dir {few_rows} --model_name {tiny_model}"
    flags += f" --num_batches_per_epoch 2 --epochs 1 {SIZES}".replace(" --no_tensorboard", "")
    done = subprocess.run(
        ["bash", "run_experiments.sh", *flags.split()],
        cwd=repository,
        env=slurm | {"SBATCH_OPTIONS": " ".join(CPU)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wait_for(done.stdout.split()[-1], slurm)
    results = repository.glob("experiments/results/*-seed1-*.json")
    names = sorted(json.loads(path.read_text())["row"] for path in results)
    outputs = [path.read_text() for path in (repository / "slurm_files").glob("experiments-*.out")]
    assert names == ["joint", "pcgrad", "single_sst"], outputs


def meet_time_limit(job: int, environ: dict, output: Path, last: Path, restart: int) -> None:
    """Let a job meet its time limit once it has saved, so that the machine's speed does not matter.

    The limit becomes one to two minutes from then; SLURM's signal comes a minute before it. The
    requeued job has an hour again.
    """
    update = ["scontrol", "update", f"JobId={job}"]
    wait_until(lambda: f"restart {restart}" in output.read_text() if restart else last.is_file())
    seen = time.time()
    wait_until(lambda: last.is_file() and last.stat().st_mtime > seen)
    elapsed = subprocess.run(
        ["squeue", "-h", "-j", str(job), "-o", "%M"], env=environ, capture_output=True, text=True
    )
    minutes = int(elapsed.stdout.strip().split(":")[-2])
    subprocess.run([*update, f"TimeLimit={minutes + 2}"], env=environ, check=True)
    requeues = "Requeued after SLURM's early signal"
    wait_until(lambda: output.read_text().count(requeues) == restart + 1)
    subprocess.run([*update, "TimeLimit=60"], env=environ, check=True)


def wait_until(is_so: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "the job did not get there in time"
        time.sleep(0.5)


@pytest.mark.slow
def test_a_job_that_meets_its_time_limit_twice_ends_with_the_same_weights(
    submit, slurm, tiny_model, few_rows
):
    flags = f"--model_name {tiny_model} --data_dir {few_rows} {SIZES} --epochs 2 --run_name limited"
    flags += " --num_batches_per_epoch 6000 --save_every 20"
    job, repository = submit(*flags.split(), options=("--time=60", "--signal=B:USR1@60"))
    path = repository / f"slurm_files/multitask-bert-{job}.out"
    for restart in range(2):
        last = repository / "runs/limited/checkpoints/last.pt"
        meet_time_limit(job, slurm, path, last, restart)
    wait_for(job, slurm)
    output = path.read_text()
    assert "restart 2" in output and "best checkpoint, epoch" in output
    whole = [sys.executable, "train_multitask.py", *flags.replace("limited", "whole").split()]
    subprocess.run(
        whole,
        cwd=repository,
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    first, second = (
        checkpoint.load(repository / "runs" / name / "checkpoints" / "last.pt")["model"]
        for name in ("limited", "whole")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
