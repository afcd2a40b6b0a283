"""What every worker of tests/test_workers.py runs, under torchrun or alone.

    torchrun --nproc_per_node 2 tests/parallel_worker.py OUT CASES.json

CASES.json: {"flags": [common flags], "cases": {name: [script, flags]}}. Worker 0 saves what
`run_case` returns of each to OUT.
"""

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import engine  # noqa: E402
import train_multitask  # noqa: E402
import train_multitask_pal  # noqa: E402
import workers  # noqa: E402
from errors import exit_status  # noqa: E402
from interrupts import Interrupted  # noqa: E402
from options import parse_args  # noqa: E402
from preparation import prepare  # noqa: E402
from run_log import build_run_log  # noqa: E402
from tasks import TASKS  # noqa: E402

NUM_UPDATES = 20
PARSERS = {
    "train_multitask.py": train_multitask.get_args_parser,
    "train_multitask_pal.py": train_multitask_pal.get_args_parser,
}


def parse(script: str, flags: list[str]):
    return parse_args(PARSERS[script](), flags)


def run_case(script: str, flags: list[str]) -> dict:
    """Sums of the first update, losses of 20, logits on fixed rows after them."""
    _, training, data = prepare(parse(script, flags))
    if training.smart is not None:
        # At the default distance, 1e-5, outputs differ by little more than float32's rounding, and
        # rounding, which the shape of a batch changes, then decides the sign of some ascents.
        training.smart.noise_std, training.smart.step_size = 0.1, 1.0
    training.start_epoch()
    first: dict[str, torch.Tensor] = {}
    losses = []
    for number in range(NUM_UPDATES):
        update = training.task_scheduler.next_update()
        with recorded_sums(training, first if number == 0 else {}):
            means, norm = engine.train_step(
                training.model,
                update,
                training.projection,
                training.optimizer,
                training.clip,
                training.use_amp,
                training.smart,
            )
        if number == 0:
            first["examples"] = torch.tensor(training.progress.count(update, means, 1.0))
        training.lr_schedule.after_update()
        if training.smart is not None:
            training.smart.after_step(number / NUM_UPDATES)
        losses.append([*means.values(), norm])
    training.model.eval()
    with torch.no_grad():
        logits = {
            name: training.model(TASKS[name], rows.batch(np.arange(16)))
            for name, rows in data["dev"].items()
        }
    return {"first": first, "losses": torch.tensor(losses), "logits": logits}


@contextmanager
def recorded_sums(training, into: dict[str, torch.Tensor]):
    """Put what the workers sum into `into`, after the sum: losses, gradients, J, ĥ."""
    sum_ = workers.sum_

    def recording(tensors):
        result = sum_(tensors)
        losses, *rest = tensors
        num_rows = len(training.projection.filled_rows())
        num_hessian = len(getattr(training.optimizer, "hessian_buffer", []))
        num_plain = len(rest) - num_rows - num_hessian
        parts = {
            "losses": [losses],
            "gradients": rest[:num_plain],
            "J": rest[num_plain : num_plain + num_rows],
            "hessian": rest[num_plain + num_rows :],
        }
        into.update({k: torch.cat([t.flatten() for t in v]).clone() for k, v in parts.items() if v})
        return result

    workers.sum_ = recording
    try:
        yield
    finally:
        workers.sum_ = sum_


def run_resumed(script: str, flags: list[str]) -> dict:
    """A run that the last worker is asked to stop in epoch 2, or while it evaluates after epoch 1,
    gone on with: its weights.

    `flags` end with the run's name.
    """
    # Checks of an epoch: four updates, then two for each task's evaluation.
    asked = 8 if flags[-1].endswith("evaluation") else 12
    args, training, data = prepare(parse(script, flags))
    calls = []

    def check():
        calls.append(1)
        if len(calls) == asked and workers.rank() == workers.size() - 1:
            workers.vote.wanted = True
        if workers.vote.agreed or (workers.size() == 1 and workers.vote.wanted):
            raise Interrupted("stopped", signal.SIGTERM)

    log = build_run_log(args, 0, 0)
    try:
        engine.fit(args, training, data["dev"], log, check)
        raise AssertionError("it did not stop")
    except Interrupted:
        stopped_at = training.progress.total_updates
    workers.vote.wanted = workers.vote.agreed = False
    workers.barrier()
    args, training, data = prepare(parse(script, ["--resume", args.run_dir]))
    assert training.progress.total_updates == stopped_at
    engine.fit(args, training, data["dev"], build_run_log(args, 0, stopped_at))
    return {"weights": training.model.state_dict(), "stopped_at": stopped_at}


def run_whole(script: str, flags: list[str]) -> dict:
    """The same run without a stop."""
    args, training, data = prepare(parse(script, flags))
    engine.fit(args, training, data["dev"], build_run_log(args, 0, 0))
    random = [state["torch"] for state in training.state_dict()["random"]]
    return {"weights": training.model.state_dict(), "random": random}


def run_drifted(script: str, flags: list[str]) -> dict:
    """What `check_replicas` says of a nan that all workers have, and of weights that differ."""
    _, training, _ = prepare(parse(script, flags))
    weight = training.model.encoder.embeddings.word_embeddings.weight.data
    messages = []
    for value in (float("nan"), 1.0 + 1e-6 * workers.rank()):
        weight[0, 0] = value
        try:
            workers.check_replicas(training.model)
            messages.append("")
        except workers.WorkerLost as error:
            messages.append(str(error))
    return {"messages": messages}


RUNNERS = {"case": run_case, "resumed": run_resumed, "whole": run_whole, "drifted": run_drifted}


def run_all(content: dict) -> dict:
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
    if workers.is_main():
        torch.save(results, out)
    workers.leave()
