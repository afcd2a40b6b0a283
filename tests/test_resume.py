"""A run that is stopped anywhere and resumed ends bit-equal to an uninterrupted run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from saved_state import assert_same, final_state

import evaluation
from inputs import frozen_states
from inputs.frozen_states import CachedRows
from optimizers import LR_SCHEDULES
from options.task_table import built_in_tasks
from runtime import checkpoint, interrupts
from runtime.errors import InputError

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent
SIZES = ["--samples_per_epoch", "24", "--batch_size", "8", "--epochs", "3", "--dev_samples", "16"]
SIZES += ["--no_test_predictions", "--no_tensorboard"]
# For each task, `evaluate` checks for signals after the only batch and at the end.
EVALUATION_CHECKS = len(TASKS)  # one batch of each task


@pytest.fixture
def stop_after(monkeypatch):
    """A function arm(n): the n-th check for signals from then on finds a SIGTERM; 0 is never."""

    def arm(num_checks: int) -> None:
        calls = iter(range(1, 10_000))

        def check(self) -> None:
            if next(calls) == num_checks:
                raise interrupts.Interrupted("stopped by SIGTERM", signal.SIGTERM)

        monkeypatch.setattr(interrupts.StopSignal, "check", check)

    return arm


def flags_of(scheduler: str) -> list[str]:
    return ["--scheduler", scheduler, *(["--restarts", "1"] if scheduler == "cosine" else [])]


FROZEN = ["--option", "pretrain"]
PAL = ["train_multitask_pal.py"]
VACCINE = [*PAL, "--projection", "vaccine", "--task_scheduler", "pal"]
VACCINE += ["--combine_strategy", "force", "--batches_per_update", "4"]
JOINT = [*PAL, "--task_scheduler", "joint", "--loss_weighting"]
SLOW = "imtl_l --optimizer sophiah", "rlw --projection pcd", "famo --use_pal --projection vaccine"
AVERAGE = ["--average_weights", ".9", "--layer_decay", ".8"]
SMART = [*PAL, "--use_smart_regularization", "--smart_mu", "1"]


@pytest.mark.parametrize(
    "flags",
    [
        *map(flags_of, LR_SCHEDULES),
        ["--micro_batch_size", "3"],
        ["--use_amp"],
        ["--pair_encoding", "bi"],
        ["--optimizer", "sophiah", "--hess_interval", "2"],
        [*PAL, "--projection", "pcgrad"],
        [*PAL, "--task_scheduler", "random", "--use_pal"],
        VACCINE,
        SMART,
        ["--extension", "hierarchical", "--segment_length", "6"],
        ["--extension", "bilstm", "--class_weights"],
        ["--combined_models"],
        [*FROZEN, "--train_mode", "all_pooled"],
        [*FROZEN, "--unfreeze_interval", "1"],
        [*FROZEN, "--unfreeze_interval", "1", "--optimizer", "sophiah", "--scheduler", "plateau"],
        [*PAL, *FROZEN, "--extension", "cnn", "--projection", "pcgrad"],
        [*PAL, "--loss_weighting", "uncertainty", "--task_scheduler", "temperature"],
        [*JOINT, "dwa", "--epochs", "3", "--micro_batch_size", "3"],
        [*JOINT, "gradnorm"],
        [*JOINT, "famo", *SMART[1:]],
        [*SMART, "--lora_rank", "4", "--projection", "pcgrad", "--gradient_checkpointing"],
        [*PAL, "--lora_rank", "4", "--lora_per_task", "--task_scheduler", "random", "--use_amp"],
        [*PAL, "--rdrop_weight", "1", "--symmetric_pairs", *AVERAGE, "--use_amp"],
        [*FROZEN, "--unfreeze_interval", "1", *AVERAGE],
        *(pytest.param([*JOINT, *end.split()], marks=pytest.mark.slow) for end in SLOW),
    ],
    ids=" ".join,
)
def test_stopped_and_resumed_equals_uninterrupted(train, stop_after, flags):
    check_resume(train, stop_after, flags, 5, EVALUATION_CHECKS + 1)


def test_unfrozen_beside_pals_and_resumed_equals_uninterrupted(train, stop_after):
    """An epoch has nine updates; the stops come after the second update of epochs 2 and 3."""
    flags = [*PAL, *FROZEN, "--use_pal", "--unfreeze_interval", "1"]
    stops = 9 + EVALUATION_CHECKS + 2, 7 + EVALUATION_CHECKS + 2
    run = check_resume(train, stop_after, flags, *stops)
    assert checkpoint.load(run / "checkpoints" / "last.pt")["num_unfrozen"] == 2


def test_frozen_states_are_computed_in_the_same_blocks_again(
    train, stop_after, few_rows, monkeypatch, tmp_path
):
    """A resumed run asks for rows in another order, and computes the blocks of the whole run."""
    monkeypatch.setattr(frozen_states, "BLOCK", 8)
    blocks = []
    compute = CachedRows.compute

    def recording(self, number: int) -> None:
        blocks.append(self.blocks[number].tolist())
        compute(self, number)

    monkeypatch.setattr(CachedRows, "compute", recording)
    flags = [*FROZEN, "--task", "sst", "--samples_per_epoch", "26", "--data_dir", str(few_rows)]
    stop_after(0)
    train(*SIZES, *flags, "--run_name", "whole")
    first = blocks.copy()
    stop_after(6)
    with pytest.raises(interrupts.Interrupted):
        train(*SIZES, *flags, "--run_name", "parts")
    blocks.clear()
    stop_after(0)
    train("--resume", tmp_path / "runs" / "parts")
    assert blocks and all(block in first for block in blocks)


def check_resume(train, stop_after, flags: list[str], *stops: int) -> Path:
    """Check that a run that is stopped and resumed ends as an uninterrupted one does.

    Args:
        train: the fixture.
        stop_after: the fixture.
        flags: options of both runs.
        stops: how many checks after each start the run is stopped.
    """
    entry = flags[:1] if flags[:1] == PAL else []
    flags = [*entry, *SIZES, *flags[len(entry) :]]
    stop_after(0)
    whole = train(*flags, "--run_name", "whole")
    run = whole.parent / "parts"
    words = [*flags, "--run_name", "parts"]
    for stop in stops:
        stop_after(stop)
        with pytest.raises(interrupts.Interrupted):
            train(*words)
        words = ["--resume", run]
    stop_after(0)
    train(*words)
    for one, other in zip(final_state(whole), final_state(run)):
        assert_same(one, other)
    return run


def test_stopped_while_evaluating_evaluates_again(train, stop_after, tmp_path):
    stop_after(4)  # an epoch has 3 updates; the fourth check is the first one of the evaluation
    with pytest.raises(interrupts.Interrupted):
        train(*SIZES, "--run_name", "a")
    run = tmp_path / "runs" / "a"
    progress = checkpoint.load(run / "checkpoints" / "last.pt")["progress"]
    assert (progress["epoch"], progress["update"]) == (0, 3)
    stop_after(0)
    train("--resume", run)
    assert [line["update"] for line in final_state(run)[2]] == [3, 6, 9]


def test_stopped_while_evaluating_the_average_equals_uninterrupted(train, stop_after):
    """The training goes on from its own weights, not from those that were evaluated."""
    run = check_resume(train, stop_after, AVERAGE, 4, EVALUATION_CHECKS + 3)
    last, best, _ = final_state(run)
    for name, tensor in last["average"].items():
        assert not torch.equal(tensor, last["model"][name]) or "pooler" in name, name


def test_more_epochs_may_be_asked_for(train):
    run = train(*SIZES[:-2], "--no_tensorboard", "--run_name", "a")
    train("--resume", run, "--epochs", "4")
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").open()]
    assert epochs == [1, 2, 3, 4]


def test_options_given_on_resume_are_kept(train, stop_after):
    """A later resume without options still trains for the epochs given on an earlier resume."""
    run = train(*SIZES, "--run_name", "a")
    stop_after(2)
    with pytest.raises(interrupts.Interrupted):
        train("--resume", run, "--epochs", "5")
    stop_after(0)
    train("--resume", run)
    assert [line["epoch"] for line in final_state(run)[2]] == [1, 2, 3, 4, 5]


def test_resume_with_other_files_is_one_line(train, stop_after, data_copy):
    stop_after(5)
    with pytest.raises(interrupts.Interrupted):
        train(*SIZES, "--run_name", "a", "--data_dir", data_copy)
    stop_after(0)
    path = data_copy / "sst-sentiment-train.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:100]))
    with pytest.raises(
        InputError, match="sst-sentiment-train.csv: is not the file that this run was trained on"
    ):
        train("--resume", data_copy.parent / "runs" / "a")


def test_a_moved_checkpoint_folder_must_hold_one(train, tmp_path):
    run = train(*SIZES, "--run_name", "a")
    with pytest.raises(InputError, match="last.pt: missing, although .*metrics.jsonl is"):
        train("--resume", run, "--filepath", tmp_path / "empty")


def test_resume_of_nothing_is_one_line(train, tmp_path):
    with pytest.raises(InputError, match="no args.json in it, expected the directory of a run"):
        train("--resume", tmp_path)


def test_resume_before_the_first_checkpoint_starts_over(train):
    whole = train(*SIZES, "--run_name", "whole")
    run = train(*SIZES, "--run_name", "a")
    for path in [*(run / "checkpoints").iterdir(), run / "metrics.jsonl"]:
        path.unlink()
    train("--resume", run)
    for one, other in zip(final_state(whole), final_state(run)):
        assert_same(one, other)


@pytest.mark.parametrize("kept", ["checkpoints/best.pt", "metrics.jsonl"])
def test_a_run_with_results_never_starts_over(train, kept):
    run = train(*SIZES, "--run_name", "a")
    (run / "checkpoints" / "last.pt").unlink()
    (run / ("metrics.jsonl" if "best" in kept else "checkpoints/best.pt")).unlink()
    before = (run / kept).read_bytes()
    with pytest.raises(InputError, match=f"last.pt: missing, although .*{kept} is there"):
        train("--resume", run, "--epochs", 5)
    assert (run / kept).read_bytes() == before


def test_checkpoint_flag_takes_weights_alone(train):
    first = train(*SIZES, "--run_name", "first")
    best = first / "checkpoints" / "best.pt"
    frozen = ["--option", "pretrain", "--lr", "1e-9", "--checkpoint", best]
    second = train(*SIZES, *frozen, "--run_name", "second")
    start, end = checkpoint.load(best)["model"], final_state(second)[0]["model"]
    encoder = [name for name in start if name.startswith("encoder.")]
    assert all(torch.equal(start[name], end[name]) for name in encoder)


def run_script(*flags: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-u", ROOT / PAL[0], *flags]
    # The same number of threads as the tests' own process: sums of floats depend on it.
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [str(part) for part in command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environ, **options)


def wait_for(process: subprocess.Popen, start: str) -> None:
    """Read the process's output until a line starts with `start`."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended with status {process.wait()} before a line {start!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique",
    [
        "none --no_use_amp",
        "none --use_amp --task_scheduler round_robin --projection vaccine",
        *(f"{name} --no_use_amp" for name in ("uncertainty", "gradnorm", "famo")),
    ],
)
def test_killed_processes_resume_to_the_same_bits(tmp_path, tiny_model, some_rows, technique):
    """Real processes, killed within an epoch: kill -9 loses only time, SIGTERM loses nothing."""
    flags = ["--model_name", tiny_model, "--data_dir", some_rows, "--logdir", tmp_path]
    flags += [*JOINT[1:], *technique.split(), *SIZES, "--save_every", "2", "--run_name"]
    whole, run = tmp_path / "whole", tmp_path / "killed"
    with run_script(*flags, "whole") as process:
        process.communicate()
    assert process.returncode == 0
    with run_script(*flags, "killed") as process:
        wait_for(process, "epoch 1/3")
        process.send_signal(signal.SIGKILL)
    with run_script("--resume", run, stderr=subprocess.PIPE) as process:
        wait_for(process, "epoch 2/3")
        process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
    if process.wait() != 0:  # it is 0 if the run ended before the signal arrived
        assert process.returncode == 128 + signal.SIGTERM
        assert f"--resume {run}" in message and "Traceback" not in message
    with run_script("--resume", run) as process:
        process.communicate()
    assert process.returncode == 0
    for one, other in zip(final_state(whole), final_state(run)):
        assert_same(one, other)


def test_events_after_the_checkpoint_are_void(train, stop_after, tmp_path):
    """A resumed run's events hold each update once, although some were trained twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = [flag for flag in SIZES if flag != "--no_tensorboard"]
    run = tmp_path / "runs" / "a"
    stop_after(3 + EVALUATION_CHECKS + 2)  # after the second update of epoch 2
    with pytest.raises(interrupts.Interrupted):
        train(*flags, "--run_name", "a")
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    assert state["progress"]["total_updates"] == 5
    for path in [*(run / "checkpoints").iterdir(), run / "metrics.jsonl"]:
        path.unlink()
    stop_after(0)
    train("--resume", run)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/learning_rate")]
    assert steps == list(range(1, 10))


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_of_another_run_is_refused_although_it_fits(train, name):
    one = train(*SIZES, "--run_name", "one")
    other = train(*SIZES, "--run_name", "other", "--seed", 1)
    same = train(*SIZES, "--run_name", "same")
    shutil.copy(same / "checkpoints" / name, one / "checkpoints" / name)
    train("--resume", one, "--epochs", 3)  # a repeated run's checkpoint is the same
    shutil.copy(one / "checkpoints" / name, other / "checkpoints" / name)
    with pytest.raises(InputError, match=f"{name}: is of a run with other options"):
        if name == "last.pt":
            train("--resume", other, "--epochs", 3)
        else:
            evaluation.load_run(other)
