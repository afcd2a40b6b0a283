"""How far a run is and how long it will take: a progress bar, and an estimate of its duration."""

from statistics import median

from tqdm import tqdm

from runtime import workers

TIMED_UPDATES = 10  # after so many updates, the run's duration is estimated
WARM_UP_UPDATES = 3  # of these, which are slower than the rest
FORWARD_SHARE = 1 / 3  # of an example's training time that its evaluation takes


def progress_bar(description: str, total: int | None, done: int, unit: str) -> tqdm:
    """Return a bar on stderr, which stays quiet where stderr is no terminal.

    Args:
        description: stands before the bar.
        total: number of steps; None if it is not known.
        done: steps that are done already.
        unit: what a step is called.
    """
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        disable=None if workers.is_main() else True,
        leave=False,
    )


class DurationEstimate:
    """Prints once, after the first updates of this process, how long the run will take.

    Args:
        num_updates: updates that are left.
        num_evaluated: examples that will be evaluated, after epochs and at the end.
    """

    def __init__(self, num_updates: int, num_evaluated: int) -> None:
        self.num_updates, self.num_evaluated = num_updates, num_evaluated
        self.seconds: list[float] = []
        self.num_examples = 0

    def update(self, num_examples: int, seconds: float) -> None:
        """Note an update's examples and its seconds."""
        if len(self.seconds) == TIMED_UPDATES or self.num_updates <= TIMED_UPDATES:
            return
        self.seconds.append(seconds)
        self.num_examples += num_examples
        if len(self.seconds) == TIMED_UPDATES:
            per_update = median(self.seconds[WARM_UP_UPDATES:])
            per_example = per_update * TIMED_UPDATES / self.num_examples
            training = per_update * (self.num_updates - TIMED_UPDATES)
            evaluation = per_example * self.num_evaluated * FORWARD_SHARE
            print(
                f"expected: about {format_duration(training + evaluation)} more, "
                f"{per_update:.2f} s per update",
                flush=True,
            )


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits: `40 s`, `3 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
