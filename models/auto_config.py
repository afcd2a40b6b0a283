"""config.json of the model types that come from transformers' `AutoModel`: read and checked.

Only the keys in `checks` are read, each within its limits. All others are ignored, among them
those that name code or kernels to be downloaded (`auto_map`, `attn_implementation`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from models.bert_config import ACTIVATIONS, MAX_SIZES, BertConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class Architecture(NamedTuple):
    """What our code has to know of a type of model of transformers.

    Attributes:
        hidden_dropout: the keys of config.json that hold the dropout of hidden states.
        attention_dropout: the key that holds the dropout of attention weights.
        layers: the place of its list of layers; None if the layers share their weights.
        takes_types: whether it has embeddings of token types.
        first_position: of the positions of a row; earlier ones are not used.
        query_value: the last part of the names of its query and value maps; none where one map is
            both.
        attention: which of transformers' attention functions it has.
        names: field of `BertConfig` -> its key in config.json, where that differs.
    """

    hidden_dropout: tuple[str, ...] = ("hidden_dropout_prob",)
    attention_dropout: str = "attention_probs_dropout_prob"
    layers: str | None = "encoder.layer"
    takes_types: bool = True
    first_position: int = 0
    query_value: tuple[str, ...] = ("query", "value")
    attention: str = "sdpa"
    names: dict[str, str] = {}


ARCHITECTURES = {
    "modernbert": Architecture(
        hidden_dropout=("embedding_dropout", "mlp_dropout"),
        attention_dropout="attention_dropout",
        layers="layers",
        takes_types=False,
        query_value=(),
        names={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
    ),
    "deberta-v2": Architecture(query_value=("query_proj", "value_proj"), attention="eager"),
    "mpnet": Architecture(
        takes_types=False, first_position=2, query_value=("q", "v"), attention="eager"
    ),
    "electra": Architecture(),
    "albert": Architecture(layers=None),
    "distilbert": Architecture(
        hidden_dropout=("dropout",),
        attention_dropout="attention_dropout",
        layers="transformer.layer",
        takes_types=False,
        query_value=("q_lin", "v_lin"),
        names={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
    ),
    "bert": Architecture(),  # `models.pretrained` takes our own instead; tests compare the two
}
MAX_THETA = 1e12  # of the wave lengths of ModernBERT's positions
SPECIALS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")  # only kept, not used
LAYER_TYPES = ("full_attention", "sliding_attention")


class Check(NamedTuple):
    """What a key of config.json may hold: a test of a value, and the same in words."""

    holds: Callable[[Any], bool]
    expected: str


def integer(low: int, high: int) -> Check:
    """Return a check for integers in [low, high]."""
    return Check(
        lambda value: type(value) is int and low <= value <= high,
        f"an integer in [{low}, {high}]" if low < high else str(low),
    )


def number(low: float, high: float) -> Check:
    """Return a check for numbers in [low, high)."""
    return Check(
        lambda value: type(value) in (int, float) and low <= value < high,
        f"a number in [{low:g}, {high:g})",
    )


def one_of(*values: Any) -> Check:
    """Return a check for one of a few values."""
    return Check(
        lambda value: any(type(value) is type(known) and value == known for known in values),
        f"one of {', '.join(map(str, values))}",
    )


def words(*known: str, is_joined: bool = False) -> Check:
    """Return a check for a list of known words; with `is_joined`, | may join them to a text."""

    def holds(value: Any) -> bool:
        if is_joined and isinstance(value, str):
            value = [part.strip() for part in value.lower().split("|")]
        return isinstance(value, list) and all(part in known for part in value)

    return Check(holds, f"a list of {', '.join(known)}")


def is_plain_rope(value: Any) -> bool:
    """Test ModernBERT's positions: a wave length for each type of layer, and nothing else."""
    return isinstance(value, dict) and all(
        kind in LAYER_TYPES
        and isinstance(given, dict)
        and given.keys() <= {"rope_type", "rope_theta"}
        and given.get("rope_type", "default") == "default"
        and number(1, MAX_THETA).holds(given.get("rope_theta", 1))
        for kind, given in value.items()
    )


def checks() -> dict[str, Check]:
    """Return the keys that are read, whatever the type of the model, and what they may hold."""
    sizes = {name: integer(1, size) for name, size in MAX_SIZES.items()}
    width, places = MAX_SIZES["hidden_size"], MAX_SIZES["max_position_embeddings"]
    truth, share, activation = one_of(False, True), number(0, 1), one_of(*ACTIVATIONS)
    names = [name for kind in ARCHITECTURES.values() for name in kind.hidden_dropout]
    names += [kind.attention_dropout for kind in ARCHITECTURES.values()]
    return sizes | {
        **{
            theirs: sizes[own]
            for own, theirs in ARCHITECTURES["distilbert"].names.items()
            if own in sizes
        },
        **{name: share for name in [*names, "layer_norm_eps", "norm_eps"]},
        **{name: activation for name in ("hidden_act", "hidden_activation", "activation")},
        "type_vocab_size": integer(0, MAX_SIZES["type_vocab_size"]),
        "embedding_size": integer(1, width),
        **{name: integer(0, MAX_SIZES["vocab_size"] - 1) for name in ("pad_token_id", *SPECIALS)},
        # ALBERT. More than one inner layer would make more states than layers.
        "num_hidden_groups": integer(1, MAX_SIZES["num_hidden_layers"]),
        "inner_group_num": integer(1, 1),
        # MPNet. Its code reads 32 buckets, whatever the number is.
        "relative_attention_num_buckets": integer(32, places),
        # ModernBERT.
        **{name: truth for name in ("norm_bias", "attention_bias", "mlp_bias")},
        "global_attn_every_n_layers": integer(1, MAX_SIZES["num_hidden_layers"]),
        "layer_types": words(*LAYER_TYPES),
        "local_attention": integer(2, places),
        "global_rope_theta": number(1, MAX_THETA),
        "local_rope_theta": number(1, MAX_THETA),
        "rope_parameters": Check(is_plain_rope, "rope_theta for each of " + ", ".join(LAYER_TYPES)),
        "rope_scaling": Check(lambda value: False, "null"),
        # DeBERTa.
        **{name: truth for name in ("relative_attention", "position_biased_input")},
        "share_att_key": truth,
        "pos_att_type": words("c2p", "p2c", is_joined=True),
        "norm_rel_ebd": one_of("none", "layer_norm"),
        "max_relative_positions": integer(-1, places),
        "position_buckets": integer(-1, places),
        "conv_kernel_size": integer(0, 99),
        "conv_groups": integer(1, width),
        "conv_act": one_of("tanh", *ACTIVATIONS),
    }


@dataclass
class TransformersConfig(BertConfig):
    """Shape of an encoder of transformers. The inherited fields have BERT's names.

    Attributes:
        published: what is read of config.json, under its own names.

    Raises:
        ValueError: as for `BertConfig`.
    """

    model_types: ClassVar[tuple[str, ...]] = tuple(ARCHITECTURES)
    published: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TransformersConfig":
        """Build a config from a published config.json; what that lacks has transformers' defaults.

        Raises:
            ValueError: the type is unknown, a value is out of range, or two do not go together.
        """
        kind, published = ARCHITECTURES[values["model_type"]], {}
        for name, check in checks().items():
            value = values.get(name)
            if value is not None and not check.holds(value):
                raise ValueError(f"{name} is {value!r:.80}, expected {check.expected}")
            if value is not None:
                published[name] = value
        theirs = build_config(values["model_type"], **published)
        names = kind.names | {
            "hidden_dropout_prob": kind.hidden_dropout[0],
            "attention_probs_dropout_prob": kind.attention_dropout,
        }
        own = {f.name: getattr(theirs, names.get(f.name, f.name), None) for f in fields(BertConfig)}
        own["type_vocab_size"] = own["type_vocab_size"] or 1  # without types, all tokens share one
        given = {name: value for name, value in own.items() if value is not None}
        config = cls(**given, published=published)
        check_together(config, theirs)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return a config.json: what was read of the published one, with today's dropout."""
        hidden = dict.fromkeys(self.architecture.hidden_dropout, self.hidden_dropout_prob)
        attention = {self.architecture.attention_dropout: self.attention_probs_dropout_prob}
        return {"model_type": self.model_type} | self.published | hidden | attention

    @property
    def architecture(self) -> Architecture:
        """What there is to know of the type of the model."""
        return ARCHITECTURES[self.model_type]

    @property
    def first_position(self) -> int:
        """The position of a row's first token."""
        return self.architecture.first_position

    def build(self) -> "PreTrainedConfig":
        """Return the config that transformers builds a model from."""
        return build_config(**self.to_dict())


def build_config(model_type: str, **values: Any) -> "PreTrainedConfig":
    """Build transformers' own config from checked values.

    Raises:
        ValueError: transformers refuses them.
    """
    from transformers import AutoConfig  # slow to import, and only these encoders need it

    try:
        return AutoConfig.for_model(model_type, **(dict.fromkeys(SPECIALS) | values))
    except Exception as error:  # its checks share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"transformers refuses it: {reason:.200}") from None


def check_together(config: TransformersConfig, theirs: "PreTrainedConfig") -> None:
    """Check values that have to fit each other; transformers would fail in the middle of a run.

    Raises:
        ValueError: they do not.
    """
    distance = getattr(theirs, "max_relative_positions", -1)
    distance = config.max_position_embeddings if distance < 1 else distance
    buckets = getattr(theirs, "position_buckets", -1)
    head_size = config.hidden_size // config.num_attention_heads
    wrong = {
        "max_position_embeddings": config.max_tokens < 1,
        "num_hidden_groups": getattr(theirs, "num_hidden_groups", 1) > config.num_hidden_layers,
        "conv_kernel_size": getattr(theirs, "conv_kernel_size", 0) not in (0, *range(1, 100, 2)),
        "conv_groups": config.hidden_size % getattr(theirs, "conv_groups", 1) != 0,
        # Positions turn pairs of a head's numbers.
        "num_attention_heads": config.model_type == "modernbert" and head_size % 2 != 0,
        # Half of the buckets are for near tokens, the other half for those up to the distance.
        "position_buckets": buckets > 0 and not 2 <= buckets // 2 + 1 < distance,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            value = getattr(theirs, name, None)
            raise ValueError(f"{name} is {value!r:.80}, which does not fit the other sizes")
