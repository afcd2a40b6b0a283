"""Train with task schedulers, gradient surgery, SMART and projected attention layers.

    python train_multitask_pal.py --projection pcgrad
    python train_multitask_pal.py --task_scheduler pal --combine_strategy force --projection vaccine
    python train_multitask_pal.py --use_smart_regularization --smart_mu 1
    python train_multitask_pal.py --use_pal --option pretrain
    python train_multitask_pal.py --optimizer sophiah --log_conflicts --task_scheduler joint

Every option of train_multitask.py works here too; the run itself is the same `main`.
"""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports

# isort: split
import sys

from options.parsing import parse_args
from options.run_options import get_pal_args_parser as get_args_parser
from runtime.errors import exit_status, read_command_line

if __name__ == "__main__":  # before the slow imports: --help and a wrong flag are answered at once
    ARGS = read_command_line(lambda: parse_args(get_args_parser()))

# isort: split
from train_multitask import main

if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(ARGS)))
