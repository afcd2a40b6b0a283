"""From a laptop to a cluster: what an epoch of all Quora pairs would take, from what is measured.

    python -m benchmarks.scale --data_dir data [--utilization 0.35]

An epoch here: every Quora pair once and, in the same updates, as many examples of each other task,
taken to be as long. Measured: tokens a pair, and the activations of an example that are alive
at once, by encoder and method (random weights of the published shapes). Predicted from these: time
and memory on A100s. What is assumed stands above the table.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets import read_examples
from inputs.batches import TokenizedTask
from models.bert import BertConfig, BertModel
from models.features import Features
from models.heads import HEADS
from models.multitask import MultitaskBert
from models.pretrained import BUNDLED, find_checkpoint, load_config, load_tokenizer
from optimizers.smart import Smart
from options.types import positive_float
from tasks import TASKS

SHAPES = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}
QUORA_PAIRS = 363_846
PEAK = 312e12  # A100, dense bfloat16, operations a second
FLOAT_PEAK = 19.5e12  # the same in float32
FLOAT_UTILIZATION = 0.8
GPUS_PER_NODE = 4
LINK, NETWORK = 200e9, 20e9  # bytes a second of an all_reduce in a node, and between nodes
MEMORY = 80 * 2**30
NUM_TASKS = 3
BATCH = 32  # examples a task and worker
EXAMPLES = 4  # that the activations are measured on


class Method(NamedTuple):
    """Work of an update in forward passes, a backward pass counting two, or one without gradients
    of weights; rows of J that are held and sent."""

    passes: int
    float_passes: int  # in float32 whatever autocast says
    num_rows: int


METHODS = {
    "joint sum": Method(3, 0, 0),
    "PCGrad, GradVac": Method(3, 0, NUM_TASKS),
    # Two outputs and their backward passes; SMART's ascent and its own clean pass.
    "SMART": Method(6, 3, 0),
}


class Alive:
    """Bytes that graphs keep for their backward passes at once, weights aside."""

    def __init__(self, model: MultitaskBert) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.uses: Counter[int] = Counter()
        self.now = self.peak = 0

    def keep(self, tensor: Tensor) -> "Kept":
        return Kept(tensor, self)

    def count(self, tensor: Tensor, change: int) -> None:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self.weights:
            return
        before = self.uses[place] > 0
        self.uses[place] += change
        self.now += ((self.uses[place] > 0) - before) * storage.nbytes()
        self.peak = max(self.peak, self.now)


class Kept:
    """A tensor that a graph keeps; it is gone when the graph is."""

    def __init__(self, tensor: Tensor, alive: Alive) -> None:
        self.tensor, self.alive = tensor.detach(), alive  # an output holds its own graph
        alive.count(tensor, 1)

    def __del__(self) -> None:
        self.alive.count(self.tensor, -1)


def kept_bytes(model: MultitaskBert, batch: dict[str, Tensor], is_smart: bool) -> int:
    """Peak of what forward passes keep for backward passes, in bytes."""
    task, alive = TASKS["para"], Alive(model)
    with torch.autograd.graph.saved_tensors_hooks(alive.keep, lambda kept: kept.tensor):
        smart = Smart(model) if is_smart else None
        logits = smart.logits(task, batch) if is_smart else model(task, batch)
        loss = task.loss(logits, batch["labels"])
        if is_smart:
            loss = loss + smart.penalty(task, batch, logits)
    del loss, logits, smart
    assert alive.now == 0, "something outlives its graph"
    return alive.peak


def model_of(config: BertConfig) -> MultitaskBert:
    features = Features(config, "last_hidden_state", None, "none", "mean")
    head = HEADS["classify"](features.num_features, 1, 0, config.hidden_dropout_prob)
    return MultitaskBert(BertModel(config), features, {"para": head})


def operations(config: BertConfig, length: float) -> float:
    """Multiply-adds times two of one example's forward pass, in matrix products."""
    h, i = config.hidden_size, config.intermediate_size
    a_token = 2 * (4 * h * h + 2 * h * i) + 4 * length * h
    return config.num_hidden_layers * length * a_token


def main(options: argparse.Namespace) -> None:
    directory = find_checkpoint(BUNDLED)
    tokenizer = load_tokenizer(directory, load_config(directory))
    path = Path(options.data_dir) / f"{TASKS['para'].stem}-train.csv"
    rows = TokenizedTask(TASKS["para"], read_examples(path, TASKS["para"]), tokenizer, 0)
    length = float(rows.lengths.mean())
    print(f"{len(rows):,} pairs of {path.name}: {length:.1f} tokens a pair")
    print(
        f"assumed: all {QUORA_PAIRS:,} pairs alike, padding 1.05, {BATCH} examples a task and GPU "
        f"in an update; {options.utilization:.0%} of {PEAK / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{FLOAT_UTILIZATION:.0%} of {FLOAT_PEAK / 1e12} in float32 (SMART's ascent); an "
        f"all_reduce at {LINK / 1e9:.0f} GB/s in a node of {GPUS_PER_NODE}, {NETWORK / 1e9:.0f} "
        "between nodes, nothing overlapped; AdamW; activations as in float32, with attention's "
        "matrices, which fused attention does not keep"
    )
    print(
        f"{'encoder':<12}{'method':<18}{'GPUs':>5}{'min/epoch':>11}{'GiB/GPU':>9}{'MiB/pair':>10}"
    )
    chosen = np.argsort(np.abs(rows.lengths[:, 0] - length), kind="stable")[:EXAMPLES]
    batch = rows.batch(np.sort(chosen))
    for name, config in SHAPES.items():
        model = model_of(config)
        num_parameters = sum(p.numel() for p in model.parameters())
        plain = kept_bytes(model, batch, False) / EXAMPLES
        moved = kept_bytes(model, batch, True) / EXAMPLES
        for name_of_method, method in METHODS.items():
            kept = moved if name_of_method == "SMART" else plain
            for num_gpus in (1, 4, 16):
                hours = predicted_hours(
                    config, length, num_parameters, method, num_gpus, options.utilization
                )
                # Weights, gradient, two moments; J; the all_reduce's copy; one batch at a time.
                sent = max(1, method.num_rows) if num_gpus > 1 else 0
                memory = 4 * num_parameters * (4 + method.num_rows + sent) + BATCH * kept
                print(
                    f"{name:<12}{name_of_method:<18}{num_gpus:>5}{hours * 60:>11.1f}"
                    f"{memory / 2**30:>9.1f}{kept / 2**20:>10.1f}"
                    f"{'' if memory < MEMORY else '  does not fit 80 GB'}"
                )
        del model


def predicted_hours(
    config: BertConfig,
    length: float,
    num_parameters: int,
    method: Method,
    num_gpus: int,
    utilization: float,
) -> float:
    """Hours for one pass over the Quora pairs and as many examples of each other task."""
    a_pass = operations(config, length * 1.05)
    seconds = method.passes * a_pass / (PEAK * utilization)
    seconds += method.float_passes * a_pass / (FLOAT_PEAK * FLOAT_UTILIZATION)  # an example
    updates = QUORA_PAIRS / (BATCH * num_gpus)
    sent = 4 * num_parameters * max(1, method.num_rows) * 2 * (num_gpus - 1) / num_gpus  # ring
    link = LINK if num_gpus <= GPUS_PER_NODE else NETWORK
    return (NUM_TASKS * QUORA_PAIRS / num_gpus * seconds + updates * sent / link) / 3600


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the nine files are")
    parser.add_argument(
        "--utilization", type=positive_float, default=0.35, help="share of the peak that is reached"
    )
    main(parser.parse_args())
