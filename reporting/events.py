"""TensorBoard's event files, or nothing in their place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


class NullWriter:
    """Stands in for TensorBoard's writer under --no_tensorboard, so that the log has no `if`."""

    def add_scalar(self, *args: object, **options: object) -> None:
        """Write nothing."""

    add_hparams = add_figure = add_custom_scalars = add_scalar

    def flush(self) -> None:
        """Do nothing."""

    close = flush


class EventWriter:
    """TensorBoard's writer, whose errors name its directory.

    Args:
        events_dir: where the event files go.
        resumed_update: events of an earlier process after this update become void; None for a
            new run.
    """

    def __init__(self, events_dir: Path, resumed_update: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.events_dir = events_dir
        purge_step = None if resumed_update is None else resumed_update + 1
        self.writer = self.named(SummaryWriter)(
            str(events_dir), purge_step=purge_step, flush_secs=30
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.named(getattr(self.writer, name))

    def named(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same method, whose OSError names the directory and says what to do."""

        def call(*args: object, **options: object) -> Any:
            try:
                return method(*args, **options)
            except OSError as error:
                raise OSError(
                    f"{self.events_dir}: events cannot be written: {error.strerror or error}; "
                    "make room and continue with --resume"
                ) from None

        return call
