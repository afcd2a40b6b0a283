"""Train with task schedulers, gradient surgery, SMART and projected attention layers.

    python train_multitask_pal.py --projection pcgrad
    python train_multitask_pal.py --task_scheduler pal --combine_strategy force --projection vaccine
    python train_multitask_pal.py --use_smart_regularization --smart_mu 1
    python train_multitask_pal.py --use_pal --option pretrain
    python train_multitask_pal.py --optimizer sophiah --log_conflicts --task_scheduler joint

Every option of train_multitask.py works here too; the run itself is the same `main`.
"""

import argparse
import sys

from options.parsing import ArgumentParser, parse_args
from options.techniques import add_technique_options
from runtime.errors import exit_status
from train_multitask import get_args_parser as get_joint_args_parser
from train_multitask import main


def get_args_parser(add_help: bool = True) -> ArgumentParser:
    """Return the parser of train_multitask.py with the options of the techniques."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        parents=[get_joint_args_parser(add_help=False)],
        add_help=add_help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_technique_options(parser)
    parser.set_defaults(script="train_multitask_pal.py")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(parse_args(get_args_parser()))))
