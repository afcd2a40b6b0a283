"""How the tasks' gradients of the shared parameters become one update."""

from collections.abc import Iterable

from torch import Tensor, nn

from tasks import Task


class PlainSum:
    """The gradient of the summed loss: no projection. Each task's graph is freed by its own
    backward pass.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to every parameter's."""
        loss.backward()

    def combine(self) -> None:
        """Leave in `p.grad` what the optimizer shall use: here, what the backward passes summed
        up.
        """

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


PROJECTIONS = {"none": PlainSum}
