"""Which options go together. Parsers and tests read the tables of this file."""

from argparse import Namespace
from collections.abc import Callable
from math import gcd
from typing import NamedTuple

from options.choices import TASK_SCHEDULERS
from options.task_table import file_options

SAMPLED = ("random", "pal", "temperature")  # task schedulers that draw tasks at random
# Loss weightings that compare the tasks of an update, by their losses and gradients.
NEED_ALL_TASKS = ("gradnorm", "famo")


class Contradiction(NamedTuple):
    """Options that cannot go together.

    Attributes:
        flags: a command line that is refused.
        holds: whether options are refused.
        message: what is wrong, and what to do.
        is_recent: whether runs of earlier versions may have such options; they stay readable.
    """

    flags: str
    holds: Callable[[Namespace], object]
    message: str
    is_recent: bool = False


def trained(args: Namespace) -> list[str]:
    """Return the names of the tasks that are trained."""
    return [name for name in (args.task_scheduler,) if name in args.tasks] or list(args.tasks)


def heads(args: Namespace) -> set[str]:
    """Return the keys of the heads of the tasks that are trained."""
    return {args.tasks[name].heads[args.pair_encoding] for name in trained(args)}


def is_sampled(args: Namespace) -> bool:
    """Tell whether the task scheduler draws tasks at random."""
    return args.task_scheduler in SAMPLED


def num_trained(args: Namespace) -> int:
    """Return how many tasks are trained."""
    return len(trained(args))


def num_epochs(args: Namespace) -> int:
    """Return how many epochs a run makes at most; --smoketest changes their number."""
    return 1 + (args.unfreeze_interval or 0) if args.smoketest else int(args.epochs)


def has_all_tasks(args: Namespace) -> bool:
    """Tell whether every update trains on every task."""
    return args.task_scheduler == "joint" or args.projection != "none"


def needs_gradients(args: Namespace) -> bool:
    """Tell whether an option needs the tasks' gradients of the shared parameters one by one."""
    return args.projection != "none" or args.log_conflicts or args.loss_weighting in NEED_ALL_TASKS


def trains_features(args: Namespace) -> bool:
    """Tell whether there are parameters to train between a frozen encoder and the heads."""
    return args.extension != "none" or args.train_mode == "all_pooled" or args.additional_input


CONTRADICTIONS = (
    Contradiction(
        "--option pretrain --no_train_classifier",
        lambda a: a.option == "pretrain"
        and not (a.train_classifier or a.use_pal or trains_features(a) or a.unfreeze_interval),
        "--option pretrain with --no_train_classifier leaves nothing to train; drop one",
    ),
    Contradiction(
        "--task sts --pair_encoding bi --option pretrain",
        lambda a: a.option == "pretrain"
        and heads(a) == {"cosine"}
        and not (a.use_pal or trains_features(a) or a.unfreeze_interval),
        "a cosine head has no parameters, so --option pretrain leaves nothing to train; use "
        "--pair_encoding cross or --option finetune",
    ),
    Contradiction(
        "--samples_per_epoch 10 --num_batches_per_epoch 10",
        lambda a: a.samples_per_epoch is not None and a.num_batches_per_epoch is not None,
        "--samples_per_epoch and --num_batches_per_epoch both set the length of an epoch; drop one",
    ),
    Contradiction(
        "--batch_size 8 --micro_batch_size 9",
        lambda a: a.micro_batch_size is not None and a.micro_batch_size > a.batch_size,
        "--micro_batch_size splits a batch, so it must be at most --batch_size; make it smaller",
    ),
    Contradiction(
        "--resume runs/a --checkpoint best.pt",
        lambda a: a.resume is not None and a.checkpoint is not None,
        "--resume continues with the weights of its run and --checkpoint starts from others; drop "
        "one",
    ),
    Contradiction(
        "--task sst --task_weights para=2",
        lambda a: a.task_weights.keys() - a.tasks.keys(),
        "--task_weights names a task that is not trained; name only tasks that are",
    ),
    Contradiction(
        "--task sst --para_train other.csv",
        lambda a: set(a.given) & set(file_options(a.table.tasks.keys() - a.tasks.keys())),
        "a file is given for a task that --task leaves out; drop it, or name the task",
        is_recent=True,
    ),
    Contradiction(
        "--task_scheduler pal --projection pcgrad",
        lambda a: is_sampled(a) and a.projection != "none" and a.combine_strategy == "none",
        "--task_scheduler random, pal or temperature with a projection needs --combine_strategy "
        "force or encourage",
    ),
    Contradiction(
        "--task_scheduler pal --combine_strategy force",
        lambda a: a.combine_strategy != "none" and not (is_sampled(a) and a.projection != "none"),
        "--combine_strategy needs --task_scheduler random, pal or temperature, and a projection; "
        "add them, or drop it",
    ),
    Contradiction(
        "--task_scheduler pal --projection pcgrad --combine_strategy force --batches_per_update 3",
        lambda a: a.combine_strategy != "none" and a.batches_per_update <= num_trained(a),
        "--batches_per_update must be larger than the number of tasks",
    ),
    Contradiction(
        "--task sst --projection pcgrad",
        lambda a: a.projection != "none" and num_trained(a) < 2,
        "a projection needs at least two tasks; drop --projection, or train on more tasks",
    ),
    Contradiction(
        "--task sst --loss_weighting uncertainty",
        lambda a: a.loss_weighting != "none" and num_trained(a) < 2,
        "--loss_weighting weighs several tasks against each other; drop it, or train on more tasks",
    ),
    Contradiction(
        "--task_scheduler round_robin --loss_weighting gradnorm",
        lambda a: a.loss_weighting in NEED_ALL_TASKS and not has_all_tasks(a),
        "--loss_weighting gradnorm and famo need all tasks in every update; use --task_scheduler "
        "joint or a --projection",
    ),
    Contradiction(
        "--loss_weighting dwa --epochs 2",
        lambda a: a.loss_weighting == "dwa" and a.epochs < 3 and not a.smoketest,
        "--loss_weighting dwa needs the losses of two epochs, so fewer than three are trained "
        "without it; add --epochs 3 or more (shorter ones by --samples_per_epoch)",
        is_recent=True,
    ),
    Contradiction(
        "--option pretrain --projection pcgrad",
        lambda a: a.option == "pretrain"
        and not (a.use_pal or trains_features(a))
        and needs_gradients(a),
        "--option pretrain freezes all shared parameters, so --projection, --log_conflicts and "
        "--loss_weighting gradnorm or famo have no gradients; drop one",
    ),
    Contradiction(
        "--option pretrain --unfreeze_interval 1 --extension cnn --projection pcgrad",
        lambda a: a.unfreeze_interval is not None and needs_gradients(a),
        "--unfreeze_interval changes which parameters are shared, but a projection, "
        "--log_conflicts and --loss_weighting gradnorm or famo need the same ones throughout; drop "
        "one",
    ),
    Contradiction(
        "--option pretrain --unfreeze_interval 2 --epochs 2",
        lambda a: a.unfreeze_interval is not None and a.unfreeze_interval >= a.epochs,
        "--unfreeze_interval is the number of epochs before the first layer is trained, so it must "
        "be smaller than --epochs; give more epochs or a smaller interval",
    ),
    Contradiction(
        "--train_mode all_pooled --extension attention",
        lambda a: a.train_mode == "all_pooled" and (a.extension != "none" or "pooling" in a.given),
        "--train_mode all_pooled leaves no sequence for --extension or --pooling; drop them",
    ),
    Contradiction(
        "--extension attention --pooling max",
        lambda a: a.extension == "attention" and "pooling" in a.given,
        "--extension attention leaves no sequence for --pooling; drop one",
    ),
    Contradiction(
        "--combined_models --use_pal",
        lambda a: a.combined_models and (a.use_pal or a.lora_rank is not None),
        "--combined_models has four encoders; --use_pal and --lora_rank work with one; drop one",
    ),
    Contradiction(
        "--lora_rank 4 --use_pal",
        lambda a: a.lora_rank is not None and a.use_pal,
        "--lora_rank and --use_pal are two ways to adapt one encoder; drop one",
    ),
    Contradiction(
        "--lora_rank 4 --option pretrain",
        lambda a: a.lora_rank is not None and a.option == "pretrain",
        "--lora_rank freezes the encoder itself, all but its low-rank updates; drop --option "
        "pretrain",
    ),
    Contradiction(
        "--lora_rank 4 --lora_per_task --task sst",
        lambda a: a.lora_per_task and num_trained(a) < 2,
        "--lora_per_task tells several tasks apart; drop it, or train on more tasks",
    ),
    Contradiction(
        "--lora_rank 4 --lora_per_task --projection pcgrad",
        lambda a: a.lora_per_task and not trains_features(a) and needs_gradients(a),
        "--lora_per_task leaves no shared parameters, so --projection, --log_conflicts and "
        "--loss_weighting gradnorm or famo have no gradients; drop one",
    ),
    Contradiction(
        "--option pretrain --gradient_checkpointing",
        lambda a: a.gradient_checkpointing
        and a.option == "pretrain"
        and not (a.use_pal or a.additional_input or a.unfreeze_interval),
        "--gradient_checkpointing saves what a backward pass through the encoder needs, and "
        "--option pretrain has none; drop one",
    ),
    Contradiction(
        "--lora_rank 4 --lora_per_task --compile",
        lambda a: a.lora_per_task and a.compile,
        "--lora_per_task would compile the layers for every task anew; drop it or --compile",
    ),
    Contradiction(
        "--compile --gradient_checkpointing",
        lambda a: a.compile and a.gradient_checkpointing,
        "--gradient_checkpointing repeats a forward pass with the same dropout masks, which "
        "compiled layers do not keep; drop one",
    ),
    Contradiction(
        "--combined_models --option pretrain",
        lambda a: a.combined_models and a.option == "pretrain",
        "--combined_models starts from equal encoders, which --option pretrain would keep equal; "
        "use --option finetune",
    ),
    Contradiction(
        "--compile --use_smart_regularization",
        lambda a: a.compile and (a.use_smart_regularization or a.loss_weighting == "famo"),
        "--use_smart_regularization and --loss_weighting famo repeat a forward pass with the same "
        "dropout masks, which compiled layers do not keep; drop --compile",
        is_recent=True,
    ),
    Contradiction(
        "--use_smart_regularization --rdrop_weight 1",
        lambda a: a.use_smart_regularization and a.rdrop_weight,
        "--use_smart_regularization and --rdrop_weight both compare the outputs of two passes; "
        "drop one",
    ),
    Contradiction(
        "--option pretrain --layer_decay .9",
        lambda a: a.layer_decay != 1
        and a.option == "pretrain"
        and not (a.use_pal or a.unfreeze_interval),
        "--layer_decay sets the rates of the encoder's layers, and --option pretrain trains none; "
        "drop one",
    ),
    Contradiction(
        "--pair_encoding bi --symmetric_pairs",
        lambda a: a.symmetric_pairs
        and (a.pair_encoding == "bi" or not any(t.is_unordered_pair for t in a.tasks.values())),
        "--symmetric_pairs needs a task whose pairs have no order, and --pair_encoding cross, "
        "because the heads of bi are symmetric; drop it",
    ),
    Contradiction(
        "--task_scheduler joint --loss_weighting famo --optimizer sophiah",
        lambda a: a.loss_weighting == "famo" and a.optimizer == "sophiah",
        "--loss_weighting famo compares two forward passes, of which --optimizer sophiah computes "
        "some in another precision and with other dropout masks; use --optimizer adamw",
        is_recent=True,
    ),
    Contradiction(
        "--compile --optimizer sophiah",
        lambda a: a.compile and a.optimizer == "sophiah",
        "--optimizer sophiah needs second derivatives, which compiled layers do not have; drop "
        "--compile",
    ),
    Contradiction(
        "--task sts --class_weights",
        lambda a: a.class_weights
        and not any(a.tasks[name].has_named_classes for name in trained(a)),
        "--class_weights needs named classes, and no trained task has them; drop it",
    ),
    Contradiction(
        "--task_scheduler round_robin --optimizer sophiah --hess_interval 9",
        lambda a: a.optimizer == "sophiah"
        and a.task_scheduler == "round_robin"
        and a.projection == "none"
        and gcd(a.hess_interval, num_trained(a)) > 1,
        "--hess_interval and the number of tasks that take turns have a common factor, so some "
        "task would never be in an estimate; choose another interval, 10 for example",
    ),
    Contradiction(
        "--hpo --resume runs/a",
        lambda a: (a.hpo or a.hpo_resume is not None) and a.resume is not None,
        "--resume continues a run and --hpo is about a search; to continue a search, give "
        "--hpo_resume alone",
    ),
    Contradiction(
        "--hpo --hpo_resume runs/search",
        lambda a: a.hpo and a.hpo_resume is not None,
        "--hpo starts a search, and --hpo_resume continues one; drop one",
    ),
    Contradiction(
        "--hpo --hpo_gpus 1",
        lambda a: a.hpo and bool(a.hpo_gpus) and not a.use_gpu,
        "--hpo_gpus reserves a GPU for each trial, which only --use_gpu uses; add that, or drop it",
    ),
    Contradiction(
        "--hpo --use_gpu --hpo_gpus 2",
        lambda a: a.hpo and a.hpo_gpus is not None and a.use_gpu and not 0 < a.hpo_gpus <= 1,
        "--hpo_gpus must be above 0 and at most 1, because a trial is one process",
    ),
    Contradiction(
        "--hpo --filepath weights",
        lambda a: a.hpo and (a.filepath is not None or a.predictions_path is not None),
        "--hpo makes a run directory for every trial, but --filepath and --predictions_path would "
        "be the same for all; drop them",
    ),
    Contradiction(
        "--task sst --task_scheduler para",
        lambda a: a.task_scheduler not in {*TASK_SCHEDULERS, *a.tasks},
        "--task and --task_scheduler name different tasks; name the same, or drop one",
    ),
    Contradiction(
        "--log_conflicts",
        lambda a: a.log_conflicts
        and (num_trained(a) < 2 or (a.projection == "none" and a.task_scheduler != "joint")),
        "--log_conflicts needs several tasks in every update; use --task_scheduler joint or a "
        "--projection",
    ),
)


def contradiction_of(args: Namespace, is_saved: bool = False) -> str | None:
    """Return what is wrong with these options together; None if nothing is.

    Args:
        args: the options.
        is_saved: whether they are those of an existing run.
    """
    for contradiction in CONTRADICTIONS:
        if not (is_saved and contradiction.is_recent) and contradiction.holds(args):
            return contradiction.message
    return None
