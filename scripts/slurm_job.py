"""What run_train.sh needs to know about a SLURM job's run.

python -m scripts.slurm_job versions                             # git revision and packages
python -m scripts.slurm_job train_multitask.py --run_name a     # the directory of its checkpoints
                                              # on one line, then the head of the job's output
python -m scripts.slurm_job resume train_multitask.py --run_name a   # after a restart: the flags
                                                     # that resume the run, one per line
"""

import sys
from argparse import Namespace
from pathlib import Path

from options.parsing import parse_args
from options.run_options import PARSERS
from reporting.run_record import git_revision, package_versions
from runtime.errors import InputError, exit_status


def parse_job(script: str, flags: list[str]) -> Namespace:
    """Return the script's options. Wrong flags end in the script's own usage error."""
    if script not in PARSERS:
        raise InputError(f"there is no script {script}, expected one of {', '.join(PARSERS)}")
    parser = PARSERS[script]()
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
    directory = args.resume or args.hpo_resume
    if directory is None and args.run_name is None:
        raise InputError("the run has no name yet; give --run_name, --resume or --hpo_resume")
    return str(Path(directory or Path(args.logdir) / args.run_name))


def saved(script: str, flags: list[str]) -> str:
    """Return a directory that has the run's checkpoints in it, or in folders below it."""
    return str(Path(parse_job(script, flags).filepath or run_dir(script, flags)))


def resume_flags(script: str, flags: list[str]) -> list[str]:
    """Return the flags that continue what these flags began: the same ones if nothing is saved."""
    args, directory = parse_job(script, flags), run_dir(script, flags)
    if args.resume is not None or args.hpo_resume is not None:
        return flags
    if (Path(directory) / "search.json").is_file():
        return ["--hpo_resume", directory, *["--use_gpu"] * args.use_gpu]
    if not (Path(directory) / "args.json").is_file():
        return flags
    folders = {name: getattr(args, name) for name in ("filepath", "predictions_path")}
    given = [word for name, path in folders.items() if path for word in (f"--{name}", path)]
    return ["--resume", directory, *given, *["--use_gpu"] * args.use_gpu]


def main(words: list[str]) -> None:
    """Print what is asked for: versions, resume and a script, or a script, with its flags."""
    if words == ["versions"]:
        print(versions())
    elif words[:1] == ["resume"] and len(words) > 1:
        print(*resume_flags(words[1], words[2:]), sep="\n")
    elif words and words[0] not in ("versions", "resume"):
        print(saved(words[0], words[1:]), header(words[0], words[1:]), sep="\n")
    else:
        raise InputError(
            "expected versions, resume SCRIPT, or the name of a script, then its flags"
        )


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:]), is_output_needed=True))
