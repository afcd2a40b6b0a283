"""The only training loop: `fit` runs epochs, `train_one_epoch` updates, `train_step` is one.

`evaluate` and `predict_logits` are the same model without gradients. Axis letters: B batch, N
examples, C outputs.
"""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from inputs.batches import Rows
from models import MultitaskBert
from reporting.duration import progress_bar
from reporting.run_log import RunLog
from reporting.summary import format_epoch
from runtime import checkpoint, workers
from runtime.interrupts import Interrupted
from runtime.memory import trim_memory
from runtime.workers import exchange
from tasks import Metrics, Update, num_examples, to_device
from training import Training

EVALUATION_BATCH_SIZE = 64
# Batches of many shapes leave holes in the heap, which would grow for hundreds of updates.
UPDATES_PER_TRIM = 50


def fit(
    args: Namespace,
    training: Training,
    dev_data: dict[str, Rows],
    log: RunLog,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train for --epochs, or until --patience runs out; keep the last and the best checkpoint.

    If `check` raises Interrupted, the last finished update is saved first.

    Args:
        args: the run's options.
        training: what the updates change.
        dev_data: task name -> dev rows, evaluated after every epoch.
        log: told every update and epoch.
        check: called after every update and evaluation batch; it may raise to stop.
    """
    progress = training.progress
    checkpoints = Path(args.filepath)

    def save() -> None:
        checkpoint.save(checkpoints / "last.pt", training.state_dict())

    while progress.epoch < args.epochs and not progress.is_stalled(args.patience):
        try:
            train_one_epoch(training, log, save, check)
            if progress.epoch == 0 and not training.is_save_due:
                save()  # from here on the run has results, and so a checkpoint to resume from
            with training.averaging.applied():  # evaluate the average, train on without it
                metrics, _ = evaluate(
                    training.model, dev_data, args.dev_samples, args.seed, args.use_amp, check
                )
        except Interrupted:
            save()
            raise
        line = training.finish_epoch(metrics)
        if progress.best_epoch == progress.epoch:
            checkpoint.save(checkpoints / "best.pt", training.best_state())
        first_update = progress.total_updates - training.updates_per_epoch
        log.epoch(line, first_update, training.conflicts)
        save()
        log.on_epoch(line)  # last: a search may stop its trial here, and then resume it
        print(format_epoch(line, args.epochs))


def train_one_epoch(
    training: Training,
    log: RunLog,
    save: Callable[[], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Run what is left of the current epoch.

    Args:
        training: what the updates change.
        log: told every update.
        save: called every `save_every` updates.
        check: called after every update; it may raise to stop.
    """
    progress = training.progress
    training.start_epoch()
    name = f"epoch {progress.epoch + 1}/{training.num_epochs}"
    bar = progress_bar(name, training.updates_per_epoch, progress.update, "update")
    with bar, log.profiler(progress.epoch) as profile_step:
        while progress.update < training.updates_per_epoch:
            started = time.perf_counter()
            update = training.task_scheduler.next_update()
            learning_rate = training.learning_rate
            losses, grad_norm = train_step(training, update, progress.next_update_name)
            progress.count(update, losses)
            training.after_update()
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            examples = sum(num_examples(batch) for _, batch, _ in update)
            rate = log.update(
                progress.total_updates,
                losses,
                training.loss_weighting.logged,
                training.projection.logged,
                grad_norm,
                learning_rate,
                examples,
                seconds,
            )
            profile_step()
            bar.set_postfix(loss=f"{sum(losses.values()):.3f}", examples_per_s=f"{rate:.0f}")
            bar.update()
            check()
            if progress.total_updates % UPDATES_PER_TRIM == 0:
                trim_memory()
            if training.is_save_due:
                save()


def train_step(training: Training, update: Update, where: str) -> tuple[dict[str, float], float]:
    """Train on one update.

    Each task's graph lives alone: forward, backward, freed. Only then do workers add up their
    losses and gradients, the loss weighting observes them, the projection combines the tasks'
    gradients, and the optimizer steps.

    Args:
        training: the model, and all that works on its gradients.
        update: [(task, batch, weight)]; the loss of the update is Σ weight · loss, where a loss
            weighting multiplies the weights.
        where: the update's name, for an error message.

    Returns:
        The mean loss by task, without penalties, and the gradient's norm before clipping.

    Raises:
        FloatingPointError: a loss or a gradient is not finite. The weights are still those of the
            update before.
    """
    training.optimizer.zero_grad()
    losses = []
    for task, batch, weight in training.loss_weighting.weighted(update):
        batch = to_device(batch, training.device)
        with training.precision():
            logits = training.regularizer.logits(task, batch)  # the model's forward pass, [B, C]
            loss = task.loss(logits, batch["labels"])  # [B, C] -> []
            penalty = training.regularizer.penalty(task, batch, logits)  # []
        if loss.requires_grad:  # a cosine head on a frozen encoder has nothing to train
            with training.curvature.twice_differentiable():  # checkpointed layers run again here
                training.curvature.accumulate_hessian(weight * loss)
                training.projection.backward(task, weight * (loss + penalty))
        losses.append(loss.detach())
    # With several workers: sum the losses and, in place, the gradients. Alone: change nothing.
    sizes = [num_examples(batch) for _, batch, _ in update]
    total_losses = training.exchange.add_up(losses, sizes, training.gradients())  # [num batches]
    training.loss_weighting.observe(update, total_losses, training.projection)
    values = training.exchange.read(  # the one host read
        [total_losses],
        [training.projection.measure(training.model)],
        training.loss_weighting.readings(),
        training.curvature.hessian_norms(),
    )
    losses_read, measured, weights, hessian_norms = values
    means = mean_losses(update, losses_read)
    grad_norm = training.projection.combine(measured, training.clip)
    training.loss_weighting.take(weights)
    check_finite(means, [grad_norm, *hessian_norms], where)
    training.optimizer.step()
    return means, grad_norm


def mean_losses(update: Update, values: list[float]) -> dict[str, float]:
    """Return the mean loss by task over its batches, weighted by their examples."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for (task, batch, _), value in zip(update, values):
        size = num_examples(batch)
        sums[task.name] = sums.get(task.name, 0.0) + value * size
        counts[task.name] = counts.get(task.name, 0) + size
    return {name: sums[name] / counts[name] for name in sums}


def check_finite(means: dict[str, float], norms: list[float], where: str) -> None:
    """Raise FloatingPointError naming what is not finite.

    Args:
        means: mean loss by task.
        norms: that of the gradient and, where there is one, of the Hessian estimate.
        where: the update's name.
    """
    for name, loss in means.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss of task {name} is {loss} in {where}; try a lower --lr")
    for what, value in zip(("gradient norm", "Hessian estimate's norm"), norms):
        if not math.isfinite(value):
            names = ", ".join(means)
            raise FloatingPointError(
                f"{what} is {value} in {where} on tasks {names}; try a lower --lr"
            )


def evaluate(
    model: MultitaskBert,
    data: dict[str, Rows],
    num_samples: int | None = None,
    seed: int = 0,
    use_amp: bool = False,
    check: Callable[[], None] = lambda: None,
    split: str = "dev",
) -> tuple[Metrics, dict[str, np.ndarray]]:
    """Predict every task's rows and compare them with their labels. Leaves the model in eval mode.

    Args:
        model: the model.
        data: task name -> rows.
        num_samples: evaluate a fixed seeded sample of so many rows per task; None: all of them.
        seed: of that sample.
        use_amp: compute in bfloat16.
        check: called after every batch; it may raise to stop.
        split: what the rows are, for the progress bar.

    Returns:
        Metrics by task, for the tasks with labels, and predictions by task.
    """
    metrics, predictions = {}, {}
    for name, rows_of_task in data.items():
        task, rows = rows_of_task.task, rows_of_task.sample_rows(num_samples, seed)
        logits = predict_logits(model, rows_of_task, rows, use_amp, check, f"{split} {name}")
        predictions[name] = task.decode(logits)
        if rows_of_task.labels is not None:
            metrics[name] = task.evaluate(predictions[name], rows_of_task.labels[rows])
    return metrics, predictions


@torch.inference_mode()
def predict_logits(
    model: MultitaskBert,
    data: Rows,
    rows: np.ndarray | None = None,
    use_amp: bool = False,
    check: Callable[[], None] = lambda: None,
    name: str = "rows",
    batch_size: int = EVALUATION_BATCH_SIZE,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Return logits [N, C] of all rows, or of the given ones, in their order.

    Args:
        model: the model.
        data: rows of one task.
        rows: numbers of rows; None for all.
        use_amp: compute in bfloat16.
        check: called after every batch; it may raise to stop.
        name: stands before the progress bar.
        batch_size: rows per batch, which are of similar length.
        bar: advanced by the rows of every batch, and left open; None for a bar of its own.
    """
    rows = np.arange(len(data)) if rows is None else rows
    device = next(model.parameters()).device
    model.eval()
    logits = np.zeros((len(data), data.task.num_outputs), dtype=np.float32)
    chunks = data.chunks(batch_size, rows)
    with (
        nullcontext(bar) if bar is not None else progress_bar(name, len(rows), 0, "example")
    ) as bar:
        for number in exchange().share_out(len(chunks), check):
            orders = [to_device(batch, device) for batch in data.orders(chunks[number])]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_amp):
                outputs = torch.stack([model(data.task, batch) for batch in orders])
            logits[chunks[number]] = outputs.mean(0).cpu().numpy()  # [1 or 2, B, C] -> [B, C]
            bar.update(len(chunks[number]) * workers.size())
    return exchange().add_rows(logits, device, check)[rows]  # zeros where others' rows are
