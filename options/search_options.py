"""The options of a hyper-parameter search."""

import argparse

from options.types import non_negative_float, positive_int, printable


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of a search to a parser."""
    add = parser.add_argument_group("hyper-parameter search").add_argument
    add("--hpo", action="store_true", help="search options with Ray Tune, then train the best")
    add("--hpo_trials", type=positive_int, default=20, help="number of configurations to try")
    add("--hpo_only", action="store_true", help="search only; do not train the best options")
    add("--hpo_resume", type=printable, metavar="DIR", help="resume a search; finished trials stay")
    add(
        "--hpo_space",
        type=printable,
        metavar="FILE",
        help="JSON that narrows what is searched; unset: all of it",
    )
    add("--hpo_cpus", type=positive_int, default=1, help="CPU cores, and threads, of a trial")
    add("--hpo_gpus", type=non_negative_float, help="GPUs of a trial; unset: 1 with --use_gpu")
    add("--hpo_concurrent", type=positive_int, help="trials at once; unset: as many as fit")
    add(
        "--ray_address",
        type=printable,
        help="auto or HOST:PORT of a running Ray; unset: one for this search",
    )
