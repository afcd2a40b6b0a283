"""The conflict log, compared with torch's own cosines."""

import math

import pytest
import torch

from optimizers.conflicts import ConflictLog, cosine_tag

NAMES = ["a", "b", "c"]
GROUPS = {"low": slice(0, 3), "high": slice(3, 8)}


def log_of(num_updates=5, missing=None):
    """A log of random gradients, and the gradients [U, T, P].

    Every second update, from the first on, does not train on task `missing`.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_updates, 3, 8, generator=generator)
    if missing is not None:
        rows[::2, missing] = 0
    log = ConflictLog(NAMES, GROUPS)
    for J in rows.double():
        log.observe(torch.stack([J[:, part] @ J[:, part].T for part in GROUPS.values()]))
    return log, rows


def test_cosines_are_those_of_the_gradients():
    log, rows = log_of()
    assert log.pair_names == ["a-b", "a-c", "b-c"]
    for group, part in enumerate([slice(None), *GROUPS.values()]):
        for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            expected = torch.cosine_similarity(rows[:, i, part], rows[:, j, part], dim=-1)
            torch.testing.assert_close(log.history()[:, group, pair], expected)


def test_a_task_that_is_not_trained_counts_in_no_share():
    log, rows = log_of(6, missing=2)
    shares = log.shares()
    for pair, (i, j), seen in (("a-b", (0, 1), slice(None)), ("b-c", (1, 2), slice(1, None, 2))):
        cosines = torch.cosine_similarity(rows[seen, i], rows[seen, j], dim=-1)
        assert shares[pair] == pytest.approx((cosines < 0).float().mean().item())
    assert not any(math.isnan(cosine) for _, cosine, _ in log.scalars(0))


def test_events_are_of_the_updates_after_the_given_one():
    log, _ = log_of()
    found = [(tag, step) for tag, _, step in log.scalars(3)]
    tags = [cosine_tag(p, g) for g in ("whole_model", *GROUPS) for p in log.pair_names]
    assert found == [(tag, step) for step in (4, 5) for tag in tags]


def test_a_loaded_log_continues():
    log, rows = log_of()
    other = ConflictLog(NAMES, GROUPS)
    assert other.shares() == {"a-b": 0, "a-c": 0, "b-c": 0}
    other.load_state_dict(log.state_dict())
    J = rows[0].double()
    for either in (log, other):
        either.observe(torch.stack([J[:, part] @ J[:, part].T for part in GROUPS.values()]))
    assert torch.equal(log.history(), other.history()) and len(log.history()) == 6
    assert other.figure().axes[0].get_title().startswith("a-b: ")
