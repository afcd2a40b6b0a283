"""Rows that average the finished runs of another row: an ensemble, or a soup, of its seeds.

compare.py averages them, once for all seeds that the command line names. The runner keeps the best
checkpoint of every run of a row that some row averages. An average trains nothing: its training
seconds are those of all of its members together.
"""

import shlex
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path

from experiments.result_files import (
    Settings,
    identity,
    is_of_members,
    sums,
    write_outcome,
)
from experiments.row_files import Row
from experiments.runs import ForwardedStop, Run, failure, place_run, wait_for
from reporting.outputs import in_folder
from reporting.run_directory import SOUP, read_options
from reporting.run_record import git_revision, package_versions
from runtime.errors import InputError
from runtime.files import read_json
from runtime.locks import locked
from runtime.startup import ROOT


def plan_averages(
    args: Namespace, settings: Settings, rows: dict[str, Row], chosen: list[Row]
) -> list[Run]:
    """Return one run of each chosen row that averages another one's runs.

    With a single seed there is nothing to average, and none unless the command line names it.

    Args:
        args: the runner's own options.
        settings: what all runs share.
        rows: every row.
        chosen: the rows to run.

    Raises:
        InputError: such a row is named, with a single seed.
    """
    averages = [row for row in chosen if row.average_of]
    seeds = sorted({*args.seeds})
    if len(seeds) < 2:
        named = [row.name for row in averages if row.name in args.rows]
        if named:
            raise InputError(
                f"row {named[0]} averages runs of several seeds, but --seeds is {seeds[0]} alone; "
                "give two or more"
            )
        return []
    plan = []
    for row in averages:
        member = rows[row.average_of]
        members = tuple(place_run(args, settings, member, [seed]) for seed in seeds)
        plan.append(place_run(args, settings, row, seeds, members))
    return plan


def average(args: Namespace, run: Run, stop: ForwardedStop) -> None:
    """Average the members of a run, and write its result.

    Raises:
        InputError: a member is missing, compare.py failed, or another runner is at work on it.
    """
    log_path = run.beside(".log")
    with locked(run.beside(".lock")) as lock:
        if run.is_finished:  # by another runner, since this one has made its plan
            return
        # No runner starts a finished run again, so its members stay as they are now.
        check_members(args, run)
        shutil.rmtree(run.directory, ignore_errors=True)
        log_path.unlink(missing_ok=True)
        command = [sys.executable, str(ROOT / run.row.script), *run.row.flags]
        command += [*(str(member.directory) for member in run.members), "--to", str(run.directory)]
        command += ["--use_gpu"] * ("--use_gpu" in args.passed_on_resume)
        started = time.monotonic()
        status = wait_for(command, log_path, lock, stop)
        if status != 0:
            raise InputError(failure(status, log_path))
        write_average(run, round(time.monotonic() - started, 1))
        if not args.keep_checkpoints:
            shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)


def check_members(args: Namespace, run: Run) -> None:
    """Check that the members of a run are finished, and that their checkpoints are here.

    Raises:
        InputError: some are not; the message names the command that makes them.
    """
    missing = [member for member in run.members if not has_best_checkpoint(member)]
    if not missing:
        return
    seeds = [str(member.seed) for member in missing]
    # Without its checkpoint a finished run has to be repeated, which its result would prevent.
    results = [str(member.result) for member in missing if member.is_finished]
    command = ["python", "-m", "experiments.run", run.row.average_of, "--seeds", *seeds]
    first = f"{shlex.join(['rm', *results])} && " if results else ""
    raise InputError(
        f"no finished run with its best checkpoint of {run.row.average_of}, which it averages, for "
        f"seed {', '.join(seeds)}; make them: "
        f"{first}{shlex.join([*command, *args.passed, *args.places])}"
    )


def has_best_checkpoint(member: Run) -> bool:
    """Tell whether a run is finished, and the run directory here is the one of its result."""
    metrics = member.directory / "metrics-dev.json"
    if not (member.is_finished and metrics.is_file()):
        return False
    is_own = read_json(metrics)["mean"] == read_json(member.result)["mean"]
    return is_own and (member.directory / "checkpoints" / "best.pt").is_file()


def write_average(run: Run, seconds: float) -> dict:
    """Write the result file of an average.

    Args:
        run: the average, whose directory compare.py has written.
        seconds: how long that took.

    Returns:
        What the result file holds.

    Raises:
        InputError: the predictions are missing or do not fit the dev files.
    """
    members = [read_json(member.result) for member in run.members]
    args = in_folder(read_options(run.members[0].directory), run.directory)
    facts = {
        "seeds": [member.seed for member in run.members],
        "kept_seeds": kept_seeds(run),
        "member_means": [member["mean"] for member in members],
        "git_revision": git_revision(),
        "versions": package_versions(),
        "hardware": "; ".join(sorted({member["hardware"] for member in members})),
        # What its members cost, as a method: all of them have to be trained.
        **{key: sums(members, key) for key in ("examples", "updates")},
        "training_seconds": round(sum(member["training_seconds"] for member in members), 2),
        "peak_memory_mib": max(member["peak_memory_mib"] for member in members),
        "wall_seconds": seconds,
    }
    return write_outcome(run.result, identity(run.row, run.seed, run.settings) | facts, args)


def kept_seeds(run: Run) -> list[int]:
    """Return the seeds that an average is made of: a greedy soup leaves out some of its members."""
    record = run.directory / "args.json"
    if not record.is_file():  # an ensemble, which is no run
        return [member.seed for member in run.members]
    names = {Path(path).name for path in read_json(record)[SOUP]["runs"]}
    return [member.seed for member in run.members if member.directory.name in names]


def choose_averages(results: list[dict], rows: dict[str, Row]) -> list[dict]:
    """Return the results, with one average of each row under the same settings at most.

    That of most members is taken, among those of the runs whose results are there now. Prints which
    others are dropped.
    """
    trained = {
        (result["row"], result["settings_key"], result["seed"]): result
        for result in results
        if "seeds" not in result
    }
    chosen: dict[tuple[str, str], dict] = {}
    for result in sorted(results, key=lambda result: -len(result.get("seeds", []))):
        if "seeds" not in result:
            continue
        row, key = result["row"], result["settings_key"]
        members = [trained.get((rows[row].average_of, key, seed)) for seed in result["seeds"]]
        there = [member for member in members if member is not None]
        if len(there) == len(members) and is_of_members(result, there):
            chosen.setdefault((row, key), result)
        else:
            name = f"{row} seeds {', '.join(map(str, result['seeds']))}"
            print(f"{name}: its members are gone or other runs now; dropped", file=sys.stderr)
    return [
        result
        for result in results
        if "seeds" not in result or result is chosen.get((result["row"], result["settings_key"]))
    ]
