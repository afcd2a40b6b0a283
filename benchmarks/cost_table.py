"""Write the table of what techniques cost from the file that the benchmark has written.

python -m benchmarks.cost_table                            # Markdown to the terminal
python -m benchmarks.cost_table --page docs/techniques.md  # into a page, between its two markers
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from pathlib import Path

from benchmarks.cost_file import Cost, Costs, read_costs
from benchmarks.techniques import ARMS, PLAIN
from options.parsing import ArgumentParser
from runtime.errors import exit_status
from scripts.marked_page import insert

COSTS = Path(__file__).resolve().parent.parent / "experiments" / "results" / "costs.json"
NAME = "costs"  # of the page's markers


def cost_table(costs: Costs) -> str:
    """Return how the costs were measured, and a line for each arm, as Markdown."""
    rows = "all training rows" if costs.rows is None else f"the first {costs.rows:,} training rows"
    head = (
        f"Measured in {costs.precision} with `{costs.model_name}` on {costs.machine}: {rows} of "
        f"each task, batches of {costs.batch_size}, {costs.rounds} rounds of {costs.updates} "
        "updates of the plain sum."
    )
    lines = ["| technique | flags | time | rounds | memory |", "|---|---|---|---|---|"]
    lines += [line(name, costs.arms[name]) for name in ARMS if name in costs.arms and name != PLAIN]
    return "\n".join([head, "", *lines])


def line(name: str, cost: Cost) -> str:
    """Return the line of one arm."""
    memory = f"{cost.memory:+z.1f}".replace("-", "−")
    spread = f"{cost.smallest:.2f} to {cost.largest:.2f}"
    return f"| {name} | `{ARMS[name]}` | {cost.time:.2f} | {spread} | {memory} |"


def get_args_parser() -> ArgumentParser:
    """Return the parser of this command."""
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--costs", metavar="FILE", default=str(COSTS), help="as benchmarks.techniques --to writes")
    add("--page", metavar="FILE", help="Markdown file with the two markers; unset: print")
    return parser


def main(args: Namespace) -> None:
    """Print the table, or write it into the page."""
    table = cost_table(read_costs(args.costs))
    if args.page is None:
        print(table)
    else:
        insert(Path(args.page), NAME, table)


if __name__ == "__main__":
    args = get_args_parser().parse_args()
    sys.exit(exit_status(lambda: main(args), is_output_needed=args.page is None))
