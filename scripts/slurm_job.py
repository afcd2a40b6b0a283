"""What run_train.sh needs to know about a SLURM job's run before it starts.

python -m scripts.slurm_job versions                             # git revision and packages
python -m scripts.slurm_job train_multitask.py --run_name a      # the run's directory on one line,
                        # that of its checkpoints on the next, then the head of the job's output
"""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

from options.parsing import parse_args
from reporting.run_directory import git_revision, package_versions


def parse_job(script: str, flags: list[str]) -> Namespace:
    """Return the script's options. Wrong flags end in the script's own usage error."""
    parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
    parser.prog = script
    return parse_args(parser, flags)


def versions() -> str:
    """Return the Git revision and the versions of the packages."""
    packages = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    return (
        f"revision: {git_revision() or 'unknown'}\n"
        f"packages: python {sys.version.split()[0]}, {packages}"
    )


def header(script: str, flags: list[str]) -> str:
    """Return revision, packages, command and every option that is set."""
    options = vars(parse_job(script, flags))
    listed = "\n".join(
        f"  {name}: {value}"
        for name, value in sorted(options.items())
        if value is not None and value is not False and value not in ([], {}) and name != "given"
    )
    return f"{versions()}\ncommand: {' '.join([script, *flags])}\noptions:\n{listed}"


def run_dir(script: str, flags: list[str]) -> str:
    """Return the directory of the run, or of the search, that these flags start or resume."""
    args = parse_job(script, flags)
    return str(Path(args.resume or args.hpo_resume or Path(args.logdir) / args.run_name))


def saved(script: str, flags: list[str]) -> str:
    """Return a directory that has the run's checkpoints in it, or in folders below it."""
    return str(Path(parse_job(script, flags).filepath or run_dir(script, flags)))


if __name__ == "__main__":
    script, *flags = sys.argv[1:]
    if script == "versions":
        print(versions())
    else:
        print(run_dir(script, flags), saved(script, flags), header(script, flags), sep="\n")
