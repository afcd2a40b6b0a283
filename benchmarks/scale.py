"""From a laptop to a cluster: what an epoch of all Quora pairs would take, from what is measured.

    python benchmarks/scale.py --data_dir data [--utilization 0.35]

Measured: tokens a pair, activations an example that the graph keeps, by encoder and method (random
weights of the published shapes). Predicted from these: time and memory on A100s. What is assumed
stands above the table.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from batches import TokenizedTask  # noqa: E402
from datasets import read_examples  # noqa: E402
from models.bert import BertConfig, BertModel  # noqa: E402
from models.features import Features  # noqa: E402
from models.heads import HEADS  # noqa: E402
from models.multitask import MultitaskBert  # noqa: E402
from models.pretrained import BUNDLED, find_checkpoint, load_config, load_tokenizer  # noqa: E402
from optimizers.smart import Smart  # noqa: E402
from option_types import positive_float  # noqa: E402
from tasks import TASKS  # noqa: E402

SHAPES = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}
QUORA_PAIRS = 363_846
PEAK = 312e12  # A100, dense bfloat16, operations a second
LINK = 200e9  # bytes a second that an all_reduce gets between A100s of one node
MEMORY = 80 * 2**30
NUM_TASKS = 3
BATCH = 32  # examples a task and worker
EXAMPLES = 4  # that the activations are measured on
# Method -> (backward and forward work of a plain update, rows of J beside the plain gradient).
METHODS = {"joint sum": (1.0, 0), "PCGrad, GradVac": (1.0, NUM_TASKS), "SMART": (2.67, 0)}


def kept_bytes(model: MultitaskBert, batch: dict[str, Tensor], smart: Smart | None) -> int:
    """Bytes that one forward pass keeps for its backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    task = TASKS["para"]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        if smart is None:
            loss = task.loss(model(task, batch), batch["labels"])
        else:
            logits = smart.logits(task, batch)
            loss = task.loss(logits, batch["labels"]) + smart.penalty(task, batch, logits)
    total = sum(kept.values())
    del loss
    return total


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
        f"assumed: all {QUORA_PAIRS:,} pairs alike, padding 1.05, {options.utilization:.0%} of "
        f"{PEAK / 1e12:.0f} TFLOP/s in bfloat16, all_reduce {LINK / 1e9:.0f} GB/s, {BATCH} pairs a "
        f"worker and update, all tasks as long, AdamW, activations as in float32"
    )
    print(f"{'encoder':<12}{'method':<18}{'GPUs':>5}{'h/epoch':>9}{'GiB/GPU':>9}{'MiB/pair':>10}")
    chosen = np.argsort(np.abs(rows.lengths[:, 0] - length), kind="stable")[:EXAMPLES]
    batch = rows.batch(np.sort(chosen))
    for name, config in SHAPES.items():
        model = model_of(config)
        num_parameters = sum(p.numel() for p in model.parameters())
        plain = kept_bytes(model, batch, None) / EXAMPLES
        moved = kept_bytes(model, batch, Smart(model)) / EXAMPLES
        for method, (work, num_rows) in METHODS.items():
            kept = moved if method == "SMART" else plain
            for num_gpus in (1, 4, 16):
                hours = predicted_hours(
                    config, length, num_parameters, work, num_rows, num_gpus, options.utilization
                )
                # Weights, gradient, two moments; J; the all_reduce's copy; one batch at a time.
                copies = 4 + num_rows + (max(1, num_rows) if num_gpus > 1 else 0)
                memory = 4 * num_parameters * copies + BATCH * kept
                print(
                    f"{name:<12}{method:<18}{num_gpus:>5}{hours:>9.2f}{memory / 2**30:>9.1f}"
                    f"{kept / 2**20:>10.1f}{'' if memory < MEMORY else '  does not fit 80 GB'}"
                )
        del model


def predicted_hours(
    config: BertConfig,
    length: float,
    num_parameters: int,
    work: float,
    num_rows: int,
    num_gpus: int,
    utilization: float,
) -> float:
    """Hours for one pass over the Quora pairs."""
    compute = 3 * operations(config, length * 1.05) * work / (PEAK * utilization)  # a pair
    updates = QUORA_PAIRS / (BATCH * num_gpus)
    sent = 4 * num_parameters * max(1, num_rows) * 2 * (num_gpus - 1) / num_gpus  # ring, bytes
    return (QUORA_PAIRS / num_gpus * compute + updates * sent / LINK) / 3600


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the nine files are")
    parser.add_argument(
        "--utilization", type=positive_float, default=0.35, help="share of the peak that is reached"
    )
    main(parser.parse_args())
