"""Every option of a run: the parsers of the two entry scripts.

They stand here, and not in the scripts, because a run that is resumed or evaluated has its options
checked by the same parsers.
"""

import argparse
from collections.abc import Callable
from functools import partial

from options.choices import (
    BUNDLED,
    FEATURES,
    HUB_IDS,
    LR_SCHEDULES,
    OPTIMIZERS,
    PAIR_ENCODINGS,
    POOLINGS,
    TRAIN_MODES,
)
from options.data_options import add_data_options
from options.parsing import ArgumentParser
from options.search_options import add_search_options
from options.task_table import TaskTable, built_in_table
from options.techniques import add_technique_options, joint_defaults
from options.types import (
    count,
    few,
    fraction,
    non_negative_float,
    plain_name,
    positive_float,
    positive_int,
    printable,
    probability,
    rate,
    seed,
    task_weight,
)

DESCRIPTION = "Train one BERT encoder on all tasks jointly: every task in every update."
PAL_DESCRIPTION = (
    "Train with task schedulers, gradient surgery, SMART and projected attention layers."
)


def get_args_parser(table: TaskTable | None = None, add_help: bool = True) -> ArgumentParser:
    """Return the parser of every option that both entry scripts share.

    Args:
        table: the tasks, whose files have flags; None for the built-in ones.
        add_help: whether there is --help.
    """
    tasks = (table or built_in_table()).tasks
    parser = ArgumentParser(
        description=DESCRIPTION,
        add_help=add_help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data_options(parser, tasks)

    add = parser.add_argument_group("model").add_argument
    names = ", ".join([BUNDLED, *HUB_IDS])
    add(
        "--model_name",
        type=printable,
        default=BUNDLED,
        help=f"{names}, a hub id, or a local directory",
    )
    add("--local_files_only", action="store_true", help="never ask the hub, only its local cache")
    add(
        "--option",
        choices=["finetune", "pretrain"],
        default="finetune",
        help="finetune: train everything; pretrain: freeze the encoder, train features and heads",
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
        help="states to read: the last layer's, the mean of some layers', every layer's [CLS]",
    )
    add(
        "--layers",
        nargs="+",
        type=positive_int,
        metavar="LAYER",
        help="layers of --train_mode single_layers, counted from 1; unset: the last four",
    )
    add("--extension", choices=FEATURES, default="none", help="module on top of these states")
    add("--pooling", choices=POOLINGS, default="mean", help="how token states become one vector")
    add(
        "--segment_length",
        type=positive_int,
        default=34,
        help="tokens per segment of --extension hierarchical, special tokens included",
    )
    add(
        "--additional_input",
        action="store_true",
        help="add embeddings of part-of-speech and entity tags (needs spaCy)",
    )
    add(
        "--combined_models",
        action="store_true",
        help="mix three encoders by the weights of a fourth; about four times the time",
    )
    add("--n_hidden_layers", type=few, default=0, help="hidden layers of each head")
    add("--add_layers", type=few, default=0, help="further hidden layers of heads for classes")
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
        help="under --option pretrain, epochs after which one more layer is trained, from the "
        "top; unset: never",
    )
    add(
        "--checkpoint",
        type=printable,
        metavar="FILE",
        help="start from the weights of a best.pt or last.pt",
    )

    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--epochs", type=positive_int, default=2, help="number of epochs; see --samples_per_epoch")
    add(
        "--samples_per_epoch",
        type=positive_int,
        help="examples per task and epoch, N times the number of tasks in all; unset: as many as "
        "the files hold",
    )
    add(
        "--num_batches_per_epoch",
        type=positive_int,
        help="updates per epoch, in place of --samples_per_epoch",
    )
    add(
        "--batch_size",
        type=positive_int,
        default=16,
        help="examples per batch; an update has one batch per task, or one where tasks take turns",
    )
    add(
        "--micro_batch_size",
        type=positive_int,
        help="examples in memory at once, all workers together; gradients stay the same; unset: "
        "the whole batch",
    )
    add(
        "--gradient_checkpointing",
        action="store_true",
        help="keep only the inputs of the encoder's layers for the backward pass, which computes "
        "the rest again: less memory, the same gradients, more time",
    )
    add(
        "--task_weights",
        nargs="+",
        type=partial(task_weight, tasks),
        default=[],
        metavar="TASK=WEIGHT",
        help="factor of a task's loss; unset: 1 for each",
    )
    add(
        "--class_weights",
        action="store_true",
        help="weight each named class of a task by the inverse of its number of training examples",
    )
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="update rule")
    add(
        "--lr",
        type=positive_float,
        help="peak learning rate; unset: 2e-4 for encoders narrower than 768, else 3e-5; "
        "1e-3 with --option pretrain or --lora_rank; a quarter of it with --optimizer sophiah",
    )
    add(
        "--rho",
        type=positive_float,
        default=0.01,
        help="SophiaH's gamma, the weight of the curvature; larger: smaller steps (paper: 0.01)",
    )
    add(
        "--hess_interval",
        type=positive_int,
        default=10,
        help="updates between two Hessian estimates of SophiaH (paper: 10)",
    )
    add(
        "--weight_decay",
        type=non_negative_float,
        default=0.01,
        help="weight decay of matrices, not of biases and LayerNorms; 0: off",
    )
    add(
        "--layer_decay",
        type=rate,
        default=1.0,
        help="factor from the learning rate of a layer to that of the one below; heads and "
        "features keep --lr; 1: off (ELECTRA: 0.8 or 0.9)",
    )
    add("--clip", type=non_negative_float, default=1.0, help="largest norm of the gradient; 0: off")
    add(
        "--scheduler",
        type=str.lower,
        choices=LR_SCHEDULES,
        default="linear_warmup",
        help="learning-rate schedule; plateau follows the mean dev score; none: constant",
    )
    add(
        "--warmup_fraction",
        type=probability,
        default=0.1,
        help="share of all updates that warm up; 0: no warm-up",
    )
    add(
        "--restarts",
        type=count,
        default=0,
        help="number of restarts of --scheduler cosine; 0: none",
    )
    add(
        "--average_weights",
        type=fraction,
        metavar="D",
        help="evaluate and save an exponential moving average of the weights; D in (0, 1) is its "
        "decay per update, for example 0.99; unset: off",
    )
    add(
        "--patience",
        type=count,
        help="stop after more than so many epochs without a better dev mean; unset: never",
    )
    add("--seed", type=seed, default=0, help="seed of everything random")
    add(
        "--use_gpu",
        action="store_true",
        help="train on CUDA, or on a Mac's MPS; an error without either; off: on the CPU",
    )
    precision = training.add_mutually_exclusive_group()
    precision.add_argument(
        "--use_amp",
        action="store_true",
        default=None,
        help="compute in bfloat16; unset: CUDA from 8.0 on, CPUs with AMX or AMD's AVX512_BF16",
    )
    precision.add_argument(
        "--no_use_amp",
        dest="use_amp",
        action="store_false",
        default=None,
        help="compute in float32",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the encoder's layers with torch.compile, which takes a while at first and "
        "needs a C++ compiler",
    )
    add(
        "--smoketest",
        action="store_true",
        help="tiny sizes, every part: 2 updates of 2 examples per task, 8 dev and 8 test rows",
    )

    add = parser.add_argument_group("evaluation and output").add_argument
    add("--dev_samples", type=positive_int, help="dev rows per task after each epoch; unset: all")
    add(
        "--symmetric_pairs",
        action="store_true",
        help="predict a pair whose order has no meaning by the mean logits of both orders; twice "
        "the time of such predictions",
    )
    add("--logdir", type=printable, default="runs", help="where run directories are made")
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
    add(
        "--filepath",
        type=printable,
        metavar="DIR",
        help="folder of the checkpoints; unset: checkpoints in the run directory",
    )
    add(
        "--predictions_path",
        type=printable,
        metavar="DIR",
        help="folder of the prediction files; unset: predictions in the run directory",
    )
    add("--no_test_predictions", action="store_true", help="do not read or predict the test files")
    add("--save_every", type=positive_int, help="updates between checkpoints; unset: one epoch")
    add(
        "--resume",
        type=printable,
        metavar="DIR",
        help="resume an interrupted run exactly where it stopped",
    )
    add_search_options(parser)
    parser.set_defaults(script="train_multitask.py", fingerprint=None, **joint_defaults())
    parser.for_table = get_args_parser
    return parser


def get_pal_args_parser(table: TaskTable | None = None) -> ArgumentParser:
    """Return the parser of train_multitask_pal.py: that of train_multitask.py, and techniques."""
    table = table or built_in_table()
    parser = ArgumentParser(
        description=PAL_DESCRIPTION,
        parents=[get_args_parser(table, add_help=False)],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_technique_options(parser, table.tasks)
    parser.set_defaults(script="train_multitask_pal.py")
    parser.for_table = get_pal_args_parser
    return parser


# Entry script -> its parser.
PARSERS: dict[str, Callable[..., ArgumentParser]] = {
    "train_multitask.py": get_args_parser,
    "train_multitask_pal.py": get_pal_args_parser,
}
