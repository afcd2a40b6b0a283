"""How much faster a frozen encoder trains when its states are kept (`prefix_cache`).

    python -m benchmarks.frozen --data_dir data

Both arms train the same updates of the same real rows in one process, evaluation excluded: the
first epoch, which fills the cache, and the median of the following ones, in turns.
"""

import argparse
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from datasets import read_examples, task_file, tokenize
from engine import train_one_epoch
from inputs.batches import TokenizedTask
from inputs.frozen_states import CachedRows
from models import build_model
from models.pretrained import (
    BUNDLED,
    find_checkpoint,
    load_config,
    load_encoder,
    load_tokenizer,
)
from options.parsing import parse_args
from options.types import positive_int
from reporting.run_log import RunLog
from tasks import TASKS
from train_multitask import get_args_parser
from training import Training, build_training

ARMS = {
    "mean pooling": "",
    "attention": "--extension attention",
    "bilstm": "--extension bilstm",
    "cnn": "--extension cnn",
    "hierarchical": "--extension hierarchical",
    "all layers' [CLS]": "--train_mode all_pooled",
}


def load_rows(args: Namespace, num_rows: int) -> dict[str, TokenizedTask]:
    """The first training rows of every task."""
    directory = find_checkpoint(args.model_name)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory, config)
    data = {}
    for name, task in TASKS.items():
        examples = read_examples(task_file(args, task, "train"), task)[:num_rows]
        data[name] = tokenize(args, task, examples, tokenizer, config.pad_token_id)
    return data


def build(args: Namespace, data: dict[str, TokenizedTask], is_cached: bool) -> Training:
    torch.manual_seed(args.seed)
    directory = find_checkpoint(args.model_name)
    model = build_model(args, load_encoder(directory, load_config(directory)))
    if is_cached:
        place = Path(tempfile.gettempdir())
        data = {name: CachedRows(model, rows, place) for name, rows in data.items()}
    return build_training(args, model, data)


def epoch_seconds(training: Training, log: RunLog) -> float:
    started = time.perf_counter()
    train_one_epoch(training, log, save=lambda: None)
    seconds = time.perf_counter() - started
    training.progress.finish_epoch({}, 0.0, 0.0, 0.0)
    return seconds


def main(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    log = RunLog(Path("."), None)
    print(f"{'features':<20}{'first epoch':>12}{'later epochs':>14}{'rounds':>16}")
    for name, flags in ARMS.items():
        words = f"--option pretrain --model_name {options.model_name} --epochs 99 {flags}".split()
        words += ["--batch_size", str(options.batch_size), "--data_dir", options.data_dir]
        args = parse_args(get_args_parser(), words)
        args.tasks, args.lr = list(TASKS), 1e-3
        data = load_rows(args, options.rows)
        plain, cached = build(args, data, False), build(args, data, True)
        ratios = [
            epoch_seconds(plain, log) / epoch_seconds(cached, log)
            for _ in range(options.rounds + 1)
        ]
        first, later = ratios[0], np.array(ratios[1:])
        spread = f"{later.min():.1f} to {later.max():.1f}"
        print(f"{name:<20}{first:>12.2f}{np.median(later):>14.1f}{spread:>16}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the nine files are")
    parser.add_argument("--model_name", default=BUNDLED, help="a BERT checkpoint")
    parser.add_argument("--rows", type=positive_int, default=480, help="training rows a task")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="examples a batch")
    parser.add_argument("--rounds", type=positive_int, default=3, help="epochs after the first")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads")
    main(parser.parse_args())
