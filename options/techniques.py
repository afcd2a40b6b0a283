"""The options of the techniques: task schedulers, surgery, weightings, regularization, PALs, LoRA.

`train_multitask_pal.py` offers them; `train_multitask.py` fixes them to their defaults, but for the
task scheduler, which is `joint` there. So each default is written once, here.
"""

from collections.abc import Iterable
from typing import Any

from options.choices import (
    COMBINE_STRATEGIES,
    LOSS_WEIGHTINGS,
    PROJECTIONS,
    TASK_SCHEDULERS,
)
from options.parsing import ArgumentParser
from options.types import (
    batch_count,
    multiple_of_six,
    non_negative_float,
    positive_float,
    positive_int,
    rate,
)


def add_technique_options(parser: ArgumentParser, task_names: Iterable[str] = ()) -> None:
    """Add every option of the techniques to a parser; a task is also a task scheduler."""
    add = parser.add_argument_group("task schedulers and gradient surgery").add_argument
    add(
        "--task_scheduler",
        choices=[*TASK_SCHEDULERS, *task_names],
        default="round_robin",
        help="tasks that an update trains on; the name of a task: that task alone, all are "
        "evaluated",
    )
    add(
        "--temperature",
        type=positive_float,
        default=2.0,
        help="of temperature, which draws tasks in proportion to N^(1/X) for N training examples; "
        "1: to their sizes; larger: closer to random",
    )
    add(
        "--projection",
        choices=PROJECTIONS,
        default="none",
        help="gradient surgery on the shared parameters; none: the plain sum",
    )
    add(
        "--combine_strategy",
        choices=COMBINE_STRATEGIES,
        default="none",
        help="how random, pal and temperature fill an update under a projection",
    )
    add(
        "--batches_per_update",
        type=batch_count,
        default=16,
        help="batches in such an update, more than there are tasks",
    )
    add(
        "--beta_vaccine",
        type=rate,
        default=0.01,
        help="rate of GradVac's moving target (paper: 0.01)",
    )
    add(
        "--vaccine_groups",
        choices=["whole_model", "layer"],
        default="whole_model",
        help="parts of the shared parameters that GradVac treats separately",
    )
    add(
        "--cagrad_c",
        type=positive_float,
        default=0.4,
        help="how far CAGrad's direction may be from the mean gradient, as a share of its length "
        "(paper: 0.4)",
    )
    add(
        "--fairgrad_alpha",
        type=positive_float,
        default=1.0,
        help="FairGrad's kind of fairness; 1: as Nash-MTL; larger: closer to the worst task's gain "
        "alone (paper: 1 or 2)",
    )
    add(
        "--log_conflicts",
        action="store_true",
        help="log the cosines of task gradients, as every projection does; needs --task_scheduler "
        "joint without one",
    )
    add = parser.add_argument_group("loss weightings").add_argument
    add(
        "--loss_weighting",
        choices=LOSS_WEIGHTINGS,
        default="none",
        help="weights of the tasks' losses, set anew in every update (dwa: in every epoch from the "
        "third on); --task_weights multiply them",
    )
    add(
        "--loss_weighting_lr",
        type=positive_float,
        default=0.025,
        help="learning rate of what uncertainty, imtl_l, gradnorm and famo learn (papers of the "
        "last two: 0.025)",
    )
    add(
        "--gradnorm_alpha",
        type=non_negative_float,
        default=1.5,
        help="how much GradNorm favours tasks that train slowly; 0: not (paper: 1.5)",
    )
    add = parser.add_argument_group("projected attention layers").add_argument
    add(
        "--use_pal",
        action="store_true",
        help="add a small attention layer per task beside every layer of the encoder",
    )
    add(
        "--pal_size",
        type=multiple_of_six,
        help="width of these layers; unset: 6 · round(34 · H / 768), 204 at BERT-base as in the "
        "paper",
    )
    add = parser.add_argument_group("low-rank adapters").add_argument
    add(
        "--lora_rank",
        type=positive_int,
        help="freeze the encoder and train updates of this rank of its queries and values; unset: "
        "off (paper: 8)",
    )
    add(
        "--lora_alpha",
        type=positive_float,
        help="the updates are multiplied by X / --lora_rank; unset: the rank, so by 1",
    )
    add(
        "--lora_per_task",
        action="store_true",
        help="give every task updates of its own; off: the tasks share them",
    )
    add = parser.add_argument_group("SMART regularization").add_argument
    add("--use_smart_regularization", action="store_true", help="add a smoothness penalty")
    add(
        "--smart_weight_regularization",
        type=non_negative_float,
        default=1.0,
        help="weight of the penalty; 0: none (paper: 1)",
    )
    add(
        "--smart_radius",
        type=positive_float,
        default=0.01,
        help="size of the perturbation of each embedding (paper: 1e-5)",
    )
    add(
        "--smart_mu",
        type=non_negative_float,
        default=0.0,
        help="weight of the Bregman proximal point term; 0: off (paper: 1)",
    )
    add = parser.add_argument_group("R-Drop").add_argument
    add(
        "--rdrop_weight",
        type=non_negative_float,
        default=0.0,
        help="weight of the divergence between two passes with their own dropout masks; 0: off, "
        "and no second pass (paper: 0.1 to 1 on GLUE)",
    )


def joint_defaults() -> dict[str, Any]:
    """Return the values that `train_multitask.py` fixes, by option."""
    parser = ArgumentParser(add_help=False)
    add_technique_options(parser)
    return vars(parser.parse_args([])) | {"task_scheduler": "joint"}
