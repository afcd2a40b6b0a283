"""The options of evaluation.py."""

from argparse import Namespace

from options.parsing import ArgumentParser
from options.types import printable

DESCRIPTION = "Evaluate a finished run, label new text with it, or calibrate its probabilities."
FORMATS = {  # of --input -> ends of the names of such files
    "tsv": (".tsv",),
    "csv": (".csv",),
    "jsonl": (".jsonl", ".ndjson"),
    "lines": (".txt", ""),
}


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
        metavar="PATH",
        type=printable,
        help="folder of metrics and predictions; unset: the run's own, or with --data_dir a "
        "folder on-<its name> in the run. With --input, the file of the labelled rows; unset: "
        "standard output",
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
        help="tasks to evaluate or to calibrate, or those that label --input; unset: all of the "
        "run, of which those label --input whose text columns are there",
    )
    add(
        "--input",
        type=printable,
        metavar="FILE",
        help="rows to label, with columns named as in the tasks' files, or plain lines; - for "
        "standard input",
    )
    add(
        "--format",
        choices=list(FORMATS),
        help="what is in --input; unset: what its name ends in, lines for standard input",
    )
    add(
        "--probabilities",
        action="store_true",
        help="write the probability of every class for --input, not of the predicted one alone",
    )
    add(
        "--calibrate",
        action="store_true",
        help="fit the temperature of every task with classes on dev and keep it in the run, whose "
        "probabilities then follow it",
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
    if args.input is not None and args.calibrate:
        parser.error("--calibrate fits on dev, and --input labels new text; give one of them")
    for name in ("probabilities", "format"):
        if args.input is None and getattr(args, name):
            parser.error(f"--{name} does nothing without --input; add that, or drop it")
    if args.input is not None and args.data_dir is not None:
        parser.error("--input names what is labelled; drop --data_dir")
    if args.calibrate and args.output is not None:
        parser.error("--calibrate keeps what it fits in the run; drop --output")
    if (args.calibrate or args.input is not None) and args.split != "dev":
        what = "--input is of no split" if args.input is not None else "--calibrate fits on dev"
        parser.error(f"{what}; drop --split")
    is_evaluation = args.input is None and not args.calibrate
    if is_evaluation and args.task and not (args.data_dir or args.output):
        parser.error(
            "--task evaluates some tasks, whose results would replace those of all; name a folder "
            "for them with --output"
        )
    return args
