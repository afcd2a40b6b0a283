"""What every worker of tests/test_workers.py runs, under torchrun or alone.

    PYTHONPATH=. torchrun --nproc_per_node 2 tests/parallel_worker.py OUT CASES.json

CASES.json: {"flags": [common flags], "cases": {name: [script, flags]}}. Worker 0 saves what
`run_case` returns of each to OUT.
"""

import json
import os
import signal
import sys
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import engine
import train_multitask
import train_multitask_pal
from datasets import load_data
from inputs.frozen_states import cache_frozen_states
from models import build_model
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting.run_log import build_run_log
from reporting.start import open_run
from restoring import restore
from runtime import workers
from runtime.device import use_fastest_float32
from runtime.errors import exit_status
from runtime.interrupts import Interrupted
from training import Training, build_training

TASKS = built_in_tasks()

NUM_UPDATES = 20
PARSERS = {
    "train_multitask.py": train_multitask.get_args_parser,
    "train_multitask_pal.py": train_multitask_pal.get_args_parser,
}


def parse(script: str, flags: list[str]):
    return parse_args(PARSERS[script](), flags)


@contextmanager
def prepared(args: Namespace):
    """Yield options, training and data of a run that is ready for its next update."""
    with open_run(args) as start:
        args = start.args
        data = load_data(args, start.tokenizer, start.config.pad_token_id)
        model = build_model(args, start.build_encoder())
        data = cache_frozen_states(args, model, data)
        training = build_training(args, model, data["train"])
        if start.last is not None:
            restore(training, start.last)
        start.write_directory(model)
        yield args, training, data


def run_case(script: str, flags: list[str]) -> dict:
    """Sums of the first update, losses of 20, logits on fixed rows after them."""
    with prepared(parse(script, flags)) as (_, training, data):
        training.start_epoch()
        first: dict[str, torch.Tensor] = {}
        losses = []
        for number in range(NUM_UPDATES):
            update = training.task_scheduler.next_update()
            with recorded_sums(training, first if number == 0 else {}):
                means, norm = engine.train_step(training, update, "")
            training.progress.count(update, means)
            if number == 0:
                first["examples"] = torch.tensor(sum(training.progress.examples.values()))
            training.after_update()
            losses.append([*means.values(), norm])
        training.model.eval()
        with torch.no_grad():
            logits = {
                name: training.model(TASKS[name], rows.batch(np.arange(16)))
                for name, rows in data["dev"].items()
            }
        return {"first": first, "losses": torch.tensor(losses), "logits": logits}


@contextmanager
def recorded_sums(training: Training, into: dict[str, torch.Tensor]):
    """Put what the workers sum into `into`, after the sum: losses, gradients, J, ĥ."""
    add_up = training.exchange.add_up

    def recording(losses, sizes, gradients):
        means = add_up(losses, sizes, gradients)
        num_rows = len(training.projection.filled_rows())
        num_hessian = len(training.curvature.hessian_buffer)
        num_plain = len(gradients) - num_rows - num_hessian
        parts = {
            "losses": [means],
            "gradients": gradients[:num_plain],
            "J": gradients[num_plain : num_plain + num_rows],
            "hessian": gradients[num_plain + num_rows :],
        }
        into.update({k: torch.cat([t.flatten() for t in v]).clone() for k, v in parts.items() if v})
        return means

    training.exchange.add_up = recording
    try:
        yield
    finally:
        del training.exchange.add_up


def run_resumed(script: str, flags: list[str]) -> dict:
    """A run that the last worker is asked to stop in epoch 2, or while it evaluates after epoch 1,
    gone on with: its weights.

    `flags` end with the run's name.
    """
    # Checks of an epoch: four updates, then two for each task's evaluation.
    asked = 8 if flags[-1].endswith("evaluation") else 12
    calls = []

    def check():
        calls.append(1)
        if len(calls) == asked and workers.rank() == workers.size() - 1:
            workers.vote.wanted = True
        if workers.vote.agreed or (workers.size() == 1 and workers.vote.wanted):
            raise Interrupted("stopped", signal.SIGTERM)

    with prepared(parse(script, flags)) as (args, training, data):
        log = build_run_log(args, 0, 0)
        try:
            engine.fit(args, training, data["dev"], log, check)
            raise AssertionError("it did not stop")
        except Interrupted:
            stopped_at = training.progress.total_updates
    workers.vote.wanted = workers.vote.agreed = False
    workers.barrier()
    resumed = parse(script, ["--resume", args.run_dir])
    with prepared(resumed) as (args, training, data):
        assert training.progress.total_updates == stopped_at
        engine.fit(args, training, data["dev"], build_run_log(args, 0, stopped_at))
        return {"weights": training.model.state_dict(), "stopped_at": stopped_at}


def run_whole(script: str, flags: list[str]) -> dict:
    """The same run without a stop."""
    with prepared(parse(script, flags)) as (args, training, data):
        engine.fit(args, training, data["dev"], build_run_log(args, 0, 0))
        random = [state["torch"] for state in training.state_dict()["random"]]
        return {"weights": training.model.state_dict(), "random": random}


def run_drifted(script: str, flags: list[str]) -> dict:
    """What `check_replicas` says of a nan that all workers have, and of weights that differ."""
    with prepared(parse(script, flags)) as (_, training, _):
        weight = training.model.encoder.embeddings.word_embeddings.weight.data
        messages = []
        for value in (float("nan"), 1.0 + 1e-6 * workers.rank()):
            weight[0, 0] = value
            try:
                training.exchange.check_replicas(training.model)
                messages.append("")
            except workers.WorkerLost as error:
                messages.append(str(error))
        return {"messages": messages}


RUNNERS = {"case": run_case, "resumed": run_resumed, "whole": run_whole, "drifted": run_drifted}


def run_all(content: dict) -> dict:
    use_fastest_float32()  # in one process as in two, whatever ran before in it
    results = {}
    for name, (kind, script, flags) in content["cases"].items():
        flags = [*content["flags"], *flags, "--run_name", name]
        results[name] = RUNNERS[kind](script, flags)
    return results


def die_in_update(number: int) -> None:
    """Make the last worker kill itself in its `number`-th update."""
    train_step = engine.train_step
    calls = []

    def step(*args, **options):
        calls.append(1)
        if len(calls) == number and workers.rank() == workers.size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(*args, **options)

    engine.train_step = step


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--die":
        die_in_update(3)
        args = parse("train_multitask.py", sys.argv[2:])
        sys.exit(exit_status(lambda: train_multitask.main(args)))
    out, cases = sys.argv[1:]
    workers.join(use_gpu=False)
    results = run_all(json.loads(Path(cases).read_text()))
    workers.leave()
    results["threads"] = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    if workers.is_main():
        torch.save(results, out)
