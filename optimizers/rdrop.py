"""R-Drop: two forward passes with different dropout masks should agree."""

from torch import Tensor

from models import MultitaskBert
from optimizers.smart import PlainForward
from tasks import Batch, Task


class RDrop(PlainForward):
    """R-Drop (Wu et al., NeurIPS 2021, arXiv:2106.14448), as a penalty on a loss.

    With the outputs f and f' of two passes that draw their own dropout masks, the loss ℓ(f) becomes

        (ℓ(f) + ℓ(f')) / 2 + weight · (D(f ‖ f') + D(f' ‖ f)) / 2

    as in the authors' code for fine-tuning. The paper adds ℓ(f) and ℓ(f'); their mean keeps the
    meaning of the learning rate. D is the KL divergence of the two predicted distributions. A score
    is taken as the mean of a normal distribution of variance 1, so that D = (f − f')² / 2. The sum
    of both directions is the task's `divergence`.

    Without dropout the penalty is 0. A second pass about doubles time and activations.

    Args:
        model: the model.
        weight: the paper's α, at least 0. Paper: 0.1, 0.5 or 1 on GLUE.

    Raises:
        ValueError: weight is negative.
    """

    def __init__(self, model: MultitaskBert, weight: float) -> None:
        if weight < 0:
            raise ValueError(f"weight is {weight}, expected a number of at least 0")
        super().__init__(model)
        self.weight = weight

    def penalty(self, task: Task, batch: Batch, logits: Tensor) -> Tensor:
        """Return what R-Drop adds to the loss of `logits`, [].

        Args:
            task: the task.
            batch: the batch of the last call of `logits`.
            logits: what that call returned, [B, C].
        """
        with self.model.without_statistics():
            others: Tensor = self.model(task, batch)  # [B, C]
        labels = batch["labels"]
        difference = task.loss(others, labels) - task.loss(logits, labels)  # []
        divergence = task.divergence(logits, others).mean()  # both directions: [B] -> []
        return (difference + self.weight * divergence) / 2
