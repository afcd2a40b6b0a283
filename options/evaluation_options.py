"""The options of evaluation.py."""

from argparse import Namespace

from options.parsing import ArgumentParser
from options.types import printable
from tasks import TASKS

DESCRIPTION = "Evaluate a finished run, or label new text with it."


def get_args_parser() -> ArgumentParser:
    """Return the parser of this command."""
    parser = ArgumentParser("evaluation.py", description=DESCRIPTION)
    # torchrun takes --run as its own option, so there is a second name.
    add = parser.add_argument
    add("--run", "--run_dir", dest="run", type=printable, required=True, help="directory of a run")
    add("--split", choices=["dev", "test"], default="dev", help="rows to evaluate on")
    add("--data_dir", type=printable, help="evaluate on the files there; unset: as the run")
    add(
        "--output",
        metavar="DIR",
        type=printable,
        help="folder of metrics and predictions; unset: the run's own, or with --data_dir a "
        "folder on-<its name> in the run",
    )
    add(
        "--filepath",
        metavar="DIR",
        type=printable,
        help="folder of the checkpoints; unset: checkpoints in the run",
    )
    add("--task", choices=list(TASKS), help="task that labels --input")
    add("--input", type=printable, metavar="FILE", help="text to label, - for standard input")
    add(
        "--use_gpu",
        action="store_true",
        help="run on CUDA, or a Mac's MPS; an error without either",
    )
    return parser


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Return the options of this command; contradictions end in `parser.error`."""
    args = parser.parse_args(argv)
    if (args.input is None) != (args.task is None):
        parser.error("--task and --input go together: the task labels the input")
    for name in ("data_dir", "output"):
        if args.input is not None and getattr(args, name) is not None:
            parser.error(f"--input labels new text on standard output; drop --{name}")
    return args
