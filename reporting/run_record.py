"""What args.json says of how a run was made: command line, revision, versions, options."""

import platform
import subprocess
import sys
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

from options.saved import options_to_save

REPORTED_VERSIONS = ("torch", "numpy", "tokenizers", "safetensors", "scipy", "scikit-learn")


def run_record(args: Namespace) -> dict:
    """Return what args.json holds."""
    return {
        "script": args.script,
        "command_line": sys.argv,
        "seed": args.seed,
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "options": options_to_save(args),
    }


def git_revision() -> str | None:
    """Return the commit of this checkout, None outside one.

    `-dirty` is added if files differ from the commit, other than results: a run that is repeated
    replaces its own.
    """
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*"]
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", ":/"]
    status.append(":(top,exclude)experiments/results")
    try:
        revision, changes = (
            subprocess.run(
                command, cwd=Path(__file__).parent, capture_output=True, text=True
            ).stdout
            for command in (describe, status)
        )
    except OSError:
        return None
    return revision.strip() + "-dirty" * bool(changes) if revision else None


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    return {name: version(name) for name in REPORTED_VERSIONS}
