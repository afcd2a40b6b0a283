"""Task heads: from sentence vectors [B, F] to logits [B, C].

A head reads one vector per example, or the vectors u and v of the two sentences of a pair.

Axis letters: B batch, F features, C outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Dropout


def mlp(num_features: int, num_layers: int, dropout: float) -> nn.Sequential:
    """Return `num_layers` times Linear, ReLU, dropout, from [B, F] to [B, F]."""
    return nn.Sequential(
        *(
            module
            for _ in range(num_layers)
            for module in (nn.Linear(num_features, num_features), nn.ReLU(), Dropout(dropout))
        )
    )


class ClassifyHead(nn.Module):
    """Dropout, hidden layers and a Linear, for single sentences and pairs encoded together.

    Args:
        num_features: F.
        num_outputs: C.
        num_hidden_layers: number of hidden layers, 0 or more; see `mlp`.
        dropout: probability, in [0, 1).
    """

    def __init__(
        self, num_features: int, num_outputs: int, num_hidden_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.hidden = mlp(num_features, num_hidden_layers, dropout)
        self.output = nn.Linear(num_features, num_outputs)

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Map u [B, F] to logits [B, C]."""
        assert v is None, "this head reads one vector per example"
        logits: Tensor = self.output(self.hidden(self.dropout(u)))
        return logits


class PairHead(nn.Module):
    """A symmetric head of two sentence vectors: swapping u and v changes nothing.

    A shared Linear and ReLU maps each vector, giving a and b. |a − b| and |a + b| side by side pass
    two layers of Linear and ReLU, the hidden layers, and a last Linear. The arguments are those of
    `ClassifyHead`.
    """

    def __init__(
        self, num_features: int, num_outputs: int, num_hidden_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.shared = nn.Linear(num_features, num_features)
        self.first = nn.Linear(2 * num_features, num_features)
        self.second = nn.Linear(num_features, num_features)
        self.hidden = mlp(num_features, num_hidden_layers, dropout)
        self.output = nn.Linear(num_features, num_outputs)

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Map u and v [B, F] to logits [B, C]."""
        assert v is not None, "this head reads two vectors per example"
        a, b = (F.relu(self.shared(self.dropout(x))) for x in (u, v))  # [B, F] each
        x = torch.cat([(a - b).abs(), (a + b).abs()], dim=-1)  # [B, 2F]
        x = F.relu(self.second(F.relu(self.first(x))))  # [B, F]
        logits: Tensor = self.output(self.hidden(x))
        return logits


class CosineHead(nn.Module):
    """low + (high − low) · cos(u, v), a similarity without parameters; 5 · cos for labels 0 to 5.

    Equal vectors have the highest label, orthogonal ones the lowest.

    The arguments are those of `ClassifyHead`, of which only num_outputs is read, and has to be 1.

    Args:
        label_range: low and high, the lowest and the highest label.
    """

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        num_hidden_layers: int,
        dropout: float,
        label_range: tuple[float, float] = (0, 5),
    ) -> None:
        super().__init__()
        assert num_outputs == 1, f"a cosine is one output, asked for {num_outputs}"
        self.low, self.scale = label_range[0], label_range[1] - label_range[0]

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Map u and v [B, F] to logits [B, 1]."""
        assert v is not None, "this head reads two vectors per example"
        return self.low + self.scale * F.cosine_similarity(u, v)[:, None]  # [B] -> [B, 1]


HEADS: dict[str, type[nn.Module]] = {
    "classify": ClassifyHead,
    "pair": PairHead,
    "cosine": CosineHead,
}
