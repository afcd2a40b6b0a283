"""Train one BERT encoder on all tasks jointly: every task in every update.

python train_multitask.py                                  # the generated sample, bundled encoder
python train_multitask.py --data_dir data --run_name joint --seed 1
python train_multitask.py --task sst --pooling max --epochs 3
python train_multitask.py --resume runs/joint
python train_multitask.py @options.txt                     # arguments from a file
python train_multitask.py --hpo --hpo_trials 20            # search options, train the best
torchrun --nproc_per_node 4 train_multitask.py --use_gpu   # each batch over four GPUs
"""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports

# isort: split
import sys

from options.parsing import parse_args
from options.run_options import get_args_parser
from runtime.errors import exit_status, read_command_line

if __name__ == "__main__":  # before the slow imports: --help and a wrong flag are answered at once
    ARGS = read_command_line(lambda: parse_args(get_args_parser()))

# isort: split
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from datasets import load_data
from engine import fit
from evaluation import finish
from inputs.frozen_states import cache_frozen_states
from models import build_model
from reporting.run_log import build_run_log
from reporting.start import open_run
from reporting.summary import count_evaluated, print_resumed, print_start, resume_command
from restoring import restore
from runtime import checkpoint
from runtime.device import connect
from runtime.interrupts import stop_on_signals
from search.tune import search
from training import build_training


def main(args: Namespace, report: Callable[[dict], None] | None = None) -> None:
    """One run from top to bottom: data, model, training, fit, finish.

    Args:
        args: checked options, as `parse_args` returns them.
        report: told the line of every epoch. A trial of a search passes it, and ends without the
            final evaluation.
    """
    if args.hpo or args.hpo_resume is not None:
        best = search(args, main)  # every trial is a call of `main`
        if best is None:
            return
        args = best  # whose complete run follows
    device = connect(args.use_gpu)
    with open_run(args) as start:
        args = start.args

        # Data: files -> checked examples -> token ids.
        data = load_data(args, start.tokenizer, start.config.pad_token_id)

        # Model: the shared encoder, features, one head per task.
        model = build_model(args, start.build_encoder()).to(device)
        if args.checkpoint is not None and start.last is None:
            checkpoint.load_weights(args.checkpoint, model)
        data = cache_frozen_states(args, model, data)

        # Training: task scheduler, projection, regularizer, optimizer, learning-rate schedule.
        training = build_training(args, model, data["train"])
        if start.last is not None:
            restore(training, start.last)
        progress = training.progress

        # The run's directory and log.
        start.write_directory(model)
        print_start(args, model, training.updates_per_epoch)
        print_resumed(args, progress.epoch, progress.update)
        log = build_run_log(args, progress.epoch, progress.total_updates, report)
        log.begin(
            tasks=[rows.task for rows in data["dev"].values()],
            weighted_names=training.loss_weighting.names,
            projected_names=training.projection.logged_names,
            pair_names=training.conflicts.pair_names,
            num_updates=training.num_updates_left,
            num_evaluated=count_evaluated(args, data, args.epochs - progress.epoch),
        )

        # Fit, and finish with the best checkpoint.
        last = Path(args.filepath) / "last.pt"
        with stop_on_signals(resume_command(args), last, start.check_place) as stop:
            fit(args, training, data["dev"], log, stop.check)
            if report is None:
                finish(args, training, data, log, stop.check)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(ARGS)))
