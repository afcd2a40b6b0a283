"""What a search leaves to look at: a line per epoch, a table, the best options, two figures."""

import csv
import shlex
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ray.tune import Callback

from runtime.errors import InputError
from runtime.files import atomic_write
from search.space import Choice, Range, trial_options
from search.trial import finished_epochs, free_trial
from tasks import TASKS

OWN_OPTIONS = ("hpo_trials", "hpo_only", "hpo_cpus", "hpo_gpus", "hpo_concurrent", "hpo_space")
UNKEPT = {*OWN_OPTIONS, "hpo", "hpo_resume", "ray_address", "run_name", "logdir"}
NEGATED = {"write_summary": "no_tensorboard", "train_classifier": "no_train_classifier"}


class TrialPrinter(Callback):
    """Prints every epoch and end of a trial, and removes a finished one's checkpoints."""

    def __init__(self, directory: Path, num_trials: int, num_epochs: int) -> None:
        self.directory, self.num_trials, self.num_epochs = directory, num_trials, num_epochs

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **_):
        """Print an epoch's scores."""
        scores = "  ".join(f"{name} {result[name]:.4f}" for name in TASKS if name in result)
        line = f"trial {trial.trial_id} epoch {result['epoch']}"
        print(f"{line}: {scores}  mean {result['mean']:.4f}")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_) -> None:
        """Print that a trial is done, or was stopped early."""
        is_done = trial.last_result["epoch"] == self.num_epochs
        self.print_end(trials, trial, "done" if is_done else "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_) -> None:
        """Print that a trial failed."""
        self.print_end(trials, trial, "failed")

    def print_end(self, trials: list, trial: Any, how: str) -> None:
        """Print how a trial ended, and how many have."""
        ended = {t.trial_id for t in trials if t.is_finished()} | {trial.trial_id}
        print(f"trial {trial.trial_id} {how}, {len(ended)} of {self.num_trials}")
        free_trial(self.directory, trial.trial_id)


def report_search(
    directory: Path, space: dict[str, Range | Choice], trials: list, args: Namespace
) -> dict:
    """Print and write the table, best.txt and the figures.

    Args:
        directory: the search's directory.
        space: what was searched.
        trials: Ray's results.
        args: the options of the search.

    Returns:
        The options that the best trial sets.

    Raises:
        InputError: no trial has finished an epoch, or some trials are not finished.
    """
    rows = [trial_row(trial, args, directory) for trial in trials]
    rows.sort(key=lambda row: (row["mean"] != row["mean"], -row["mean"]))  # nan last
    scored = [row for row in rows if row["mean"] == row["mean"]]
    for row in [row for row in rows if row["error"]]:
        print(f"trial {row['trial']} failed: {row['error']}")
    if not scored:
        raise InputError(f"{directory}: no trial has finished an epoch; see the errors above")
    names = [name for name in TASKS if any(name in row for row in scored)]
    columns = ["trial", "state", "epochs", "mean", *names, "seconds", *space]
    write_table(directory / "trials.tsv", columns, rows)
    print(format_rows(columns, rows))
    best = max(scored, key=rank)
    settings = trial_options(args, {name: best[name] for name in space})
    write_best(directory / "best.txt", args, settings)
    draw(directory, space, scored)
    unfinished = args.hpo_trials - sum(row["state"] != "cut off" for row in rows)
    if unfinished:
        raise InputError(
            f"{unfinished} trials are not finished; resume with: --hpo_resume {directory}"
        )
    print(
        f"\nbest: trial {best['trial']}, dev mean {best['mean']:.4f}, chosen on dev, so optimistic"
        f"\nits options: {directory / 'best.txt'}; figures beside it"
    )
    return settings


def rank(row: dict) -> tuple[bool, bool, float]:
    """Order trials: one that ended by itself before a stopped one, and that before a failed one."""
    return row["state"] == "done", row["state"] != "failed", row["mean"]


def trial_row(trial: Any, args: Namespace, directory: Path) -> dict:
    """Return one trial's line of the table.

    Its scores are those of its best epoch, as a run's are. Its mean is nan before its first epoch.
    """
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


def write_table(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write the table as TSV."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(
            file, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)


def format_rows(columns: list[str], rows: list[dict]) -> str:
    """Return the table in aligned columns, best first."""
    cells = [columns] + [[format_cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(c.ljust(width) for c, width in zip(line, widths)) for line in cells]
    return "\n".join(["", *lines])


def format_cell(value: object) -> str:
    """Return a cell as text; nan is a dash."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)


def write_best(path: Path, args: Namespace, settings: dict) -> None:
    """Write every option of the best trial, one per line: `@best.txt` gives them to a script."""
    kept = {name: getattr(args, name) for name in args.given if name not in UNKEPT}
    for name, flag in NEGATED.items():
        if kept.pop(name, True) is False:
            kept[flag] = True
    lines = [shlex.join(words(name, value)) for name, value in (kept | settings).items()]
    with atomic_write(path) as file:
        file.write("\n".join(filter(None, lines)) + "\n")


def words(name: str, value: object) -> list[str]:
    """Return the words that set an option on a command line; none for one that is off."""
    if value is None or value is False:
        return []
    if isinstance(value, dict):
        value = [f"{key}={part}" for key, part in value.items()]
    values = [] if value is True else value if isinstance(value, list) else [value]
    return [f"--{name}", *map(str, values)]


def draw(directory: Path, space: dict[str, Range | Choice], rows: list[dict]) -> None:
    """Write Optuna's two figures: parallel coordinates and the importance of each option."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {name: distribution(domain) for name, domain in space.items()}
    for row in rows:
        params = {name: row[name] for name in space}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=row["mean"])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        from optuna.visualization import matplotlib as plots

        save(plots.plot_parallel_coordinate(study), directory / "parallel_coordinates.png")
        if len({row["mean"] for row in rows}) < 2:
            print("importance.png is not drawn: the trials are too few, or all alike")
            return
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        axes = plots.plot_param_importances(study, evaluator=evaluator)
        save(axes, directory / "importance.png")


def save(axes: Axes, path: Path) -> None:
    """Write the figure of these axes as PNG."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(11, 5)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def distribution(domain: Range | Choice) -> optuna.distributions.BaseDistribution:
    """Return a domain in Optuna's terms."""
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(domain.values)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.is_log)
