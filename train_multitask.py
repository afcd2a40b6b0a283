"""Train one BERT encoder on all tasks jointly: every task in every update.

python train_multitask.py                                  # the generated sample, bundled encoder
python train_multitask.py --data_dir data --run_name joint --seed 1
python train_multitask.py --task sst --pooling max --epochs 3
python train_multitask.py --resume runs/joint
python train_multitask.py @options.txt                     # arguments from a file
python train_multitask.py --hpo --hpo_trials 20            # search options, train the best
torchrun --nproc_per_node 4 train_multitask.py --use_gpu   # each batch over four GPUs
"""

import argparse
import shlex
import sys
from argparse import Namespace

import workers
from batches import PAIR_ENCODINGS, Rows
from datasets import SPLITS
from engine import fit
from errors import exit_status
from evaluation import select_device
from hpo import add_search_options, search
from interrupts import stop_on_signals
from models import FEATURES, POOLINGS, TRAIN_MODES
from models.pretrained import BUNDLED, HUB_IDS
from optimizers import LR_SCHEDULES, OPTIMIZERS
from option_types import (
    count,
    non_negative_float,
    plain_name,
    positive_float,
    positive_int,
    probability,
    task_weight,
)
from options import JOINT_DEFAULTS, ArgumentParser, parse_args
from preparation import prepare
from report import finish
from run_directory import run_lock
from run_log import build_run_log
from tasks import TASKS
from training import Training


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """Every option both entry scripts share."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        add_help=add_help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument_group("data").add_argument
    add(
        "--data_dir",
        help="where the nine files are; unset: data if all are there, else data/sample",
    )
    for task in TASKS.values():
        for split in SPLITS:
            flags = [f"--{name}_{split}" for name in (task.name, *task.aliases)]
            dest = f"{task.name}_{split}"
            add(*flags, dest=dest, metavar="FILE", help=f"{split} file of {task.name} alone")
    add("--skip_bad_rows", action="store_true", help="skip bad rows and say which; off: an error")
    choices = ["multitask", *TASKS]
    add("--task", choices=choices, default="multitask", help="train and evaluate one task alone")
    add(
        "--augment",
        type=count,
        default=0,
        help="EDA variants of each example of sst's small classes, and pairs swapped; 0: none",
    )
    add(
        "--max_length",
        type=positive_int,
        default=128,
        help="tokens, specials included; rest is cut",
    )

    add = parser.add_argument_group("model").add_argument
    names = ", ".join([BUNDLED, *HUB_IDS])
    add("--model_name", default=BUNDLED, help=f"{names}, a hub id, or a local directory")
    add("--local_files_only", action="store_true", help="never ask the hub, only its local cache")
    add(
        "--option",
        choices=["finetune", "pretrain"],
        default="finetune",
        help="finetune: train everything; pretrain: freeze the encoder, train the heads",
    )
    add(
        "--pair_encoding",
        choices=PAIR_ENCODINGS,
        default="cross",
        help="cross: a pair is one sequence; bi: each sentence is encoded by itself",
    )
    add(
        "--train_mode",
        choices=TRAIN_MODES,
        default="last_hidden_state",
        help="states that are read: the last layer's, some layers' mean, every layer's [CLS]",
    )
    add(
        "--layers",
        nargs="+",
        type=positive_int,
        metavar="LAYER",
        help="of --train_mode single_layers, counted from 1; unset: the last four",
    )
    add("--extension", choices=FEATURES, default="none", help="what works on these states")
    add("--pooling", choices=POOLINGS, default="mean", help="token states to one vector")
    add(
        "--segment_length",
        type=positive_int,
        default=34,
        help="tokens of a segment of --extension hierarchical, specials included",
    )
    add(
        "--additional_input",
        action="store_true",
        help="add embeddings of part-of-speech and entity tags (needs spaCy)",
    )
    add(
        "--combined_models",
        action="store_true",
        help="three encoders, mixed by a fourth: four times the memory and time",
    )
    add("--n_hidden_layers", type=count, default=0, help="hidden layers of each head")
    add("--add_layers", type=count, default=0, help="more hidden layers for sst's head")
    add(
        "--hidden_dropout_prob",
        type=probability,
        default=0.1,
        help="dropout of encoder (hidden states and attention) and heads; 0: off",
    )
    add(
        "--no_train_classifier",
        dest="train_classifier",
        action="store_false",
        help="freeze the heads as they were initialised",
    )
    add(
        "--unfreeze_interval",
        type=positive_int,
        help="epochs after which --option pretrain trains one more layer from the top; unset: none",
    )
    add("--checkpoint", metavar="FILE", help="start from the weights of a best.pt or last.pt")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=positive_int, default=2, help="passes; see --samples_per_epoch")
    add(
        "--samples_per_epoch",
        type=positive_int,
        help="examples a task in an epoch, N times the tasks in all; unset: every task's file size",
    )
    add("--num_batches_per_epoch", type=positive_int, help="updates in an epoch, instead")
    add("--batch_size", type=positive_int, default=16, help="examples of a task in an update")
    add(
        "--micro_batch_size",
        type=positive_int,
        help="examples of all workers in memory at once: same gradients; unset: the whole batch",
    )
    add(
        "--task_weights",
        nargs="+",
        type=task_weight,
        default=[],
        metavar="TASK=WEIGHT",
        help="factors of the tasks' losses; unset: 1 each",
    )
    add(
        "--class_weights",
        action="store_true",
        help="weigh sst's classes by the inverse of their number of training examples",
    )
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="update rule")
    add(
        "--lr",
        type=positive_float,
        help="peak learning rate; unset: 2e-4 for encoders narrower than 768, else 3e-5; "
        "1e-3 with --option pretrain; a quarter of it with --optimizer sophiah",
    )
    add(
        "--rho",
        type=positive_float,
        default=0.01,
        help="SophiaH's gamma, the curvature's weight; larger: smaller steps (paper: 0.01)",
    )
    add(
        "--hess_interval",
        type=positive_int,
        default=10,
        help="SophiaH's updates a Hessian (paper: 10)",
    )
    add("--weight_decay", type=non_negative_float, default=0.01, help="on matrices alone; 0: off")
    add("--clip", type=non_negative_float, default=1.0, help="largest gradient norm; 0: off")
    add(
        "--scheduler",
        type=str.lower,
        choices=LR_SCHEDULES,
        default="linear_warmup",
        help="learning-rate schedule; plateau looks at the mean dev score; none: constant",
    )
    add("--warmup_fraction", type=probability, default=0.1, help="of all updates; 0: no warm-up")
    add("--restarts", type=count, default=0, help="restarts of --scheduler cosine; 0: none")
    add("--patience", type=count, help="epochs without a better dev mean to bear; unset: no stop")
    add("--seed", type=count, default=0, help="of everything random")
    add("--use_gpu", action="store_true", help="train on CUDA, an error without it; off: CPU")
    add("--use_amp", action="store_true", help="bfloat16 autocast on either device; off: float32")
    add(
        "--smoketest",
        action="store_true",
        help="tiny sizes, every part: 2 updates of 2 examples a task, 8 dev and 8 test rows",
    )

    add = parser.add_argument_group("evaluation and output").add_argument
    add("--dev_samples", type=positive_int, help="dev rows a task after each epoch; unset: all")
    add("--logdir", default="runs", help="where run directories are made")
    add("--run_name", type=plain_name, help="name of the run's directory; unset: the time")
    add(
        "--tensorboard_subfolder",
        type=plain_name,
        default="tensorboard",
        help="folder of the TensorBoard events inside the run directory",
    )
    add("--write_summary", action="store_true", default=True, help="write TensorBoard events")
    add("--no_tensorboard", dest="write_summary", action="store_false", help="write no events")
    add("--profiler", action="store_true", help="profile updates 3 to 5 of the first epoch")
    add("--filepath", metavar="DIR", help="checkpoints; unset: checkpoints in the run directory")
    add(
        "--predictions_path",
        metavar="DIR",
        help="prediction files; unset: predictions in the run directory",
    )
    add("--no_test_predictions", action="store_true", help="neither read nor predict test files")
    add("--save_every", type=positive_int, help="updates between checkpoints; unset: an epoch")
    add("--resume", metavar="DIR", help="go on with an interrupted run, exactly where it was")
    add_search_options(parser)
    parser.set_defaults(script="train_multitask.py", **JOINT_DEFAULTS)
    return parser


def main(args: Namespace) -> None:
    """The whole run: search if asked to, train, evaluate the best checkpoint, predict."""
    if not (args.hpo or args.hpo_resume):  # a search's trials may run elsewhere
        select_device(args.use_gpu)
    workers.join(args.use_gpu)
    if args.hpo or args.hpo_resume:
        args = search(args)
        if args is None:
            return
    with run_lock(args.resume):
        args, training, data = prepare(args)
        with run_lock(None if args.resume else args.run_dir):
            train(args, training, data)


def train(args: Namespace, training: Training, data: dict[str, dict[str, Rows]]) -> None:
    """What is left of a prepared run."""
    log = build_run_log(args, training.progress.epoch, training.progress.total_updates)
    log.lay_out(list(data["dev"]), training.conflicts.pair_names if training.conflicts else [])
    command = f"{workers.launcher()} {args.script} --resume {shlex.quote(args.run_dir)}"
    command += " --use_gpu" * args.use_gpu
    with stop_on_signals(command) as stop:
        fit(args, training, data["dev"], log, stop.check)
        finish(args, training, data, log, stop.check)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(parse_args(get_args_parser()))))
