"""What the benchmarks share: their options, and arms built as the entry scripts build a run."""

import argparse
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NoReturn

import torch

from datasets import read_examples, task_file, tokenize
from engine import train_one_epoch
from inputs.batches import TokenizedTask
from models import MultitaskBert, build_model
from models.pretrained import BUNDLED
from options.parsing import ArgumentParser, parse_args
from options.types import positive_int
from reporting.run_log import RunLog
from reporting.start import Start, open_run
from runtime.device import choose_cuda_kernels, select_device
from runtime.errors import exit_status
from train_multitask_pal import get_args_parser as get_entry_parser
from training import Training

COUNTS = {  # option that several benchmarks have -> its help
    "rows": "training rows per task, from the top of the file; unset: all",
    "batch_size": "examples per batch",
    "rounds": "timed rounds, in each of which every arm has its turn",
    "updates": "updates of an arm in each round",
    "threads": "CPU threads",
}


def shared_parser(doc: str | None, **defaults: int | None) -> ArgumentParser:
    """Return the parser of a benchmark.

    Args:
        doc: the benchmark's docstring, whose first line describes it; None under python -OO.
        defaults: the options of `COUNTS` that the benchmark has, with their defaults.
    """
    parser = ArgumentParser(
        description=(doc or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, help="folder of the nine files")
    parser.add_argument("--model_name", default=BUNDLED, help="as for train_multitask.py")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=positive_int, default=default, help=COUNTS[name])
    return parser


def add_use_gpu(parser: ArgumentParser) -> None:
    """Add --use_gpu to a benchmark's options."""
    parser.add_argument(
        "--use_gpu", action="store_true", help="compute on the GPU, and measure its memory"
    )


def run_benchmark(main: Callable[[Namespace], None], options: Namespace) -> NoReturn:
    """Run `main` and exit; an error that the user can fix is one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(exit_status(lambda: main(options)))


def open_arm(options: Namespace, flags: str = "") -> Start:
    """Resolve the options of one arm as `main` does for a new run.

    Args:
        options: the benchmark's options.
        flags: the arm's own flags of train_multitask_pal.py.

    Raises:
        InputError: there is no such encoder, or the flags do not fit it.
    """
    words = ["--data_dir", options.data_dir, "--model_name", options.model_name, *flags.split()]
    words += ["--use_gpu"] * getattr(options, "use_gpu", False)
    words += ["--logdir", tempfile.gettempdir()]  # a name is taken there while the run opens
    args = parse_args(get_entry_parser(), words)
    with redirect_stdout(None), open_run(args) as start:  # it prints the data's folder, per arm
        return start


def load_rows(
    start: Start, num_rows: int | None = None, split: str = "train"
) -> dict[str, TokenizedTask]:
    """Return the rows of a split of every task, or the first `num_rows` of them.

    Raises:
        InputError: a file is missing or has a bad row.
    """
    args, data = start.args, {}
    for name, task in args.tasks.items():
        examples = read_examples(task_file(args, task, split), task, require_labels=True)
        examples = examples[:num_rows]
        data[name] = tokenize(args, task, examples, start.tokenizer, start.config.pad_token_id)
    return data


def build_seeded_model(start: Start) -> MultitaskBert:
    """Return the arm's model on its device; two arms with the same flags get the same weights."""
    torch.manual_seed(start.args.seed)
    device = select_device(start.args.use_gpu)
    return build_model(start.args, start.build_encoder()).to(device)


def run_updates(training: Training, log: RunLog, num_updates: int) -> None:
    """Run the next `num_updates` updates through the training loop, without an evaluation."""
    training.updates_per_epoch = num_updates
    training.progress.update = 0
    train_one_epoch(training, log, save=lambda: None)


@contextmanager
def event_log() -> Iterator[RunLog]:
    """Yield a log whose TensorBoard events go to a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        log = RunLog(Path(directory), Path(directory))
        yield log
        log.writer.close()


def silent_log(directory: Path | str) -> RunLog:
    """Return a log that writes no events."""
    return RunLog(Path(directory), None)


@contextmanager
def kernels_of_a_run(use_gpu: bool) -> Iterator[None]:
    """On CUDA, compute inside the block with the kernels of a run, afterwards with torch's own."""
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.deterministic
    if use_gpu:
        choose_cuda_kernels()
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before[0])
        torch.backends.cudnn.deterministic = before[1]


def seconds_of(run: Callable[[], object]) -> float:
    """Return the wall-clock seconds that a call takes, a GPU's work included."""
    wait_for_gpu()
    started = time.perf_counter()
    run()
    wait_for_gpu()
    return time.perf_counter() - started


def wait_for_gpu() -> None:
    """Wait until the GPU, if this process computes on one, has done all that it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
