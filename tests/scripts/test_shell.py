"""Test the shell scripts on a bare machine (see `bare_machine`)."""

import os
import shutil
import subprocess

import pytest
from bare_machine import ROOT, SCRIPTS, SOURCED, BareMachine

INSTALLED = ["venv python3", "pip -r requirements.txt"]


@pytest.fixture
def bare(tmp_path):
    """A machine without any Python."""
    return BareMachine(tmp_path)


@pytest.fixture
def machine(bare):
    """A machine with one good python3."""
    bare.add_python("python3")
    return bare


@pytest.mark.parametrize("script", [*SCRIPTS, *SOURCED])
def test_bash_accepts_every_script(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    if script in SCRIPTS:
        assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_first_run_installs_and_the_second_one_is_quiet(machine):
    machine.train()
    assert machine.events() == INSTALLED
    status, out, err = machine.run("run_train.sh", "--epochs", "2")
    assert (status, out[0], err) == (0, "train_multitask.py --epochs 2", [])
    assert out[1].split()[1] == str(machine.venv / "bin/python")
    assert machine.events() == INSTALLED


@pytest.mark.parametrize(
    "damage",
    ["rm .venv/complete", "echo new==1.0 >>requirements.txt", "rm .venv/bin/python"]
    + [">.venv/bin/python", "echo 3 99 ${stamp#* * } >.venv/complete"],
)
def test_environment_that_does_not_fit_is_made_anew(machine, damage):
    machine.train()
    (machine.venv / "leftover").touch()
    assert machine.run("-c", "read -r stamp <.venv/complete;" + damage)[0] == 0
    machine.train()
    assert machine.events() == INSTALLED * 2
    assert not (machine.venv / "leftover").exists()


def test_activated_environment_is_not_made_from_itself(machine):
    machine.train()
    (machine.venv / "bin/python3").symlink_to("python")
    (machine.venv / "complete").unlink()
    machine.train(PATH=f"{machine.venv / 'bin'}:{machine.bin}")
    assert machine.events() == INSTALLED * 2


def test_environment_that_cannot_be_made_is_removed(machine):
    status, _, err = machine.run("run_train.sh", VENV="mkdir .venv; exit 1")
    assert status == 1 and err[-1].startswith("Could not make .venv")
    assert not machine.venv.exists()


def test_failed_installation_is_one_line_and_not_trusted(machine):
    status, out, err = machine.run("run_train.sh", PIP="exit 1")
    assert (status, out, len(err)) == (1, [], 2)
    assert err[0].startswith("Making .venv") and err[1].startswith("Could not install")
    assert not (machine.venv / "complete").exists()
    machine.train()
    assert machine.events() == INSTALLED * 2


@pytest.mark.parametrize("step", ["VENV", "PIP"])
def test_killed_installation_is_not_trusted(machine, step):
    machine.train()
    requirements = machine.repository / "requirements.txt"
    pins = requirements.read_text()
    requirements.write_text(pins + "new==1.0\n")
    assert machine.run("run_train.sh", **{step: "kill -9 $PPID; exit 1"})[0] == -9
    requirements.write_text(pins)
    machine.train()
    assert machine.events()[-2:] == INSTALLED and machine.events().count("venv python3") == 3


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_two_scripts_at_once_install_once(machine):
    processes = [machine.start(name, PIP="sleep 1") for name in ["run_train.sh", "run_tests.sh"]]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert machine.events() == INSTALLED
    assert sum("Waiting" in error for error in errors) == 1


@pytest.mark.parametrize(
    "python, complaint",
    [
        (None, "there is no python3"),
        ({"version": "3.10"}, "python3 is 3.10"),
        ({"has_venv": False}, "apt-get install python3."),
    ],
    ids=["none", "too old", "without venv"],
)
def test_unusable_python_is_one_line(bare, python, complaint):
    if python:
        bare.add_python("python3", **python)
    for script in ["run_train.sh", "run_tests.sh"]:
        status, out, err = bare.run(script)
        assert (status, out, len(err)) == (1, [], 1), err
        assert complaint in err[0] and "Python 3.11 or newer" in err[0]
        assert bare.events() == [] and not bare.venv.exists()


def test_first_usable_interpreter_is_taken(bare):
    bare.add_python("python3", version="3.10")
    bare.add_python("python3.13", has_venv=False)
    for name in ["python3.12", "python3.11", "mine"]:
        bare.add_python(name)
    bare.train()
    assert bare.events()[0] == "venv python3.12"
    (bare.venv / "complete").unlink()
    bare.train(PYTHON="mine")
    assert bare.events()[2] == "venv mine"


@pytest.mark.parametrize("local_part", ["", "+cu130"])
def test_conda_environment_with_our_torch_is_taken(bare, local_part):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.removeprefix("torch==") for line in lines if line.startswith("torch==")]
    bare.add_python("conda/bin/python")
    bare.add_torch(pins[0] + local_part)
    out = bare.train(CONDA_PREFIX=bare.bin / "conda")
    assert out[1].split()[1] == str(bare.bin / "conda/bin/python")
    assert bare.events() == [] and not bare.venv.exists()


@pytest.mark.parametrize("has_python", [True, False])
def test_conda_environment_without_our_torch_is_not_taken(machine, has_python):
    if has_python:
        machine.add_python("conda/bin/python")
    machine.add_torch("2.1.0")
    assert machine.run("run_tests.sh", CONDA_PREFIX=machine.bin / "conda")[0] == 0
    assert machine.events() == INSTALLED


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


@pytest.mark.parametrize("script", ["run_train.sh", "run_experiments.sh"])
def test_a_job_installs_nothing(machine, tmp_path, script):
    copy = shutil.copy(machine.repository / script, tmp_path / "slurm_script")
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": machine.repository}
    status, _, err = machine.run(copy, **job)
    assert status == 1 and err[0].startswith("No environment for this job: activate the conda")
    assert not machine.events()


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
    assert (ROOT / "slurm_files/.gitkeep").exists(), "sbatch does not make this folder"
    machine.train()
    assert (machine.repository / "slurm_files").is_dir()


def test_run_tests_is_offline_and_passes_its_arguments_on(machine):
    status, out, _ = machine.run("run_tests.sh", "-k", "sst")
    expected = f"pytest --cov --cov-report=term -k sst offline=1 in {machine.repository}"
    assert (status, out) == (0, [expected])


def test_environment_yml_repeats_no_pin():
    text = (ROOT / "environment.yml").read_text()
    assert "- -r requirements.txt" in text and "==" not in text


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
