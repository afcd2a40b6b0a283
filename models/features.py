"""From the encoder's states [B, L, H] to one sentence vector [B, F] per row.

The options choose three things: which states are read (`TRAIN_MODES`), which module works on them
(`FEATURES`), and how the remaining sequence becomes one vector (`POOLINGS`). Padding never counts.
All tasks share the module.

Axis letters: B batch, L tokens (segments under `hierarchical`), H hidden, F features.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.attention import attention_bias
from models.bert import BertAttention, BertOutput
from models.bert_config import BertConfig

LSTM_SIZE = 128  # per direction
CNN_SIZE, CNN_KERNEL, CNN_LAYERS = 512, 5, 3


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Average over tokens: states [B, L, H] and their mask [B, L] give [B, H]."""
    mask = attention_mask[:, :, None].to(states.dtype)  # [B, L, 1]
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)  # [B, H] / [B, 1]


def cls_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Take the state of the first token, [CLS]: [B, L, H] gives [B, H]."""
    return states[:, 0]


def max_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Take the maximum over tokens, separately per dimension: [B, L, H] gives [B, H]."""
    padding = attention_mask[:, :, None] == 0  # [B, L, 1]
    return states.masked_fill(padding, torch.finfo(states.dtype).min).amax(1)


def last_states(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Take the last state of each direction of a BiLSTM, its `h_n`: [B, L, F] gives [B, F].

    The forward direction ends at a row's last token and the backward one at the first. At the first
    token, the forward direction has read nothing else yet.
    """
    forward, backward = states.chunk(2, dim=-1)  # [B, L, F] -> twice [B, L, F / 2]
    last = attention_mask.sum(1).clamp(min=1) - 1  # [B]
    rows = torch.arange(len(states), device=states.device)
    return torch.cat([forward[rows, last], backward[:, 0]], dim=-1)


Pooling = Callable[[Tensor, Tensor], Tensor]
POOLINGS: dict[str, Pooling] = {
    "mean": mean_pooling,
    "cls": cls_pooling,
    "max": max_pooling,
}


def last_hidden_state(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Return the states of the last layer [B, L, H] and their mask [B, L]."""
    return output.last_hidden_state, output.attention_mask


def single_layers(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Return the mean of the states of `layers` [B, L, H] and their mask [B, L]."""
    states = torch.stack([output.hidden_states[layer] for layer in layers])  # [layers, B, L, H]
    return states.mean(0), output.attention_mask


def all_pooled(output: BertOutput, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Return the first token's state in every layer [B, num_layers, H], and a mask of ones."""
    states = torch.stack([states[:, 0] for states in output.hidden_states[1:]], dim=1)
    return states, torch.ones_like(states[:, :, 0], dtype=torch.int64)


# Each takes the encoder's output and the layers of --layers, where 1 is the first one after the
# embeddings.
TRAIN_MODES: dict[str, Callable[[BertOutput, list[int]], tuple[Tensor, Tensor]]] = {
    "last_hidden_state": last_hidden_state,
    "single_layers": single_layers,
    "all_pooled": all_pooled,
}


class Extension(nn.Module):
    """A module between encoder and pooling. This plain one passes the states on unchanged.

    Attributes:
        num_features: F.
        ends_sequence: whether the result is one vector per row, so that no pooling follows.
        reads_lengths: whether `forward` also takes the lengths of the rows.
        poolings: key of `POOLINGS` -> how it pools the result.
    """

    ends_sequence = False
    reads_lengths = False
    poolings: Mapping[str, Pooling] = POOLINGS

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_features = config.hidden_size

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map states [B, L, H] and their mask [B, L] to [B, L, F], or [B, F] if `ends_sequence`."""
        return states


class AttentionExtension(Extension):
    """A weighted sum of the states, with weights softmax(w · tanh(W h + b)) over the tokens."""

    ends_sequence = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)  # softmax ignores a constant

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map states [B, L, H] and their mask [B, L] to [B, H]."""
        scores = self.score(torch.tanh(self.hidden(states))).float()[:, :, 0]  # [B, L]
        weights: Tensor = scores.masked_fill(attention_mask == 0, -torch.inf).softmax(1)
        return (weights[:, None].to(states.dtype) @ states)[:, 0]  # [B, 1, L] @ [B, L, H] -> [B, H]


class BiLSTMExtension(Extension):
    """A bidirectional LSTM that ends at the last token of each row.

    It always runs in float32. The cuDNN kernel has no second derivatives, so SophiaH turns cuDNN
    off in updates that need them.
    """

    reads_lengths = True
    poolings = POOLINGS | {"cls": last_states}

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_features = 2 * LSTM_SIZE
        self.lstm = nn.LSTM(config.hidden_size, LSTM_SIZE, batch_first=True, bidirectional=True)

    def forward(
        self, states: Tensor, attention_mask: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Map states [B, L, H] and their mask [B, L] to [B, L, F].

        `lengths` [B] are the sums of the mask, on the CPU. None computes them, for which the host
        has to wait for the device.
        """
        lengths = attention_mask.sum(1).cpu() if lengths is None else lengths
        lengths, order = lengths.clamp(min=1).sort(descending=True)
        # Sorted here, as torch's own sorting of packed rows waits for the device.
        order, back = (x.to(states.device, non_blocking=True) for x in (order, order.argsort()))
        # On a GPU, the LSTM may have to move its weights into one buffer first: whenever they have
        # been swapped, as in SMART's proximal term. Moved in inference mode, they could not be
        # trained again.
        is_grad_enabled = torch.is_grad_enabled()
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(is_grad_enabled),
            torch.autocast(states.device.type, enabled=False),
        ):
            packed = pack_padded_sequence(states.float()[order], lengths, batch_first=True)
            results, _ = pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, total_length=states.shape[1]
            )
            return results[back]


class CNNExtension(Extension):
    """Convolutions over neighbouring tokens, each followed by ReLU. Padding enters as zeros."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.num_features = CNN_SIZE
        sizes = [config.hidden_size] + [CNN_SIZE] * CNN_LAYERS
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, next_size, CNN_KERNEL, padding="same")
            for size, next_size in zip(sizes, sizes[1:])
        )

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map states [B, L, H] and their mask [B, L] to [B, L, F]."""
        mask = attention_mask[:, None].to(states.dtype)  # [B, 1, L]
        x = states.transpose(1, 2)  # [B, L, H] -> [B, H, L]
        for convolution in self.convolutions:
            x = F.relu(convolution(x * mask))  # [B, F, L]
        return x.transpose(1, 2)  # [B, F, L] -> [B, L, F]


class SegmentAttention(Extension):
    """Joins the segments of a text: self-attention among them, then a weighted sum.

    `HierarchicalEncoder` provides the states of the segments.
    """

    ends_sequence = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.attention = BertAttention(config)
        self.weighted_sum = AttentionExtension(config)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map states [B, S, H] of S segments and their mask [B, S] to [B, H]."""
        states = self.attention(states, attention_bias(attention_mask))  # [B, S, H]
        vectors: Tensor = self.weighted_sum(states, attention_mask)  # [B, H]
        return vectors


# Keys of --extension.
FEATURES: dict[str, type[Extension]] = {
    "none": Extension,
    "attention": AttentionExtension,
    "bilstm": BiLSTMExtension,
    "cnn": CNNExtension,
    "hierarchical": SegmentAttention,
}


class Features(nn.Module):
    """The sentence vectors that all heads read.

    Args:
        config: shape of the encoder.
        train_mode: key of `TRAIN_MODES`. `all_pooled` gives a sequence of layers, which the
            `attention` extension sums, whatever `extension` and `pooling` are.
        layers: layers that `single_layers` averages, from 1; None for the last four.
        extension: key of `FEATURES`.
        pooling: key of `POOLINGS`; without effect if the extension ends the sequence.

    Attributes:
        num_features: F.
        has_parameters: whether the module has any parameter.

    Raises:
        ValueError: the encoder has no such layer.
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
        self.extension = FEATURES["attention" if self.reads_layers else extension](config)
        self.pooling = self.extension.poolings[pooling]
        self.num_features = self.extension.num_features
        self.has_parameters = bool(list(self.parameters()))

    def states(self, output: BertOutput) -> tuple[Tensor, Tensor]:
        """Select the states [B, L, H] to read from the encoder's output, with their mask [B, L]."""
        return self.select(output, self.layers)

    def forward(
        self, states: Tensor, attention_mask: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Turn selected states [B, L, H] and their mask [B, L] into sentence vectors [B, F].

        `lengths` [B], if given, are the sums of the mask, on the CPU.
        """
        known = (lengths,) if self.extension.reads_lengths else ()
        x: Tensor = self.extension(states, attention_mask, *known)
        return x if self.extension.ends_sequence else self.pooling(x, attention_mask)


def default_layers(num_layers: int) -> list[int]:
    """Return the numbers of the last four layers, or of all if there are fewer."""
    return list(range(max(1, num_layers - 3), num_layers + 1))
