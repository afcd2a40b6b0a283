"""Compare what two runs saved, to the last bit."""

import json
from pathlib import Path

import torch

from runtime import checkpoint


def final_state(run: Path, folder: Path | None = None) -> tuple[dict, dict, list[dict]]:
    """Read the last checkpoint, the best checkpoint and metrics.jsonl of a run.

    Values of metrics.jsonl that depend on time or memory are dropped.

    Args:
        run: the run's directory.
        folder: where the checkpoints are; None for the run's own folder.
    """
    folder = folder or run / "checkpoints"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["examples_per_second"], line["peak_memory_mib"]
    last = checkpoint.load(folder / "last.pt")
    for group in last["optimizer"]["param_groups"]:
        group.pop(
            "differentiable", None
        )  # torch adds this key to groups that are made after a load
    best = checkpoint.load(folder / "best.pt")
    del last["run"], best["run"]  # the runs may have started with other options
    return last, best, lines


def assert_same(one: object, other: object, where: str = "") -> None:
    """Assert that two nested values are equal, tensors to the last bit; seconds may differ."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other)):
            assert_same(left, right, f"{where}/{i}")
    elif not where.endswith("/seconds"):
        assert one == other, where
