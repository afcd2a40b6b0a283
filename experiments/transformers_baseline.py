"""Train transformers' BertModel in a plain loop, a model for each task: a row of the tables.

    python -m experiments.transformers_baseline --data_dir data --run_name plain --seed 1
    python -m experiments.transformers_baseline --data_dir data --run_name plain --joint

The loop is that of `benchmarks.plain_loop`, and computes in float32 as torch has it. The models are
trained one after the other. Each keeps the weights of its own best epoch on dev until it has
predicted; with --joint, the one model keeps those with the best mean. Options of train_multitask.py
that say where and what the data are mean the same here. Those that set the size of our training
(--batch_size, --epochs, --lr, the precision, and others in `IGNORED`) change nothing, so that both
loops can be in one table. All others are refused.

The run's directory is made at the end, with everything that tables and comparisons read, but no
checkpoint. A stopped run starts again.
"""

import argparse
import math
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.plain_loop import (
    MAX_NORM,
    WARMUP_FRACTION,
    WEIGHT_DECAY,
    PlainLoop,
    PlainSettings,
    add_plain_options,
)
from benchmarks.precision import device_precisions
from benchmarks.setup import silent_log
from datasets import load_data
from engine import evaluate
from experiments.row_files import TRANSFORMERS
from inputs.batches import Rows, TokenizedTask
from models import MultitaskBert
from optimizers.conflicts import ConflictLog
from options.parsing import ArgumentParser, parse_args
from options.run_options import get_args_parser as get_entry_parser
from options.task_table import TaskTable, built_in_table, file_options
from reporting.outputs import in_folder, write_outputs
from reporting.run_directory import make_run_dir
from reporting.run_log import peak_memory_mib
from reporting.run_record import run_record
from reporting.start import Start, open_run
from reporting.summary import baselines, format_epoch, format_table
from runtime import workers
from runtime.device import select_device
from runtime.errors import InputError, exit_status, read_command_line
from runtime.files import shown_path
from tasks import Metrics, mean_score, scores

# Options of train_multitask.py that mean the same here, beside the flags of single files.
HONOURED = {
    *("data_dir", "skip_bad_rows", "tasks_file", "task", "max_length", "samples_per_epoch"),
    *("model_name", "local_files_only", "hidden_dropout_prob", "seed", "use_gpu", "smoketest"),
    *("dev_samples", "no_test_predictions", "logdir", "run_name"),
}
# They set our training, or what it writes. The plain loop has its own settings, and no checkpoints.
IGNORED = {
    *("epochs", "batch_size", "micro_batch_size", "lr", "use_amp", "save_every"),
    *("write_summary", "tensorboard_subfolder"),
}
OWN = {"plain_lr", "plain_batch_size", "plain_epochs", "plain_amp", "joint"}
PARTS = ("loss", "examples", "updates", "dev")  # of a line of metrics.jsonl, by task
Result = tuple[Metrics, dict[str, np.ndarray]]  # metrics and predictions by task


@dataclass
class Trained:
    """What is left of a model after its training.

    Attributes:
        names: its tasks.
        lines: of metrics.jsonl, one for each epoch, of these tasks alone.
        best_epoch: whose weights have predicted.
        results: of each split.
        num_parameters: of the encoder, the features and the heads of its tasks.
    """

    names: list[str]
    lines: list[dict]
    best_epoch: int
    results: dict[str, Result]
    num_parameters: int


def main(options: Namespace) -> None:
    """Train a model for each task, or one for all of them; write the run's directory.

    Args:
        options: as `parse` returns them.

    Raises:
        InputError: an option or a file is wrong, or the encoder is no BERT.
        FloatingPointError: a loss is not finite.
    """
    if workers.size() > 1:
        raise InputError("the plain loop works in one process; start it without torchrun")
    device = select_device(options.use_gpu)
    with open_run(run_options(options)) as start, device_precisions()["float32"].products():
        args = start.args
        if start.config.model_type != "bert":
            raise InputError(
                f"--model_name {args.model_name}: its type is {start.config.model_type}, expected "
                "bert; the plain loop is around transformers' BertModel"
            )
        data = load_data(args, start.tokenizer, start.config.pad_token_id)
        groups = [[*args.tasks]] if options.joint else [[name] for name in args.tasks]
        print_settings(args, options.joint, device)
        facts = record(args, options)  # of the code that trains: a commit may come while it does
        trained = [train_model(start, data, names, device) for names in groups]
        results = {
            split: merged_results(model.results[split] for model in trained)
            for split in trained[0].results
        }
        write = partial(write_results, start, data, trained, results)
        make_run_dir(args, start.config, start.tokenizer, facts, write)
        print(f"\nall of dev, with the weights of the best epochs: {best_epochs(trained)}")
        print(format_table(results["dev"][0], baselines(data["train"], data["dev"])))
        print(f"\nwritten to {shown_path(args.run_dir)}")


def run_options(options: Namespace) -> Namespace:
    """Return the run as options of train_multitask.py, which other commands read from args.json.

    They say what the plain loop does: in which precision, with which learning rate, and so on.
    """
    values = {
        "lr": options.plain_lr,
        "batch_size": options.plain_batch_size,
        "epochs": options.plain_epochs,
        "use_amp": options.plain_amp,
        "weight_decay": WEIGHT_DECAY,
        "clip": MAX_NORM,
        "warmup_fraction": WARMUP_FRACTION,
        "scheduler": "linear_warmup",
    }
    kept = {name: value for name, value in vars(options).items() if name not in OWN}
    given = sorted({*options.given} - OWN - IGNORED | {*values})
    unset = {"micro_batch_size": None, "save_every": None, "write_summary": False}
    return Namespace(
        **kept | unset | values | {"given": given, "script": "train_multitask.py"},
    )


def record(args: Namespace, options: Namespace) -> dict:
    """Return what args.json holds of this run alone, and the revision of the code now."""
    own = {name: getattr(options, name) for name in sorted(OWN)}
    now = run_record(args)
    versions = now["versions"] | {"transformers": version("transformers")}
    facts = {"script": TRANSFORMERS, "git_revision": now["git_revision"]}
    return facts | {"versions": versions, "plain_loop": own}


def print_settings(args: Namespace, is_joint: bool, device: torch.device) -> None:
    """Print what is about to run."""
    models = "one model, its tasks in turns" if is_joint else "a model for each task"
    print(
        f"transformers' BertModel: {args.model_name}, {models}\n"
        f"training: {args.epochs} epochs, lr {args.lr:g}, batches of {args.batch_size}, seed "
        f"{args.seed}, on {device.type.upper()} in {'bfloat16' if args.use_amp else 'float32'}",
        flush=True,
    )


def train_model(
    start: Start, data: dict[str, dict[str, Rows]], names: list[str], device: torch.device
) -> Trained:
    """Train one model, and predict every split with the weights of its best epoch on dev.

    Args:
        start: names the encoder.
        data: split -> task name -> rows.
        names: the model's tasks.
        device: where to compute.
    """
    args = start.args
    own = {split: {name: data[split][name] for name in names} for split in data}
    train = cast(dict[str, TokenizedTask], own.pop("train"))
    settings = PlainSettings(
        args.lr, args.batch_size, args.epochs, args.samples_per_epoch, args.use_amp
    )
    loop = PlainLoop(settings, start, train, args.seed, device)
    model = cast(MultitaskBert, loop.model)
    lines: list[dict] = []
    best_mean, best_epoch, best_state = -math.inf, 0, {}
    for epoch in range(1, args.epochs + 1):
        line = train_epoch(loop, epoch)
        metrics, _ = evaluate(model, own["dev"], args.dev_samples, args.seed, args.use_amp)
        line |= {"dev": metrics, "mean": mean_score(scores(metrics))}
        lines.append(line)
        print(f"{', '.join(names)}: {format_epoch(line, args.epochs)}", flush=True)
        if line["mean"] > best_mean:
            best_mean, best_epoch = line["mean"], epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    results = {
        split: evaluate(model, rows, use_amp=args.use_amp, split=split)
        for split, rows in own.items()
    }
    return Trained(names, lines, best_epoch, results, count_parameters(loop, names))


def train_epoch(loop: PlainLoop, epoch: int) -> dict:
    """Train on the next epoch; return its line of metrics.jsonl, still without dev.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    examples, updates = dict.fromkeys(loop.data, 0), dict.fromkeys(loop.data, 0)
    losses = {name: torch.zeros((), device=loop.device) for name in loop.data}
    loop.model.train()
    started = time.perf_counter()
    for _ in range(loop.updates_per_epoch):
        name, num_examples, loss = loop.step()
        examples[name] += num_examples
        updates[name] += 1
        losses[name] += loss
    sums = {name: total.item() for name, total in losses.items()}  # waits for the last update
    seconds = time.perf_counter() - started
    for name, total in sums.items():
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the sum of the losses of task {name} is {total} in epoch {epoch}; try a lower "
                "--plain_lr"
            )
    return {
        "epoch": epoch,
        "update": epoch * loop.updates_per_epoch,
        "loss": {name: total / max(1, updates[name]) for name, total in sums.items()},
        "examples": examples,
        "updates": updates,
        "examples_per_second": sum(examples.values()) / seconds,
        "learning_rate": loop.schedule.get_last_lr()[0],
        "peak_memory_mib": round(peak_memory_mib(loop.device), 1),
    }


def count_parameters(loop: PlainLoop, names: list[str]) -> int:
    """Return the number of a model's parameters, without the heads of other tasks."""
    model = loop.model
    parts = [model.encoder, model.features, *(model.heads[name] for name in names)]
    return sum(p.numel() for part in parts for p in part.parameters())


def merged_results(results: Iterable[Result]) -> Result:
    """Return the metrics and predictions of all models."""
    metrics: Metrics = {}
    predictions: dict[str, np.ndarray] = {}
    for of_metrics, of_predictions in results:
        metrics |= of_metrics
        predictions |= of_predictions
    return metrics, predictions


def merged_line(lines: tuple[dict, ...]) -> dict:
    """Return the line of an epoch of all models: sums of updates and seconds, the largest memory.

    Its mean is that of this epoch, also where the models have their best one elsewhere.
    """
    parts = {key: {k: v for line in lines for k, v in line[key].items()} for key in PARTS}
    seconds = sum(sum(line["examples"].values()) / line["examples_per_second"] for line in lines)
    return lines[0] | {
        **parts,
        "update": sum(line["update"] for line in lines),
        "mean": mean_score(scores(parts["dev"])),
        "examples_per_second": sum(parts["examples"].values()) / seconds,
        "peak_memory_mib": max(line["peak_memory_mib"] for line in lines),
    }


def write_results(
    start: Start,
    data: dict[str, dict[str, Rows]],
    trained: list[Trained],
    results: dict[str, Result],
    folder: Path,
) -> None:
    """Write metrics.jsonl, the metrics and the prediction files into a folder."""
    log = silent_log(folder)
    for lines in zip(*(model.lines for model in trained), strict=True):
        log.epoch(merged_line(lines), 0, ConflictLog([], {}))
    facts: dict[str, object] = {
        "num_parameters": sum(model.num_parameters for model in trained),
        "best_epochs": {name: model.best_epoch for model in trained for name in model.names},
    }
    args = in_folder(start.args, folder)
    for split, (metrics, predictions) in results.items():
        write_outputs(args, split, data[split], metrics, predictions, facts)


def best_epochs(trained: list[Trained]) -> str:
    """Return the best epoch of each model, as text."""
    return ", ".join(f"{'/'.join(model.names)} {model.best_epoch}" for model in trained)


def get_args_parser(table: TaskTable | None = None) -> ArgumentParser:
    """Return the parser of the plain loop: that of train_multitask.py, and its own settings."""
    table = table or built_in_table()
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s [options]",  # argparse fails to print one without the hidden options
        parents=[get_entry_parser(table, add_help=False)],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    known = {*HONOURED, *file_options(table.tasks), "help"}
    for action in parser._actions:
        if action.dest not in known:
            action.help = argparse.SUPPRESS
    add_plain_options(parser)
    parser.add_argument("--plain_amp", action="store_true", help="compute in bfloat16, not float32")
    parser.add_argument("--joint", action="store_true", help="one model for all tasks, in turns")
    parser.set_defaults(script=TRANSFORMERS)
    parser.for_table = get_args_parser
    return parser


def parse(argv: list[str] | None = None) -> Namespace:
    """Return the options. Those that the plain loop cannot honour end in `parser.error`."""
    parser = get_args_parser()
    options = parse_args(parser, argv)
    known = {*HONOURED, *IGNORED, *OWN, *file_options(options.table.tasks)}
    for action in parser._actions:
        if action.dest in {*options.given} - known:
            parser.error(f"{action.option_strings[0]}: the plain loop does not have it; drop it")
    return options


if __name__ == "__main__":
    OPTIONS = read_command_line(parse)
    sys.exit(exit_status(lambda: main(OPTIONS)))
