"""What a search prints while it runs, and how the end of every trial is recorded."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ray.tune import Callback

from search.ray_session import SearchStop
from search.records import Record, ended_state, write_record
from search.trial import NAME, finished_epochs, free_trial


class TrialPrinter(Callback):
    """Prints every epoch and end of a trial, records the end, and removes the checkpoints.

    Args:
        directory: the search's directory.
        args: the options of the search.
        ended: the names of the trials that have ended before.
        stop: what stops the search.
    """

    def __init__(
        self, directory: Path, args: Namespace, ended: list[str], stop: SearchStop
    ) -> None:
        self.directory, self.args, self.ended, self.stop = directory, args, set(ended), stop

    def setup(self, *_: object, **__: object) -> None:
        """Let signals stop the trials: Ray calls this once it can be stopped."""
        self.stop.take_over()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **_):
        """Print an epoch's scores."""
        scores = "  ".join(f"{n} {result[n]:.4f}" for n in self.args.tasks if n in result)
        line = f"trial {trial.config[NAME]} epoch {result['epoch']}"
        print(f"{line}: {scores}  mean {result['mean']:.4f}")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_) -> None:
        """Record and print that a trial is done, or was stopped early."""
        lines = finished_epochs(self.directory / "trials" / trial.config[NAME])
        self.end(trial, ended_state(lines, self.args))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_) -> None:
        """Record and print that a trial failed, but not where it failed because we stop."""
        if self.stop.signum is None:
            self.end(trial, "failed", failure(trial))

    def end(self, trial: Any, state: str, error: str = "") -> None:
        """Record and print how a trial ended, and print how many have."""
        sampled = dict(trial.config)
        name = sampled.pop(NAME)
        # The checkpoints go last: a kill in between leaves a record that says the trial has ended.
        write_record(self.directory, Record(name, sampled, state, error))
        free_trial(self.directory, name)
        self.ended.add(name)
        print(f"trial {name} {state}, {len(self.ended)} of {self.args.hpo_trials}")


def failure(trial: Any) -> str:
    """Return the last line of a failed trial's error.

    Ray also keeps the error as a pickle, which we do not read.
    """
    path = trial.error_file
    text = Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
    return (text.strip().splitlines() or ["unknown error"])[-1].strip()
