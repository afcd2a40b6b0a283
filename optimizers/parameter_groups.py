"""The optimizers' parameter groups: which parameters decay, and at which learning rate."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn

from models.multitask import group_name
from runtime.errors import InputError

ABOVE_LAYERS = ("pooler", "final_norm", "gate_output")  # groups of an encoder


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Split trainable parameters into matrices, which decay, and biases and LayerNorms.

    Args:
        parameters: parameters; frozen ones are skipped.
        weight_decay: the weight decay of the matrices. The other group has none.
    """
    trainable = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def layer_groups(
    model: nn.Module, weight_decay: float, lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Split trainable parameters as `parameter_groups` does, and by layer with a rate for each.

    Layer k = 0 … K−1 of the encoder learns at lr · layer_decay^(K−k), the embeddings below it at
    lr · layer_decay^(K+1), and everything else at lr: heads, features, projected attention layers,
    tag embeddings. The first group has the rate lr, even if it is empty.

    Discriminative fine-tuning (Howard & Ruder, ACL 2018, arXiv:1801.06146), with the exponents of
    BEiT (Bao et al., ICLR 2022, arXiv:2106.08254).

    Args:
        model: the whole model. Each encoder of combined models has layers of its own.
        weight_decay: the weight decay of the matrices.
        lr: the learning rate of what is not in a layer.
        layer_decay: in (0, 1].

    Raises:
        InputError: the encoder has no numbered layers.
    """
    named = list(model.named_parameters())
    numbers = [number for name, _ in named if (number := layer_number(name)) is not None]
    num_layers = 1 + max(numbers, default=-1)
    if not num_layers:
        raise InputError(
            "--layer_decay gives every layer its own rate, and the layers of this encoder are not "
            "numbered; drop it"
        )
    by_distance: dict[int, list[nn.Parameter]] = defaultdict(list)  # from the heads down
    for name, p in named:
        number = layer_number(name)
        by_distance[0 if number is None else num_layers - number].append(p)
    return [
        group | {"lr": lr * layer_decay**distance}
        for distance in range(num_layers + 2)
        for group in parameter_groups(by_distance[distance], weight_decay)
        if group["params"] or distance == 0
    ]


def layer_number(name: str) -> int | None:
    """Return the number of a parameter's layer, -1 for what the layers read, None for the rest.

    The layers read embeddings and, in encoders of transformers, what projects or places them. The
    rest is new, as tag embeddings and heads are, or lies above the layers.
    """
    if not name.startswith("encoder.") or ".tag_embeddings." in name:
        return None
    group = group_name(name)
    match = re.search(r"(?:^|\.)layer\.(\d+)$", group)
    if match is not None:
        return int(match[1])
    return None if group.endswith(ABOVE_LAYERS) else -1
