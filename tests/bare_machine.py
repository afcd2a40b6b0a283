"""A stand-in for a bare machine, on which the shell scripts are tested.

Only a few tools and stub interpreters are on its PATH. A stub is the real Python, except that
`-m venv`, `-m pip`, `-m pytest` and `-m pre_commit` only record that they were called. So the
checks that the scripts make in Python do run, but nothing is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["run_train.sh", "run_tests.sh", "run_experiments.sh", "setup_gwdg.sh", ".ci/run"]
SOURCED = ["scripts/environment.sh", "scripts/slurm.sh"]
REQUIREMENTS = ["requirements.txt", "requirements-extras.txt", "requirements-dev.txt"]
TOOLS = ["bash", "cp", "dirname", "flock", "git", "mkdir", "readlink", "rm", "sleep"]

STUB = """#!{bash}
export PYTHONPATH={site} STUB={path} PYTHON_VERSION={version} HAS_VENV={has_venv}
case "$*" in
"-m venv "*)
    echo "venv ${{0##*/}}" >>{log}
    eval "${{VENV:-}}"
    [[ $* != *--clear* ]] || rm -rf .venv
    mkdir -p .venv/bin && cp {path} .venv/bin/python
    ;;
"-m pip install "*--dry-run*) exit "${{WHOLE:-0}}" ;;
"-m pip install "*)
    echo "pip ${{*: -2}}" >>{log}
    eval "${{PIP:-}}"
    ;;
"-m pre_commit "*) echo "pre_commit ${{*:3}}, python is $(type -p python)" ;;
"-m pytest "*) echo "pytest ${{*:3}} offline=${{HF_HUB_OFFLINE:-}} in $PWD" ;;
*) INTERPRETER=$0 exec {executable} "$@" ;;
esac
"""

CONDA = """#!{bash}
echo "conda $1 $2" >>{log}
case "$1 $2" in
"env list") printf '# conda environments:\\n%s\\n' "${{ENVIRONMENTS:-}}" ;;
"run --name") echo {python} ;;
esac
"""

SITECUSTOMIZE = """
import os, sys
sys._base_executable = os.environ["STUB"]
if os.environ["PYTHON_VERSION"]:
    sys.version_info = tuple(map(int, os.environ["PYTHON_VERSION"].split(".")))
if not os.environ["HAS_VENV"]:
    sys.modules["ensurepip"] = None
"""

TRAIN = """
import os, sys
print(*sys.argv)
print(os.getcwd(), os.environ["INTERPRETER"], os.getpid())
"""


class BareMachine:
    """A temporary copy of the scripts, and a PATH that holds `TOOLS` and stub interpreters."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.venv = folder / "repository", folder / "repository/.venv"
        self.bin, self.site, self.log = folder / "bin", folder / "site", folder / "log"
        for new in [self.repository / ".ci", self.repository / "scripts", self.bin, self.site]:
            new.mkdir(parents=True)
        for name in [*SCRIPTS, *SOURCED, *REQUIREMENTS, "environment.yml"]:
            shutil.copy(ROOT / name, self.repository / name)
        for name in ["train_multitask.py", "other.py"]:
            (self.repository / name).write_text(TRAIN)
        for tool in filter(shutil.which, TOOLS):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environ = {"PATH": str(self.bin)}
        (self.site / "sitecustomize.py").write_text(SITECUSTOMIZE)

    def add_python(self, path: str | Path, version: str = "", has_venv: bool = True) -> None:
        """Put a stub at `path`, relative to the folder on PATH; without `version`, the real one."""
        path = self.bin / path
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"bash": self.bin / "bash", "site": self.site, "log": self.log, "path": path}
        fields |= {"version": version, "has_venv": "1" if has_venv else ""}
        path.write_text(STUB.format(**fields, executable=sys.executable))
        path.chmod(0o755)

    def add_conda(self) -> None:
        """Put a stub of conda on PATH, whose environments all run python3."""
        path = self.bin / "conda"
        fields = {"bash": self.bin / "bash", "log": self.log, "python": self.bin / "python3"}
        path.write_text(CONDA.format(**fields))
        path.chmod(0o755)

    def add_package(self, name: str, version: str) -> None:
        """Let every stub find an installed package of this version."""
        folder = self.site / f"{name}-0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")

    def start(self, *command: str | Path, cwd: Path | None = None, **environ: str | Path):
        """Start `bash command...`, in the repository unless `cwd` says otherwise."""
        return subprocess.Popen(
            ["bash", *command],
            cwd=cwd or self.repository,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path, **options: str | Path) -> tuple[int, list[str], list[str]]:
        """Run `bash command...` to its end; return status, lines of stdout, lines of stderr."""
        process = self.start(*command, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.splitlines(), err.splitlines()

    def train(self, *flags: str, **environ: str | Path) -> list[str]:
        """Run run_train.sh, which must succeed; return the lines of its stdout."""
        status, out, err = self.run("run_train.sh", *flags, **environ)
        assert status == 0, err
        return out

    def events(self) -> list[str]:
        """Return what the stubs recorded: which interpreter made .venv, what pip installed."""
        return self.log.read_text().splitlines() if self.log.exists() else []
