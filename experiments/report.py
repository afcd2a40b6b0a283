"""Write the results tables and figures from the result files alone.

    python -m experiments.report                           # Markdown to the terminal
    python -m experiments.report --page docs/results.md    # into a page, between its two markers
    python -m experiments.report --settings 3f2a9c1b       # another group of results

Results on other settings or data files never share a table. Figures go to experiments/figures.
"""

import math
import os
import shlex
import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.averages import choose_averages
from experiments.comparison import MEAN, NO_METHOD, Method, difference, gather, resample
from experiments.plots import draw_costs, draw_scores
from experiments.result_files import has_flags_of, read_dev_labels, read_results
from experiments.row_files import BASELINE, Row, read_rows
from models.pretrained import BUNDLED
from options.parsing import ArgumentParser
from options.task_table import built_in_tasks
from runtime.errors import InputError, exit_status
from scripts.marked_page import insert

ROOT = Path(__file__).resolve().parent.parent

MARKED = "results"  # the part of the page that is written
NOT_RUN = "not run here"
MIN_SEEDS = 3  # for a standard deviation
COSTS = ("training_seconds", "peak_memory_mib")
Cell = tuple[str, float]  # text, and a value that is bold where it is the largest; nan: never


def choose_settings(results: list[dict], key: str | None) -> list[dict]:
    """Return the results of one settings key, by default of that with most results.

    Raises:
        InputError: there is no such result.
    """
    counts = Counter(result["settings_key"] for result in results)
    if not counts:
        raise InputError("there are no results yet; run python -m experiments.run")
    chosen = key or counts.most_common(1)[0][0]
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
        if result["row"] in rows and has_flags_of(result, rows[result["row"]]):
            current.append(result)
        else:
            name = f"{result['row']} seed {result['seed']}"
            print(f"{name}: its row is gone or has other flags now; dropped", file=sys.stderr)
    return choose_averages(current, rows)


def number(value: float, sign: str = "") -> str:
    """Return a number in (-10, 10) with three decimals and without the leading zero.

    Args:
        value: the number.
        sign: "+" writes the sign of a positive number too.
    """
    return f"{value:{sign}z.3f}".replace("-", "−").replace("0.", ".", 1)


def score_cell(values: np.ndarray) -> Cell:
    """Return the mean over seeds, ± their sample standard deviation where there are enough."""
    if not len(values):
        return NOT_RUN, math.nan
    spread = f" ± {number(values.std(ddof=1))}" if len(values) >= MIN_SEEDS else ""
    return f"{number(values.mean())}{spread}", values.mean()


def difference_cells(method: Method, methods: dict[str, Method], name: str) -> list[Cell]:
    """Return the difference to the control with its interval, and the control's name."""
    found = difference(method, methods.get(method.control, NO_METHOD), name)
    if found is None:
        return [("–", math.nan), ("–", math.nan)]
    low, high = (number(end, "+") for end in found.interval)
    text = f"{number(found.mean, '+')} [{low}, {high}]"
    if len(found.by_seed) > 1:
        text += f"; {number(min(found.by_seed), '+')} to {number(max(found.by_seed), '+')}"
    return [(text, math.nan), (method.control, math.nan)]


def cost_cell(method: Method, methods: dict[str, Method], cost: str) -> Cell:
    """Return a cost over the baseline's, the smallest of which is bold."""
    ratio = method.relative(methods.get(BASELINE, NO_METHOD), cost)
    return ("–", math.nan) if math.isnan(ratio) else (f"{ratio:.2f}", -round(ratio, 2))


def overall_table(methods: dict[str, Method]) -> str:
    """Return the table of all tasks, with costs."""
    names = list(built_in_tasks())
    header = ["method", "mean", *names, "difference of the mean [95 %]; by seed", "to"]
    header += ["time", "memory", "seeds"]
    return format_table(methods, header, MEAN, [(name, None) for name in (MEAN, *names)], COSTS)


def task_table(methods: dict[str, Method], name: str) -> str:
    """Return the table of one task, with all of its metrics."""
    task = built_in_tasks()[name]
    header = [
        "method",
        task.metric_name,
        *(metric.replace("_", " ") for metric in task.other_metrics),
    ]
    header += ["difference [95 %]; by seed", "to", "seeds"]
    return format_table(
        methods, header, name, [(name, None), *((name, metric) for metric in task.other_metrics)]
    )


def format_table(
    methods: dict[str, Method],
    header: list[str],
    name: str,
    scores: list[tuple[str, str | None]],
    costs: tuple[str, ...] = (),
) -> str:
    """Return Markdown with one line per method, the best first, and the best of each column bold.

    Args:
        methods: the methods by name.
        header: the columns' titles.
        name: the task that is compared with the control, or `MEAN`.
        scores: a column each, as `Method.values` takes them; the first one sorts.
        costs: a column each.
    """
    lines = []
    for method in methods.values():
        num_seeds = len(method.seeds(name))
        cells = [(f"{method.title} (`{method.name}`)", math.nan)]
        cells += [score_cell(method.values(*score)) for score in scores]
        cells += difference_cells(method, methods, name)
        cells += [cost_cell(method, methods, cost) for cost in costs]
        seeds = f"of {num_seeds}" if method.is_average else str(num_seeds)
        cells.append(({0: "–", 1: "1 †"}.get(num_seeds, seeds), math.nan))
        lines.append(cells)
    lines.sort(key=lambda cells: -np.nan_to_num(cells[1][1], nan=-math.inf))
    # Of each column, as far as shown. nan equals nothing, so it is never bold.
    best = [
        max([round(x, 3) for _, x in column if x == x], default=math.nan) for column in zip(*lines)
    ]
    shown = [
        [f"**{text}**" if round(x, 3) == top else text for (text, x), top in zip(cells, best)]
        for cells in lines
    ]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *shown]
    )


def command_line(results: list[dict]) -> str:
    """Return the command that makes these results from the data files in their default place."""
    words = ["python", "-m", "experiments.run", "--seeds"]
    words += map(str, sorted({result["seed"] for result in results}))
    for name, value in results[0]["settings"].items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, dict):
            words += [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
        elif value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def facts(results: list[dict], num_dev: dict[str, int]) -> str:
    """Return what the numbers were made of and what they mean, as Markdown."""
    first = results[0]
    hours = sum(result["wall_seconds"] for result in results) / 3600
    rows = ", ".join(f"{name} {count:,}" for name, count in num_dev.items())
    revisions = sorted({str(result["git_revision"]) for result in results})
    seeds = ", ".join(map(str, sorted({result["seed"] for result in results})))
    lines = [
        f"{len(results)} runs, seeds {seeds}, {hours:.1f} hours in all, on "
        f"{'; '.join(sorted({result['hardware'] for result in results}))}. Settings "
        f"`{first['settings_key']}`, data `{first['data']}`, dev rows: {rows}. "
        f"Code: {', '.join(f'`{name[:12]}{name[40:]}`' for name in revisions)}"
        + (" (several revisions)." if len(revisions) > 1 else "."),
        f"Scores are means over seeds. From {MIN_SEEDS} seeds on, ± is their standard deviation. "
        "† marks a single seed: chance may move it by more than the methods differ. The intervals "
        "are paired bootstraps over the dev examples, of the seeds that both methods have. They "
        "measure the chance in the choice of examples, not the chance in the choice of seed. For "
        "the latter, the smallest and the largest difference of a single seed stand after the "
        f"semicolon. Time (of the updates alone) and memory are relative to `{BASELINE}`, seed by "
        "seed on the same hardware. The best value of each column is bold.",
    ]
    if first["settings"]["model_name"] == BUNDLED:
        lines.append(
            f"`{BUNDLED}` was itself tuned on sentence pairs, including Quora's and possibly these "
            "dev pairs, so differences on `para` may be compressed."
        )
    return "\n\n".join(lines)


def markdown(
    methods: dict[str, Method], results: list[dict], num_dev: dict[str, int], link: Callable
) -> str:
    """Everything between the page's markers. Methods without a result are named, not tabulated."""
    missing = [f"`{name}`" for name, method in methods.items() if not method.runs]
    methods = {name: method for name, method in methods.items() if method.runs}
    commands = [command_line(results), "python -m experiments.report --page docs/results.md"]
    parts = [
        "\n".join(["```bash", *commands, "```"]),
        facts(results, num_dev),
        overall_table(methods),
        *([f"Not run here: {', '.join(missing)}."] if missing else []),
        f"![Mean score against relative training time]({link('cost.png')})",
        f"![Score of every method by task, with 95 % intervals]({link('scores.png')})",
    ]
    parts += [f"**{name}**\n\n{task_table(methods, name)}" for name in built_in_tasks()]
    return "\n\n".join(parts)


def get_args_parser() -> ArgumentParser:
    """Return the parser of the report's options."""
    here = ROOT / "experiments"
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--settings", metavar="KEY", help="key of a group of results; unset: the largest group")
    add("--page", metavar="FILE", help="Markdown file with the two markers; unset: print")
    add("--results_dir", default=str(here / "results"), help="folder of the result files")
    add("--rows_dir", default=str(here / "rows"), help="folder of the rows")
    add("--figures_dir", default=str(here / "figures"), help="folder of the figures")
    return parser


def main(args: Namespace) -> None:
    """Read the results, draw the figures, and print or write the tables."""
    rows = read_rows(Path(args.rows_dir))
    results_dir, figures_dir = Path(args.results_dir), Path(args.figures_dir)
    results = keep_current(read_results(results_dir), rows)
    results = choose_settings(results, args.settings)
    methods = gather(rows, results)
    resample(methods, read_dev_labels(results_dir, results[0]["data"]))
    run = [method for method in methods.values() if method.runs]
    draw_scores(run, figures_dir / "scores.png")
    baseline = methods.get(BASELINE, NO_METHOD)
    times = {method.name: method.relative(baseline, COSTS[0]) for method in run}
    draw_costs(run, times, figures_dir / "cost.png")
    num_dev = {
        name: len(values) for result in results for name, values in result["predictions"].items()
    }
    base = Path(args.page).parent if args.page else Path.cwd()
    text = markdown(
        methods, results, num_dev, lambda name: os.path.relpath(figures_dir / name, base)
    )
    if args.page:
        insert(Path(args.page), MARKED, text)
        print(f"{len(results)} results written to {args.page}, figures to {figures_dir}")
    else:
        print(text)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(get_args_parser().parse_args())))
