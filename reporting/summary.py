"""What a run prints: how it starts, every epoch, and the table at its end."""

import os
import shlex
import warnings
from argparse import Namespace

from inputs.batches import Rows
from models import MultitaskBert
from reporting.run_directory import MOVABLE
from runtime import workers
from runtime.device import device_name
from runtime.files import inside, shown_path
from runtime.startup import ROOT
from tasks import Metrics, mean_score, scores


def print_start(args: Namespace, model: MultitaskBert, updates_per_epoch: int) -> None:
    """Print what is about to run, with every default that was resolved."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = count_parameters(model)
    print(
        f"model: {args.model_name}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained\n"
        f"training: {args.epochs} epochs of {updates_per_epoch} updates, "
        f"lr {args.lr:g}, batches of {args.batch_size} per task, seed {args.seed}, "
        f"on {device_name(args.use_gpu, args.use_amp)}\n"
        f"run: {shown_path(args.run_dir)}"
    )


def print_resumed(args: Namespace, epoch: int, update: int) -> None:
    """Print where a resumed run continues; nothing for a new one."""
    if epoch or update:
        print(f"resumed after epoch {epoch} and {update} updates of the next one")
    elif args.resume is not None:
        print("no checkpoint yet: starting over")


def count_parameters(model: MultitaskBert) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


def resume_command(args: Namespace) -> str:
    """Return the command line that resumes the run, from any directory."""
    words = [str(ROOT / args.script), "--resume", os.path.abspath(args.run_dir)]
    for name in MOVABLE:
        if inside(getattr(args, name), args.run_dir) is None:
            words += [f"--{name}", os.path.abspath(getattr(args, name))]
    words += ["--use_gpu"] * args.use_gpu
    return f"{workers.launcher()} {shlex.join(words)}"


def count_evaluated(args: Namespace, data: dict[str, dict[str, Rows]], num_epochs: int) -> int:
    """Return how many examples the run will evaluate in `num_epochs` more epochs and at its end."""
    splits = {name: of_split.values() for name, of_split in data.items() if name != "train"}
    num_seen = sum(
        min(len(rows), args.dev_samples or len(rows)) * rows.num_orders for rows in splits["dev"]
    )
    num_final = sum(len(rows) * rows.num_orders for part in splits.values() for rows in part)
    return num_epochs * num_seen + num_final


def format_epoch(line: dict, num_epochs: int) -> str:
    """Return an epoch's line of metrics.jsonl as text."""
    losses = "  ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    dev = "  ".join(f"{name} {score:.4f}" for name, score in scores(line["dev"]).items())
    return (
        f"epoch {line['epoch']}/{num_epochs}: loss {losses} | dev {dev} mean {line['mean']:.4f} | "
        f"{line['examples_per_second']:.0f} examples/s"
    )


def baselines(train: dict[str, Rows], dev: dict[str, Rows]) -> Metrics:
    """Return the dev metrics of always predicting the training set's majority class, or mean."""
    metrics = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant has no correlation, as the table says
        for name, rows in dev.items():
            known, expected = train[name].labels, rows.labels
            assert known is not None and expected is not None, "both splits have labels"
            known = known[: train[name].num_in_file]  # augmentation changes which class is largest
            metrics[name] = rows.task.evaluate(rows.task.baseline(known, len(rows)), expected)
    return metrics


def format_table(metrics: Metrics, baseline: Metrics | None = None, split: str = "dev") -> str:
    """Return a plain table with one line per metric, the deciding one of each task first."""
    width = max(6, *(len(name) + 2 for name in metrics))
    header = f"{'task':<{width}}{'metric':<12}{split:>8}"
    header += f"{'baseline':>11}" if baseline else ""
    lines = [header]
    for name, values in metrics.items():
        for metric, value in values.items():
            beside = f"{baseline[name][metric]:>11.4f}" if baseline else ""
            lines.append(f"{name:<{width}}{metric:<12}{value:>8.4f}{beside}")
    mean = f"{'mean':<{width + 12}}{mean_score(scores(metrics)):>8.4f}"
    lines.append(mean + (f"{mean_score(scores(baseline)):>11.4f}" if baseline else ""))
    return "\n".join(lines)


def print_end(
    args: Namespace, epoch: int, metrics: Metrics, baseline: Metrics, shares: dict[str, float]
) -> None:
    """Print the final table and where everything was written.

    Args:
        args: the run's options.
        epoch: that of the best checkpoint.
        metrics: its dev metrics.
        baseline: as `baselines` returns it.
        shares: share of updates whose task gradients conflict, by pair; empty if not logged.
    """
    print(f"\nbest checkpoint, epoch {epoch}, on all of dev:")
    print(format_table(metrics, baseline))
    print("baseline: the training set's majority class or mean; a constant has no Pearson")
    if shares:
        listed = ", ".join(f"{pair} {share:.1%}" for pair, share in shares.items())
        print(f"updates whose task gradients conflict: {listed}")
    print(
        f"\nwritten to {shown_path(args.run_dir)}: args.json, metrics.jsonl, metrics-dev.json\n"
        f"checkpoints: {shown_path(args.filepath)}\n"
        f"predictions: {shown_path(args.predictions_path)}"
    )
