"""Compare finished runs, or average their predictions or their weights.

    python compare.py runs/joint runs/pcgrad                        # tables, and compare.png
    python compare.py --ensemble runs/a runs/b runs/c --to runs/mean
    python compare.py --soup runs/a runs/b runs/c --to runs/soup    # a new run
    python compare.py --soup --greedy runs/a runs/b runs/c --to runs/greedy

A comparison prints the options that differ, the dev scores side by side, and differences to the
first run with 95 % intervals by paired bootstrap over the dev rows. Its figure shows the dev mean
over training examples.
"""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports

# isort: split
import sys

from options.comparison_options import get_args_parser, parse_args
from runtime.errors import exit_status, read_command_line

if __name__ == "__main__":  # before the slow imports: --help and a wrong flag are answered at once
    ARGS = read_command_line(lambda: parse_args(get_args_parser()))

# isort: split
import os
from argparse import Namespace
from pathlib import Path

from comparing.curves import draw_curves
from comparing.ensemble import make_ensemble
from comparing.finished import read_run, read_runs
from comparing.soup import make_soup
from comparing.tables import differences_table, options_table, scores_table
from reporting.figures import save_png
from runtime import workers
from runtime.device import connect
from runtime.errors import InputError
from runtime.files import shown_path


def main(args: Namespace) -> None:
    """Read the runs, then compare them, or average them and compare the result with them."""
    if workers.size() > 1:
        raise InputError("compare.py works in one process; start it without torchrun")
    if args.to is not None and os.path.lexists(args.to):
        raise InputError(f"--to {args.to}: exists; name a new folder")
    device = connect(args.use_gpu)
    runs = read_runs(args.runs)
    if args.ensemble:
        runs.append(make_ensemble(runs, Path(args.to), device))
    elif args.soup:
        kept = make_soup(runs, Path(args.to), args.greedy, device)
        print(f"the soup averages {', '.join(kept)}")
        runs.append(read_run(args.to, "soup"))
    else:
        print(options_table(runs), end="\n\n")
    print(scores_table(runs))
    if len(runs) > 1:
        print("\n" + differences_table(runs))
    if args.to is not None:
        print(f"\nwritten to {shown_path(args.to)}")
    else:
        save_png(draw_curves(runs), Path(args.figure))
        print(f"\ncurves: {args.figure}")


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(ARGS), is_output_needed=ARGS.to is None))
