"""Training speed and memory of our loop against transformers' encoder, in one process, as ratios.

    python -m benchmarks.throughput --data_dir data
    python -m benchmarks.throughput --data_dir data --arms abcd --profile

Arms, all on the same real examples, encoder weights, batch size, dropout, AdamW and clipping:
  a  our training loop, as it runs for a user
  b  transformers' BertModel, random batches padded to their longest example
  c  the same with our length-grouped batches
  d  our loop with dropout 0 (not comparable with the others; shows what dropout costs)
Arms take turns, round by round, so that a busy machine slows all of them. Tokenizing is outside the
clock, collating inside. Useful rate: 6 · non-embedding parameters · real tokens / second, as a
share of what the machine's own matrix multiplication reaches on the encoder's shapes in the same
rounds.
"""

import argparse
import os
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.memory import peak_memory
from datasets import load_data
from engine import train_one_epoch
from inputs.batches import BatchSampler, TokenizedTask
from models import MultitaskBert, build_model
from models.pretrained import (
    BUNDLED,
    find_checkpoint,
    load_config,
    load_encoder,
    load_tokenizer,
)
from optimizers import build_optimizer
from options.parsing import parse_args
from options.types import positive_int
from reporting.run_log import RunLog
from tasks import TASKS, Batch, Task
from train_multitask import get_args_parser
from training import Training, build_training

ARMS = {
    "a": "our loop",
    "b": "transformers, random batches",
    "c": "transformers, length-grouped",
    "d": "our loop, dropout 0",
}
OPERATIONS = {  # group -> names of the operations it sums up, for --profile
    "matrix products of the layers": ("aten::mm", "aten::addmm"),
    "attention products": ("aten::bmm", "aten::baddbmm"),
    "dropout masks": ("aten::random_", "aten::ge"),
    "gelu": ("aten::gelu", "aten::gelu_backward"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "optimizer and clipping": ("aten::_fused_adamw_", "aten::linalg_vector_norm"),
    "fresh zeros": ("aten::fill_", "aten::zero_"),
    "embedding gradient": ("aten::embedding_dense_backward",),
}


class ReferenceModel(nn.Module):
    """transformers' encoder under our features and heads."""

    def __init__(self, encoder: nn.Module, ours: MultitaskBert) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = ours.features
        self.heads = ours.heads

    def forward(self, task: Task, batch: Batch) -> Tensor:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
        states = self.features(self.encoder(**inputs), batch["attention_mask"])  # [B, F]
        return self.heads[task.name](states)


class OurArm:
    """The real loop over a real scheduler; rows come in the order of the sampler's seed."""

    def __init__(self, args: Namespace, dropout: float, data: dict[str, TokenizedTask]) -> None:
        self.training: Training = build_training(args, our_model(args, dropout), data)
        self.events = tempfile.TemporaryDirectory()
        events_dir = Path(self.events.name)
        self.log = RunLog(events_dir, events_dir)

    def run(self, updates: list[dict[str, np.ndarray]]) -> None:
        self.training.updates_per_epoch = len(updates)
        self.training.progress.update = 0
        train_one_epoch(self.training, self.log, save=lambda: None)


class ReferenceArm:
    """A plain loop around transformers' encoder, over the given rows."""

    def __init__(self, args: Namespace, dropout: float, data: dict[str, TokenizedTask]) -> None:
        from transformers import BertModel

        encoder = BertModel.from_pretrained(
            find_checkpoint(args.model_name),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.model = ReferenceModel(encoder, our_model(args, dropout)).train()
        self.optimizer = build_optimizer(args, self.model)
        self.clip = args.clip
        self.data = data

    def run(self, updates: list[dict[str, np.ndarray]]) -> None:
        for update in updates:
            self.optimizer.zero_grad()
            for name, rows in update.items():
                batch = self.data[name].batch(rows)
                TASKS[name].loss(self.model(TASKS[name], batch), batch["labels"]).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()


def shuffled(updates: list[dict[str, np.ndarray]], seed: int) -> list[dict[str, np.ndarray]]:
    """The same rows of each task in random batches of the same sizes."""
    random = np.random.default_rng(seed)
    result: list[dict[str, np.ndarray]] = [{} for _ in updates]
    for name in updates[0]:
        sizes = [len(update[name]) for update in updates]
        rows = random.permutation(np.concatenate([update[name] for update in updates]))
        for update, part in zip(result, np.split(rows, np.cumsum(sizes)[:-1])):
            update[name] = part
    return result


def our_model(args: Namespace, dropout: float) -> MultitaskBert:
    directory = find_checkpoint(args.model_name)
    config = load_config(directory)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    args.hidden_dropout_prob = dropout
    torch.manual_seed(args.seed)
    return build_model(args, load_encoder(directory, config))


def build_arm(name: str, args: Namespace, data: dict[str, TokenizedTask]) -> OurArm | ReferenceArm:
    if name in "ad":
        return OurArm(args, 0.1 if name == "a" else 0.0, data)
    return ReferenceArm(args, 0.1, data)


def plan_updates(
    args: Namespace, data: dict[str, TokenizedTask], num_updates: int
) -> list[dict[str, np.ndarray]]:
    """The rows that the scheduler of our arm will draw, update by update."""
    samplers = {
        name: BatchSampler(
            rows.lengths.max(axis=1), args.batch_size, args.seed + list(TASKS).index(name)
        )
        for name, rows in data.items()
    }
    return [
        {name: sampler.next_rows() for name, sampler in samplers.items()}
        for _ in range(num_updates)
    ]


def sgemm_rate(hidden_size: int, intermediate_size: int, num_tokens: int) -> float:
    """Floating-point operations a second of one layer's matrix products, weighted as it uses
    them.
    """
    shapes = [(hidden_size, hidden_size)] * 4
    shapes += [(hidden_size, intermediate_size), (intermediate_size, hidden_size)]
    flops, seconds = 0, 0.0
    for inner, outer in shapes:
        x, w = torch.randn(num_tokens, inner), torch.randn(inner, outer)
        out = torch.empty(num_tokens, outer)
        torch.mm(x, w, out=out)
        started = time.perf_counter()
        for _ in range(10):
            torch.mm(x, w, out=out)
        seconds += time.perf_counter() - started
        flops += 10 * 2 * num_tokens * inner * outer
    return flops / seconds


def print_profile(arm: OurArm, updates) -> None:
    """Where the time of our updates goes, by group of operations."""
    with torch.profiler.profile() as profile:
        arm.run(updates)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(times.values())
    print(f"\nprofile of {len(updates)} updates of arm a")
    rest = total
    for group, names in OPERATIONS.items():
        share = sum(times.get(name, 0.0) for name in names)
        rest -= share
        print(f"  {group:<32}{share / total:>7.1%}")
    print(f"  {'everything else':<32}{rest / total:>7.1%}")


def get_benchmark_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the nine files are")
    parser.add_argument("--model_name", default=BUNDLED, help="a BERT checkpoint")
    parser.add_argument("--batch_size", type=positive_int, default=64, help="examples a batch")
    parser.add_argument("--rounds", type=positive_int, default=5, help="turns of each arm")
    parser.add_argument("--updates", type=positive_int, default=4, help="updates an arm and round")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads")
    parser.add_argument("--arms", choices=["ab", "abc", "abcd"], default="abc", help="which arms")
    parser.add_argument("--profile", action="store_true", help="say where our time goes")
    return parser


def main(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    flags = ["--data_dir", options.data_dir, "--model_name", options.model_name]
    args = parse_args(get_args_parser(), [*flags, "--batch_size", str(options.batch_size)])
    args.tasks, args.lr = list(TASKS), 1e-5
    directory = find_checkpoint(args.model_name)
    config = load_config(directory)
    data = load_data(args, load_tokenizer(directory, config), config.pad_token_id, ("train",))
    data = data["train"]
    num_warmup = options.updates
    updates = plan_updates(args, data, num_warmup + options.rounds * options.updates)
    warmup, updates = updates[:num_warmup], updates[num_warmup:]
    # (b) draws its random batches from the rows of all rounds: those of one round alone are
    # too alike in length.
    plans = {name: updates for name in ARMS} | {"b": shuffled(updates, args.seed)}

    builders = {name: partial(build_arm, name, args, data) for name in options.arms}
    peak_memory(builders["a"], warmup[:1])  # libraries' own buffers, once
    first = {name: warmup for name in ARMS} | {"b": shuffled(warmup, args.seed)}
    peaks = {name: peak_memory(build, first[name]) for name, build in builders.items()}
    arms = {name: build() for name, build in builders.items()}
    seconds = {name: [] for name in arms}
    gemm = []
    for arm in arms.values():
        arm.run(warmup)
    mean_tokens = int(np.mean([real_tokens(data, [update]) / len(data) for update in updates]))
    for start in range(0, len(updates), options.updates):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm.run(plans[name][start : start + options.updates])
            seconds[name].append(time.perf_counter() - started)
        gemm.append(sgemm_rate(config.hidden_size, config.intermediate_size, mean_tokens))
    report(options, data, updates, arms, seconds, gemm, peaks)
    if options.profile:
        print_profile(arms["a"], updates[: options.updates])


def real_tokens(data: dict[str, TokenizedTask], updates: list[dict[str, np.ndarray]]) -> int:
    return sum(int(data[name].lengths[rows].sum()) for u in updates for name, rows in u.items())


def report(
    options: Namespace,
    data: dict[str, TokenizedTask],
    updates: list[dict[str, np.ndarray]],
    arms: dict[str, OurArm | ReferenceArm],
    seconds: dict[str, list[float]],
    gemm: list[float],
    peaks: dict[str, float],
) -> None:
    """Print speed, memory and ratios, over all rounds and as the range of the single ones."""
    num_examples = sum(len(rows) for update in updates for rows in update.values())
    print(
        f"\n{num_examples} examples in {options.rounds} rounds, batch {options.batch_size}, "
        f"float32, {options.threads} threads"
    )
    for name in arms:
        rate = num_examples / sum(seconds[name])
        memory = f"peak {peaks[name]:.0f} MiB, {peaks[name] / peaks.get('b', np.nan):.2f} of (b)"
        print(f"  ({name}) {ARMS[name]:<30}{rate:>8.1f} examples/s   {memory}")
    for name in [name for name in "bcd" if name in arms]:
        ratio = sum(seconds[name]) / sum(seconds["a"])
        rounds = np.array(seconds[name]) / np.array(seconds["a"])
        print(f"  (a)/({name}) {ratio:.2f}   rounds {rounds.min():.2f} to {rounds.max():.2f}")
    parameters = sum(p.numel() for p in arms["a"].training.model.encoder.layer.parameters())
    size = options.updates
    tokens = [real_tokens(data, updates[i : i + size]) for i in range(0, len(updates), size)]
    shares = 6 * parameters * np.array(tokens) / np.array(seconds["a"]) / np.array(gemm)
    print(
        f"  useful rate of (a): {np.median(shares):.1%} of sgemm, median of the rounds   "
        f"rounds {shares.min():.1%} to {shares.max():.1%}"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(get_benchmark_parser().parse_args())
