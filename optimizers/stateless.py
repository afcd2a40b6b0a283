"""The base of the parts that stand in for a technique that is off, and so have nothing to save."""

from typing import Any


class Stateless:
    """A part of a run without state: nothing of it goes into a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing."""
