"""What a run prints before it trains, and what it evaluates, writes and prints at its end."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

import checkpoint
import workers
from batches import Rows
from evaluation import baselines, evaluate, format_table, scores, write_outputs
from run_log import RunLog, dev_figures
from tasks import mean_score
from training import Training


def print_start(args: Namespace, training: Training) -> None:
    """Say what is about to run, with every default that was resolved."""
    trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in training.model.parameters())
    print(
        f"model: {args.model_name}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained\n"
        f"training: {args.epochs} epochs of {training.updates_per_epoch} updates, "
        f"lr {args.lr:g}, batch {args.batch_size} a task, seed {args.seed}, "
        f"on {device_name(args)}\n"
        f"run: {args.run_dir}"
    )
    progress = training.progress
    if progress.total_updates:
        print(f"resumed after epoch {progress.epoch}, update {progress.update} of the next")
    elif args.resume is not None:
        print("no checkpoint yet: starting over")


def device_name(args: Namespace) -> str:
    """What the run computes on, and on how many of them."""
    device = torch.cuda.get_device_name() if args.use_gpu else "CPU"
    return f"{workers.size()} x {device}" if workers.size() > 1 else device


def finish(
    args: Namespace,
    training: Training,
    data: dict[str, dict[str, Rows]],
    log: RunLog,
    check: Callable[[], None],
) -> None:
    """Evaluate the best checkpoint on all of dev, predict test, and say where everything is."""
    workers.barrier()  # worker 0 has written the checkpoints
    best = checkpoint.load_weights(Path(args.filepath) / "best.pt", training.model)
    workers.check_replicas(training.model)
    figures: dict[str, object] = {}
    facts = {"num_parameters": sum(p.numel() for p in training.model.parameters())}
    if training.conflicts is not None:
        facts["conflicts"] = training.conflicts.shares()
    for split in [split for split in data if split != "train"]:
        metrics, predictions = evaluate(
            training.model, data[split], use_amp=args.use_amp, check=check
        )
        write_outputs(args, split, data[split], metrics, predictions, facts)
        if split == "dev":
            dev_metrics = metrics
            figures = dev_figures(data[split], predictions)
    finals = scores(dev_metrics)
    if training.conflicts is not None:
        log.conflict_figure(training.conflicts)
    log.finish(vars(args), finals, mean_score(finals), figures, training.progress.total_updates)
    print(f"\nbest checkpoint, epoch {best['epoch']}, on all of dev:")
    print(format_table(dev_metrics, baselines(data["train"], data["dev"])))
    print("baseline: the training set's majority class or mean; a constant has no Pearson")
    if training.conflicts is not None:
        shares = training.conflicts.shares().items()
        listed = ", ".join(f"{pair} {share:.1%}" for pair, share in shares)
        print(f"updates whose task gradients conflict: {listed}")
    print(
        f"\nwritten to {args.run_dir}: args.json, metrics.jsonl, metrics-dev.json\n"
        f"checkpoints: {args.filepath}\npredictions: {args.predictions_path}"
    )
