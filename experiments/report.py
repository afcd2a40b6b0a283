"""Write the results tables and figures from the result files alone.

    python -m experiments.report                           # Markdown to the terminal
    python -m experiments.report --page docs/results.md    # into a page, between its two markers
    python -m experiments.report --settings 3f2a9c1b       # another group of results

Results on other settings or data files never share a table. Figures go to experiments/figures.
"""

import argparse
import math
import os
import shlex
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.comparison import MEAN, Method, difference, gather, resample
from experiments.plots import draw_costs, draw_scores
from experiments.result_files import has_flags_of, read_dev_labels, read_results
from experiments.row_files import BASELINE, Row, read_rows
from models.pretrained import BUNDLED
from runtime.errors import InputError, exit_status
from scripts.marked_page import insert
from tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent

MARKED = "results"  # the part of the page that is written
NOT_RUN = "not run here"
MIN_SEEDS = 3  # for a standard deviation
Cell = tuple[str, float]  # text, and the value that is bold where it is best; nan: never


def choose_settings(results: list[dict], key: str | None) -> list[dict]:
    """Results of one settings key, by default that of most results. Raises InputError."""
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
    """Results of rows as their files are now; the others are named and left out."""
    current = []
    for result in results:
        row = rows.get(result["row"])
        if row is not None and has_flags_of(result, row):
            current.append(result)
        else:
            name = f"{result['row']} seed {result['seed']}"
            print(f"{name}: its row is gone or has other flags now; left out", file=sys.stderr)
    return current


def number(value: float) -> str:
    """Three decimals without the leading zero."""
    if math.isnan(value):
        return "nan"
    text = f"{abs(value):.3f}"
    return ("−" if value < 0 and float(text) else "") + text.removeprefix("0")


def signed(value: float) -> str:
    text = number(value)
    return text if text.startswith("−") else f"+{text}"


def score_cell(values: np.ndarray) -> Cell:
    """Mean over seeds, ± their sample standard deviation where there are enough."""
    if not len(values):
        return NOT_RUN, math.nan
    spread = f" ± {number(values.std(ddof=1))}" if len(values) >= MIN_SEEDS else ""
    return f"{number(values.mean())}{spread}", values.mean()


def seeds_cell(num_seeds: int) -> Cell:
    return {0: "–", 1: "1 †"}.get(num_seeds, str(num_seeds)), math.nan


def difference_cells(method: Method, methods: dict[str, Method], name: str) -> list[Cell]:
    """Difference to the control with its interval, and the control's name."""
    found = difference(method, methods.get(method.control), name)
    if found is None:
        return [("–", math.nan), ("–", math.nan)]
    low, high = map(signed, found.interval)
    text = f"{signed(found.mean)} [{low}, {high}]"
    if len(found.by_seed) > 1:
        text += f"; {signed(min(found.by_seed))} to {signed(max(found.by_seed))}"
    return [(text, math.nan), (method.control, math.nan)]


def relative(method: Method, methods: dict[str, Method], cost: str) -> float:
    """Seconds or memory over the baseline's; nan without a run of it to compare with."""
    baseline = methods.get(BASELINE)
    return math.nan if baseline is None else method.relative(baseline, cost)


def ratio_cell(value: float) -> Cell:
    # Negated: the smallest is the best.
    return ("–", math.nan) if math.isnan(value) else (f"{value:.2f}", -round(value, 2))


def format_table(header: list[str], lines: list[list[Cell]], order: int = 1) -> str:
    """Markdown, sorted by the column `order`, the best of each column bold."""
    lines = sorted(lines, key=lambda line: sort_key(line[order][1]))
    shown = [[text for text, _ in line] for line in lines]
    for column in range(len(header)):
        values = [line[column][1] for line in lines]
        best = max((value for value in values if not math.isnan(value)), default=math.nan)
        for row, value in zip(shown, values):
            if round(value, 3) == round(best, 3):  # all that are equal as far as shown
                row[column] = f"**{row[column]}**"
    head = [header, ["---"] * len(header)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *shown])


def sort_key(value: float) -> tuple[bool, float]:
    return math.isnan(value), -value


def overall_table(methods: dict[str, Method]) -> str:
    header = ["method", "mean", *TASKS, "difference of the mean [95 %]; by seed", "to"]
    header += ["time", "memory", "seeds"]
    lines = []
    for method in methods.values():
        line = [(f"{method.title} (`{method.name}`)", math.nan)]
        line += [score_cell(method.values(name)) for name in (MEAN, *TASKS)]
        line += difference_cells(method, methods, MEAN)
        for cost in ("training_seconds", "peak_memory_mib"):
            line.append(ratio_cell(relative(method, methods, cost)))
        lines.append([*line, seeds_cell(len(method.seeds(MEAN)))])
    return format_table(header, lines)


def task_table(methods: dict[str, Method], name: str) -> str:
    task = TASKS[name]
    others = list(task.other_metrics)
    header = ["method", task.metric_name, *(metric.replace("_", " ") for metric in others)]
    header += ["difference [95 %]; by seed", "to", "seeds"]
    lines = []
    for method in methods.values():
        line = [(f"{method.title} (`{method.name}`)", math.nan), score_cell(method.values(name))]
        line += [score_cell(method.values(name, metric)) for metric in others]
        line += difference_cells(method, methods, name)
        lines.append([*line, seeds_cell(len(method.seeds(name)))])
    return format_table(header, lines)


def command_line(results: list[dict]) -> str:
    """The command that makes these results, on the data files where they are found by default."""
    words = ["python", "-m", "experiments.run", "--seeds"]
    words += map(str, sorted({result["seed"] for result in results}))
    for name, value in results[0]["settings"].items():
        if value is False:
            words.append(f"--no_{name}")
        elif value is True:
            words.append(f"--{name}")
        elif isinstance(value, dict):
            words += [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
        elif value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def facts(results: list[dict], num_dev: dict[str, int]) -> str:
    """What the numbers were made of and what they mean, in a few lines of Markdown."""
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
    """Everything between the page's markers."""
    commands = [command_line(results), "python -m experiments.report --page docs/results.md"]
    parts = [
        "\n".join(["```bash", *commands, "```"]),
        facts(results, num_dev),
        overall_table(methods),
        f"![Mean score against relative training time]({link('cost.png')})",
        f"![Score of every method by task, with 95 % intervals]({link('scores.png')})",
    ]
    parts += [f"**{name}**\n\n{task_table(methods, name)}" for name in TASKS]
    return "\n\n".join(parts)


def get_args_parser() -> argparse.ArgumentParser:
    here = ROOT / "experiments"
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--settings", metavar="KEY", help="group of results; unset: that with most of them")
    add("--page", metavar="FILE", help="Markdown file with the two markers; unset: print")
    add("--results_dir", default=str(here / "results"), help="result files")
    add("--rows_dir", default=str(here / "rows"), help="rows, for titles and those not run")
    add("--figures_dir", default=str(here / "figures"), help="where the figures go")
    return parser


def main(args: Namespace) -> None:
    rows = read_rows(Path(args.rows_dir))
    results_dir, figures_dir = Path(args.results_dir), Path(args.figures_dir)
    results = keep_current(read_results(results_dir), rows)
    results = choose_settings(results, args.settings)
    methods = gather(rows, results)
    resample(methods, read_dev_labels(results_dir, results[0]["data"]))
    draw_scores(list(methods.values()), figures_dir / "scores.png")
    seconds = "training_seconds"
    times = {name: relative(method, methods, seconds) for name, method in methods.items()}
    draw_costs(list(methods.values()), times, figures_dir / "cost.png")
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
    args = get_args_parser().parse_args()
    sys.exit(exit_status(lambda: main(args)))
