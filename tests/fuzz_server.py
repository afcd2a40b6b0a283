"""Runs commands of ours, each in a fork of a process that has done nothing but import them.

A fork has one thread. In a process that has started others, such as pytest's, a fork may wait
forever for a thread or a lock that exists in its parent alone.

Reads JSON lines [entry, words, folder, seconds], and answers [status, seconds, MiB] for each. The
command runs in the folder, and writes its output to files `stdout` and `stderr` there.
"""

import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
from argparse import Namespace
from pathlib import Path

import torch

import compare
import evaluation
import train_multitask
import train_multitask_pal
from options.parsing import parse_args
from runtime.errors import exit_status
from search.records import read_records
from search.space import search_space
from search.tune import resumed_search


def run(entry: str, words: list[str], folder: Path, max_seconds: int) -> list[float]:
    """Run a command; return its exit status, seconds of CPU and peak MiB."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            faulthandler.register(signal.SIGPROF, open(folder / "stderr", "a"), chain=True)
            signal.setitimer(signal.ITIMER_PROF, max_seconds)  # of CPU: the machine may be busy
            signal.alarm(2 * max_seconds)  # or asleep
            limit = 8 * 2**30  # of addresses, of which torch takes some without using them
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            os.chdir(folder)
            for name, number in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            status = command(entry, words)
        except BaseException:
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    return [os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss / 1024]


def command(entry: str, words: list[str]) -> int:
    """Run one of our commands in this process; return its exit status."""
    try:
        if entry == "evaluate":
            args = evaluation.get_args_parser().parse_args(words)
            return exit_status(lambda: evaluation.main(args))
        if entry == "compare":
            args = compare.parse_args(compare.get_args_parser(), words)
            return exit_status(lambda: compare.main(args))
        script = train_multitask_pal if "--smoketest" in words else train_multitask
        args = parse_args(script.get_args_parser(), words)
        if entry == "search":  # up to the point where Ray would start
            return exit_status(lambda: read_search(args))
        return exit_status(lambda: train_multitask.main(args))
    except SystemExit as stop:
        return int(stop.code or 0)


def read_search(args: Namespace) -> None:
    """Read all that a resumed search reads of its directory."""
    search, directory = resumed_search(args)
    read_records(directory, search_space(search), search)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        entry, words, folder, max_seconds = json.loads(line)
        print(json.dumps(run(entry, words, Path(folder), max_seconds)), flush=True)
