"""The options of export.py."""

from argparse import Namespace

from options.choices import FORMATS
from options.parsing import ArgumentParser
from options.types import printable

DESCRIPTION = "Write a finished run as a directory that other libraries load."


def get_args_parser() -> ArgumentParser:
    """Return the parser of this command."""
    parser = ArgumentParser("export.py", description=DESCRIPTION)
    add = parser.add_argument
    add("--run", "--run_dir", dest="run", type=printable, required=True, help="directory of a run")
    add("--to", type=printable, required=True, metavar="DIR", help="a new or empty folder")
    add(
        "--format",
        choices=FORMATS,
        required=True,
        help="transformers: the encoder; sentence-transformers: with pooling; cross-encoder: with "
        "pooling and the head of a task",
    )
    add(
        "--task",
        metavar="NAME",
        help="task of --format cross-encoder; unset: of each task, to a folder of its name",
    )
    add(
        "--normalize",
        action="store_true",
        help="scale the vectors of --format sentence-transformers to length 1",
    )
    add(
        "--push",
        metavar="REPO_ID",
        type=printable,
        help="upload the folder to this repository on the model hub; a new one is private",
    )
    add(
        "--filepath",
        metavar="DIR",
        type=printable,
        help="folder of the checkpoints; unset: checkpoints in the run",
    )
    return parser


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Return the options of this command; contradictions end in `parser.error`."""
    args = parser.parse_args(argv)
    for flag, needed in (("task", "cross-encoder"), ("normalize", "sentence-transformers")):
        if getattr(args, flag) and args.format != needed:
            parser.error(f"--{flag} does nothing without --format {needed}; add that, or drop it")
    return args
