"""Predict what an epoch of all Quora pairs would take on a cluster, from what is measured here.

    python -m benchmarks.scale --data_dir data [--utilization 0.35]

Here an epoch is every Quora pair once and, in the same updates, as many examples of each other
task, taken to be as long. Measured are the tokens per pair, and the bytes of activations that one
example keeps alive at once, for each encoder and method (random weights of the published shapes).
Time and memory on A100s are predicted from these. The assumptions are printed above the table.
"""

from argparse import Namespace
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.setup import load_rows, open_arm, run_benchmark, shared_parser
from models.bert import BertModel
from models.bert_config import BertConfig
from models.features import Features
from models.heads import HEADS
from models.multitask import MultitaskBert
from optimizers.smart import PlainForward, Smart
from options.parsing import ArgumentParser
from options.task_table import built_in_tasks
from options.types import positive_float
from tasks import Batch, Task

SHAPES = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}
QUORA_PAIRS = 363_846
PADDING = 1.05  # tokens with padding over real ones
PEAK = 312e12  # A100, dense bfloat16, operations per second
FLOAT_PEAK = 19.5e12  # the same in float32
FLOAT_UTILIZATION = 0.8
GPUS_PER_NODE = 4
LINK, NETWORK = 200e9, 20e9  # bytes per second of an all_reduce in a node, and between nodes
MEMORY = 80 * 2**30
NUM_TASKS = 3
BATCH = 32  # examples per task and worker
EXAMPLES = 4  # that the activations are measured on


class Method(NamedTuple):
    """What an update costs.

    Attributes:
        passes: forward passes in bfloat16. A backward pass counts as two, or as one without
            gradients of weights.
        float_passes: the same in float32, which autocast does not change.
        num_rows: rows of J that are held and sent.
    """

    passes: int
    float_passes: int
    num_rows: int


METHODS = {
    "joint sum": Method(3, 0, 0),
    "PCGrad, GradVac": Method(3, 0, NUM_TASKS),
    # Two outputs and their backward passes; SMART's ascent and its own clean pass.
    "SMART": Method(6, 3, 0),
}


class Alive:
    """Counts the bytes that graphs keep for their backward passes at once, weights aside."""

    def __init__(self, model: MultitaskBert) -> None:
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.uses: Counter[int] = Counter()
        self.now = self.peak = 0

    def keep(self, tensor: Tensor) -> "Kept":
        """Note that a graph keeps a tensor."""
        return Kept(tensor, self)

    def count(self, tensor: Tensor, change: int) -> None:
        """Note one use more or less of a tensor's storage."""
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


def main(options: Namespace) -> None:
    """Measure the chosen encoders and print one line per encoder, method and number of GPUs."""
    rows = load_rows(open_arm(options), options.rows)[pair_task().name]
    length = float(rows.lengths.mean())
    print(f"{len(rows):,} Quora pairs: {length:.1f} tokens per pair")
    print(
        f"assumed: all {QUORA_PAIRS:,} pairs alike, padding {PADDING}, {BATCH} examples per task "
        f"and GPU in an update; {options.utilization:.0%} of {PEAK / 1e12:.0f} TFLOP/s in "
        f"bfloat16, {FLOAT_UTILIZATION:.0%} of {FLOAT_PEAK / 1e12} in float32 (SMART's ascent); an "
        f"all_reduce at {LINK / 1e9:.0f} GB/s in a node of {GPUS_PER_NODE}, {NETWORK / 1e9:.0f} "
        "between nodes, nothing overlapped; AdamW; activations as in float32, with attention's "
        "matrices, which fused attention does not keep"
    )
    print(
        f"{'encoder':<12}{'method':<18}{'GPUs':>5}{'min/epoch':>11}{'GiB/GPU':>9}{'MiB/pair':>10}"
    )
    chosen = np.argsort(np.abs(rows.lengths[:, 0] - length), kind="stable")[:EXAMPLES]
    batch = rows.batch(np.sort(chosen))
    for name in options.encoders:
        print_encoder(name, batch, length, options.utilization)


def print_encoder(name: str, batch: Batch, length: float, utilization: float) -> None:
    """Measure one encoder and print its lines.

    Args:
        name: a key of `SHAPES`.
        batch: pairs of about the mean length.
        length: mean tokens per pair.
        utilization: share of the GPU's peak that is reached.
    """
    config = SHAPES[name]
    model = build_model(config)
    num_parameters = sum(p.numel() for p in model.parameters())
    plain = kept_bytes(PlainForward(model), batch) / len(batch["labels"])
    smart = kept_bytes(Smart(model, weight=1.0, radius=1.0, mu=0.0), batch) / len(batch["labels"])
    for title, method in METHODS.items():
        kept = smart if title == "SMART" else plain
        for num_gpus in (1, 4, 16):
            sent = sent_rows(method, num_gpus)
            hours = predicted_hours(config, length, method, num_gpus, utilization)
            hours += sending_hours(4 * num_parameters * sent, num_gpus)
            # Weights, gradient, two moments; J; the all_reduce's copy; one batch at a time.
            memory = 4 * num_parameters * (4 + method.num_rows + sent) + BATCH * kept
            print(
                f"{name:<12}{title:<18}{num_gpus:>5}{hours * 60:>11.1f}"
                f"{memory / 2**30:>9.1f}{kept / 2**20:>10.1f}"
                f"{'' if memory < MEMORY else '  does not fit 80 GB'}"
            )


def pair_task() -> Task:
    """Return the task of Quora's pairs: the first one with two sentences."""
    return next(task for task in built_in_tasks().values() if task.is_pair)


def build_model(config: BertConfig) -> MultitaskBert:
    """Return a model for Quora pairs with random weights."""
    features = Features(config, "last_hidden_state", None, "none", "mean")
    head = HEADS["classify"](features.num_features, 1, 0, config.hidden_dropout_prob)
    return MultitaskBert(BertModel(config), features, {pair_task().name: head})


def kept_bytes(regularizer: PlainForward | Smart, batch: Batch) -> int:
    """Return the peak of what forward passes keep for backward passes, in bytes."""
    task, alive = pair_task(), Alive(regularizer.model)
    with torch.autograd.graph.saved_tensors_hooks(alive.keep, lambda kept: kept.tensor):
        logits = regularizer.logits(task, batch)
        loss = task.loss(logits, batch["labels"]) + regularizer.penalty(task, batch, logits)
    del loss, logits, regularizer
    assert alive.now == 0, "something outlives its graph"
    return alive.peak


def sent_rows(method: Method, num_gpus: int) -> int:
    """Return how many vectors of the parameters' size an update sends."""
    return max(1, method.num_rows) if num_gpus > 1 else 0


def predicted_hours(
    config: BertConfig, length: float, method: Method, num_gpus: int, utilization: float
) -> float:
    """Return the hours of computing for one epoch."""
    forward = operations(config, PADDING * length)
    seconds = method.passes * forward / (PEAK * utilization)
    seconds += method.float_passes * forward / (FLOAT_PEAK * FLOAT_UTILIZATION)  # per example
    return NUM_TASKS * QUORA_PAIRS / num_gpus * seconds / 3600


def sending_hours(num_bytes: int, num_gpus: int) -> float:
    """Return the hours of sending `num_bytes` around a ring in every update of an epoch."""
    updates = QUORA_PAIRS / (BATCH * num_gpus)
    link = LINK if num_gpus <= GPUS_PER_NODE else NETWORK
    return updates * num_bytes * 2 * (num_gpus - 1) / num_gpus / link / 3600


def operations(config: BertConfig, length: float) -> float:
    """Return multiply-adds times two of one example's forward pass, in matrix products."""
    h, i = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * h * h + 2 * h * i) + 4 * length * h
    return config.num_hidden_layers * length * per_token


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None)
    add = parser.add_argument
    names = list(SHAPES)
    add("--encoders", nargs="+", choices=names, default=names, help="shapes to predict for")
    add("--utilization", type=positive_float, default=0.35, help="share of the peak reached")
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
