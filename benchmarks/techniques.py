"""Cost of every technique over the plain sum of task losses: time per update and peak memory.

    python -m benchmarks.techniques --data_dir data

All arms train the same real batches, one of every task in each update, in one process and in turns,
round by round; a ratio is the median over the rounds. Memory is above the plain sum's, in float32
copies of the shared parameters.
"""

import argparse
import os
import shlex
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import peak_memory
from datasets import load_data
from engine import train_one_epoch
from inputs.batches import TokenizedTask
from models import build_model
from models.pal import default_pal_size
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
from train_multitask_pal import get_args_parser
from training import build_training

PLAIN = "plain sum"
SMART = "--use_smart_regularization"
ARMS = {  # name: (flags, whether conflicts are logged)
    PLAIN: ("--task_scheduler joint", False),
    "conflict log": ("--task_scheduler joint --log_conflicts", True),
    "pcgrad": ("--projection pcgrad", False),
    "pcgrad, conflict log": ("--projection pcgrad", True),
    "vaccine": ("--projection vaccine", False),
    "vaccine, conflict log": ("--projection vaccine", True),
    "smart": (f"--task_scheduler joint {SMART}", False),
    "smart, bregman": (f"--task_scheduler joint {SMART} --smart_mu 1", False),
    "sophiah": ("--task_scheduler joint --optimizer sophiah", False),
    "pal": ("--task_scheduler joint --use_pal", False),
    "pcgrad, pal": ("--projection pcgrad --use_pal", False),
    "pcgrad, smart": (f"--projection pcgrad {SMART}", False),
    "vaccine, sophiah, pal": ("--projection vaccine --optimizer sophiah --use_pal", False),
}


class Arm:
    """One technique in our own loop, on the batches that the seed gives; events: where its
    TensorBoard events go, None for nowhere."""

    def __init__(
        self, options: Namespace, name: str, data: dict[str, TokenizedTask], events: str | None
    ) -> None:
        flags, self.logs_conflicts = ARMS[name]
        self.training = build(options, flags, data)
        if self.training.conflicts is not None and not self.logs_conflicts:
            self.training.projection.observe = lambda inner: None
        self.log = RunLog(Path(events or "."), Path(events) / name if events else None)

    def run(self, num_updates: int) -> None:
        self.training.updates_per_epoch = num_updates
        self.training.progress.update = 0
        train_one_epoch(self.training, self.log, save=lambda: None)
        if self.logs_conflicts:
            done = self.training.progress.total_updates
            self.log.conflicts(self.training.conflicts, done - num_updates)


def parse(options: Namespace, flags: str) -> Namespace:
    """Entry 2's options for one arm."""
    sizes = f"--model_name {options.model_name} --batch_size {options.batch_size} --lr 1e-5"
    words = ["--data_dir", options.data_dir, *shlex.split(f"{sizes} {flags}")]
    args = parse_args(get_args_parser(), words)
    args.tasks = list(TASKS)
    return args


def build(options: Namespace, flags: str, data: dict[str, TokenizedTask]):
    args = parse(options, flags)
    directory = find_checkpoint(args.model_name)
    torch.manual_seed(args.seed)
    config = load_config(directory)
    args.pal_size = default_pal_size(config.hidden_size)
    model = build_model(args, load_encoder(directory, config))
    return build_training(args, model, data)


def main(options: Namespace) -> None:
    torch.set_num_threads(options.threads)
    args = parse(options, "")
    directory = find_checkpoint(args.model_name)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory, config)
    data = load_data(args, tokenizer, config.pad_token_id, ("train",))["train"]
    chosen = [name for name in ARMS if name in (options.only or ARMS) or name == PLAIN]
    silent = {name: partial(Arm, options, name, data, None) for name in chosen}
    peak_memory(silent[PLAIN], 1)  # libraries' own buffers, once
    peaks = {name: peak_memory(build_arm, 2) for name, build_arm in silent.items()}
    events = tempfile.TemporaryDirectory()
    arms = {name: Arm(options, name, data, events.name) for name in chosen}
    seconds = {name: [] for name in arms}
    for round_number in range(options.rounds + 1):
        for name, arm in arms.items():
            started = time.perf_counter()
            arm.run(options.updates)
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    shared = sum(p.numel() for p in arms[PLAIN].training.model.shared_parameters())
    print(f"\n{'technique':<24}{'time':>7}{'rounds':>16}{'memory':>9}")
    for name in arms:
        ratios = np.array(seconds[name]) / np.array(seconds[PLAIN])
        copies = (peaks[name] - peaks[PLAIN]) * 2**20 / (4 * shared)
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        print(f"{name:<24}{np.median(ratios):>7.2f}{spread:>16}{copies:>+9.1f}")
        arms[name].log.writer.close()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="where the nine files are")
    parser.add_argument("--model_name", default=BUNDLED, help="a BERT checkpoint")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="examples a batch")
    parser.add_argument("--only", nargs="+", choices=ARMS, help="these techniques, not all")
    parser.add_argument("--rounds", type=positive_int, default=3, help="turns of each arm")
    parser.add_argument("--updates", type=positive_int, default=10, help="updates a round")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads")
    main(parser.parse_args())
