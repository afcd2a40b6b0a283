"""Why a format may not hold the model of a finished run."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple


class Obstacle(NamedTuple):
    """A part of a model that a format has no place for.

    Attributes:
        flags: of a run that has it.
        stands: whether the run with these options has it.
        reason: why the format cannot hold it.
    """

    flags: str
    stands: Callable[[Namespace], object]
    reason: str


# Of every format: what the encoder does beyond a published one.
ENCODER_OBSTACLES = (
    Obstacle(
        "--use_pal",
        lambda args: args.use_pal,
        "its projected attention layers change the encoder's states for each task",
    ),
    Obstacle(
        "--additional_input",
        lambda args: args.additional_input,
        "its encoder also reads part-of-speech and entity tags, which no tokenizer gives",
    ),
    Obstacle(
        "--combined_models",
        lambda args: args.combined_models,
        "its encoder is a mixture of three, weighted by a fourth",
    ),
    Obstacle(
        "--extension hierarchical",
        lambda args: args.extension == "hierarchical",
        "its encoder reads a text in segments",
    ),
)
# Of formats that hold sentence vectors, too.
VECTOR_OBSTACLES = (
    Obstacle(
        "--extension attention",
        lambda args: args.extension not in ("none", "hierarchical"),
        "its extension between encoder and sentence vector is no module of sentence-transformers",
    ),
    Obstacle(
        "--train_mode single_layers",
        lambda args: args.train_mode == "single_layers",
        "its sentence vectors are the mean of several layers, and Pooling reads the last one",
    ),
    Obstacle(
        "--train_mode all_pooled",
        lambda args: args.train_mode == "all_pooled",
        "its sentence vectors are a sum over the layers' [CLS], and Pooling reads the last layer",
    ),
)
