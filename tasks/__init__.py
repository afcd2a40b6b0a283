"""Tasks: what follows from a task's kind. `tasks.toml` describes the built-in ones.

A new task needs a table, which `options.task_table` reads, and its data files. No logic names one.

Every command line needs the names of the tasks, and `--help` shall not wait for torch, SciPy or
scikit-learn. So in this package they are imported in the functions that compute with them.
"""

from tasks.base import (
    SPLITS,
    Batch,
    Example,
    Label,
    Task,
    Update,
    num_examples,
    own_rows,
    to_device,
)
from tasks.kinds import KINDS, Binary, Classification, Multilabel, Regression
from tasks.metrics import Metrics, mean_score, scores

__all__ = [
    "KINDS",
    "SPLITS",
    "Batch",
    "Binary",
    "Classification",
    "Example",
    "Label",
    "Metrics",
    "Multilabel",
    "Regression",
    "Task",
    "Update",
    "mean_score",
    "num_examples",
    "own_rows",
    "scores",
    "to_device",
]
