"""The options of evaluation.py."""

from argparse import Namespace

from options.parsing import ArgumentParser
from options.types import printable

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
    add(
        "--task",
        nargs="+",
        metavar="NAME",
        help="tasks to evaluate, or the one that labels --input; unset: all of the run",
    )
    add("--input", type=printable, metavar="FILE", help="text to label, - for standard input")
    add(
        "--probabilities",
        action="store_true",
        help="print the probability of every class for --input, not of the predicted one alone",
    )
    add(
        "--use_gpu",
        action="store_true",
        help="run on CUDA, or a Mac's MPS; an error without either",
    )
    return parser


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Return the options of this command; contradictions end in `parser.error`."""
    args = parser.parse_args(argv)
    if args.input is not None and len(args.task or ()) != 1:
        parser.error("--input needs one --task, which labels it")
    if args.input is None and args.probabilities:
        parser.error("--probabilities does nothing without --input; add that, or drop it")
    if args.input is None and args.task and not (args.data_dir or args.output):
        parser.error(
            "--task evaluates some tasks, whose results would replace those of all; name a folder "
            "for them with --output"
        )
    for name in ("data_dir", "output"):
        if args.input is not None and getattr(args, name) is not None:
            parser.error(f"--input labels new text on standard output; drop --{name}")
    return args
