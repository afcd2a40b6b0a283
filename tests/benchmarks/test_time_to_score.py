"""The plain loop that ours is compared with is what a user of transformers writes."""

import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from benchmarks import plain_loop, time_to_score
from benchmarks.precision import device_precisions, precision_of
from benchmarks.setup import load_rows, silent_log
from engine import evaluate
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


@pytest.fixture
def parts(tiny_model, few_rows):
    """The plain settings, the start and 8 training rows of each task, in batches of 4."""
    words = ["--data_dir", str(few_rows), "--model_name", str(tiny_model), "--plain_batch_size"]
    options = time_to_score.get_args_parser().parse_args([*words, "4", "--plain_epochs", "2"])
    start = time_to_score.open_ours(options, 1)
    return time_to_score.plain_settings(options), start, load_rows(start, 8)


def test_ours_has_the_options_of_a_run_without_flags(parts, parse):
    _, start, _ = parts
    plain = parse("--seed", "1")
    for name, value in vars(plain).items():
        places = ("data_dir", "logdir", "model_name", "given", "script", "fingerprint", "run_name")
        if name not in places and value is not None:
            assert getattr(start.args, name) == value, name


def test_a_plain_loop_warms_up_and_decays_over_its_own_updates(parts):
    settings, start, data = parts
    loop = plain_loop.PlainLoop(settings, start, data, seed=1)
    assert loop.num_left == 2 * 3 * 2  # epochs, tasks, batches
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], settings.lr)
    expected = get_linear_schedule_with_warmup(other, 1, 12)
    before = [p.clone() for p in loop.model.encoder.parameters()]
    for number in range(12):
        assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(expected.get_last_lr()[0])
        assert loop.step().num_examples == 4
        other.step()
        expected.step()
    assert loop.num_left == 0 and loop.optimizer.param_groups[0]["lr"] == 0
    moved = [not torch.equal(p, q) for p, q in zip(before, loop.model.encoder.parameters())]
    assert sum(moved) >= len(moved) - 2  # all but the unused pooler


def test_one_loop_takes_its_tasks_in_turns_and_several_take_turns_themselves(parts, monkeypatch):
    settings, start, data = parts
    seen = []
    for name, rows in data.items():
        plain = rows.batch
        monkeypatch.setattr(rows, "batch", lambda r, n=name, b=plain: seen.append(n) or b(r))
    joint = time_to_score.Plain([plain_loop.PlainLoop(settings, start, data, 1)])
    assert joint.train(24) == 24 and seen == [*TASKS] * 2
    loops = [plain_loop.PlainLoop(settings, start, {n: r}, 1) for n, r in data.items()]
    separate = time_to_score.Plain(loops)
    seen.clear()
    assert separate.train(24) == 24 and seen == [*TASKS] * 2
    assert separate.train(1000) == 24 and separate.train(1000) == 0  # two epochs of 24 rows


def test_separate_models_are_evaluated_each_on_its_own_task(parts):
    settings, start, data = parts
    loops = [plain_loop.PlainLoop(settings, start, {n: r}, 1) for n, r in data.items()]
    separate = time_to_score.Plain(loops)
    separate.train(24)
    found = separate.evaluate(data)
    for loop in loops:
        [name] = loop.data
        expected, _ = evaluate(loop.model, {name: data[name]})
        assert found[name] == pytest.approx(expected[name], nan_ok=True)
    separate.train(12)
    assert all(loop.model.training for loop in loops)  # evaluation has left them in eval mode


def test_an_epoch_of_random_batches_has_every_row_once():
    batches = plain_loop.random_batches(10, 4, np.random.default_rng(0))
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    assert [len(rows) for rows in epochs[0]] == [4, 4, 2]
    first, second = (np.concatenate(epoch).tolist() for epoch in epochs)
    assert sorted(first) == sorted(second) == [*range(10)] and first != second


def test_ours_ends_with_its_epochs_and_keeps_its_schedule(parts, tmp_path):
    _, start, data = parts
    ours = time_to_score.Ours(start, data, silent_log(tmp_path))
    training = ours.arm.training
    assert ours.num_left == 2  # epochs of one update: 8 rows of each task in one batch
    assert ours.train(1) == 24 and training.learning_rate > 0
    assert ours.train(1000) == 24 and training.learning_rate == 0
    assert ours.train(1000) == 0


def test_each_side_computes_in_what_a_user_of_it_gets(parts, tmp_path):
    settings, start, data = parts
    known = device_precisions()
    float32 = known.get("fast_float32", known["float32"])
    assert precision_of(False) == float32
    ours = time_to_score.Ours(start, data, silent_log(tmp_path))
    plain = time_to_score.Plain([plain_loop.PlainLoop(settings, start, data, 1)])
    with ours.precision():
        assert torch.get_float32_matmul_precision() == float32.matmul
    with plain.precision():
        assert torch.get_float32_matmul_precision() == "highest"


def test_an_interval_stops_the_clock_before_the_evaluation(monkeypatch):
    clock = iter([10.0, 13.0])
    monkeypatch.setattr("benchmarks.setup.time.perf_counter", lambda: next(clock))

    class Arm:
        def train(self, num_examples: int) -> int:
            return num_examples

        def evaluate(self, dev: dict) -> dict:
            with pytest.raises(StopIteration):
                next(clock)
            return {"sst": {"accuracy": 0.75}}

    options = time_to_score.get_args_parser().parse_args(["--data_dir", "x", "--every", "48"])
    result = time_to_score.Result()
    time_to_score.train_interval(Arm(), result, options, {})
    assert (result.seconds, result.examples, result.best) == (3.0, 48, 0.75)
    assert result.is_reached and result.is_over
