"""A searcher and a scheduler of Ray that continue from the records of earlier trials.

Ray's own way to continue a search unpickles files of its directory, which may run code.
"""

import itertools
import math
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from options.legal import num_epochs
from search.records import Record, write_record
from search.space import Choice, Range
from search.trial import NAME, finished_epochs

REDUCTION = 3  # HyperBand continues one trial in three after 1, 3, 9 … epochs


class NumberedSearch(Searcher):
    """Optuna's proposals, numbered and recorded; those of unfinished trials come first.

    Optuna is told the results of ended trials, whose points it does not propose again.

    Args:
        directory: the search's directory.
        space: what is searched.
        records: earlier trials.
        args: the options of the search. The sampler's seed is that of the search plus the number
            of earlier trials: otherwise it would draw the points of the first ones again.
    """

    def __init__(
        self,
        directory: Path,
        space: dict[str, Range | Choice],
        records: list[Record],
        args: Namespace,
    ) -> None:
        super().__init__(metric="mean", mode="max")
        self.directory = directory
        unfinished = [record for record in records if record.state == "unfinished"]
        self.taken = {record.name for record in records}
        self.names = [record.name for record in unfinished]
        self.optuna = OptunaSearch(
            {name: distribution(domain) for name, domain in space.items()},
            metric="mean",
            mode="max",
            points_to_evaluate=[record.sampled for record in unfinished],
            seed=(args.seed + len(records)) % 2**32,
        )
        for record in records:
            lines = finished_epochs(directory / "trials" / record.name)
            if record.state == "failed" or record.state != "unfinished" and not lines:
                self.optuna.add_evaluated_point(record.sampled, math.nan, error=True)
            elif record.state != "unfinished":
                self.optuna.add_evaluated_point(record.sampled, lines[-1]["mean"])

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the options of the next trial, with its name under NAME; record them first."""
        sampled = self.optuna.suggest(trial_id)
        assert sampled is not None, "Optuna always has another point"
        name = self.names.pop(0) if self.names else self.free_name()
        write_record(self.directory, Record(name, sampled))
        return {NAME: name} | sampled

    def free_name(self) -> str:
        """Return the first number that no trial has."""
        name = next(n for n in map("{:03d}".format, itertools.count()) if n not in self.taken)
        self.taken.add(name)
        return name

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Tell Optuna an epoch's result."""
        self.optuna.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Tell Optuna that a trial has ended."""
        self.optuna.on_trial_complete(trial_id, result, error)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict, **spec: object
    ) -> bool:
        """Accept Ray's call: the space is known."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Save nothing for Ray: the records are the state."""


class ContinuedHyperBand(AsyncHyperBandScheduler):
    """Asynchronous HyperBand that has judged the recorded epochs before.

    A trial that was allowed to continue is not judged again by the same epoch. The last epoch of
    an unfinished trial is judged when the trial reports it again, because a kill may have come
    before the judgement.

    Args:
        directory: the search's directory.
        records: earlier trials.
        args: the options of the search.
    """

    def __init__(self, directory: Path, records: list[Record], args: Namespace) -> None:
        super().__init__(
            time_attr="epoch",
            metric="mean",
            mode="max",
            max_t=num_epochs(args),
            reduction_factor=REDUCTION,
        )
        self.judged = {}
        for record in records:
            lines = finished_epochs(directory / "trials" / record.name)
            self.judged[record.name] = lines[:-1] if record.state == "unfinished" else lines
        for record in records:
            if record.state != "unfinished":
                trial = SimpleNamespace(trial_id=record.name, config={NAME: record.name})
                self.on_trial_add(None, trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, with what its earlier epochs have scored."""
        super().on_trial_add(tune_controller, trial)
        for line in self.judged.pop(trial.config[NAME], []):
            self.on_trial_result(tune_controller, trial, line)


def distribution(domain: Range | Choice) -> optuna.distributions.BaseDistribution:
    """Return a domain in Optuna's terms."""
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(domain.values)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.is_log)
