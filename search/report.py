"""What a search leaves to look at: a table, the best options, two figures."""

import csv
import shlex
import warnings
from argparse import Namespace
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from options.task_table import NAME as TABLE
from runtime.errors import InputError
from runtime.files import atomic_write
from search.continued import distribution
from search.records import Record
from search.space import Choice, Range, trial_options
from search.trial import NAME, finished_epochs

OWN_OPTIONS = ("hpo_trials", "hpo_only", "hpo_cpus", "hpo_gpus", "hpo_concurrent", "hpo_space")
UNKEPT = {*OWN_OPTIONS, "hpo", "hpo_resume", "ray_address", "run_name", "logdir"}
NEGATED = {
    "write_summary": "no_tensorboard",
    "train_classifier": "no_train_classifier",
    "use_amp": "no_use_amp",
}


def report_search(
    directory: Path,
    space: dict[str, Range | Choice],
    records: list[Record],
    args: Namespace,
    resume_command: str,
) -> dict:
    """Print and write the table, best.txt and the figures.

    Args:
        directory: the search's directory.
        space: what was searched.
        records: the trials.
        args: the options of the search.
        resume_command: the command line that resumes the search.

    Returns:
        The options that the best trial sets.

    Raises:
        InputError: no trial has finished an epoch, or some trials are not finished.
    """
    rows = [trial_row(record, directory) for record in records]
    rows.sort(key=lambda row: (row["mean"] != row["mean"], -row["mean"]))  # nan last
    scored = [row for row in rows if row["mean"] == row["mean"]]
    for row in [row for row in rows if row["state"] == "failed"]:
        print(f"trial {row[NAME]} failed: {row['error']}")
    unfinished = args.hpo_trials - sum(row["state"] != "unfinished" for row in rows)
    settings = report_rows(directory, space, rows, args) if scored else {}
    if unfinished > 0:
        raise InputError(f"{unfinished} trials are not finished; resume with: {resume_command}")
    if not scored:
        raise InputError(f"{directory}: no trial has finished an epoch; see the errors above")
    best = max(scored, key=rank)
    print(
        f"\nbest: trial {best[NAME]}, dev mean {best['mean']:.4f}, chosen on dev, so optimistic"
        f"\nits options: {directory / 'best.txt'}; figures beside it"
    )
    return settings


def report_rows(
    directory: Path, space: dict[str, Range | Choice], rows: list[dict], args: Namespace
) -> dict:
    """Print and write the table, best.txt and the figures; return the best trial's options."""
    scored = [row for row in rows if row["mean"] == row["mean"]]
    names = [name for name in args.tasks if any(name in row for row in scored)]
    columns = [NAME, "state", "epochs", "mean", *names, "seconds", *space]
    write_table(directory / "trials.tsv", columns, rows)
    print(format_rows(columns, rows))
    best = max(scored, key=rank)
    settings = trial_options(args, {name: best[name] for name in space})
    write_best(directory / "best.txt", args, settings)
    draw(directory, space, scored)
    return settings


def rank(row: dict) -> tuple[bool, bool, float]:
    """Order trials: one that ended by itself before a stopped one, and that before a failed one."""
    return row["state"] == "done", row["state"] != "failed", row["mean"]


def trial_row(record: Record, directory: Path) -> dict:
    """Return one trial's line of the table.

    Its scores are those of its best epoch, as a run's are. Its mean is nan before its first epoch.
    """
    lines = finished_epochs(directory / "trials" / record.name)
    best = max(lines, key=lambda line: line["mean"], default={"epoch": 0, "mean": float("nan")})
    return {
        NAME: record.name,
        "state": record.state,
        "epochs": len(lines),
        "error": record.error,
        **best,
        "seconds": sum(line["seconds"] for line in lines),  # of the updates
        **record.sampled,
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
    if kept.pop("tasks_file", None) is not None:
        kept["tasks"] = str(path.with_name(TABLE))  # the search's own copy
    for name, flag in NEGATED.items():
        if kept.get(name) is False:
            del kept[name]
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
