"""Task heads: sentence vectors u (and v, the second's, under `bi`) [B, F] -> logits [B, C]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bert import Dropout


def mlp(num_features: int, num_layers: int, dropout: float) -> nn.Sequential:
    """`num_layers` of Linear, ReLU, dropout; [B, F] -> [B, F]. Nothing for 0."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(num_features, num_features), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)


class ClassifyHead(nn.Module):
    """Dropout, hidden layers, Linear: for single sentences, and pairs encoded together."""

    def __init__(
        self, num_features: int, num_outputs: int, num_hidden_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.hidden = mlp(num_features, num_hidden_layers, dropout)
        self.output = nn.Linear(num_features, num_outputs)

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        assert v is None, "this head reads one vector an example"
        return self.output(self.hidden(self.dropout(u)))


class PairHead(nn.Module):
    """A symmetric head of two sentence vectors: a shared Linear and ReLU, then |u - v| and |u + v|.

    The two are joined to [B, 2F] and pass two Linear and ReLU layers and the hidden layers, before
    the logits.
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
        assert v is not None, "this head reads two vectors an example"
        u = F.relu(self.shared(self.dropout(u)))
        v = F.relu(self.shared(self.dropout(v)))
        x = torch.cat([(u - v).abs(), (u + v).abs()], dim=-1)  # [B, 2F]
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.output(self.hidden(x))


class CosineHead(nn.Module):
    """5 · cos(u, v), a similarity that needs no parameters; the other arguments have no effect."""

    def __init__(
        self, num_features: int, num_outputs: int, num_hidden_layers: int, dropout: float
    ) -> None:
        super().__init__()
        assert num_outputs == 1, f"a cosine is one output, asked for {num_outputs}"

    def forward(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        assert v is not None, "this head reads two vectors an example"
        return 5 * F.cosine_similarity(u, v)[:, None]  # [B, 1]


HEADS: dict[str, type[nn.Module]] = {
    "classify": ClassifyHead,
    "pair": PairHead,
    "cosine": CosineHead,
}
