"""Test how the scripts find, make or complete an environment, on a `bare_machine`."""

import shutil

import pytest
from bare_machine import REQUIREMENTS, ROOT

INSTALLED = ["venv python3", "pip -r requirements.txt"]
ALL_INSTALLED = ["venv python3", "pip -r requirements-dev.txt"]


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
def test_environment_that_does_not_match_is_made_anew(machine, damage):
    machine.train()
    (machine.venv / "leftover").touch()
    assert machine.run("-c", "read -r stamp <.venv/complete;" + damage)[0] == 0
    machine.train()
    assert machine.events() == INSTALLED * 2
    assert not (machine.venv / "leftover").exists()


def test_tests_add_to_the_training_environment(machine):
    """In place; afterwards, neither script installs anything, nor does a changed tool's pin."""
    machine.train()
    (machine.venv / "kept").touch()
    for _ in range(2):
        assert machine.run("run_tests.sh")[0] == 0
        machine.train()
    assert machine.events() == [*INSTALLED, ALL_INSTALLED[1]]
    assert (machine.venv / "kept").exists()
    with open(machine.repository / "requirements-dev.txt", "a") as file:
        file.write("new==1.0\n")
    machine.train()
    assert machine.events() == [*INSTALLED, ALL_INSTALLED[1]]
    assert machine.run("run_tests.sh")[0] == 0
    assert machine.events()[3:] == [ALL_INSTALLED[1]]


def test_tests_alone_install_everything_at_once(machine):
    assert machine.run("run_tests.sh")[0] == 0
    machine.train()
    assert machine.events() == ALL_INSTALLED


def test_every_requirements_file_is_installed_with_the_one_for_tests():
    text = {name: (ROOT / name).read_text().splitlines() for name in REQUIREMENTS}
    assert "-r requirements-extras.txt" in text["requirements-dev.txt"]
    assert "-r requirements.txt" in text["requirements-extras.txt"]
    lines = [line for lines in text.values() for line in lines if line and line[0] not in "#-"]
    names = [line.partition("==")[0].partition("[")[0] for line in lines]
    assert all("==" in line for line in lines) and len(names) == len(set(names))


@pytest.mark.parametrize("is_whole", [True, False])
def test_failed_addition_keeps_a_training_environment_that_is_whole(machine, is_whole):
    """Without a network, training goes on; what pip has broken is made anew."""
    machine.train()
    options = {"PIP": "exit 1", "WHOLE": "0" if is_whole else "1"}
    status, out, err = machine.run("run_tests.sh", **options)
    assert (status, out, len(err)) == (1, [], 2)
    assert err[0].startswith("Adding requirements-dev.txt") and err[1].startswith("Could not")
    machine.train()
    assert machine.events() == [*INSTALLED, ALL_INSTALLED[1], *([] if is_whole else INSTALLED)]
    assert machine.run("run_tests.sh")[0] == 0
    assert machine.events()[-1] == ALL_INSTALLED[1]


def test_killed_addition_is_not_trusted(machine):
    machine.train()
    assert machine.run("run_tests.sh", PIP="kill -9 $PPID; exit 1")[0] == -9
    machine.train()
    assert machine.events() == [*INSTALLED, ALL_INSTALLED[1], *INSTALLED]


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
    processes = [machine.start("run_train.sh", PIP="sleep 1") for _ in range(2)]
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


def pinned(name):
    """The version of a package in the requirements files."""
    lines = [line for file in REQUIREMENTS for line in (ROOT / file).read_text().splitlines()]
    (version,) = [line.removeprefix(f"{name}==") for line in lines if line.startswith(f"{name}==")]
    return version


@pytest.mark.parametrize("local_part", ["", "+cu130"])
def test_conda_environment_with_our_torch_is_taken(bare, local_part):
    bare.add_python("conda/bin/python")
    bare.add_package("torch", pinned("torch") + local_part)
    out = bare.train(CONDA_PREFIX=bare.bin / "conda")
    assert out[1].split()[1] == str(bare.bin / "conda/bin/python")
    assert bare.events() == [] and not bare.venv.exists()


def test_conda_environment_is_taken_for_tests_if_it_has_our_pytest(machine):
    machine.add_python("conda/bin/python")
    machine.add_package("torch", pinned("torch"))
    conda = {"CONDA_PREFIX": machine.bin / "conda"}
    machine.add_package("pytest", "1.0")
    assert machine.run("run_tests.sh", **conda)[0] == 0
    assert machine.events() == ALL_INSTALLED
    shutil.rmtree(machine.site / "pytest-0.dist-info")
    shutil.rmtree(machine.venv)
    machine.add_package("pytest", pinned("pytest"))
    assert machine.run("run_tests.sh", **conda)[0] == 0
    assert machine.events() == ALL_INSTALLED


@pytest.mark.parametrize("has_python", [True, False])
def test_conda_environment_without_our_torch_is_not_taken(machine, has_python):
    if has_python:
        machine.add_python("conda/bin/python")
    machine.add_package("torch", "2.1.0")
    machine.train(CONDA_PREFIX=machine.bin / "conda")
    assert machine.events() == INSTALLED


@pytest.mark.parametrize("script", ["run_train.sh", "run_experiments.sh"])
def test_a_job_installs_nothing(machine, tmp_path, script):
    copy = shutil.copy(machine.repository / script, tmp_path / "slurm_script")
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": machine.repository}
    status, _, err = machine.run(copy, **job)
    assert status == 1 and err[0].startswith("No environment for this job: activate the conda")
    assert not machine.events()


def test_environment_yml_repeats_no_pin():
    text = (ROOT / "environment.yml").read_text()
    assert "- -r requirements.txt" in text and "==" not in text
