"""The estimate of a run's duration, from its first updates."""

import pytest

from reporting.duration import TIMED_UPDATES, WARM_UP_UPDATES, DurationEstimate, format_duration


def printed(capsys, num_updates, num_evaluated=0, seconds=(2.0,) * TIMED_UPDATES):
    estimate = DurationEstimate(num_updates, num_evaluated)
    for value in seconds:
        estimate.update(num_examples=40, seconds=value)
    return capsys.readouterr().out


def test_it_is_printed_once_after_the_first_updates(capsys):
    assert printed(capsys, 100, seconds=(2.0,) * (TIMED_UPDATES - 1)) == ""
    out = printed(capsys, 100, seconds=(2.0,) * (TIMED_UPDATES + 5))
    assert out == "expected: about 3 min more, 2.00 s per update\n"  # 90 updates of 2 s


def test_the_first_updates_are_warm_up(capsys):
    seconds = (50.0,) * WARM_UP_UPDATES + (2.0,) * (TIMED_UPDATES - WARM_UP_UPDATES)
    assert "about 3 min more" in printed(capsys, 100, seconds=seconds)


def test_evaluation_is_part_of_it(capsys):
    # 90 updates of 2 s, and 3,600 examples at a third of 2 s / 40.
    assert "about 4 min more" in printed(capsys, 100, num_evaluated=3600)


def test_a_run_of_few_updates_gets_none(capsys):
    assert printed(capsys, TIMED_UPDATES) == ""


@pytest.mark.parametrize(
    "seconds, text", [(4.4, "4 s"), (99, "99 s"), (150, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_a_duration_has_the_largest_unit_that_fits(seconds, text):
    assert format_duration(seconds) == text
