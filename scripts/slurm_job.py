"""What run_train.sh has to know of a SLURM job's run before it starts.

python -m scripts.slurm_job versions                                 # git revision and packages
python -m scripts.slurm_job header train_multitask.py --epochs 3     # the top of the job's output
python -m scripts.slurm_job run_dir train_multitask.py --run_name a  # where its run lies: runs/a
python -m scripts.slurm_job saved train_multitask.py --run_name a    # where its checkpoints lie
"""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

from options.parsing import parse_args
from reporting.run_directory import git_revision, package_versions


def parse_job(script: str, flags: list[str]) -> Namespace:
    """The script's options from its flags. Wrong ones end in the script's own usage error."""
    parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
    parser.prog = script
    return parse_args(parser, flags)


def versions() -> str:
    """Git revision and packages."""
    packages = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    return (
        f"revision: {git_revision() or 'unknown'}\n"
        f"packages: python {sys.version.split()[0]}, {packages}"
    )


def header(script: str, flags: list[str]) -> str:
    """Revision, packages, command and every option that is set."""
    options = vars(parse_job(script, flags))
    listed = "\n".join(
        f"  {name}: {value}"
        for name, value in sorted(options.items())
        if value not in (None, False, [], {}) and name != "given"
    )
    return f"{versions()}\n" f"command: {' '.join([script, *flags])}\n" f"options:\n{listed}"


def run_dir(script: str, flags: list[str]) -> str:
    """The directory of the run, or of the search, that these flags make or go on with."""
    args = parse_job(script, flags)
    return str(Path(args.resume or args.hpo_resume or Path(args.logdir) / args.run_name))


def saved(script: str, flags: list[str]) -> str:
    """The directory that the run's checkpoints are in, or somewhere below."""
    return str(Path(parse_job(script, flags).filepath or run_dir(script, flags)))


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "versions":
        print(versions())
    else:
        print({"header": header, "run_dir": run_dir, "saved": saved}[what](words[0], words[1:]))
