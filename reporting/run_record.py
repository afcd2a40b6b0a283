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

    `-dirty` is added if files differ from the commit.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    return {name: version(name) for name in REPORTED_VERSIONS}
