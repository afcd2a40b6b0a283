"""Hyper-parameter search on Ray Tune: Optuna proposes, asynchronous HyperBand stops what lags.

    python train_multitask.py --hpo --hpo_trials 20 --samples_per_epoch 500
    python train_multitask_pal.py --hpo --hpo_space space.json --lr 1e-4     # --lr stays as given
    python train_multitask.py --hpo_resume runs/search-20260101-120000
    python train_multitask.py @runs/search-20260101-120000/best.txt --seed 1

A trial is a run like any other, in a process of its own, judged by its mean dev score after every
epoch. A search has one directory: search.json, trials.tsv, best.txt, two figures, trials/ with one
run directory each, best/ with the complete run of the best options, ray/ with Ray's own state.
"""

import os
import socket
import time
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from options.packages import check_packages
from runtime import workers
from runtime.device import select_device
from runtime.errors import InputError
from runtime.files import read_json, write_json
from runtime.locks import locked
from search.space import Choice, Range, search_space
from search.trial import Train, resumed, run_trial
from tasks import TASKS

REDUCTION = 3  # HyperBand continues one trial in three after 1, 3, 9 … epochs
PATHS = ("data_dir", "checkpoint", "logdir")


def search(args: Namespace, train: Train) -> Namespace | None:
    """Run a search, or resume one.

    Args:
        args: checked options, those of the search among them.
        train: trains with some options, and reports every epoch's line.

    Returns:
        The options to train in full; None with --hpo_only.

    Raises:
        InputError: the space or the directory is wrong, or no trial has finished.
    """
    check_packages(args)
    set_ray_environment()
    from search.report import report_search  # this and Ray are slow to import

    if workers.size() > 1:
        raise InputError("--hpo starts its own processes; run it without torchrun")
    args, directory = resumed_search(args) if args.hpo_resume else new_search(args)
    space = search_space(args)
    print(f"search: {args.hpo_trials} trials of {', '.join(space)}\nsearch directory: {directory}")
    with locked(directory / "search.lock"):
        trials = run_trials(args, directory, space, train)
        best = report_search(directory, space, trials, args)
    if args.hpo_only:
        return None
    print(f"\ntraining the best options in full: {directory / 'best'}")
    return full_run(args, directory, best)


def new_search(args: Namespace) -> tuple[Namespace, Path]:
    """Make the search's directory, with all that --hpo_resume needs. Raises InputError."""
    if args.ray_address is None:
        select_device(args.use_gpu)  # an error here, rather than one in every trial
    for name in (*PATHS, *(f"{task}_{split}" for task in TASKS for split in ("train", "dev"))):
        if getattr(args, name) is not None:  # trials run elsewhere
            setattr(args, name, os.path.abspath(getattr(args, name)))
    if Path(args.model_name).is_dir():
        args.model_name = os.path.abspath(args.model_name)
    directory = Path(args.logdir) / (args.run_name or time.strftime("search-%Y%m%d-%H%M%S"))
    args.narrowed = {} if args.hpo_space is None else read_json(args.hpo_space)
    search_space(args)  # a mistake in it leaves no directory behind
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise InputError(
            f"{directory}: exists; choose another --run_name, or resume it: --hpo_resume "
            f"{directory}"
        ) from None
    try:
        write_json(directory / "search.json", {"options": vars(args)})
    except OSError:
        directory.rmdir()  # without search.json, --hpo_resume would find nothing
        raise
    return args, directory


def resumed_search(given: Namespace) -> tuple[Namespace, Path]:
    """Return a search's own options, with those that may be given again. Raises InputError."""
    directory = Path(os.path.abspath(given.hpo_resume))
    if not (directory / "search.json").is_file():
        raise InputError(f"{directory}: no search.json in it, expected the directory of a search")
    args = Namespace(**read_json(directory / "search.json")["options"])
    for name in given.given:
        setattr(args, name, getattr(given, name))
    if args.ray_address is None:
        select_device(args.use_gpu)
    return args, directory


def run_trials(
    args: Namespace, directory: Path, space: dict[str, Range | Choice], train: Train
) -> list:
    """Run all trials of the search; return Ray's results, those of an earlier process included."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    from search.report import TrialPrinter

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A resumed trial reports again what it had reported.
    warnings.filterwarnings("ignore", message="The reported value is ignored")
    start_ray(args)
    gpus = args.hpo_gpus if args.hpo_gpus is not None else float(args.use_gpu)
    check_resources(ray.cluster_resources(), args.hpo_cpus, gpus)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, options=vars(args), directory=str(directory), train=train),
        {"cpu": args.hpo_cpus, "gpu": gpus},
    )
    if tune.Tuner.can_restore(str(directory / "ray")):
        tuner = tune.Tuner.restore(str(directory / "ray"), trainable)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={name: domain_of(domain) for name, domain in space.items()},
            tune_config=tune.TuneConfig(
                metric="mean",
                mode="max",
                num_samples=args.hpo_trials,
                max_concurrent_trials=args.hpo_concurrent,
                search_alg=OptunaSearch(seed=args.seed),
                scheduler=AsyncHyperBandScheduler(
                    time_attr="epoch", max_t=args.epochs, reduction_factor=REDUCTION
                ),
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(directory),
                callbacks=[TrialPrinter(directory, args.hpo_trials, args.epochs)],
                verbose=0,
            ),
        )
    try:
        results = tuner.fit()
        return [results[number] for number in range(len(results))]
    finally:
        ray.shutdown()


def set_ray_environment() -> None:
    """Set the variables that Ray reads when it is imported, where the user has not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Save Ray's state at every change: after a kill, a trial that it forgot would be another one.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "0")
    # A Ray that was started where this token is asks for it, but HOST:PORT alone does not offer it.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def start_ray(args: Namespace) -> None:
    """Join the Ray that --ray_address names, or start one. Raises InputError."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "fatal"}  # we report errors
    if args.ray_address is None:
        cores = len(os.sched_getaffinity(0))  # a job's share of the machine
        ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    try:
        if args.ray_address != "auto":  # Ray itself would try for many minutes
            host, _, port = args.ray_address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(args.ray_address, **quiet)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--ray_address {args.ray_address}: no Ray answers there ({reason}); expected auto or "
            "HOST:PORT; start one with `ray start --head`, copy ~/.ray/auth_token here if that "
            "machine has one, or drop the option"
        ) from None


def check_resources(present: dict[str, float], cpus: int, gpus: float) -> None:
    """Raise InputError if no trial could ever start: Ray would wait silently."""
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > present.get(name, 0):
            raise InputError(
                f"a trial asks for {needed:g} {name}, but there are {present.get(name, 0):g} here; "
                f"give a smaller --hpo_{name.lower()}s, or more machines with --ray_address"
            )


def domain_of(domain: Range | Choice) -> object:
    """Return a domain in Ray's terms."""
    from ray import tune

    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    spread = tune.loguniform if domain.is_log else tune.uniform
    return spread(domain.low, domain.high)


def full_run(args: Namespace, directory: Path, best: dict) -> Namespace:
    """Return the options of the best trial's complete run, or of its interrupted one."""
    run_dir = directory / "best"
    if (run_dir / "args.json").is_file():
        return resumed(run_dir, args.use_gpu)
    options = Namespace(**vars(args) | best)
    options.hpo, options.hpo_resume = False, None
    options.logdir, options.run_name = str(directory), "best"
    return options
