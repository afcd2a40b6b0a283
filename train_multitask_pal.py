"""Train with task schedulers, gradient surgery, SMART and projected attention layers.

    python train_multitask_pal.py --projection pcgrad
    python train_multitask_pal.py --task_scheduler pal --combine_strategy force --projection vaccine
    python train_multitask_pal.py --use_smart_regularization --smart_mu 1
    python train_multitask_pal.py --use_pal --option pretrain
    python train_multitask_pal.py --optimizer sophiah --log_conflicts

Every option of train_multitask.py works here too; the run itself is the same `main`.
"""

import argparse
import sys

from errors import exit_status
from optimizers import PROJECTIONS
from option_types import multiple_of_six, non_negative_float, positive_float, positive_int, rate
from options import ArgumentParser, parse_args
from task_schedulers import COMBINE_STRATEGIES, TASK_SCHEDULERS
from train_multitask import get_args_parser as get_joint_args_parser
from train_multitask import main


def get_args_parser(add_help: bool = True) -> ArgumentParser:
    """The options of train_multitask.py and those of the techniques."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        parents=[get_joint_args_parser(add_help=False)],
        add_help=add_help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument_group("task schedulers and gradient surgery").add_argument
    add(
        "--task_scheduler",
        choices=TASK_SCHEDULERS,
        default="round_robin",
        help="which tasks an update trains on; a task's name: that task alone, all are evaluated",
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
        help="how random and pal fill an update under a projection",
    )
    add(
        "--batches_per_update",
        type=positive_int,
        default=16,
        help="batches in such an update, more than tasks",
    )
    add("--beta_vaccine", type=rate, default=0.01, help="rate of GradVac's target (paper: 0.01)")
    add(
        "--vaccine_groups",
        choices=["whole_model", "layer"],
        default="whole_model",
        help="what GradVac treats by itself",
    )
    add(
        "--log_conflicts",
        action="store_true",
        help="log the cosines of task gradients also without a projection",
    )
    add = parser.add_argument_group("projected attention layers").add_argument
    add("--use_pal", action="store_true", help="a small attention beside every layer, one a task")
    add(
        "--pal_size",
        type=multiple_of_six,
        help="their width; unset: 6 · round(34 · H / 768), 204 at BERT-base as in the paper",
    )
    add = parser.add_argument_group("SMART regularization").add_argument
    add("--use_smart_regularization", action="store_true", help="smoothness penalty on each loss")
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
    parser.set_defaults(script="train_multitask_pal.py")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(parse_args(get_args_parser()))))
