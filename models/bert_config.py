"""The shape of an encoder: config.json of BERT and RoBERTa, read and checked."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
MODEL_TYPES = ("bert", "roberta")
# The largest sizes that are taken, far above any published encoder's. Type ids are kept in a byte.
MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 65_536,
    "intermediate_size": 1_048_576,
    "max_position_embeddings": 1_048_576,
    "type_vocab_size": 256,
}


@dataclass
class BertConfig:
    """Shape of an encoder. The fields have the names of published config.json files.

    Raises:
        ValueError: a value is out of range, see `MAX_SIZES`; hidden_size is not a multiple of
            num_attention_heads; or hidden_act or model_type is unknown.
    """

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    model_type: str = "bert"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not (type(value) in (int, float) and 0 <= value < 1):
                raise ValueError(f"{field.name} is {value!r}, expected a number in [0, 1)")
            if field.name in MAX_SIZES:
                self.check_integer(field.name, 1, MAX_SIZES[field.name])
        self.check_integer("pad_token_id", 0, self.vocab_size - 1)
        if self.model_type == "roberta" and self.max_tokens < 1:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}, expected more than "
                f"pad_token_id + 1, {self.pad_token_id + 1}, under which roberta counts no position"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        for name, known in (("hidden_act", tuple(ACTIVATIONS)), ("model_type", self.model_types)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}, known: {', '.join(known)}")

    def check_integer(self, name: str, low: int, high: int) -> None:
        """Raise ValueError unless a field is an integer in [low, high]."""
        value = getattr(self, name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected an integer in [{low}, {high}]")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BertConfig":
        """Build a config from a published config.json; keys that are not fields are ignored."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)

    @property
    def first_position(self) -> int:
        """The position of a row's first token. RoBERTa counts from pad_token_id + 1."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens in a row, limited by the position embeddings."""
        return self.max_position_embeddings - self.first_position
