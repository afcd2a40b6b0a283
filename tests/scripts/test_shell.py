"""Test the shell scripts on a bare machine (see `bare_machine`); `test_environment` does .venv."""

import os
import shutil
import subprocess

import pytest
from bare_machine import ROOT, SCRIPTS, SOURCED

PYTEST = "-n auto --maxprocesses 8 --dist worksteal"


@pytest.mark.parametrize("script", [*SCRIPTS, *SOURCED])
def test_bash_accepts_every_script(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    if script in SCRIPTS:
        assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_first_argument_chooses_the_script(machine):
    assert machine.train("other.py", "--lr", "a b.py")[0] == "other.py --lr a b.py"
    assert machine.train("--name", "other.py")[0] == "train_multitask.py --name other.py"


def test_missing_script_is_one_line(machine):
    status, out, err = machine.run("run_train.sh", "missing.py")
    assert (status, out, len(err)) == (1, [], 1)
    assert "missing.py" in err[0] and machine.events() == []


@pytest.mark.parametrize("script", ["run_train.sh", "run_tests.sh", ".ci/run"])
def test_scripts_run_from_anywhere(machine, tmp_path, script):
    (tmp_path / "link").symlink_to(machine.repository / script)
    for path in [machine.repository / script, tmp_path / "link"]:
        status, out, err = machine.run(path, cwd=tmp_path)
        assert status == 0, err
        assert str(machine.repository) in out[-1].split()


def test_slurm_runs_a_copy_of_the_script(machine, tmp_path):
    copy = shutil.copy(machine.repository / "run_tests.sh", tmp_path / "slurm_script")
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": machine.repository}
    status, out, err = machine.run(copy, cwd=tmp_path, **job)
    assert status == 0, err
    assert str(machine.repository) in out[-1].split()


@pytest.mark.parametrize(
    "environ, flags, expected",
    [
        ({"SLURM_JOB_GPUS": "0"}, "", "--use_gpu"),
        ({"SLURM_GPUS_ON_NODE": "1"}, "--lr 1", "--use_gpu --lr 1"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "", "--use_gpu"),
        ({"SLURM_JOB_GPUS": "0"}, "--lr 1 --use_gpu", "--lr 1 --use_gpu"),
        ({}, "--lr 1", "--lr 1"),
        ({"SLURM_GPUS_ON_NODE": "0"}, "", ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, "", ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "", ""),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "", ""),
    ],
)
def test_slurm_job_uses_the_gpu_it_was_granted(machine, environ, flags, expected):
    out = machine.train(*flags.split(), SLURM_JOB_ID="7", **environ)
    assert out[0] == f"train_multitask.py {expected}".strip()
    assert machine.train(*flags.split(), **environ)[0] == f"train_multitask.py {flags}".strip()


def test_training_replaces_the_script_to_receive_its_signals(machine):
    process = machine.start("run_train.sh")
    out, _ = process.communicate(timeout=60)
    assert out.split()[-1] == str(process.pid)


def test_sbatch_finds_its_options_and_the_folder_of_its_output(machine):
    head, _, _ = (ROOT / "run_train.sh").read_text().partition("set -euo pipefail")
    for option in ["gres=gpu:A100:1", "signal=B:USR1@120", "output=slurm_files/"]:
        assert f"\n#SBATCH --{option}" in head
    assert (ROOT / "slurm_files/.gitkeep").exists(), "sbatch does not create this folder"
    machine.train()
    assert (machine.repository / "slurm_files").is_dir()


def test_run_tests_is_offline_and_passes_its_arguments_on(machine):
    status, out, _ = machine.run("run_tests.sh", "-k", "sst")
    expected = f"pytest {PYTEST} -k sst offline=1 in {machine.repository}"
    assert (status, out) == (0, [expected])


def test_ci_runs_the_hooks_with_the_tools_of_the_environment(machine):
    status, out, _ = machine.run(".ci/run", "-k", "sst")
    python = machine.venv / "bin/python"
    hooks = f"pre_commit run --all-files --show-diff-on-failure, python is {python}"
    assert status == 0 and out[0] == hooks and out[1].startswith(f"pytest {PYTEST}")
    assert "-k sst" in out[1]
    assert machine.events() == ["venv python3", "pip -r requirements-dev.txt"]


def test_ci_fails_with_the_hooks(machine):
    stub = (machine.bin / "python3").read_text()
    assert '"-m pre_commit "*) ' in stub
    (machine.bin / "python3").write_text(stub.replace('pre_commit "*) ', 'pre_commit "*) exit 1; '))
    status, out, _ = machine.run(".ci/run")
    assert (status, out) == (1, [])


SNAPSHOT_DOWNLOAD = """
def snapshot_download(name, allow_patterns):
    assert name != "missing", "no such model"
    return "model.safetensors" in allow_patterns
"""


@pytest.fixture
def login_node(machine):
    """A machine with conda, stubs of the download functions, and a module command."""
    machine.add_conda()
    (machine.site / "huggingface_hub.py").write_text(SNAPSHOT_DOWNLOAD)
    (machine.repository / "data").mkdir()
    (machine.repository / "data/download.py").write_text("print('data')")
    module = f'() {{ echo "module $* $unset" >>{machine.log}; }}'
    machine.environ["BASH_FUNC_module%%"] = module
    return machine


@pytest.mark.parametrize("environments, action", [("", "create"), ("multitask-bert  /x", "update")])
def test_setup_prepares_the_cluster(login_node, tmp_path, environments, action):
    script = login_node.repository / "setup_gwdg.sh"
    options = {"cwd": tmp_path, "ENVIRONMENTS": environments}
    status, out, err = login_node.run(script, "roberta-base", **options)
    assert status == 0, err
    assert out[:3] == ["bert-base-uncased -> True", "roberta-base -> True", "data"]
    assert any("sbatch run_train.sh" in line for line in out[3:])
    conda = ["conda env list", f"conda env {action}", "conda run --name"]
    assert login_node.events() == ["module load miniforge3 ", *conda]


def test_setup_stops_at_a_failed_download(login_node):
    status, out, _ = login_node.run("setup_gwdg.sh", "missing")
    assert status != 0 and out == ["bert-base-uncased -> True"]


def test_setup_without_conda_is_one_line(bare):
    status, out, err = bare.run("setup_gwdg.sh")
    assert (status, out, len(err)) == (1, [], 1) and "conda" in err[0]
