"""Run the rows of the results table, one after another, whatever of them is missing.

    python -m experiments.run                                        # every row, seeds 1 2 3
    python -m experiments.run joint pcgrad --seeds 1 2 --samples_per_epoch 1000
    python -m experiments.run --data_dir data --epochs 2 --dev_samples 500 --no_test_predictions

Rows come first, then options; those of train_multitask.py go to every run, and a row's own flags
win over them. Stop it in any way and give the same command again: finished runs are not repeated,
interrupted ones go on from their checkpoint, failed ones are tried again. See `row_files` for the
rows and `result_files` for what a run leaves behind.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from datasets import default_data_dir
from experiments.result_files import (
    Settings,
    fingerprint,
    has_flags_of,
    is_finished,
    portable_options,
    result_path,
    write_result,
)
from experiments.row_files import Row, read_rows
from options.parsing import parse_args
from options.types import count
from runtime.errors import InputError, exit_status
from runtime.files import read_json, write_json
from runtime.interrupts import StopSignal
from runtime.locks import locked
from train_multitask import get_args_parser as get_entry_parser

ROOT = Path(__file__).resolve().parent.parent

# What the runner gives itself, or what would make a run something else than its row.
RESERVED = ("seed", "logdir", "run_name", "resume", "filepath", "predictions_path")
RESERVED += ("task", "checkpoint", "smoketest", "hpo", "hpo_resume")


class ForwardedStop(StopSignal):
    """Passes a signal on to the running child, so that it saves.

    Always as SIGTERM: a terminal's Ctrl-C reaches the child too, and a second SIGINT would cut its
    saving short.
    """

    child: subprocess.Popen | None = None

    def receive(self, signum: int, frame: object) -> None:
        super().receive(signum, frame)
        if self.child is not None:
            self.child.terminate()


class Runner:
    """Runs one row with one seed at a time, and keeps what the next invocation has to know.

    Beside each run directory, `<run>.json` holds the row's flags and its processes' seconds, and
    `<run>.log` their output.
    """

    def __init__(self, args: Namespace, shared: Namespace, stop: ForwardedStop) -> None:
        self.args, self.stop = args, stop
        self.settings = Settings(portable_options(shared), fingerprint(shared))
        self.passed_on_resume = ["--data_dir", shared.data_dir]  # given anew, as from elsewhere
        self.passed_on_resume += ["--use_gpu"] * shared.use_gpu
        self.work_dir, self.results_dir = Path(args.work_dir), Path(args.results_dir)

    def result_path(self, row: Row, seed: int) -> Path:
        return result_path(self.results_dir, row, seed, self.settings)

    def run_dir(self, row: Row, seed: int) -> Path:
        return self.work_dir / self.result_path(row, seed).stem

    def log_path(self, row: Row, seed: int) -> Path:
        return self.run_dir(row, seed).with_suffix(".log")

    def run(self, row: Row, seed: int) -> str | None:
        """Start or go on with a run until it ends; its failure in a line, or None.

        A run that another runner is at work on, on whichever machine, is a failure of this one.
        """
        try:
            with locked(self.run_dir(row, seed).with_suffix(".lock")) as self.lock:
                return self.run_locked(row, seed)
        except InputError as error:
            return str(error)

    def run_locked(self, row: Row, seed: int) -> str | None:
        run_dir, log_path = self.run_dir(row, seed), self.log_path(row, seed)
        parts = self.earlier_parts(row, seed)
        command = [sys.executable, str(ROOT / row.script)]
        if parts:
            command += ["--resume", str(run_dir), *self.passed_on_resume]
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
            log_path.unlink(missing_ok=True)
            command += [*self.args.passed, *row.flags, "--seed", str(seed)]
            command += ["--logdir", str(self.work_dir), "--run_name", run_dir.name]
        self.write_state(row, seed, [*parts, None])
        started = time.monotonic()
        status = self.wait_for(command, log_path)
        parts.append(round(time.monotonic() - started, 1))
        self.write_state(row, seed, parts)
        if status != 0:
            return failure(status, log_path)
        write_result(self.result_path(row, seed), row, self.settings, run_dir, parts)
        if not self.args.keep_checkpoints:
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
        return None

    def wait_for(self, command: list[str], log_path: Path) -> int:
        """Exit status of the command; its output goes to the log."""
        with open(log_path, "ab") as log:
            # With the lock in its hands, a child that outlives a killed runner keeps others out.
            self.stop.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                pass_fds=[self.lock],
            )
        if self.stop.signum is not None:  # it came before there was a child to pass it on to
            self.stop.child.terminate()
        status = self.stop.child.wait()
        self.stop.child = None
        return status

    def earlier_parts(self, row: Row, seed: int) -> list[float]:
        """Seconds of the processes of a run to go on with; none for one to start anew.

        A process that was killed together with its runner counts up to its last checkpoint.
        """
        state_path = self.run_dir(row, seed).with_suffix(".json")
        last = self.run_dir(row, seed) / "checkpoints" / "last.pt"
        if not (state_path.is_file() and last.is_file()):
            return []
        state = read_json(state_path)
        if not has_flags_of(state, row):
            return []
        killed = max(0.0, round(last.stat().st_mtime - state["started"], 1))
        return [killed if seconds is None else seconds for seconds in state["parts"]]

    def write_state(self, row: Row, seed: int, parts: list[float | None]) -> None:
        state = {"script": row.script, "flags": list(row.flags), "started": time.time()}
        write_json(self.run_dir(row, seed).with_suffix(".json"), state | {"parts": parts})


def failure(status: int, log_path: Path) -> str:
    """Why a run ended: the signal that killed it, or the last line that it wrote."""
    if status < 0:
        reason = f"killed by {signal.Signals(-status).name}"
    else:
        lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{reason} (all of it: {log_path})"


def run_all(runner: Runner, plan: list[tuple[Row, int]]) -> list[str]:
    """Run what is missing of the plan, in its order; return the failures, a line each."""
    missing = [run for run in plan if not is_finished(runner.result_path(*run), run[0])]
    print(
        f"runs: {len(plan)}, finished before: {len(plan) - len(missing)}; "
        f"settings {runner.settings.key}, results in {runner.results_dir}"
    )
    failures = []
    for done, (row, seed) in enumerate(missing, start=1):
        number = len(plan) - len(missing) + done
        print(f"[{number}/{len(plan)}] {row.name} seed {seed} ... ", end="", flush=True)
        started = time.monotonic()
        error = runner.run(row, seed)
        if runner.stop.signum is not None:
            print("stopped", flush=True)
            runner.stop.check()
        seconds = f"{time.monotonic() - started:.0f} s"
        left = time_left(runner, plan, missing[done:])
        if error is None:
            print(f"{seconds}{left}", flush=True)
        else:
            print(f"failed after {seconds}{left}: {error}", flush=True)
            failures.append(f"{row.name} seed {seed}: {error}")
    return failures


def time_left(runner: Runner, plan: list[tuple[Row, int]], left: list[tuple[Row, int]]) -> str:
    """Estimate from finished runs: the mean of the same row's, or of all."""
    seconds: dict[str, list[float]] = {}
    for row, seed in plan:
        path = runner.result_path(row, seed)
        if is_finished(path, row):
            seconds.setdefault(row.name, []).append(read_json(path)["wall_seconds"])
    if not left or not seconds:
        return ""
    everything = [value for values in seconds.values() for value in values]
    known = [seconds.get(row.name, everything) for row, _ in left]
    return f", about {sum(sum(values) / len(values) for values in known) / 60:.0f} min left"


@contextmanager
def forwarded_signals(message: str) -> Iterator[ForwardedStop]:
    stop = ForwardedStop(message)
    caught = [s for s in stop.signals if signal.getsignal(s) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, stop.receive) for signum in caught}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def choose_rows(names: list[str], rows: dict[str, Row]) -> list[Row]:
    """The named rows, or all but those with an obstacle. Raises InputError for an unknown name."""
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise InputError(f"row {unknown[0]!r} is unknown, expected some of {', '.join(rows)}")
    return [row for name, row in rows.items() if (name in names if names else not row.obstacle)]


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s [row ...] [--seeds N ...] [options here and of train_multitask.py]",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--seeds", nargs="+", type=count, default=[1, 2, 3], help="a run of each row for each")
    here = ROOT / "experiments"
    add("--work_dir", default=str(ROOT / "runs" / "experiments"), help="run directories and logs")
    add("--results_dir", default=str(here / "results"), help="a small file per finished run")
    add("--rows_dir", default=str(here / "rows"), help="where <row>.txt files are")
    add(
        "--keep_checkpoints",
        action="store_true",
        help="keep those of finished runs; off: they are removed, as scores need them no more",
    )
    return parser


def parse(argv: list[str]) -> tuple[Namespace, Namespace]:
    """Our own options, with rows and passed words, and those of every run."""
    rows = list(takewhile(lambda word: not word.startswith(("-", "@")), argv))
    parser = get_args_parser()
    args, args.passed = parser.parse_known_args(argv[len(rows) :])
    args.rows = rows
    entry_parser = get_entry_parser()
    entry_parser.usage = parser.usage
    shared = parse_args(entry_parser, args.passed)
    reserved = [name for name in RESERVED if name in shared.given]
    if reserved:
        parser.error(f"--{reserved[0]} is the runner's or a row's own; leave it out")
    shared.data_dir = shared.data_dir or str(default_data_dir())
    return args, shared


def main(args: Namespace, shared: Namespace) -> None:
    """Run every row with every seed, seed by seed, so that a stopped night has whole tables."""
    rows = choose_rows(args.rows, read_rows(Path(args.rows_dir)))
    message = "its run is saved as far as it came; the same command goes on"
    with forwarded_signals(message) as stop:
        runner = Runner(args, shared, stop)
        runner.work_dir.mkdir(parents=True, exist_ok=True)
        plan = [(row, seed) for seed in dict.fromkeys(args.seeds) for row in rows]
        failures = run_all(runner, plan)
    if failures:
        lines = "\n  ".join(failures)
        raise InputError(f"{len(failures)} of {len(plan)} runs failed:\n  {lines}")


if __name__ == "__main__":
    args, shared = parse(sys.argv[1:])
    sys.exit(exit_status(lambda: main(args, shared)))
