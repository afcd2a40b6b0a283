"""What a search leaves to look at: a line a trial, a table, the best options, two figures."""

import csv
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from ray.tune import Callback

from checkpoint import atomic_write
from errors import InputError
from hpo import OWN_OPTIONS, finished_epochs, free_trial
from search_space import Choice, Range, trial_options
from tasks import TASKS

UNKEPT = {*OWN_OPTIONS, "hpo", "hpo_resume", "ray_address", "run_name", "logdir"}
NEGATED = {"write_summary": "no_tensorboard", "train_classifier": "no_train_classifier"}


class TrialPrinter(Callback):
    """Prints a line for every epoch and end of a trial; frees the disk of a finished one."""

    def __init__(self, directory: Path, num_trials: int, num_epochs: int) -> None:
        self.directory, self.num_trials, self.num_epochs = directory, num_trials, num_epochs

    def on_trial_result(self, iteration: int, trials: list, trial: object, result: dict, **_):
        scores = "  ".join(f"{name} {result[name]:.4f}" for name in TASKS if name in result)
        line = f"trial {trial.trial_id} epoch {result['epoch']}"
        print(f"{line}: {scores}  mean {result['mean']:.4f}")

    def on_trial_complete(self, iteration: int, trials: list, trial: object, **_) -> None:
        is_done = trial.last_result["epoch"] == self.num_epochs
        self.print_end(trials, trial, "done" if is_done else "stopped")
        free_trial(self.directory, trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list, trial: object, **_) -> None:
        self.print_end(trials, trial, "failed")
        free_trial(self.directory, trial.trial_id)

    def print_end(self, trials: list, trial: object, how: str) -> None:
        ended = {t.trial_id for t in trials if t.is_finished()} | {trial.trial_id}
        print(f"trial {trial.trial_id} {how}, {len(ended)} of {self.num_trials}")


def report_search(
    directory: Path, space: dict[str, Range | Choice], trials: list, args: Namespace
) -> dict:
    """Print and write the table, best.json and the figures; what the best trial sets.

    trials: Ray's results. Raises InputError if none has finished an epoch.
    """
    rows = [trial_row(trial, args, directory) for trial in trials]
    rows.sort(key=lambda row: (row["mean"] != row["mean"], -row["mean"]))  # nan last
    scored = [row for row in rows if row["mean"] == row["mean"]]
    for row in [row for row in rows if row["error"]]:
        print(f"trial {row['trial']} failed: {row['error']}")
    if not scored:
        raise InputError(f"{directory}: no trial has finished an epoch; see the errors above")
    columns = ["trial", "state", "epochs", "mean", *metric_names(scored), "seconds", *space]
    write_table(directory / "trials.tsv", columns, rows)
    print(format_rows(columns, rows))
    best = max(scored, key=rank)
    settings = trial_options(args, {name: best[name] for name in space})
    write_best(directory / "best.json", args, settings)
    draw(directory, space, scored)
    unfinished = args.hpo_trials - sum(row["state"] != "cut off" for row in rows)
    if unfinished:
        raise InputError(
            f"{unfinished} trials are not finished; go on with: --hpo_resume {directory}"
        )
    print(
        f"\nbest: trial {best['trial']}, dev mean {best['mean']:.4f}, chosen on dev, so optimistic"
        f"\nits options: {directory / 'best.json'}; figures beside it"
    )
    return settings


def rank(row: dict) -> tuple[bool, bool, float]:
    """A trial that ended by itself is better than a stopped one, and that than a failed one."""
    return row["state"] == "done", row["state"] != "failed", row["mean"]


def trial_row(trial: object, args: Namespace, directory: Path) -> dict:
    """One trial's line of the table: its scores are those of its best epoch, as a run's are; its
    mean is nan before its first epoch."""
    metrics = trial.metrics or {}
    name = metrics.get("trial_id") or Path(trial.path).name.split("_")[2]
    lines = finished_epochs(directory / "trials" / name)
    best = max(lines, key=lambda line: line["mean"], default={"epoch": 0, "mean": float("nan")})
    epochs = len(lines)
    is_patience_out = args.patience is not None and epochs - best["epoch"] > args.patience
    state = "done" if epochs == args.epochs or is_patience_out else "stopped"
    if trial.error:
        state = "failed"
    elif not metrics.get("done"):
        state = "cut off"
    return {
        "trial": name,
        "state": state,
        "epochs": epochs,
        "error": str(trial.error).strip().splitlines()[-1] if trial.error else "",
        **best,
        "seconds": sum(line["seconds"] for line in lines),  # of the updates
        **(trial.config or {}),
    }


def metric_names(rows: list[dict]) -> list[str]:
    return [name for name in TASKS if any(name in row for row in rows)]


def write_table(path: Path, columns: list[str], rows: list[dict]) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(
            file, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)


def format_rows(columns: list[str], rows: list[dict]) -> str:
    """The table in aligned columns, best first."""
    cells = [columns] + [[format_cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(c.ljust(width) for c, width in zip(line, widths)) for line in cells]
    return "\n".join(["", *lines])


def format_cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)


def write_best(path: Path, args: Namespace, settings: dict) -> None:
    """Every option of the best trial, a line each: `@best.json` gives them to a script again."""
    kept = {name: getattr(args, name) for name in args.given if name not in UNKEPT}
    for name, flag in NEGATED.items():
        if kept.pop(name, True) is False:
            kept[flag] = True
    lines = [f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in (kept | settings).items()]
    with atomic_write(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def draw(directory: Path, space: dict[str, Range | Choice], rows: list[dict]) -> None:
    """Write the two figures."""
    figures = {
        "parallel_coordinates.png": parallel_coordinates(space, rows),
        "importance.png": importance_figure(space, rows),
    }
    for name, figure in figures.items():
        with atomic_write(directory / name, "wb") as file:
            figure.savefig(file, format="png", dpi=120)


def heights(domain: Range | Choice, values: list) -> np.ndarray:
    """Where the values stand on an axis from 0, the domain's low end, to 1."""
    if isinstance(domain, Choice):
        places = [domain.values.index(value) for value in values]
        return np.array(places) / max(1, len(domain.values) - 1)
    ends, points = np.array([domain.low, domain.high]), np.array(values, dtype=float)
    if domain.is_log:
        ends, points = np.log(ends), np.log(points)
    return (points - ends[0]) / (ends[1] - ends[0])


def parallel_coordinates(space: dict[str, Range | Choice], rows: list[dict]) -> Figure:
    """An axis an option, the mean dev score last; a line a trial, the darker the better."""
    means = np.array([row["mean"] for row in rows])
    low, high = means.min(), max(means.max(), means.min() + 1e-9)
    axes_heights = [heights(domain, [row[name] for row in rows]) for name, domain in space.items()]
    axes_heights.append((means - low) / (high - low))
    figure = Figure(figsize=(1.9 * (len(space) + 1) + 1, 5), layout="constrained")
    axes = figure.subplots()
    for number in np.argsort(means):  # the best one on top
        line = [places[number] for places in axes_heights]
        share = axes_heights[-1][number]
        axes.plot(line, color=(0.8 - 0.75 * share, 0.8 - 0.5 * share, 0.9), linewidth=1 + 2 * share)
    ends = {**space, "dev mean": Range(low, high)}
    for place, domain in enumerate(ends.values()):
        axes.axvline(place, color="black", linewidth=0.6)
        labels = [f"{end:.3g}" for end in domain[:2]] if isinstance(domain, Range) else []
        places = [0, 1]
        if isinstance(domain, Choice):
            labels, places = map(str, domain.values), heights(domain, list(domain.values))
        for label, height in zip(labels, places):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            axes.text(place + 0.03, height, label, va="center", fontsize=8, bbox=box)
    names = [name.replace("_", "\n", 1) for name in ends]
    axes.set_xticks(range(len(ends)), names)
    axes.set_xlim(-0.2, len(ends) - 0.6)
    axes.set_yticks([])
    axes.set_title(f"{len(rows)} trials; dark: better mean dev score")
    axes.spines[:].set_visible(False)
    return figure


def importance_figure(space: dict[str, Range | Choice], rows: list[dict]) -> Figure:
    """How much of the trials' variance each option explains, by Optuna's fANOVA."""
    shares = importances(space, rows)
    figure = Figure(figsize=(6.4, 0.45 * len(space) + 1.4), layout="constrained")
    axes = figure.subplots()
    names = sorted(space, key=lambda name: shares.get(name, 0.0))
    bars = axes.barh(names, [shares.get(name, 0.0) for name in names], color="tab:blue")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the variance of the mean dev score over {len(rows)} trials")
    if not shares:
        axes.set_title("too few trials, or all alike: nothing to explain")
    return figure


def importances(space: dict[str, Range | Choice], rows: list[dict]) -> dict[str, float]:
    """Option -> share; empty where there is no variance to explain."""
    distributions = {name: distribution(domain) for name, domain in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row in rows:
        params = {name: row[name] for name in space}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=row["mean"])
        )
    if len({row["mean"] for row in rows}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def distribution(domain: Range | Choice) -> object:
    """The same in Optuna's terms."""
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(domain.values)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.is_log)
