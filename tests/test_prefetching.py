"""Updates that a thread prepares are those that the loop would make, whatever ends the loop."""

import threading

import pytest
import torch
from saved_state import assert_same, final_state

import training
from inputs.frozen_states import CachedRows
from inputs.prefetching import DEPTH, Prefetched, is_worthwhile
from runtime import interrupts
from training import build_training

CPU = torch.device("cpu")
SIZES = "--batch_size 4 --epochs 2 --num_batches_per_epoch 5 --dev_samples 4 --save_every 2"
SIZES += " --no_test_predictions --no_tensorboard"
PAL = "train_multitask_pal.py"
SCHEDULERS = {
    "joint": [],
    "micro-batches": ["--micro_batch_size", "2"],
    "round_robin": [PAL],
    "random": [PAL, "--task_scheduler", "random"],
    "encourage": f"{PAL} --task_scheduler pal --projection pcgrad".split()
    + "--combine_strategy encourage --batches_per_update 4".split(),
    "one task": [PAL, "--task_scheduler", "sts"],
}


@pytest.fixture
def scheduler(parse, few_rows):
    """scheduler(flags) -> the task scheduler of a run with these flags."""
    from datasets import load_data
    from models import build_model
    from reporting.start import open_run

    def build(*flags):
        args = parse(*flags, *SIZES.split(), "--data_dir", few_rows)
        with open_run(args) as start:
            args = start.args
            data = load_data(args, start.tokenizer, start.config.pad_token_id)
            model = build_model(args, start.build_encoder())
            return build_training(args, model, data["train"]).task_scheduler

    return build


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("flags", SCHEDULERS.values(), ids=SCHEDULERS)
def test_updates_and_states_are_the_same_to_the_bit(scheduler, flags):
    plain, ahead = scheduler(*flags), Prefetched(scheduler(*flags), CPU)
    for epoch in (1, 2):
        plain.start_epoch(epoch)
        ahead.start_epoch(epoch)
        with plain.updates(30) as next_plain, ahead.updates(30) as next_ahead:
            for _ in range(30):  # several walks over the rows
                for (task, batch, weight), other in zip(next_plain(), next_ahead(), strict=True):
                    assert_same(batch, other[1])
                    assert (task, weight) == (other[0], other[2])
                assert_same(plain.state_dict(), ahead.state_dict())
        assert_same(plain.state_dict(), ahead.scheduler.state_dict())
        assert not threads()


def test_the_thread_is_ahead_and_its_updates_do_not_count(scheduler):
    ahead = Prefetched(scheduler("--task", "sst"), CPU)
    made, has_made = [], threading.Semaphore(0)
    make = ahead.scheduler.next_update

    def recording():
        made.append(make())
        has_made.release()
        return made[-1]

    ahead.scheduler.next_update = recording
    with ahead.updates(4) as next_update:
        for taken in range(1, 5):
            update = next_update()
            while len(made) < min(4, taken + DEPTH):
                assert has_made.acquire(timeout=60)
            assert len(made) <= taken + DEPTH and update is made[taken - 1]
            assert ahead.state_dict()["samplers"]["sst"]["position"] == taken
            assert threads()
    assert len(made) == 4  # none of the next epoch, and the thread has ended


def test_an_unfinished_loop_leaves_the_scheduler_where_it_was(scheduler):
    plain, ahead = scheduler(), Prefetched(scheduler(), CPU)
    with pytest.raises(FloatingPointError), ahead.updates(9) as next_update:
        next_update()
        raise FloatingPointError
    assert not threads()
    plain.next_update()
    assert_same(plain.state_dict(), ahead.state_dict())
    assert_same(plain.next_update()[0][1], ahead.next_update()[0][1])


def test_an_error_in_the_thread_is_raised_in_the_loop(scheduler):
    ahead = Prefetched(scheduler(), CPU)
    make = ahead.scheduler.next_update
    calls = iter(range(9))

    def failing():
        if next(calls) == 1:
            raise OSError("data.csv: cannot be read")
        return make()

    ahead.scheduler.next_update = failing
    with pytest.raises(OSError, match="^data.csv: cannot be read$"):
        with ahead.updates(9) as next_update:
            next_update()
            state = ahead.state_dict()
            next_update()
    assert not threads()
    assert_same(ahead.state_dict(), state)


@pytest.fixture
def forced(monkeypatch):
    """Let runs on a CPU prefetch as well; returns the devices that were asked about."""
    asked = []
    monkeypatch.setattr(training, "is_worthwhile", lambda device, data: not asked.append(device))
    return asked


@pytest.mark.parametrize(
    "stop", [3, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (4, 8))]
)
def test_a_run_that_prefetches_and_is_resumed_ends_as_one_that_does_not(
    train, monkeypatch, request, few_rows, stop
):
    """A checkpoint is written every second update, so a stop after the third saves another one."""
    flags = [*SCHEDULERS["encourage"], *SIZES.split(), "--data_dir", few_rows]
    whole = train(*flags, "--run_name", "whole")
    asked = request.getfixturevalue("forced")
    calls = iter(range(1, 1000))

    def check(self):
        if next(calls) == stop:
            raise interrupts.Interrupted("stopped by SIGTERM", 15)

    with monkeypatch.context() as patched:
        patched.setattr(interrupts.StopSignal, "check", check)
        with pytest.raises(interrupts.Interrupted):
            train(*flags, "--run_name", "parts")
    assert not threads()
    run = train("--resume", whole.parent / "parts")
    assert asked == [CPU, CPU] and not threads()
    assert_same(final_state(whole), final_state(run))


def test_only_a_gpu_is_worth_it_and_not_for_batches_that_run_the_model(scheduler):
    data = scheduler().data
    assert is_worthwhile(torch.device("cuda"), data) and not is_worthwhile(CPU, data)
    assert CachedRows.needs_model
    data["sst"].needs_model = True
    assert not is_worthwhile(torch.device("cuda"), data)


def test_lengths_stay_on_the_host(scheduler, monkeypatch):
    """Copied to the meta device, without pages that only CUDA can pin."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    ahead = Prefetched(scheduler(), CPU)
    ahead.device = torch.device("meta")
    [(_, batch, _), *_] = ahead.scheduler.next_update()
    places = {name: tensor.device.type for name, tensor in ahead.copied(batch).items()}
    assert places == dict.fromkeys(batch, "meta") | {"lengths": "cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_updates_on_a_gpu_are_the_same_to_the_bit(scheduler):
    device = torch.device("cuda", 0)
    plain, ahead = scheduler(), Prefetched(scheduler(), device)
    with ahead.updates(9) as next_update:
        for _ in range(9):
            for (_, batch, _), (_, other, _) in zip(plain.next_update(), next_update()):
                places = {name: tensor.device for name, tensor in other.items()}
                assert places == dict.fromkeys(batch, device) | {"lengths": CPU}
                assert_same(batch, {name: tensor.cpu() for name, tensor in other.items()})
