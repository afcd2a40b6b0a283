"""Hyper-parameter search on Ray Tune: Optuna proposes, asynchronous HyperBand stops what lags.

    python train_multitask.py --hpo --hpo_trials 20 --samples_per_epoch 500
    python train_multitask_pal.py --hpo --hpo_space space.json --lr 1e-4     # --lr stays as given
    python train_multitask.py --hpo_resume runs/search-20260101-120000
    python train_multitask.py @runs/search-20260101-120000/best.txt --seed 1

A trial is a run like any other, in a process of its own, judged by its mean dev score after every
epoch. A search has one directory: search.json, tasks.toml, trials.tsv, best.txt, two figures,
trials/ with one record and one run directory each, best/ with the complete run of the best options,
and ray/ with what Ray writes. A resumed search reads JSON, texts and checkpoints of tensors alone,
and nothing of ray/: a search directory from someone else is data, never code.
"""

import os
import shlex
import shutil
import sys
import time
import warnings
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from options.packages import check_packages, check_tagger
from options.parsing import make_absolute
from options.saved import check_saved_options, options_to_save
from reporting.run_directory import keep_table
from runtime import workers
from runtime.device import select_device
from runtime.errors import InputError
from runtime.files import read_json, write_json
from runtime.locks import locked
from runtime.startup import ROOT
from search.ray_session import check_resources, ray_session, remove_stale, set_ray_environment
from search.records import Record, check_folder, read_records, run_options
from search.space import Choice, Range, search_space
from search.trial import Train, free_trial, resumed, run_trial


def search(args: Namespace, train: Train) -> Namespace | None:
    """Run a search, or resume one.

    Args:
        args: checked options, those of the search among them.
        train: trains with some options, and reports every epoch's line.

    Returns:
        The options to train in full; None with --hpo_only.

    Raises:
        InputError: the space or the directory is wrong, Ray cannot be started, or no trial has
            finished an epoch.
        Interrupted: a signal has stopped the search.
    """
    check_packages(args)
    check_tagger(args)
    set_ray_environment()
    from search.report import report_search  # this and Ray are slow to import

    if workers.size() > 1:
        raise InputError("--hpo starts its own processes; run it without torchrun")
    args, directory = resumed_search(args) if args.hpo_resume else new_search(args)
    space = search_space(args)
    print(f"search: {args.hpo_trials} trials of {', '.join(space)}\nsearch directory: {directory}")
    with locked(directory / "search.lock"):
        run_trials(args, directory, space, read_records(directory, space, args), train)
        records = read_records(directory, space, args)
        best = report_search(directory, space, records, args, resume_command(args, directory))
    if args.hpo_only:
        return None
    print(f"\ntraining the best options in full: {directory / 'best'}")
    return full_run(args, directory, best)


def new_search(args: Namespace) -> tuple[Namespace, Path]:
    """Make the search's directory, with all that --hpo_resume needs. Raises InputError."""
    if args.ray_address is None:
        select_device(args.use_gpu)  # an error here, rather than one in every trial
    make_absolute(args)  # trials run elsewhere
    args.narrowed = {} if args.hpo_space is None else read_json(args.hpo_space)
    search_space(args)  # a mistake in it leaves no directory behind
    directory = make_directory(args)
    try:
        keep_table(directory, args)
        write_json(directory / "search.json", {"options": options_to_save(args)})
    except OSError:
        shutil.rmtree(directory)  # without search.json, --hpo_resume would find nothing
        raise
    return args, directory


def make_directory(args: Namespace) -> Path:
    """Make the search's directory under a free name. Raises InputError."""
    stem = args.run_name or time.strftime("search-%Y%m%d-%H%M%S")
    names = [stem] if args.run_name else [stem, *(f"{stem}-{count}" for count in range(2, 1000))]
    for name in names:
        directory = Path(args.logdir) / name
        with suppress(FileExistsError):  # another search may have started in this second
            directory.mkdir(parents=True)
            return directory
    raise InputError(
        f"{directory}: exists; choose another --run_name, or resume it: --hpo_resume "
        f"{shlex.quote(str(directory))}"
    )


def resumed_search(given: Namespace) -> tuple[Namespace, Path]:
    """Return a search's own options, with those that may be given again. Raises InputError."""
    directory = Path(os.path.abspath(given.hpo_resume))
    path = directory / "search.json"
    if not path.is_file():
        raise InputError(f"{directory}: no search.json in it, expected the directory of a search")
    args = check_saved_options(read_json(path).get("options"), path)
    args.hpo_resume, args.ray_address = given.hpo_resume, given.ray_address
    for name in given.given:
        setattr(args, name, getattr(given, name))
    if args.ray_address is None:
        select_device(args.use_gpu)
    return args, directory


def run_trials(
    args: Namespace,
    directory: Path,
    space: dict[str, Range | Choice],
    records: list[Record],
    train: Train,
) -> None:
    """Run the trials that have not ended; their records and run directories are the results.

    Raises:
        InputError: Ray cannot be started, or it has too little for a trial.
        Interrupted: a signal has stopped the trials.
    """
    import optuna
    import ray
    from ray import tune

    from search.continued import ContinuedHyperBand, NumberedSearch
    from search.printer import TrialPrinter

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A resumed trial reports again what it had reported.
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    ended = [record.name for record in records if record.state != "unfinished"]
    for name in ended:
        free_trial(directory, name)  # a kill may have come between its record and this
    if len(ended) >= args.hpo_trials:
        return
    remove_stale(directory / "ray")
    gpus = args.hpo_gpus if args.hpo_gpus is not None else float(args.use_gpu)
    with ray_session(args, resume_command(args, directory)) as stop:
        check_resources(ray.cluster_resources(), args.hpo_cpus, gpus)
        trainable = tune.with_parameters(
            run_trial, options=vars(args), directory=str(directory), train=train
        )
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": args.hpo_cpus, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                num_samples=args.hpo_trials - len(ended),
                max_concurrent_trials=args.hpo_concurrent,
                search_alg=NumberedSearch(directory, space, records, args),
                scheduler=ContinuedHyperBand(directory, records, args),
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(directory),
                callbacks=[TrialPrinter(directory, args, ended, stop)],
                verbose=0,
            ),
        ).fit()


def resume_command(args: Namespace, directory: Path) -> str:
    """Return the command line that resumes a search, from any folder."""
    words = [sys.executable, str(ROOT / args.script), "--hpo_resume", os.path.abspath(directory)]
    if args.ray_address is not None:
        words += ["--ray_address", args.ray_address]
    return shlex.join(words)


def full_run(args: Namespace, directory: Path, best: dict) -> Namespace:
    """Return the options of the best trial's complete run, or of its interrupted one.

    Raises:
        InputError: what is there is not a run of ours.
    """
    run_dir = directory / "best"
    check_folder(run_dir)
    if run_options(run_dir) is not None:
        return resumed(run_dir, args.use_gpu)
    options = Namespace(**vars(args) | best)
    options.hpo, options.hpo_resume = False, None
    options.logdir, options.run_name = str(directory), "best"
    return options
