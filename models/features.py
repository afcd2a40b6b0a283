"""The encoder's states -> one sentence vector [B, F], over real tokens only.

Three choices: which layers' states are read (`TRAIN_MODES`), what works on them (`FEATURES`), and
how what is left of the sequence becomes one vector (`POOLINGS`). The module is shared by all tasks.

Axis letters: B batch, L tokens (segments under `hierarchical`), H hidden, F features.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.bert import BertAttention, BertConfig, BertOutput, attention_bias

LSTM_SIZE = 128  # a direction
CNN_SIZE, CNN_KERNEL, CNN_LAYERS = 512, 5, 3


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over real tokens: [B, L, H], [B, L] -> [B, H]."""
    mask = attention_mask[:, :, None].to(states.dtype)  # [B, L, 1]
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


def cls_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The first token's state, [CLS]: [B, L, H] -> [B, H]."""
    return states[:, 0]


def max_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Maximum over real tokens, each dimension by itself: [B, L, H], [B, L] -> [B, H]."""
    padding = attention_mask[:, :, None] == 0
    return states.masked_fill(padding, torch.finfo(states.dtype).min).amax(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_pooling,
    "cls": cls_pooling,
    "max": max_pooling,
}


def last_hidden_state(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """The last layer's states."""
    return output.last_hidden_state, output.attention_mask


def single_layers(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """The mean of some layers' states; 1 is the first layer after the embeddings."""
    states = torch.stack([output.hidden_states[layer] for layer in layers])  # [layers, B, L, H]
    return states.mean(0), output.attention_mask


def all_pooled(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Every layer's first state, as a sequence of layers: [B, num_layers, H]."""
    states = torch.stack([states[:, 0] for states in output.hidden_states[1:]], dim=1)
    return states, torch.ones_like(states[:, :, 0], dtype=torch.int64)


# key -> (encoder's output, layers) -> states [B, L, H] and their mask [B, L]
TRAIN_MODES: dict[str, Callable[[BertOutput, list[int]], tuple[Tensor, Tensor]]] = {
    "last_hidden_state": last_hidden_state,
    "single_layers": single_layers,
    "all_pooled": all_pooled,
}


class NoExtension(nn.Module):
    """States as they are; no parameters."""

    ends_sequence = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = config.hidden_size

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        return states


class AttentionExtension(nn.Module):
    """A weighted sum of the states, the weights softmax(w · tanh(W h + b)) over real tokens."""

    ends_sequence = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = config.hidden_size
        self.hidden = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)  # softmax ignores a constant

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        scores = self.score(torch.tanh(self.hidden(states))).float()[:, :, 0]  # [B, L]
        weights = scores.masked_fill(attention_mask == 0, -torch.inf).softmax(1)
        return (weights[:, None].to(states.dtype) @ states)[:, 0]  # [B, 1, L] @ [B, L, H] -> [B, H]


class BiLSTMExtension(nn.Module):
    """A bidirectional LSTM that stops at each sequence's last real token: [B, L, H] -> [B, L, F].

    In float32 always. On a GPU it reads the lengths from there, once a batch; cuDNN's kernel has no
    second derivatives, so SophiaH's updates turn that off.
    """

    ends_sequence = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = 2 * LSTM_SIZE
        self.lstm = nn.LSTM(config.hidden_size, LSTM_SIZE, batch_first=True, bidirectional=True)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(1).clamp(min=1).cpu()
        with torch.autocast(states.device.type, enabled=False):
            packed = pack_padded_sequence(states.float(), lengths, True, enforce_sorted=False)
            output, _ = pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=states.shape[1]
            )
        return output


class CNNExtension(nn.Module):
    """Convolutions over neighbouring tokens with ReLU; padding counts as zeros before each."""

    ends_sequence = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = CNN_SIZE
        sizes = [config.hidden_size] + [CNN_SIZE] * CNN_LAYERS
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, next_size, CNN_KERNEL, padding="same")
            for size, next_size in zip(sizes, sizes[1:])
        )

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[:, None].to(states.dtype)  # [B, 1, L]
        x = states.transpose(1, 2)  # [B, L, H] -> [B, H, L]
        for convolution in self.convolutions:
            x = F.relu(convolution(x * mask))
        return x.transpose(1, 2)  # [B, F, L] -> [B, L, F]


class SegmentAttention(nn.Module):
    """What joins the segments of `HierarchicalEncoder`: they attend to each other, as tokens of a
    BERT layer do, and end in a weighted sum."""

    ends_sequence = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = config.hidden_size
        self.attention = BertAttention(config)
        self.weighted_sum = AttentionExtension(config)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.attention(states, attention_bias(attention_mask))
        return self.weighted_sum(states, attention_mask)


# key of --extension -> module(config): states [B, L, H], mask [B, L] -> [B, L, F], or [B, F] if it
# `ends_sequence`
FEATURES: dict[str, type[nn.Module]] = {
    "none": NoExtension,
    "attention": AttentionExtension,
    "bilstm": BiLSTMExtension,
    "cnn": CNNExtension,
    "hierarchical": SegmentAttention,
}


class Features(nn.Module):
    """What every head reads; `num_features` is F.

    layers: those that `single_layers` averages. `all_pooled` leaves a sequence of layers, whose
    extension is `attention`. Raises ValueError for a layer that the encoder does not have.
    """

    def __init__(
        self,
        config: BertConfig,
        train_mode: str = "last_hidden_state",
        layers: list[int] | None = None,
        extension: str = "none",
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        self.layers = layers or default_layers(config.num_hidden_layers)
        for layer in self.layers:
            if not 1 <= layer <= config.num_hidden_layers:
                raise ValueError(f"layer {layer}: expected 1 to {config.num_hidden_layers}")
        self.select = TRAIN_MODES[train_mode]
        self.reads_hidden_states = train_mode != "last_hidden_state"
        self.reads_layers = train_mode == "all_pooled"
        extension = "attention" if self.reads_layers else extension
        self.extension = FEATURES[extension](config)
        self.pooling = POOLINGS[pooling]
        self.num_features = self.extension.num_features
        self.has_parameters = any(True for _ in self.parameters())

    def states(self, output: BertOutput) -> tuple[Tensor, Tensor]:
        """What is read of the encoder: states [B, L, H], and their mask [B, L]."""
        return self.select(output, self.layers)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """-> [B, F]."""
        x = self.extension(states, attention_mask)
        return x if self.extension.ends_sequence else self.pooling(x, attention_mask)


def default_layers(num_layers: int) -> list[int]:
    """The last four."""
    return list(range(max(1, num_layers - 3), num_layers + 1))
