"""The only training loop: `fit` runs epochs, `train_one_epoch` updates, `train_step` is one."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from tqdm import tqdm

import checkpoint
import workers
from batches import Rows, num_examples
from evaluation import evaluate, scores
from interrupts import Interrupted
from models import MultitaskBert
from optimizers.smart import Smart
from optimizers.sophia import SophiaH
from optimizers.task_gradients import SummedGradients, TaskGradients
from run_log import RunLog, peak_memory_mib, profiler
from task_schedulers import Update
from tasks import mean_score
from training import Progress, Training


def train_step(
    model: MultitaskBert,
    update: Update,
    projection: SummedGradients | TaskGradients,
    optimizer: Optimizer,
    clip: float,
    use_amp: bool = False,
    smart: Smart | None = None,
    where: str = "",
) -> tuple[dict[str, float], float]:
    """Train on one update: [(task, batch, weight)].

    Each task's graph lives alone: forward, backward, freed. Then the workers add up their losses
    and gradients, all at once. Returns mean loss by task (without
    SMART's terms), and the gradient's norm before clipping. The one host read comes before
    `optimizer.step`. clip: largest norm; 0 leaves gradients as they are. Raises FloatingPointError
    naming the task and `where` for a loss or gradient that is not finite; the weights then are
    still those of the update before.
    """
    device = next(model.parameters()).device
    is_hessian_due = isinstance(optimizer, SophiaH) and optimizer.hessian_due
    optimizer.zero_grad()
    losses = []
    for task, batch, weight in update:
        batch = {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()}
        with precision(device, use_amp, is_hessian_due):
            logits = model(task, batch) if smart is None else smart.logits(task, batch)
            loss = task.loss(logits, batch["labels"])  # [B, C] -> []
            penalty = 0.0 if smart is None else smart.penalty(task, batch, logits)
        if loss.requires_grad:  # a cosine head on a frozen encoder has nothing to train
            if is_hessian_due:
                optimizer.accumulate_hessian(weight * loss)
            projection.backward(task, weight * (loss + penalty))
        losses.append(workers.share(num_examples(batch)) * loss.detach())
    losses = torch.stack(losses)
    num_stopping = workers.sum_([losses, *gradients(model, projection, optimizer)])
    projection.combine()
    # Without any gradient it would be a number on the CPU.
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf).to(device)
    hessian_norm = optimizer.hessian_norm() if is_hessian_due else torch.zeros_like(grad_norm)
    others = torch.stack([grad_norm, hessian_norm, num_stopping])
    with workers.watched():  # nccl fails here, where its sums are waited for
        *values, norm, curvature, num_stopping = torch.cat([losses, others]).tolist()
    workers.note_votes(num_stopping)
    means = mean_losses(update, values)
    check_finite(means, norm, curvature, where)
    optimizer.step()
    return means, norm


def check_finite(means: dict[str, float], norm: float, curvature: float, where: str) -> None:
    """Raise FloatingPointError naming what is not finite."""
    for name, loss in means.items():
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss of task {name} is {loss} in {where}; try a lower --lr")
    for what, value in (("gradient norm", norm), ("Hessian estimate's norm", curvature)):
        if not math.isfinite(value):
            names = ", ".join(means)
            raise FloatingPointError(
                f"{what} is {value} in {where} on tasks {names}; try a lower --lr"
            )


def gradients(
    model: MultitaskBert, projection: SummedGradients | TaskGradients, optimizer: Optimizer
) -> list[torch.Tensor]:
    """All that the backward passes of an update have added up, by reference."""
    plain = [p.grad for p in model.parameters() if p.grad is not None]
    hessian = optimizer.hessian_buffer if isinstance(optimizer, SophiaH) else []
    return [*plain, *projection.filled_rows(), *hessian]


@contextmanager
def precision(device: torch.device, use_amp: bool, is_hessian_due: bool) -> Iterator[None]:
    """bfloat16 if asked for; for SophiaH float32, and an attention and an LSTM that have second
    derivatives, as the fused attention and cuDNN's LSTM have none."""
    attention = sdpa_kernel(SDPBackend.MATH) if is_hessian_due else nullcontext()
    lstm = torch.backends.cudnn.flags(enabled=False) if is_hessian_due else nullcontext()
    is_amp = use_amp and not is_hessian_due
    with torch.autocast(device.type, torch.bfloat16, is_amp), attention, lstm:
        yield


def mean_losses(update: Update, values: list[float]) -> dict[str, float]:
    """Mean loss by task over its batches, weighted by their examples."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for (task, batch, _), value in zip(update, values):
        size = num_examples(batch)
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
    training.start_epoch()
    bar = tqdm(
        desc=f"epoch {progress.epoch + 1}/{training.num_epochs}",
        total=training.updates_per_epoch,
        initial=progress.update,
        unit="update",
        disable=None if workers.is_main() else True,  # None: quiet where stderr is no terminal
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
                training.smart,
                where,
            )
            training.lr_schedule.after_update()
            seconds = time.perf_counter() - started
            num_examples = progress.count(update, losses, seconds)
            if training.smart is not None:
                training.smart.after_step(training.share_done)
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
    dev_data: dict[str, Rows],
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
        is_profiled = args.profiler and workers.is_main() and progress.epoch == 0
        trace_path = Path(args.run_dir) / "profile.json" if is_profiled else None
        try:
            train_one_epoch(training, log, save, check, trace_path)
            metrics, _ = evaluate(
                training.model, dev_data, args.dev_samples, args.seed, args.use_amp, check
            )
        except Interrupted:
            save()
            workers.barrier()  # who ends first makes torchrun end the others
            raise
        deciding = {name: scores(metrics)[name] for name in training.task_scheduler.names}
        mean = mean_score(deciding)
        training.lr_schedule.after_epoch(mean)
        lr = training.optimizer.param_groups[0]["lr"]
        line = progress.finish_epoch(
            metrics, mean, lr, peak_memory_mib(next(training.model.parameters()).device)
        )
        line |= mean_over_workers(training.model.epoch_statistics())
        workers.check_replicas(training.model)
        if progress.best_epoch == progress.epoch:
            best = {"model": training.model.state_dict(), "epoch": progress.epoch, "score": mean}
            checkpoint.save(checkpoints / "best.pt", best)
        log.epoch(line, progress.total_updates)
        if training.conflicts is not None:
            log.conflicts(training.conflicts, progress.total_updates - training.updates_per_epoch)
        save()
        print(format_epoch(line, args.epochs))


def mean_over_workers(statistics: dict[str, list[float]]) -> dict[str, list[float]]:
    """The workers' values by name, each the mean over theirs."""
    parts = workers.gather(statistics)
    return {name: np.mean([part[name] for part in parts], axis=0).tolist() for name in statistics}


def is_out_of_patience(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.epoch - progress.best_epoch > patience


def format_epoch(line: dict, num_epochs: int) -> str:
    losses = "  ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    dev = "  ".join(f"{name} {score:.4f}" for name, score in scores(line["dev"]).items())
    return (
        f"epoch {line['epoch']}/{num_epochs}: loss {losses} | dev {dev} mean {line['mean']:.4f} | "
        f"{line['examples_per_second']:.0f} examples/s"
    )
