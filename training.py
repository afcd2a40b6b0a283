"""Everything that an update changes, and so everything that a checkpoint holds."""

import math
import warnings
from argparse import Namespace
from dataclasses import asdict, dataclass, field

from torch.optim import Optimizer

import checkpoint
import workers
from batches import Rows, num_examples
from evaluation import Metrics
from models import MultitaskBert
from optimizers import (
    build_lr_schedule,
    build_optimizer,
    build_projection,
    build_smart,
    default_lr,
    train_also,
)
from optimizers.conflicts import ConflictLog
from optimizers.lr_schedules import PlateauSchedule, UpdateSchedule
from optimizers.smart import Smart
from optimizers.task_gradients import SummedGradients, TaskGradients
from task_schedulers import TASK_SCHEDULERS, TaskScheduler, Update


@dataclass
class Progress:
    """How far a run is: finished epochs, updates of the current one, its sums by task."""

    epoch: int = 0
    update: int = 0
    total_updates: int = 0
    best_score: float = -math.inf
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
            self.examples[task.name] = self.examples.get(task.name, 0) + num_examples(batch)
        return sum(num_examples(batch) for _, batch, _ in update)

    def finish_epoch(self, metrics: Metrics, mean: float, lr: float, peak_memory: float) -> dict:
        """Count the epoch, note a best score, start anew; return its line for metrics.jsonl."""
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
    """The parts of a run that training changes, and how it changes them.

    conflicts: None unless cosines of task gradients are logged. smart: None without it. clip:
    largest gradient norm, 0 for any. save_every: updates between checkpoints, None for an epoch.
    unfreeze_interval: epochs after which a frozen encoder gets one more trainable layer from the
    top, None for never; its base learning rate is unfrozen_lr.
    """

    model: MultitaskBert
    task_scheduler: TaskScheduler
    projection: SummedGradients | TaskGradients
    conflicts: ConflictLog | None
    smart: Smart | None
    optimizer: Optimizer
    lr_schedule: UpdateSchedule | PlateauSchedule
    num_epochs: int
    updates_per_epoch: int
    clip: float = 1.0
    use_amp: bool = False
    save_every: int | None = None
    unfreeze_interval: int | None = None
    unfrozen_lr: float = 0.0
    num_unfrozen: int = 0
    progress: Progress = field(default_factory=Progress)

    def start_epoch(self) -> None:
        """Make ready for what is left of the current epoch: unfreeze what is due."""
        if self.unfreeze_interval is not None:
            due = self.progress.epoch // self.unfreeze_interval
            self.unfreeze(min(due, len(self.model.encoder.layer)))
        self.model.train()
        self.task_scheduler.start_epoch(self.progress.epoch + 1)

    def unfreeze(self, num_layers: int) -> None:
        """Train the top `num_layers` of the encoder, those that are not trained yet."""
        for number in range(self.num_unfrozen, num_layers):
            layer = self.model.unfreeze_layer(number)
            train_also(self.optimizer, self.lr_schedule, layer, self.unfrozen_lr)
        self.num_unfrozen = num_layers

    def state_dict(self) -> dict:
        """The whole state; all workers have to call it together."""
        parts = {name: part.state_dict() for name, part in self.stateful_parts().items()}
        return parts | {
            "progress": asdict(self.progress),
            "num_unfrozen": self.num_unfrozen,
            "random": workers.gather(checkpoint.random_state()),
        }

    def load_state_dict(self, state: dict) -> None:
        self.unfreeze(state["num_unfrozen"])  # the optimizer's groups, before their state
        for name, part in self.stateful_parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        if len(state["random"]) != workers.size():
            warnings.warn(
                f"saved by {len(state['random'])} workers, now {workers.size()}: the run goes on, "
                "with other dropout masks than it would have had",
                stacklevel=2,
            )
        if workers.rank() < len(state["random"]):
            checkpoint.set_random_state(state["random"][workers.rank()])

    def stateful_parts(self) -> dict:
        parts = {
            "model": self.model,
            "task_scheduler": self.task_scheduler,
            "projection": self.projection,
            "conflicts": self.conflicts,
            "smart": self.smart,
            "optimizer": self.optimizer,
            "lr_schedule": self.lr_schedule,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def share_done(self) -> float:
        """Share of all updates of the run that are done."""
        return self.progress.total_updates / (self.num_epochs * self.updates_per_epoch)


def build_training(args: Namespace, model: MultitaskBert, train_data: dict[str, Rows]) -> Training:
    """Put together what the options name, ready for the first update."""
    task_scheduler = TASK_SCHEDULERS[args.task_scheduler](
        data=train_data,
        batch_size=args.batch_size,
        micro_batch_size=args.micro_batch_size,
        task_weights=args.task_weights,
        seed=args.seed,
        num_epochs=args.epochs,
        projects=args.projection != "none",
        combine_strategy=args.combine_strategy,
        batches_per_update=args.batches_per_update,
    )
    if args.num_batches_per_epoch is not None:
        updates_per_epoch = args.num_batches_per_epoch
    else:
        num_examples = sum(rows.num_in_file for rows in train_data.values())
        if args.samples_per_epoch is not None:
            num_examples = args.samples_per_epoch * len(train_data)
        updates_per_epoch = task_scheduler.updates_per_epoch(num_examples)
    projection, conflicts = build_projection(args, model, task_scheduler.names)
    optimizer = build_optimizer(args, model)
    return Training(
        model=model,
        task_scheduler=task_scheduler,
        projection=projection,
        conflicts=conflicts,
        smart=build_smart(args, model),
        optimizer=optimizer,
        lr_schedule=build_lr_schedule(args, optimizer, args.epochs * updates_per_epoch),
        num_epochs=args.epochs,
        updates_per_epoch=updates_per_epoch,
        clip=args.clip,
        use_amp=args.use_amp,
        save_every=args.save_every,
        unfreeze_interval=args.unfreeze_interval,
        unfrozen_lr=min(
            args.lr, default_lr("finetune", model.encoder.config.hidden_size, args.optimizer)
        ),
    )
