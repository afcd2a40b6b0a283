"""The file of what techniques cost: `benchmarks.techniques` writes it, the report reads it."""

import math
from pathlib import Path
from typing import NamedTuple

from runtime.errors import InputError
from runtime.files import read_json, write_json

FORMAT = "multitask-bert-costs-1"


class Cost(NamedTuple):
    """What one technique costs over the plain sum of losses.

    Attributes:
        time: ratio for the same number of examples, the median over rounds.
        smallest: of the rounds.
        largest: of the rounds.
        memory: the peak above the plain sum's, in float32 copies of the shared parameters.
    """

    time: float
    smallest: float
    largest: float
    memory: float


class Costs(NamedTuple):
    """What techniques cost, and how it was measured.

    Attributes:
        machine: processor, threads and torch's version.
        model_name: the encoder.
        precision: what updates compute in.
        batch_size: examples of each batch.
        rounds: in each of which every arm had its turn.
        updates: of the plain sum in each round.
        arms: the cost of each arm by its name.
        rows: training rows per task; None for all.
    """

    machine: str
    model_name: str
    precision: str
    batch_size: int
    rounds: int
    updates: int
    arms: dict[str, Cost]
    rows: int | None = None

    def find(self, name: str) -> Cost | None:
        """Return the cost of an arm, in whose name spaces and underscores are the same."""
        return {spaced(key): cost for key, cost in self.arms.items()}.get(spaced(name))


def spaced(name: str) -> str:
    """Return a name with spaces in place of underscores."""
    return name.replace("_", " ")


def write_costs(path: Path | str, costs: Costs) -> None:
    """Write a file of costs. Raises OSError."""
    arms = {name: cost._asdict() for name, cost in costs.arms.items()}
    write_json(path, {"format": FORMAT} | costs._asdict() | {"arms": arms})


def read_costs(path: Path | str) -> Costs:
    """Read a file of costs.

    Raises:
        InputError: there is no such file, or it is of another format.
    """
    content = read_json(path)
    found = content.pop("format", None)
    if found != FORMAT:
        raise InputError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    try:
        arms = {name: Cost(**cost) for name, cost in content.pop("arms").items()}
        costs = Costs(arms=arms, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not as benchmarks.techniques --to writes it: {error}") from None
    for name, cost in arms.items():
        are_numbers = all(isinstance(value, (int, float)) for value in cost)
        if not (are_numbers and all(map(math.isfinite, cost)) and min(cost[:3]) > 0):
            raise InputError(
                f"{path}: the costs of {name!r} are {[*cost]}, expected three ratios above 0 and "
                "a memory"
            )
    return costs
