"""Write the results tables and figures from the result files alone.

    python -m experiments.report                           # Markdown to the terminal
    python -m experiments.report --page docs/results.md    # into a page, between its two markers
    python -m experiments.report --settings 3f2a9c1b       # another group of results

Results on other settings or data files never share a table. Figures are drawn with --page, into
experiments/figures, or into --figures_dir.
"""

import os
import shlex
import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections import Counter
from pathlib import Path

from benchmarks.cost_file import Costs, read_costs
from experiments.averages import choose_averages
from experiments.claims import claims_table
from experiments.comparison import Method, gather, resample
from experiments.findings import (
    agreements,
    at_majority,
    findings,
    longer_rows,
    searched_rates,
    several_differences,
    too_few_seeds,
)
from experiments.forest import draw_differences
from experiments.plots import draw_conflicts, draw_costs
from experiments.result_files import (
    has_flags_of,
    read_dev_labels,
    read_majority,
    read_results,
    revisions_of,
)
from experiments.row_files import MIN_SEEDS, Row, read_rows
from experiments.tables import BETTER, WORSE, overall_table, task_table
from models.pretrained import BUNDLED
from options.parsing import ArgumentParser
from options.task_table import built_in_tasks
from runtime.errors import InputError, exit_status
from scripts.marked_page import insert, part_of

ROOT = Path(__file__).resolve().parent.parent
MARKED = "results"  # the part of the page that is written
DIFFERENCES, COST, CONFLICTS = "differences.png", "cost.png", "conflicts.png"


def choose_settings(results: list[dict], key: str | None) -> list[dict]:
    """Return the results of one settings key, by default of that with most rows, then results.

    Raises:
        InputError: there is no such result.
    """
    counts = Counter(result["settings_key"] for result in results)
    if not counts:
        raise InputError("there are no results yet; run python -m experiments.run")
    num_rows = Counter(name for name, _ in {(r["settings_key"], r["row"]) for r in results})
    chosen = key or max(counts, key=lambda name: (num_rows[name], counts[name]))
    listed = ", ".join(f"{name} ({number} results)" for name, number in counts.most_common())
    if chosen not in counts:
        raise InputError(f"--settings {chosen}: no results of it, only of {listed}")
    if len(counts) > 1:
        print(f"settings {chosen} chosen among {listed}", file=sys.stderr)
    return [result for result in results if result["settings_key"] == chosen]


def keep_current(results: list[dict], rows: dict[str, Row]) -> list[dict]:
    """Return the results of rows as their files are now; print which others are dropped."""
    current = []
    for result in results:
        row = rows.get(result["row"])
        if row is not None and has_flags_of(result, row, result["settings"]):
            current.append(result)
        else:
            name = f"{result['row']} seed {result['seed']}"
            print(f"{name}: its row is gone or has other flags now; dropped", file=sys.stderr)
    return choose_averages(current, rows)


def command_lines(results: list[dict], rows: dict[str, Row]) -> list[str]:
    """Return the commands that make these results from the data files in their default place.

    There is one for each set of seeds. The one that most rows have comes first, without their
    names, but those of rows that only run if they are named are in a command of their own.
    """
    seeds: dict[str, set[int]] = {}
    for result in results:
        of_row = seeds.setdefault(result["row"], set())
        of_row.update(result.get("seeds", [result["seed"]]))
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in filter(seeds.__contains__, rows):
        groups.setdefault(tuple(sorted(seeds[name])), []).append(name)
    (default, members), *others = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    named = [name for name in members if rows[name].obstacle]
    if len(named) == len(members):
        chosen = [(default, named)]
    else:
        chosen = [(default, []), *[(default, named)] * bool(named)]
    options = option_words(results[0]["settings"])
    return [
        shlex.join(
            ["python", "-m", "experiments.run", *names, "--seeds", *map(str, of_rows), *options]
        )
        for of_rows, names in [*chosen, *others]
    ]


def option_words(settings: dict) -> list[str]:
    """Return the options of every run as words of a command line."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, dict):
            words += [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
        elif value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def facts(results: list[dict], methods: dict[str, Method]) -> str:
    """Return what the numbers were made of and what they mean, as Markdown."""
    first = results[0]
    hours = sum(result["wall_seconds"] for result in results) / 3600
    sizes = {name: len(rows) for result in results for name, rows in result["predictions"].items()}
    rows = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    revisions = revisions_of(results)
    seeds = ", ".join(map(str, sorted({result["seed"] for result in results})))
    lines = [
        f"{len(results)} runs, seeds {seeds}, {hours:.1f} hours in all, on "
        f"{hardware_of(results)}. Settings "
        f"`{first['settings_key']}`, data `{first['data']}`, dev rows: {rows}. "
        f"Code: {', '.join(f'`{name[:12]}{name[40:]}`' for name in revisions)}"
        + (" (several revisions)." if len(revisions) > 1 else "."),
        too_few_seeds(methods),
        f"Scores are means over seeds. From {MIN_SEEDS} seeds on, ± is their standard deviation. "
        "† marks a single seed: chance may move it by more than the methods differ. The intervals "
        "are paired bootstraps over the dev examples, of the seeds that both methods have. They "
        "measure the chance in the choice of examples, not the chance in the choice of seed. For "
        "the latter, the smallest and the largest difference of a single seed stand after the "
        "semicolon. What rounds to 0 keeps its sign: [−.000, +.006] includes 0, [+.000, +.006] "
        f"does not. {BETTER} and {WORSE} mark findings. The best value of each column is bold.",
    ]
    lines += filter(None, [several_differences(methods)])
    if first["settings"]["model_name"] == BUNDLED:
        lines.append(
            f"`{BUNDLED}` was itself tuned on sentence pairs, including Quora's and possibly these "
            "dev pairs, so differences on `para` may be compressed."
        )
    return "\n\n".join(lines)


def hardware_of(results: list[dict]) -> str:
    """Return the hardware of the most runs, and which runs were computed on something else."""
    runs: dict[str, list[str]] = {}
    for result in results:
        runs.setdefault(result["hardware"], []).append(f"`{result['row']}` seed {result['seed']}")
    most, *others = sorted(runs, key=lambda name: (-len(runs[name]), name))
    return most + "".join(f"; {', '.join(runs[name])} on {name}" for name in others)


def cost_facts(methods: dict[str, Method], costs: Costs | None) -> str:
    """Return where time and memory come from and what they leave out, as Markdown."""
    if costs is None:
        return "There is no file of costs, so the table has no time and no memory."
    measured = (
        f"Time and memory are those that `benchmarks.techniques` measured with `{costs.model_name}`"
        f" in {costs.precision} on {costs.machine}: batches of {costs.batch_size}, {costs.rounds} "
        f"rounds of {costs.updates} updates. Time is relative to the plain sum of the losses on as "
        "many examples. Memory is what comes on top of that of the plain sum, in float32 copies of "
        "the shared parameters. A row in turns is measured in turns, so with more updates."
    )
    return " ".join(filter(None, [measured, longer_rows(methods, costs)]))


def markdown(
    methods: dict[str, Method],
    results: list[dict],
    majority: dict[str, float],
    costs: Costs | None,
    figures: dict[str, str] | None,
    rates: str,
    commands: list[str],
) -> str:
    """Everything between the page's markers. Methods without a result are named, not tabulated.

    Args:
        methods: the methods by name.
        results: those of the methods.
        majority: the score of the best constant prediction by task.
        costs: of the techniques, or None.
        figures: the link of each figure that was drawn, by the file's name; None if none was
            asked for.
        rates: what the search of learning rates found, as Markdown.
        commands: those that make the results.
    """
    missing = [f"`{name}`" for name, method in methods.items() if not method.runs]
    claims = claims_table(methods)  # also names methods that were not run
    methods = {name: method for name, method in methods.items() if method.runs}
    commands = [*commands, "python -m experiments.report --page docs/results.md"]
    parts = ["\n".join(["```bash", *commands, "```"]), facts(results, methods)]
    drawn = figures or {}
    if DIFFERENCES in drawn:
        parts.append(f"![Difference of each row to its control]({drawn[DIFFERENCES]})")
    parts += ["### Findings", findings(methods)]
    parts += ["### All tasks", cost_facts(methods, costs), overall_table(methods, costs)]
    if missing:
        parts.append(f"Not run here: {', '.join(missing)}.")
    parts.append(at_majority(methods, majority))
    parts += filter(None, [agreements(methods)])
    if COST in drawn:
        parts.append(f"![Mean score against the time of an update]({drawn[COST]})")
        parts.append(
            "A point without a name had no free place for it; the table above has it. An arrow "
            "stands before the score of a point that is far below the figure."
        )
    if CONFLICTS in drawn:
        link = drawn[CONFLICTS]
        parts.append(f"![What surgery changes against how often tasks conflict]({link})")
    elif figures is not None:
        parts.append(
            "No run of gradient surgery has both its conflicts and a control with its seed, so "
            "there is no figure of what surgery changes against how often tasks conflict."
        )
    for name in built_in_tasks():
        parts += [f"### {name}", task_table(methods, name)]
    parts += ["### Learning rates", rates]
    if claims:
        parts += ["### Claims of the project that we follow", claims]
    return "\n\n".join(parts)


def draw_figures(methods: dict[str, Method], costs: Costs | None, folder: Path) -> list[Path]:
    """Draw what there is something to draw of, and remove the other figures; return the files."""
    methods = {name: method for name, method in methods.items() if method.runs}
    drawn = {
        DIFFERENCES: draw_differences(methods, folder / DIFFERENCES),
        COST: costs is not None and draw_costs(methods, costs, folder / COST),
        CONFLICTS: draw_conflicts(methods, folder / CONFLICTS),
    }
    for name, is_drawn in drawn.items():
        if not is_drawn:  # a figure of earlier results would be taken for one of these
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, is_drawn in drawn.items() if is_drawn]


def get_args_parser() -> ArgumentParser:
    """Return the parser of the report's options."""
    here = ROOT / "experiments"
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--settings", metavar="KEY", help="key of a group of results; unset: that with most rows")
    add("--page", metavar="FILE", help="Markdown file with the two markers; unset: print")
    add("--results_dir", default=str(here / "results"), help="folder of the result files")
    add("--rows_dir", default=str(here / "rows"), help="folder of the rows")
    add(
        "--figures_dir",
        help="folder of the figures; unset: experiments/figures with --page, else none",
    )
    add(
        "--costs",
        metavar="FILE",
        help="what techniques cost, as benchmarks.techniques --to writes it; unset: costs.json "
        "beside the results, if it is there",
    )
    return parser


def main(args: Namespace) -> None:
    """Read the results, draw the figures, and print or write the tables."""
    rows = read_rows(Path(args.rows_dir))
    results_dir, figures_dir = Path(args.results_dir), args.figures_dir
    if args.page:
        part_of(Path(args.page), MARKED)  # a page without the markers ends here
        figures_dir = figures_dir or str(ROOT / "experiments" / "figures")
    all_results = read_results(results_dir)
    results = choose_settings(keep_current(all_results, rows), args.settings)
    own_costs = results_dir / "costs.json"
    costs_file = args.costs or (own_costs if own_costs.is_file() else None)
    costs = read_costs(costs_file) if costs_file else None
    data = results[0]["data"]
    methods = gather(rows, results)
    resample(methods, read_dev_labels(results_dir, data))
    base = Path(args.page).parent if args.page else Path.cwd()
    figures = None
    if figures_dir:
        drawn = draw_figures(methods, costs, Path(figures_dir))
        figures = {path.name: os.path.relpath(path, base) for path in drawn}
    majority = read_majority(results_dir, data)
    rates, commands = searched_rates(all_results), command_lines(results, rows)
    text = markdown(methods, results, majority, costs, figures, rates, commands)
    if args.page:
        insert(Path(args.page), MARKED, text)
        print(f"{len(results)} results written to {args.page}, figures to {figures_dir}")
    else:
        print(text)


if __name__ == "__main__":
    args = get_args_parser().parse_args()
    sys.exit(exit_status(lambda: main(args), is_output_needed=args.page is None))
