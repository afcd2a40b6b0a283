"""A run of the table: where its files are, and the process that does it."""

import os
import signal
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from experiments.result_files import Settings, has_flags_of, is_of_members
from experiments.row_files import Row
from runtime.files import read_json
from runtime.interrupts import StopSignal


class Run(NamedTuple):
    """One row with one seed, or the average of another row's runs.

    Attributes:
        row: the row.
        seed: the seed; of an average, that of its first member.
        settings: what it shares with the other runs.
        result: its result file, which is there once the run is finished.
        directory: its run directory. Beside it, `<run>.json` holds the row's flags and the seconds
            of the run's processes, `<run>.log` their output, and `<run>.lock` keeps others out.
        members: the runs that it averages; none for a run that trains.
    """

    row: Row
    seed: int
    settings: Settings
    result: Path
    directory: Path
    members: tuple["Run", ...] = ()

    def __str__(self) -> str:
        seeds = "+".join(str(member.seed) for member in self.members)
        return f"{self.row.name} {f'seeds {seeds}' if seeds else f'seed {self.seed}'}"

    def beside(self, ending: str) -> Path:
        """Return the file beside the run directory."""
        return self.directory.with_name(self.directory.name + ending)  # the name may have dots

    @property
    def flags(self) -> list[str]:
        """The row's flags, beside the options of every run."""
        return self.row.flags_with(self.settings.options)

    @property
    def is_finished(self) -> bool:
        """Whether there is a result of the row as its file is now, and of the present members."""
        if not all(run.result.is_file() for run in (self, *self.members)):
            return False
        result = read_json(self.result)
        members = [read_json(member.result) for member in self.members]
        return (
            has_flags_of(result, self.row, self.settings.options)
            and all(member.is_finished for member in self.members)
            and is_of_members(result, members)
        )


def place_run(
    args: Namespace, settings: Settings, row: Row, seeds: list[int], members: tuple[Run, ...] = ()
) -> Run:
    """Return the run of a row with its seed, or with those of its members.

    Args:
        args: the runner's own options.
        settings: what all runs share.
        row: the row.
        seeds: one; of an average, those of its members.
        members: the runs that it averages.
    """
    name = f"{row.name}-seed{'+'.join(map(str, seeds))}-{settings.key}"
    result = Path(args.results_dir) / f"{name}.json"
    return Run(row, seeds[0], settings, result, Path(args.work_dir) / name, members)


class ForwardedStop(StopSignal):
    """Passes a signal on to the running child, so that it saves.

    Always as SIGTERM: a terminal's Ctrl-C reaches the child too, and a second SIGINT would cut its
    saving short.
    """

    child: subprocess.Popen | None = None

    def receive(self, signum: int, frame: object) -> None:
        """Handle a signal."""
        super().receive(signum, frame)
        if self.child is not None:
            self.child.terminate()


def wait_for(command: list[str], log_path: Path, lock: int, stop: ForwardedStop) -> int:
    """Run a command whose output goes to the log, and return its exit status.

    The child inherits the lock, so that it keeps others out even if it outlives this runner.
    """
    with open(log_path, "ab") as log:
        stop.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            pass_fds=[lock],
        )
    if stop.signum is not None:  # it came before there was a child to pass it on to
        stop.child.terminate()
    status = stop.child.wait()
    stop.child = None
    return status


def failure(status: int, log_path: Path) -> str:
    """Return why a run ended: the signal that killed it, or the last line that it wrote."""
    output = log_path.read_text(encoding="utf-8", errors="replace").rstrip() or "no output"
    last_line = output.split("\n")[-1].strip()
    reason = f"killed by {signal.Signals(-status).name}" if status < 0 else last_line
    return f"{reason} (all of it: {log_path})"
