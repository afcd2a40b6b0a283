"""The options of compare.py."""

from argparse import Namespace

from options.parsing import ArgumentParser
from options.types import printable

DESCRIPTION = "Compare finished runs, or average their predictions or their weights."


def get_args_parser() -> ArgumentParser:
    """Return the parser of this command."""
    parser = ArgumentParser("compare.py", description=DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=printable, help="directory of a finished run")
    add(
        "--figure",
        metavar="FILE",
        type=printable,
        help="PNG of the dev mean over training examples; unset: compare.png in this folder",
    )
    average = parser.add_mutually_exclusive_group()
    average.add_argument(
        "--ensemble", action="store_true", help="average the runs' predictions into --to"
    )
    average.add_argument(
        "--soup", action="store_true", help="average the runs' weights into a new run, --to"
    )
    add(
        "--greedy",
        action="store_true",
        help="with --soup: start with the best run, and add each other unless the dev mean falls",
    )
    add("--to", metavar="DIR", type=printable, help="new folder for what is averaged")
    add(
        "--use_gpu",
        action="store_true",
        help="average on CUDA, or a Mac's MPS; an error without either",
    )
    return parser


def parse_args(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Return the options of this command; contradictions end in `parser.error`."""
    args = parser.parse_args(argv)
    is_average = args.ensemble or args.soup
    if is_average and args.to is None:
        parser.error("--ensemble and --soup need a new folder: add --to DIR")
    if is_average and args.figure is not None:
        parser.error("--figure is of a comparison; drop it, or --ensemble and --soup")
    if args.greedy and not args.soup:
        parser.error("--greedy does nothing without --soup; add that, or drop it")
    for name in ("to", "use_gpu"):
        if getattr(args, name) and not is_average:
            parser.error(f"--{name} does nothing without --ensemble or --soup; add one, or drop it")
    if not is_average and len(args.runs) < 2:
        parser.error(f"one run is named, {args.runs[0]}; name another one to compare it with")
    args.figure = args.figure or "compare.png"
    if not args.figure.endswith(".png"):
        parser.error(f"--figure is {args.figure}, expected the name of a file that ends in .png")
    return args
