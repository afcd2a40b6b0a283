"""The only training loop: `fit` runs epochs, `train_one_epoch` runs updates, `train_step` is one of
them.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.optim import Optimizer
from tqdm import tqdm

import checkpoint
from batches import TokenizedTask
from evaluation import Metrics, evaluate, scores
from interrupts import Interrupted
from models import MultitaskBert
from optimizers import build_lr_schedule, build_optimizer
from optimizers.lr_schedules import PlateauSchedule, UpdateSchedule
from optimizers.projections import PROJECTIONS, PlainSum
from run_log import RunLog, peak_memory_mib, profiler
from task_schedulers import TASK_SCHEDULERS, Joint, Update
from tasks import mean_score


@dataclass
class Progress:
    """How far a run is: finished epochs, updates of the current one, and its sums by task so
    far.
    """

    epoch: int = 0
    update: int = 0
    total_updates: int = 0
    best_score: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, float] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)

    def count(self, update: Update, losses: dict[str, float], seconds: float) -> int:
        """Add one update's losses (means by task), examples and time; return its examples."""
        self.update += 1
        self.total_updates += 1
        self.seconds += seconds
        for name, loss in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + loss
            self.updates[name] = self.updates.get(name, 0) + 1
        for task, batch, _ in update:
            self.examples[task.name] = self.examples.get(task.name, 0) + len(batch["labels"])
        return sum(len(batch["labels"]) for _, batch, _ in update)

    def finish_epoch(self, metrics: Metrics, mean: float, lr: float, peak_memory: float) -> dict:
        """Count the epoch, note a best score, start anew; return the epoch's line for
        metrics.jsonl.
        """
        self.epoch += 1
        if mean > self.best_score:
            self.best_score, self.best_epoch = mean, self.epoch
        line = {
            "epoch": self.epoch,
            "update": self.total_updates,
            "loss": {name: total / self.updates[name] for name, total in self.loss_sums.items()},
            "dev": metrics,
            "mean": mean,
            "learning_rate": lr,
            "examples": self.examples,
            "updates": self.updates,
            "examples_per_second": sum(self.examples.values()) / self.seconds,
            "peak_memory_mib": round(peak_memory, 1),
        }
        self.update, self.seconds = 0, 0.0
        self.loss_sums, self.examples, self.updates = {}, {}, {}
        return line


@dataclass
class Training:
    """Everything that an update changes, and so everything that a checkpoint holds; and how to
    change it.

    clip: largest gradient norm, 0 for any. save_every: updates between checkpoints, None for an
    epoch.
    """

    model: MultitaskBert
    task_scheduler: Joint
    projection: PlainSum
    optimizer: Optimizer
    lr_schedule: UpdateSchedule | PlateauSchedule
    num_epochs: int
    updates_per_epoch: int
    clip: float = 1.0
    use_amp: bool = False
    save_every: int | None = None
    progress: Progress = field(default_factory=Progress)

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in self.parts}
        progress = asdict(self.progress)
        return parts | {"progress": progress, "random": checkpoint.random_state()}

    def load_state_dict(self, state: dict) -> None:
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        checkpoint.set_random_state(state["random"])

    @property
    def parts(self) -> tuple[str, ...]:
        return "model", "task_scheduler", "projection", "optimizer", "lr_schedule"


def build_training(
    args: Namespace, model: MultitaskBert, train_data: dict[str, TokenizedTask]
) -> Training:
    """Put together what the options name, ready for the first update."""
    task_scheduler = TASK_SCHEDULERS["joint"](
        train_data, args.batch_size, args.micro_batch_size, args.task_weights, args.seed
    )
    if args.num_batches_per_epoch is not None:
        updates_per_epoch = args.num_batches_per_epoch
    else:
        num_examples = sum(len(rows) for rows in train_data.values())
        if args.samples_per_epoch is not None:
            num_examples = args.samples_per_epoch * len(train_data)
        updates_per_epoch = task_scheduler.updates_per_epoch(num_examples)
    optimizer = build_optimizer(args, model)
    return Training(
        model,
        task_scheduler,
        PROJECTIONS["none"](model.parameters()),
        optimizer,
        build_lr_schedule(args, optimizer, args.epochs * updates_per_epoch),
        args.epochs,
        updates_per_epoch,
        args.clip,
        args.use_amp,
        args.save_every,
    )


def train_step(
    model: MultitaskBert,
    update: Update,
    projection: PlainSum,
    optimizer: Optimizer,
    clip: float,
    use_amp: bool = False,
    where: str = "",
) -> tuple[dict[str, float], float]:
    """Train on one update: [(task, batch, weight)].

    Each task's graph lives alone: forward, backward, freed. Returns mean loss by task, and the
    gradient's norm before clipping. The one host read comes before `optimizer.step`. clip: largest
    norm; 0 leaves gradients as they are. Raises FloatingPointError naming the task and `where` for
    a loss or gradient that is not finite; the weights then are still those of the update before.
    """
    device = next(model.parameters()).device
    optimizer.zero_grad()
    losses = []
    for task, batch, weight in update:
        batch = {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_amp):
            logits = model(task, batch)  # [B, C] float32
        loss = task.loss(logits, batch["labels"])
        projection.backward(task, weight * loss)
        losses.append(loss.detach())
    projection.combine()
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    *values, norm = torch.stack([*losses, grad_norm]).tolist()
    means = mean_losses(update, values)
    for name, loss in means.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss of task {name} is {loss} in {where}; try a lower --lr")
    if not math.isfinite(norm):
        names = ", ".join(means)
        raise FloatingPointError(
            f"gradient norm is {norm} in {where} on tasks {names}; try a lower --lr"
        )
    optimizer.step()
    return means, norm


def mean_losses(update: Update, values: list[float]) -> dict[str, float]:
    """Mean loss by task over its batches, weighted by their examples."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for (task, batch, _), value in zip(update, values):
        size = len(batch["labels"])
        sums[task.name] = sums.get(task.name, 0.0) + value * size
        counts[task.name] = counts.get(task.name, 0) + size
    return {name: sums[name] / counts[name] for name in sums}


def train_one_epoch(
    training: Training,
    log: RunLog,
    save: Callable[[], None],
    check: Callable[[], None] = lambda: None,
    trace_path: Path | None = None,
) -> None:
    """Run what is left of the current epoch.

    save: called every `save_every` updates. check: called after every update; it may raise to stop.
    """
    progress = training.progress
    training.model.train()
    bar = tqdm(
        desc=f"epoch {progress.epoch + 1}/{training.num_epochs}",
        total=training.updates_per_epoch,
        initial=progress.update,
        unit="update",
        disable=None,  # quiet where stderr is no terminal
        leave=False,
    )
    with bar, profiler(trace_path) as profile_step:
        while progress.update < training.updates_per_epoch:
            started = time.perf_counter()
            update = training.task_scheduler.next_update()
            where = f"epoch {progress.epoch + 1}, update {progress.update + 1}"
            lr = training.optimizer.param_groups[0]["lr"]
            losses, grad_norm = train_step(
                training.model,
                update,
                training.projection,
                training.optimizer,
                training.clip,
                training.use_amp,
                where,
            )
            training.lr_schedule.after_update()
            seconds = time.perf_counter() - started
            num_examples = progress.count(update, losses, seconds)
            rate = num_examples / seconds
            log.update(progress.total_updates, losses, grad_norm, lr, rate)
            profile_step()
            bar.set_postfix(loss=f"{sum(losses.values()):.3f}", examples_per_s=f"{rate:.0f}")
            bar.update()
            check()
            if training.save_every and progress.update % training.save_every == 0:
                save()


def fit(
    args: Namespace,
    training: Training,
    dev_data: dict[str, TokenizedTask],
    log: RunLog,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train for --epochs, or until --patience runs out; keep the last and the best checkpoint.

    What stops the run in between, a signal or an error in `check`, finds the last finished update
    saved.
    """
    progress = training.progress
    checkpoints = Path(args.filepath)

    def save() -> None:
        checkpoint.save(checkpoints / "last.pt", training.state_dict())

    while progress.epoch < args.epochs and not is_out_of_patience(progress, args.patience):
        trace_path = Path(args.run_dir) / "profile.json" if args.profiler else None
        try:
            train_one_epoch(training, log, save, check, trace_path)
            metrics, _ = evaluate(
                training.model, dev_data, args.dev_samples, args.seed, args.use_amp, check
            )
        except Interrupted:
            save()
            raise
        mean = mean_score(scores(metrics))
        training.lr_schedule.after_epoch(mean)
        lr = training.optimizer.param_groups[0]["lr"]
        line = progress.finish_epoch(
            metrics, mean, lr, peak_memory_mib(next(training.model.parameters()).device)
        )
        if progress.best_epoch == progress.epoch:
            best = {"model": training.model.state_dict(), "epoch": progress.epoch, "score": mean}
            checkpoint.save(checkpoints / "best.pt", best)
        log.epoch(line, progress.total_updates)
        save()
        print(format_epoch(line, args.epochs))


def is_out_of_patience(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.epoch - progress.best_epoch > patience


def format_epoch(line: dict, num_epochs: int) -> str:
    losses = "  ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    dev = "  ".join(f"{name} {score:.4f}" for name, score in scores(line["dev"]).items())
    return (
        f"epoch {line['epoch']}/{num_epochs}: loss {losses} | dev {dev} mean {line['mean']:.4f} | "
        f"{line['examples_per_second']:.0f} examples/s"
    )
