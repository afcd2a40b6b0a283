"""One trial of a search: a run like any other, in a process of its own, that reports to Ray."""

import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from options.legal import num_epochs
from reporting.metrics_file import read_lines
from runtime.locks import locked
from search.space import trial_options
from tasks import scores

Train = Callable[[Namespace, Callable[[dict], None]], None]  # the entry script's `main`
NAME = "trial"  # of the option, in what Ray is given, that holds a trial's name


def run_trial(sampled: dict, options: dict, directory: str, train: Train) -> None:
    """Run one trial in `directory`/trials, and report every epoch to Ray.

    A trial that was cut off resumes from its last checkpoint, and reports its earlier epochs again.

    Args:
        sampled: the options that were drawn for this trial, and its name under NAME.
        options: those of the search.
        directory: the search's directory.
        train: trains with some options, and reports every epoch's line.
    """
    from ray import tune

    args = Namespace(**options)
    sampled = dict(sampled)
    run_dir = Path(directory) / "trials" / sampled.pop(NAME)
    # What a killed search left behind may still be running.
    with locked(run_dir.with_suffix(".lock"), wait=True):
        finished = finished_epochs(run_dir)
        if len(finished) == num_epochs(args):
            for line in finished:
                tune.report(line)
            return
        torch.set_num_threads(args.hpo_cpus)
        vars(args).update(trial_options(args, sampled))
        args.logdir, args.run_name = str(run_dir.parent), run_dir.name
        args.hpo, args.hpo_resume = False, None
        args.no_test_predictions, args.write_summary = True, False
        if (run_dir / "args.json").is_file():
            args = resumed(run_dir, args.use_gpu)
        train(args, lambda line: tune.report(reported(line)))


def resumed(run_dir: Path, use_gpu: bool) -> Namespace:
    """Return the options of a command line that resumes a run."""
    return Namespace(
        resume=str(run_dir), given=[], use_gpu=use_gpu, hpo=False, hpo_resume=None, tasks={}
    )


def reported(line: dict) -> dict[str, float]:
    """Return what Ray is told of an epoch.

    Args:
        line: the epoch's line of metrics.jsonl.

    Returns:
        The mean, which decides, each task's metric, and the seconds of the updates.
    """
    seconds = sum(line["examples"].values()) / line["examples_per_second"]
    told = {"mean": line["mean"], "epoch": line["epoch"], "seconds": seconds}
    # A constant has no Pearson: null in metrics.jsonl.
    dev = {name: math.nan if v is None else v for name, v in scores(line["dev"]).items()}
    return dev | told  # whatever the file calls a task


def finished_epochs(run_dir: Path) -> list[dict]:
    """Return what a trial reports of the epochs in its metrics.jsonl. Raises InputError."""
    path = run_dir / "metrics.jsonl"
    return [reported(line) for line in read_lines(path)] if path.exists() else []


def free_trial(directory: Path, name: str) -> None:
    """Remove a finished trial's checkpoints: its scores and options stay."""
    shutil.rmtree(directory / "trials" / name / "checkpoints", ignore_errors=True)
