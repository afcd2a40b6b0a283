"""Gradients of word embeddings, which fill only the rows of the words that an update has met.

A batch has some hundreds of a vocabulary's many thousands of words. A new gradient of the whole
table for each task would cost more memory traffic than the encoder's layers have gradients.

Axis letters: T tasks, P flattened shared parameters, V words, H hidden, U distinct words of an
update.
"""

import torch
from torch import Tensor, nn

from models.auto import TransformersEncoder
from models.bert import BertModel
from runtime import workers


class WordGradients:
    """Gradients of a table of word embeddings in memory that is kept from update to update.

    Autograd gives the gradient of the table as rows, one for each token. Where `weight.grad` is
    one of `grads`, a backward pass adds them to it; all other rows are zero, and stay as they are.
    From now on, every gradient of the table comes as rows, and a hook stays on its weight.

    Args:
        table: the embeddings.
        J: [T, P] zeros.
        start: the first of the table's columns in J.

    Attributes:
        weight: the table's parameter.
        columns: the table's columns in J.
        grads: the same columns in the shape of the table, [T, V, H].
    """

    def __init__(self, table: nn.Embedding, J: Tensor, start: int = 0) -> None:
        table.sparse = True
        self.weight = table.weight
        self.columns = slice(start, start + self.weight.numel())
        self.grads = J[:, self.columns].view(len(J), *self.weight.shape)
        self.met: list[Tensor] = []  # the words of each backward pass since the last `clear`
        self.weight.register_hook(self.meet)  # type: ignore[no-untyped-call]  # torch's

    def meet(self, grad: Tensor) -> None:
        """Remember which rows a backward pass is about to fill."""
        assert grad.is_sparse, "the word embeddings are used for more than looking up words"
        self.met.append(grad._indices()[0])

    def words(self) -> Tensor:
        """Return the distinct words of this update [U], in ascending order."""
        met = torch.cat([self.weight.new_empty(0, dtype=torch.long), *self.met])
        words: Tensor = met.unique()  # type: ignore[no-untyped-call]  # torch's
        return words

    def clear(self) -> None:
        """Set to zero what the last update has filled."""
        self.grads.index_fill_(1, self.words(), 0)
        self.met = []

    def rows(self) -> Tensor:
        """Return a copy of the rows of this update's words in all `grads`, [T, U · H]."""
        return self.grads[:, self.words()].flatten(1)

    def add_up(self, w: Tensor) -> None:
        """Put the sum of `grads`, weighted by w [T], into the first of them."""
        total = w.to(self.grads.dtype) @ self.rows()  # [T] @ [T, U · H] -> [U · H]
        self.grads[0, self.words()] = total.view(-1, self.grads.shape[2])


def sparse_tables(model: nn.Module) -> list[nn.Embedding]:
    """Return the tables of word embeddings whose gradients are kept as rows.

    These are all that the model trains, on a CPU and with one worker. A GPU's host would wait to
    learn how many distinct words there are, and its memory is fast. Several workers add up whole
    gradients, and none knows the words of the others.

    Args:
        model: on its device, with what is frozen already frozen.
    """
    encoders = [m for m in model.modules() if isinstance(m, BertModel | TransformersEncoder)]
    tables = [encoder.word_embeddings for encoder in encoders]
    is_kept = workers.size() == 1 and all(t.weight.device.type == "cpu" for t in tables)
    return [table for table in tables if is_kept and table.weight.requires_grad]
