"""Run the rows of the results table, one after another, whichever of them are missing.

    python -m experiments.run                                        # every row, seeds 1 2 3
    python -m experiments.run joint pcgrad --seeds 1 2 --samples_per_epoch 1000
    python -m experiments.run --data_dir data --epochs 2 --dev_samples 500 --no_test_predictions

Rows come first, then options. The options of train_multitask.py go to every run, and a row's own
flags win over them. Stop it in any way and give the same command again: finished runs are not
repeated, interrupted ones resume from their checkpoint, failed ones are tried again. What has
no checkpoint, an average or a plain loop of transformers, starts again. Rows that average another
row's runs come last, once for all seeds. See `row_files` for the rows and
`result_files` for what a run leaves behind.
"""

import shutil
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections import defaultdict
from collections.abc import Sequence
from itertools import product, takewhile
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.averages import average, plan_averages
from experiments.result_files import (
    Settings,
    fingerprint,
    has_flags_of,
    portable_options,
    write_result,
)
from experiments.row_files import Row, read_rows
from experiments.runs import ForwardedStop, Run, failure, place_run, wait_for
from options.data_dir import default_data_dir
from options.parsing import ArgumentParser, parse_args
from options.types import count
from reporting.run_record import git_revision
from runtime.device import gpu_type, prefers_bfloat16
from runtime.errors import InputError, exit_status
from runtime.files import read_json, write_json
from runtime.interrupts import caught_signals
from runtime.locks import locked
from train_multitask import get_args_parser as get_entry_parser

ROOT = Path(__file__).resolve().parent.parent

# What the runner sets itself, or what would make a run something else than its row.
RESERVED = (
    *("seed", "logdir", "run_name", "resume", "filepath", "predictions_path"),
    *("task", "checkpoint", "smoketest", "hpo", "hpo_resume"),
)
PRECISIONS = ("--use_amp", "--no_use_amp")


def plan_runs(args: Namespace, shared: Namespace) -> list[Run]:
    """Return every row with every seed, by seed, so that an early stop leaves complete seeds.

    Args:
        args: the runner's own options.
        shared: the options of every run.

    Raises:
        InputError: a row is wrong or unknown.
        OSError: a data file cannot be read.
    """
    rows = read_rows(Path(args.rows_dir))
    chosen = choose_rows(args.rows, rows)
    args.averaged = {row.average_of for row in rows.values()}
    settings = Settings(portable_options(shared), fingerprint(shared))
    trained = [row for row in chosen if not row.average_of]
    pairs = product(dict.fromkeys(args.seeds), trained)
    plan = [place_run(args, settings, row, [seed]) for seed, row in pairs]
    return plan + plan_averages(args, settings, rows, chosen)


def execute(args: Namespace, run: Run, stop: ForwardedStop) -> None:
    """Start or resume a run, and write its result at its end.

    Raises:
        InputError: the run failed, or another runner is at work on it, on whichever machine.
    """
    with locked(run.beside(".lock")) as lock:
        if run.is_finished:  # by another runner, since this one has made its plan
            return
        if is_complete(args, run):
            parts = earlier_parts(run, run.directory / "metrics-dev.json")
            print(f"taken over from {run.directory} ... ", end="", flush=True)
        else:
            parts = train(args, run, lock, stop)
        revisions = read_revisions(run)
        write_result(run.result, run.row, run.settings, run.directory, parts, revisions)
        remove_checkpoints(args, run)


def train(args: Namespace, run: Run, lock: int, stop: ForwardedStop) -> list[float]:
    """Start or resume the process of a run; return the seconds of all of the run's processes.

    Raises:
        InputError: the run failed.
    """
    log_path = run.beside(".log")
    parts = earlier_parts(run, run.directory / "checkpoints" / "last.pt")
    revisions = [*dict.fromkeys([*(read_revisions(run) if parts else []), str(git_revision())])]
    command = [sys.executable, *script_words(run.row.script)]
    if parts:
        command += ["--resume", str(run.directory), *args.passed_on_resume]
    else:
        shutil.rmtree(run.directory, ignore_errors=True)
        log_path.unlink(missing_ok=True)
        command += [*shared_words(args.passed, run.row), *run.flags, "--seed", str(run.seed)]
        command += ["--logdir", args.work_dir, "--run_name", run.directory.name]
    write_state(run, [*parts, None], revisions)
    started = time.monotonic()
    status = wait_for(command, log_path, lock, stop)
    parts.append(round(time.monotonic() - started, 1))
    write_state(run, parts, revisions)
    if status != 0:
        raise InputError(failure(status, log_path))
    return parts


def is_complete(args: Namespace, run: Run) -> bool:
    """Tell whether a run has ended, and only its result was not written, or was removed.

    A run with its last checkpoint is resumed instead, which finds out how far it came. Without that
    checkpoint, metrics are there at the end alone: the plain loop makes its directory then, and a
    trained run loses its checkpoint then.
    """
    folder = run.directory / "checkpoints"
    has_metrics = (run.directory / "metrics-dev.json").is_file()
    if not has_metrics or (folder / "last.pt").exists() or not read_parts(run):
        return False
    return run.row.name not in args.averaged or (folder / "best.pt").is_file()


def remove_checkpoints(args: Namespace, run: Run) -> None:
    """Remove the checkpoints of a finished run, but the best one if a row averages its row."""
    folder = run.directory / "checkpoints"
    if args.keep_checkpoints:
        return
    if run.row.name not in args.averaged:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob("*"):
        if path.name != "best.pt":
            path.unlink()


def script_words(script: str) -> list[str]:
    """Return the words for Python that start a script; one in a package starts as a module."""
    *package, name = Path(script).with_suffix("").parts
    return ["-m", ".".join([*package, name])] if package else [str(ROOT / script)]


def shared_words(passed: list[str], row: Row) -> list[str]:
    """Return the options of every run, without the precision if the row has its own.

    The two flags exclude each other, so that the row's could not simply come later.
    """
    return [word for word in passed if not (word in PRECISIONS and {*PRECISIONS} & {*row.flags})]


def earlier_parts(run: Run, last: Path) -> list[float]:
    """Return the seconds of each earlier process of a run; none if it starts anew.

    Args:
        run: the run.
        last: what its processes write, without which it starts anew. A process that was killed
            together with its runner counts up to then.
    """
    parts = read_parts(run) if last.is_file() else []
    if not parts:
        return []
    started = read_json(run.beside(".json"))["started"]
    killed = max(0.0, round(last.stat().st_mtime - started, 1))
    return [killed if seconds is None else seconds for seconds in parts]


def read_parts(run: Run) -> list[float | None]:
    """Return what `write_state` was given, or nothing if the row had other flags then."""
    path = run.beside(".json")
    state = read_json(path) if path.is_file() else None
    if state is None or not has_flags_of(state, run.row, run.settings.options):
        return []
    parts: list[float | None] = state["parts"]
    return parts


def read_revisions(run: Run) -> list[str]:
    """Return the git revisions of a run's processes, each once; none of an older runner's."""
    revisions: list[str] = read_json(run.beside(".json")).get("git_revisions", [])
    return revisions


def write_state(run: Run, parts: Sequence[float | None], revisions: Sequence[str]) -> None:
    """Write what the next invocation has to know.

    Args:
        run: the run.
        parts: the seconds of each of its processes; None stands for the one that starts now.
        revisions: the git revisions of these processes, each once.
    """
    state = {"script": run.row.script, "flags": run.flags, "started": time.time()}
    state |= {"parts": parts, "git_revisions": revisions}
    write_json(run.beside(".json"), state, make_parents=True)


def run_all(args: Namespace, plan: list[Run], stop: ForwardedStop) -> list[str]:
    """Run what is missing of the plan, in its order; return one line per failure."""
    missing = [run for run in plan if not run.is_finished]
    num_before, failures = len(plan) - len(missing), []
    print(
        f"runs: {len(plan)}, finished before: {num_before}; "
        f"settings {plan[0].settings.key if plan else 'of none'}, results in {args.results_dir}"
    )
    for done, run in enumerate(missing, start=1):
        print(f"[{num_before + done}/{len(plan)}] {run} ... ", end="", flush=True)
        started, error = time.monotonic(), ""
        try:
            (average if run.members else execute)(args, run, stop)
        except (InputError, OSError) as reason:  # a full disk, perhaps for this run alone
            error = f": {reason}"
            failures.append(f"{run}{error}")
        if stop.signum is not None:
            print("stopped", flush=True)
            stop.check()
        seconds = f"{'failed after ' if error else ''}{time.monotonic() - started:.0f} s"
        print(f"{seconds}{time_left(plan, missing[done:])}{error}", flush=True)
    return failures


def time_left(plan: list[Run], left: list[Run]) -> str:
    """Estimate how long runs take: for each, the mean of its row's finished ones, or of all."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in plan:
        if run.is_finished:
            seconds[run.row.name].append(read_json(run.result)["wall_seconds"])
    if not left or not seconds:
        return ""
    everything = sum(seconds.values(), [])
    minutes = sum(mean(seconds.get(run.row.name, everything)) for run in left) / 60
    return f", about {minutes:.0f} min left"


def choose_rows(names: list[str], rows: dict[str, Row]) -> list[Row]:
    """Return the named rows, or all but those with an obstacle.

    Raises:
        InputError: a name is unknown.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise InputError(f"row {unknown[0]!r} is unknown, expected some of {', '.join(rows)}")
    return [row for name, row in rows.items() if (name in names if names else not row.obstacle)]


def get_args_parser() -> ArgumentParser:
    """Return the parser of the runner's own options."""
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s [row ...] [--seeds N ...] [options here and of train_multitask.py]",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seeds", nargs="+", type=count, default=[1, 2, 3], help="one run of each row per seed")
    here = ROOT / "experiments"
    add("--work_dir", default=str(ROOT / "runs/experiments"), help="folder of runs and their logs")
    add("--results_dir", default=str(here / "results"), help="folder of the result files")
    add("--rows_dir", default=str(here / "rows"), help="folder of the rows, <row>.txt")
    add(
        "--keep_checkpoints",
        action="store_true",
        help="keep the checkpoints of finished runs; off: keep only the best one of each, and only "
        "if a row averages them",
    )
    return parser


def parse(argv: list[str]) -> tuple[Namespace, Namespace]:
    """Return the runner's own options, with rows and passed words, and the options of every run."""
    rows = list(takewhile(lambda word: not word.startswith(("-", "@")), argv))
    parser = get_args_parser()
    entry_parser: Any = get_entry_parser()
    args, passed = parser.parse_known_args(argv[len(rows) :])
    args.rows, args.passed = rows, passed
    places = ("work_dir", "results_dir", "rows_dir")
    given = [name for name in places if getattr(args, name) != parser.get_default(name)]
    args.places = [word for name in given for word in (f"--{name}", getattr(args, name))]
    entry_parser.usage = parser.usage
    shared = parse_args(entry_parser, args.passed)
    reserved = [name for name in RESERVED if name in shared.given]
    if reserved:
        parser.error(f"--{reserved[0]} is set by the runner or by a row; drop it")
    if shared.tasks_file is not None:
        parser.error("--tasks: the tables compare methods on the built-in tasks; drop it")
    shared.data_dir = shared.data_dir or str(default_data_dir(shared.tasks.values()))
    if shared.use_amp is None:  # each machine has its default, and scores depend on it
        shared.use_amp = prefers_bfloat16(gpu_type() if shared.use_gpu else "cpu")
        args.passed.append(PRECISIONS[not shared.use_amp])
    # Given again on resume, as they may differ from machine to machine.
    args.passed_on_resume = ["--data_dir", shared.data_dir, *["--use_gpu"] * shared.use_gpu]
    return args, shared


def main(args: Namespace, shared: Namespace) -> None:
    """Run the plan.

    Raises:
        InputError: some runs failed.
    """
    plan = plan_runs(args, shared)
    stop = ForwardedStop(
        "the same command resumes its run from the last checkpoint, or starts it again without one"
    )
    with caught_signals(stop):
        failures = run_all(args, plan, stop)
    if failures:
        print("failed:", *failures, sep="\n  ")
        raise InputError(f"{len(failures)} of {len(plan)} runs failed; they are listed above")


if __name__ == "__main__":
    args, shared = parse(sys.argv[1:])
    sys.exit(exit_status(lambda: main(args, shared)))
