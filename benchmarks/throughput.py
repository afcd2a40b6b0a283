"""Compare the speed and memory of our training loop with a loop around transformers' encoder.

    python -m benchmarks.throughput --data_dir data
    python -m benchmarks.throughput --data_dir data --arms abcd --profile

Arms, all on the same examples, encoder weights, batch size, dropout, AdamW and clipping:
  a  our training loop, as it runs for a user
  b  transformers' BertModel, random batches padded to their longest example
  c  the same with our length-grouped batches
  d  our loop with dropout 0 (not comparable with the others; shows what dropout costs)
Everything runs in one process. Arms take turns, round by round, so that a busy machine slows all of
them. Tokenizing is outside the clock, collating inside. The useful rate is 6 · non-embedding
parameters · real tokens / second, as a share of what the machine's own matrix multiplication
reaches on the encoder's shapes in the same rounds.
"""

from argparse import Namespace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.memory import peak_memory
from benchmarks.setup import (
    build_seeded_model,
    event_log,
    load_rows,
    open_arm,
    run_benchmark,
    run_updates,
    seconds_of,
    shared_parser,
)
from inputs.batches import TokenizedTask
from models import MultitaskBert
from models.bert import BertConfig
from optimizers import build_optimizer
from options.parsing import ArgumentParser
from reporting.run_log import RunLog
from reporting.start import Start
from task_schedulers import TASK_SCHEDULERS
from tasks import Batch, Task
from training import build_training

Plan = list[dict[str, np.ndarray]]  # of each update, the row numbers [B] by task

OPERATIONS = {  # group of --profile -> the operations that it sums up
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
        """Return logits [B, C]."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
        states = self.encoder(**inputs).last_hidden_state  # [B, L, H]
        return self.heads[task.name](self.features(states, batch["attention_mask"]))


class OurArm:
    """Our loop over its own scheduler, which draws the rows of `plan_rounds` in their order."""

    def __init__(self, start: Start, data: dict[str, TokenizedTask], log: RunLog) -> None:
        self.training = build_training(start.args, build_seeded_model(start), {**data})
        self.log = log

    def run(self, updates: Plan) -> None:
        """Train on the next updates."""
        run_updates(self.training, self.log, len(updates))

    @property
    def num_layer_parameters(self) -> int:
        """The number of the encoder's parameters without embeddings and pooler."""
        named = self.training.model.encoder.named_parameters()
        return sum(p.numel() for name, p in named if name.startswith("layer."))


class ReferenceArm:
    """A plain loop around transformers' encoder, over the rows that it is given."""

    def __init__(self, start: Start, data: dict[str, TokenizedTask]) -> None:
        from transformers import BertModel

        dropout = start.args.hidden_dropout_prob
        encoder = BertModel.from_pretrained(
            start.source, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        self.model = ReferenceModel(encoder, build_seeded_model(start)).train()
        self.optimizer = build_optimizer(start.args, self.model)
        self.clip = start.args.clip
        self.data = data

    def run(self, updates: Plan) -> None:
        """Train on these updates."""
        for update in updates:
            self.optimizer.zero_grad()
            for name, rows in update.items():
                batch = self.data[name].batch(rows)
                task = self.data[name].task
                task.loss(self.model(task, batch), batch["labels"]).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()


ARMS = {
    "a": "our loop",
    "b": "transformers, random batches",
    "c": "transformers, length-grouped",
    "d": "our loop, dropout 0",
}


def main(options: Namespace) -> None:
    """Measure the chosen arms and print their speeds, memory and ratios."""
    torch.set_num_threads(options.threads)
    start = open_arm(options, common_flags(options))
    data = load_rows(start, options.rows)
    warmup, *rounds = plan_rounds(options, start, data)
    # (b) draws its random batches from the rows of all rounds: those of one round alone are too
    # alike in length.
    plans = {name: [warmup, *rounds] for name in options.arms}
    plans["b"] = [*shuffled([warmup], start.args.seed), *shuffled(rounds, start.args.seed)]

    tokens = np.array([real_tokens(data, updates) for updates in rounds])
    mean_tokens = int(tokens.sum() / (len(rounds) * options.updates * len(data)))  # of a batch

    times, gemm = [], []
    with event_log() as log:
        build = partial(build_arm, options, data, log)
        ours = OurArm(start, data, log)
        ours.run(warmup[:1])  # the libraries allocate their own buffers once
        peaks = {n: peak_memory(lambda: build(n).run(plans[n][0])) for n in options.arms}
        arms = {name: build(name) for name in options.arms}
        for number in range(1 + len(rounds)):
            times.append([seconds_of(partial(arms[n].run, plans[n][number])) for n in arms])
            gemm.append(sgemm_rate(start.config, mean_tokens))
        seconds = dict(zip(arms, np.array(times[1:]).T))  # by arm, without the warm-up
        print_speeds(options, seconds, peaks, count_examples(rounds))
        shares = 6 * ours.num_layer_parameters * tokens / seconds["a"] / np.array(gemm[1:])
        print(
            f"  useful rate of (a): {np.median(shares):.1%} of sgemm, median of the rounds   "
            f"rounds {shares.min():.1%} to {shares.max():.1%}"
        )
        if options.profile:
            print_profile(ours, rounds[0])


def common_flags(options: Namespace) -> str:
    """Return the flags of train_multitask_pal.py that all arms share."""
    return f"--task_scheduler joint --lr 1e-5 --batch_size {options.batch_size}"


def build_arm(
    options: Namespace, data: dict[str, TokenizedTask], log: RunLog, name: str
) -> OurArm | ReferenceArm:
    """Return an arm with fresh weights."""
    dropout = "--hidden_dropout_prob 0" if name == "d" else ""
    start = open_arm(options, f"{common_flags(options)} {dropout}")
    return OurArm(start, data, log) if name in "ad" else ReferenceArm(start, data)


def plan_rounds(options: Namespace, start: Start, data: dict[str, TokenizedTask]) -> list[Plan]:
    """Return the rows that the scheduler of our loop will draw: a warm-up, then every round."""
    scheduler = TASK_SCHEDULERS["joint"]({**data}, options.batch_size, seed=start.args.seed)
    return [
        [
            {name: sampler.next_rows() for name, sampler in scheduler.samplers.items()}
            for _ in range(options.updates)
        ]
        for _ in range(1 + options.rounds)
    ]


def shuffled(rounds: list[Plan], seed: int) -> list[Plan]:
    """Return the same rows of each task in random batches of the same sizes."""
    random = np.random.default_rng(seed)
    updates = [update for updates in rounds for update in updates]
    mixed: Plan = [{} for _ in updates]
    for name in updates[0]:
        sizes = [len(update[name]) for update in updates]
        rows = random.permutation(np.concatenate([update[name] for update in updates]))
        for update, part in zip(mixed, np.split(rows, np.cumsum(sizes)[:-1])):
            update[name] = part
    size = len(rounds[0])
    return [mixed[first : first + size] for first in range(0, len(mixed), size)]


def count_examples(rounds: list[Plan]) -> int:
    """Return the number of examples in these rounds."""
    return sum(len(rows) for updates in rounds for u in updates for rows in u.values())


def real_tokens(data: dict[str, TokenizedTask], updates: Plan) -> int:
    """Return the number of tokens in these updates, padding aside."""
    return sum(int(data[name].lengths[rows].sum()) for u in updates for name, rows in u.items())


def sgemm_rate(config: BertConfig, num_tokens: int) -> float:
    """Return the floating-point operations per second of one layer's matrix products.

    Each shape counts as often as the layer uses it.
    """
    shapes = [(config.hidden_size, config.hidden_size)] * 4
    shapes += [(config.hidden_size, config.intermediate_size)]
    shapes += [(config.intermediate_size, config.hidden_size)]
    operations, seconds = 0, 0.0
    for inner, outer in shapes:
        x, w = torch.randn(num_tokens, inner), torch.randn(inner, outer)
        out = torch.empty(num_tokens, outer)
        multiply = partial(torch.mm, x, w, out=out)
        multiply()
        seconds += seconds_of(lambda: [multiply() for _ in range(10)])
        operations += 10 * 2 * num_tokens * inner * outer
    return operations / seconds


def print_speeds(
    options: Namespace, seconds: dict[str, np.ndarray], peaks: dict[str, float], num_examples: int
) -> None:
    """Print speed, memory and ratios, over all rounds and as the range of single rounds.

    Args:
        options: the benchmark's options.
        seconds: seconds of each round, [rounds], by arm.
        peaks: peak MiB by arm.
        num_examples: examples of all rounds.
    """
    print(
        f"{num_examples} examples in {options.rounds} rounds, batch {options.batch_size}, "
        f"float32, {options.threads} threads"
    )
    for name, times in seconds.items():
        memory = f"peak {peaks[name]:.0f} MiB, {peaks[name] / peaks['b']:.2f} of (b)"
        rate = num_examples / times.sum()
        print(f"  ({name}) {ARMS[name]:<30}{rate:>8.1f} examples/s   {memory}")
    for name, times in seconds.items():
        if name != "a":
            ratio, rounds = times.sum() / seconds["a"].sum(), times / seconds["a"]
            print(f"  (a)/({name}) {ratio:.2f}   rounds {rounds.min():.2f} to {rounds.max():.2f}")


def print_profile(arm: OurArm, updates: Plan) -> None:
    """Print where the time of our updates goes, by group of operations."""
    with torch.profiler.profile() as profile:
        arm.run(updates)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = rest = sum(times.values())
    print(f"\nprofile of {len(updates)} updates of arm a")
    for group, names in OPERATIONS.items():
        share = sum(times.get(name, 0.0) for name in names)
        rest -= share
        print(f"  {group:<32}{share / total:>7.1%}")
    print(f"  {'everything else':<32}{rest / total:>7.1%}")


def get_args_parser() -> ArgumentParser:
    """Return the parser of this benchmark."""
    parser = shared_parser(__doc__, rows=None, batch_size=64, rounds=5, updates=4, threads=2)
    add = parser.add_argument
    add("--arms", choices=["ab", "abc", "abcd"], default="abc", help="arms to measure")
    add("--profile", action="store_true", help="print where our time goes; off: ratios alone")
    return parser


if __name__ == "__main__":
    run_benchmark(main, get_args_parser().parse_args())
