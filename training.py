"""Everything that an update changes, and so everything that a checkpoint holds."""

import math
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from inputs.batches import Rows
from models import MultitaskBert
from models.compiled import compile_layers
from optimizers import (
    build_averaging,
    build_loss_weighting,
    build_lr_schedule,
    build_optimizer,
    build_projection,
    build_regularizer,
    curvature_of,
    default_lr,
    train_also,
)
from optimizers.averaging import NoAverage, WeightAverage
from optimizers.conflicts import ConflictLog
from optimizers.loss_weighting import Unweighted
from optimizers.lr_schedules import PlateauSchedule, UpdateSchedule
from optimizers.smart import PlainForward, Smart
from optimizers.sophia import NoCurvature, SophiaH
from optimizers.task_gradients import SummedGradients, TaskGradients
from reporting.run_log import peak_memory_mib
from runtime import checkpoint
from runtime.workers import Alone, Together, exchange
from task_schedulers import TaskScheduler, scheduler_of
from tasks import Metrics, Update, mean_score, num_examples, scores


@dataclass
class Progress:
    """How far a run is: finished epochs, updates of the current one, and its sums by task."""

    epoch: int = 0
    update: int = 0
    total_updates: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, float] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)

    @property
    def next_update_name(self) -> str:
        """The coming update's name, for an error message."""
        return f"epoch {self.epoch + 1}, update {self.update + 1}"

    def count(self, update: Update, losses: dict[str, float]) -> None:
        """Add one update's examples and its mean losses by task."""
        self.update += 1
        self.total_updates += 1
        for name, loss in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + loss
            self.updates[name] = self.updates.get(name, 0) + 1
        for task, batch, _ in update:
            self.examples[task.name] = self.examples.get(task.name, 0) + num_examples(batch)

    def is_stalled(self, patience: int | None) -> bool:
        """Tell whether more than `patience` epochs have passed without a better score."""
        return patience is not None and self.epoch - self.best_epoch > patience

    def finish_epoch(self, mean: float) -> dict:
        """Count the epoch, remember a best score, and reset the sums.

        Args:
            mean: the mean score that decides.

        Returns:
            The sums of the epoch, as metrics.jsonl has them.
        """
        self.epoch += 1
        if mean > self.best_score:
            self.best_score, self.best_epoch = mean, self.epoch
        line = {
            "epoch": self.epoch,
            "update": self.total_updates,
            "loss": {name: total / self.updates[name] for name, total in self.loss_sums.items()},
            "examples": self.examples,
            "updates": self.updates,
            "examples_per_second": sum(self.examples.values()) / self.seconds,
        }
        self.update, self.seconds = 0, 0.0
        self.loss_sums, self.examples, self.updates = {}, {}, {}
        return line


@dataclass
class Training:
    """The parts of a run that training changes, and how it changes them.

    Attributes:
        model: encoder, features, heads.
        task_scheduler: gives the tasks and batches of each update.
        projection: combines the tasks' gradients; `SummedGradients` leaves their sum.
        conflicts: the cosines of task gradients; empty if none are logged.
        regularizer: adds penalties to a loss; `PlainForward` adds none.
        optimizer: updates the weights.
        curvature: estimates the Hessian's diagonal; `NoCurvature` estimates nothing.
        lr_schedule: moves the learning rate.
        num_epochs: epochs of the whole run.
        updates_per_epoch: updates in each.
        clip: the largest gradient norm; 0 leaves gradients as they are.
        use_amp: compute in bfloat16.
        save_every: updates between checkpoints, None for an epoch.
        unfreeze_interval: epochs after which a frozen encoder gets one more trainable layer from
            the top, None for never.
        unfrozen_lr: the base learning rate of such layers.
        loss_weighting: weighs the losses of the tasks; `Unweighted` leaves them.
        averaging: averages the weights for evaluation; `NoAverage` leaves them.
        layer_decay: the factor from the base learning rate of a layer to that of the one below.
        fingerprint: by which the run knows its checkpoints, or None for a run of an older version.
        num_unfrozen: how many such layers there are by now.
        progress: how far the run is.
        exchange: what several workers tell each other; `Alone` exchanges nothing.
    """

    model: MultitaskBert
    task_scheduler: TaskScheduler
    projection: SummedGradients | TaskGradients
    conflicts: ConflictLog
    regularizer: PlainForward | Smart
    optimizer: Optimizer
    curvature: NoCurvature | SophiaH
    lr_schedule: UpdateSchedule | PlateauSchedule
    num_epochs: int
    updates_per_epoch: int
    clip: float
    use_amp: bool = False
    save_every: int | None = None
    unfreeze_interval: int | None = None
    unfrozen_lr: float = 0.0
    loss_weighting: Unweighted = field(default_factory=Unweighted)
    averaging: NoAverage | WeightAverage = field(default_factory=NoAverage)
    layer_decay: float = 1.0
    fingerprint: str | None = None
    num_unfrozen: int = 0
    progress: Progress = field(default_factory=Progress)
    exchange: Alone | Together = field(default_factory=exchange)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def learning_rate(self) -> float:
        """The current learning rate of the first parameter group."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def num_updates_left(self) -> int:
        """How many updates of the run are left."""
        return self.num_epochs * self.updates_per_epoch - self.progress.total_updates

    @property
    def share_done(self) -> float:
        """The share of all updates of the run that are done, in [0, 1]."""
        return self.progress.total_updates / (self.num_epochs * self.updates_per_epoch)

    @property
    def is_save_due(self) -> bool:
        """Whether `save_every` updates have passed."""
        return self.save_every is not None and self.progress.update % self.save_every == 0

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Compute in bfloat16 if asked for; in float32 on updates that estimate the Hessian."""
        is_amp = self.use_amp and not self.curvature.hessian_due
        with torch.autocast(self.device.type, torch.bfloat16, is_amp):
            with self.curvature.twice_differentiable():
                yield

    def gradients(self) -> list[Tensor]:
        """Return the tensors that backward passes have filled, to be summed in place."""
        plain = [p.grad for p in self.model.parameters() if p.grad is not None]
        return [*plain, *self.projection.filled_rows(), *self.curvature.hessian_buffer]

    def start_epoch(self) -> None:
        """Prepare the rest of the current epoch, and unfreeze the layers whose turn it is."""
        if self.unfreeze_interval is not None:
            due = self.progress.epoch // self.unfreeze_interval
            self.unfreeze(min(due, self.model.encoder.config.num_hidden_layers))
        self.model.train()
        self.task_scheduler.start_epoch(self.progress.epoch + 1)

    def after_update(self) -> None:
        """Move on by one update: learning rate, averages, the losses' weights."""
        self.lr_schedule.after_update()
        self.loss_weighting.after_step()
        self.regularizer.after_step(self.share_done)
        self.averaging.after_step(self.progress.total_updates)

    def finish_epoch(self, metrics: Metrics) -> dict:
        """Count the epoch; return its line for metrics.jsonl.

        Args:
            metrics: the dev metrics. Those of the tasks that are trained on decide which epoch is
                the best.
        """
        deciding = {name: scores(metrics)[name] for name in self.task_scheduler.names}
        mean = mean_score(deciding)
        self.lr_schedule.after_epoch(mean)
        self.exchange.check_replicas(self.model)
        line = self.progress.finish_epoch(mean) | {
            "dev": metrics,
            "mean": mean,
            "learning_rate": self.learning_rate,
            "peak_memory_mib": round(peak_memory_mib(self.device), 1),
        }
        self.loss_weighting.after_epoch(line["loss"])
        return line | self.exchange.mean(self.model.epoch_statistics())

    def unfreeze(self, num_layers: int) -> None:
        """Train the top `num_layers` of the encoder, those that are not trained yet."""
        for number in range(self.num_unfrozen, num_layers):
            layer = self.model.unfreeze_layer(number)
            lr = self.unfrozen_lr * self.layer_decay ** (number + 1)
            train_also(self.optimizer, self.lr_schedule, layer, lr)
        self.averaging.include_trainable()
        self.num_unfrozen = num_layers

    def best_state(self) -> dict:
        """Return what best.pt holds of the epoch that has just ended."""
        progress = self.progress
        return {
            "model": self.model.state_dict() | self.averaging.state_dict(),
            "epoch": progress.epoch,
            "score": progress.best_score,
            "run": self.fingerprint,
        }

    def state_dict(self) -> dict:
        """Return the whole state, as `restoring.restore` takes it; all workers call it together."""
        parts = {name: part.state_dict() for name, part in self.stateful_parts().items()}
        return parts | {
            "progress": asdict(self.progress),
            "num_unfrozen": self.num_unfrozen,
            "run": self.fingerprint,
            "random": checkpoint.random_states(),
        }

    def stateful_parts(self) -> dict:
        """Return the parts that have a state, by name."""
        return {
            "model": self.model,
            "task_scheduler": self.task_scheduler,
            "projection": self.projection,
            "conflicts": self.conflicts,
            "smart": self.regularizer,
            "average": self.averaging,
            "loss_weighting": self.loss_weighting,
            "optimizer": self.optimizer,
            "lr_schedule": self.lr_schedule,
        }


def build_training(args: Namespace, model: MultitaskBert, train_data: dict[str, Rows]) -> Training:
    """Build what the options name, ready for the first update.

    Args:
        args: the run's options.
        model: the model, on its device.
        train_data: task name -> training rows.
    """
    task_scheduler = build_task_scheduler(args, train_data)
    updates_per_epoch = count_updates(args, task_scheduler, train_data)
    tasks = [task_scheduler.data[name].task for name in task_scheduler.names]
    weighting = build_loss_weighting(args, model, tasks)
    projection, conflicts = build_projection(
        args, model, task_scheduler.names, weighting.needs_gradients
    )
    optimizer = build_optimizer(args, model, weighting)
    hidden_size = model.encoder.config.hidden_size
    if args.compile:
        compile_layers(model)
    training = Training(
        model=model,
        task_scheduler=task_scheduler,
        projection=projection,
        conflicts=conflicts,
        regularizer=build_regularizer(args, model),
        optimizer=optimizer,
        curvature=curvature_of(optimizer),
        lr_schedule=build_lr_schedule(args, optimizer, args.epochs * updates_per_epoch),
        num_epochs=args.epochs,
        updates_per_epoch=updates_per_epoch,
        clip=args.clip,
        use_amp=args.use_amp,
        save_every=args.save_every,
        unfreeze_interval=args.unfreeze_interval,
        loss_weighting=weighting,
        averaging=build_averaging(args, model),
        layer_decay=args.layer_decay,
        fingerprint=args.fingerprint,
        unfrozen_lr=min(args.lr, default_lr("finetune", hidden_size, args.optimizer)),
    )
    training.exchange.seed_dropout(args.seed)
    return training


def build_task_scheduler(args: Namespace, train_data: dict[str, Rows]) -> TaskScheduler:
    """Build the task scheduler that --task_scheduler names.

    Args:
        args: the run's options.
        train_data: task name -> training rows.
    """
    return scheduler_of(args.task_scheduler)(
        data=train_data,
        batch_size=args.batch_size,
        micro_batch_size=args.micro_batch_size,
        task_weights=args.task_weights,
        seed=args.seed,
        num_epochs=args.epochs,
        projects=args.projection != "none",
        combine_strategy=args.combine_strategy,
        batches_per_update=args.batches_per_update,
        temperature=args.temperature,
    )


def count_updates(
    args: Namespace, task_scheduler: TaskScheduler, train_data: dict[str, Rows]
) -> int:
    """Return the number of updates of an epoch, from whichever option sets it."""
    if args.num_batches_per_epoch is not None:
        return args.num_batches_per_epoch
    total = sum(rows.num_in_file for rows in train_data.values())
    if args.samples_per_epoch is not None:
        total = args.samples_per_epoch * len(train_data)
    return task_scheduler.updates_per_epoch(total)
