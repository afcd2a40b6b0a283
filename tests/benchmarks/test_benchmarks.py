"""Every benchmark for real, in its smallest form: the rows of its table, and finite numbers."""

import re
import sys
import threading
import warnings

import pytest
import torch

from benchmarks import frozen, parallel, scale, techniques, throughput
from benchmarks.memory import peak_memory
from benchmarks.setup import load_rows, open_arm, run_benchmark, silent_log
from runtime.errors import InputError
from task_table import built_in_tasks

TASKS = built_in_tasks()

SMALL = "--rows 8 --batch_size 4 --rounds 1 --updates 1 --threads 1"
IN_PROCESS = [frozen, scale, techniques, throughput]


@pytest.fixture
def words(tiny_model, few_rows) -> list[str]:
    """The options of the smallest form that every benchmark has."""
    return ["--data_dir", str(few_rows), "--model_name", str(tiny_model)]


@pytest.fixture
def table(words, capsys):
    """table(benchmark, flags) -> what it prints, as lines without the empty ones."""

    def run(benchmark, flags: str) -> list[str]:
        capsys.readouterr()
        benchmark.main(benchmark.get_args_parser().parse_args([*words, *flags.split()]))
        return [line for line in capsys.readouterr().out.splitlines() if line]

    return run


def numbers(text: str) -> list[float]:
    """Return the numbers in a text, none of which may be nan or infinite."""
    assert not re.search(r"\b(nan|inf)\b", text), text
    return [float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?", text)]


def cells(lines: list[str], width: int) -> dict[str, list[float]]:
    """Return the numbers behind the first `width` characters of each line, by these."""
    return {line[:width].strip(): numbers(line[width:]) for line in lines}


def test_throughput_prints_every_arm_its_ratio_and_a_profile(table):
    first, *lines = table(throughput, f"{SMALL} --arms abcd --profile")
    assert first == "12 examples in 1 rounds, batch 4, float32, 1 threads"  # 4 of each task
    speeds, ratios, profile = lines[:4], lines[4:7], lines[9:]
    assert [line[:5] for line in speeds] == ["  (a)", "  (b)", "  (c)", "  (d)"]
    for line in speeds:
        rate, _, share = numbers(line[35:])
        assert rate > 0 and share >= 0
    assert [line[:9] for line in ratios] == [f"  (a)/({name})" for name in "bcd"]
    for line in ratios:
        ratio, low, high = numbers(line[9:])
        assert 0 < low <= ratio <= high  # one round
    assert lines[7].startswith("  useful rate of (a): ") and numbers(lines[7])[0] > 0
    assert lines[8] == "profile of 1 updates of arm a"
    shares = cells(profile, 34)
    assert list(shares) == [*throughput.OPERATIONS, "everything else"]
    assert sum(share for [share] in shares.values()) == pytest.approx(100, abs=1)


def test_the_plan_of_throughput_holds_the_rows_that_our_loop_draws(words, tmp_path):
    parser = throughput.get_args_parser()
    options = parser.parse_args([*words, *SMALL.split(), "--updates", "3"])
    start = open_arm(options, throughput.common_flags(options))
    data = load_rows(start)
    rounds = throughput.plan_rounds(options, start, data)
    assert [len(updates) for updates in rounds] == [3, 3]
    scheduler = throughput.OurArm(start, data, silent_log(tmp_path)).training.task_scheduler
    for update in rounds[0] + rounds[1]:
        for task, batch, _ in scheduler.next_update():
            planned = data[task.name].batch(update[task.name])
            assert torch.equal(batch["input_ids"], planned["input_ids"])
    mixed = throughput.shuffled(rounds, seed=0)
    for name in TASKS:
        drawn = [
            [u[name].tolist() for updates in plan for u in updates] for plan in (rounds, mixed)
        ]
        assert drawn[0] != drawn[1] and sorted(sum(drawn[0], [])) == sorted(sum(drawn[1], []))
        assert [len(rows) for rows in drawn[0]] == [len(rows) for rows in drawn[1]]


def test_techniques_prints_every_technique(table):
    header, *lines = table(techniques, SMALL)
    assert header.split() == ["technique", "time", "rounds", "memory"]
    found = cells(lines, 24)
    assert list(found) == list(techniques.ARMS)
    assert found[techniques.PLAIN] == [1, 1, 1, 0]
    assert all(time > 0 and low <= time <= high for time, low, high, _ in found.values())


def test_only_the_named_techniques_run(table):
    assert list(cells(table(techniques, f"{SMALL} --only pal")[1:], 24)) == ["plain sum", "pal"]


def test_frozen_prints_every_kind_of_features(table):
    header, *lines = table(frozen, "--rows 8 --batch_size 4 --rounds 1 --threads 1")
    assert header.split() == ["features", "first", "epoch", "later", "epochs", "rounds"]
    found = cells(lines, 20)
    assert list(found) == list(frozen.ARMS)
    assert all(first > 0 and low == later == high for first, later, low, high in found.values())


def test_scale_predicts_for_every_method_and_number_of_gpus(table):
    first, assumed, header, *lines = table(scale, "--rows 8 --encoders bert-base")
    assert first.startswith("8 Quora pairs: ") and assumed.startswith("assumed: ")
    assert header.split() == ["encoder", "method", "GPUs", "min/epoch", "GiB/GPU", "MiB/pair"]
    assert [line[:30].strip() for line in lines[::3]] == [f"bert-base   {m}" for m in scale.METHODS]
    found = [numbers(line[30:]) for line in lines]
    assert [num_gpus for num_gpus, *_ in found] == [1, 4, 16] * 3
    minutes = [minutes for _, minutes, *_ in found]
    assert minutes[6] > minutes[0] == minutes[3] > 0  # SMART's passes
    kept = [kept for *_, kept in found]
    assert kept[0] == kept[3] > 0 and kept[6] > 1.5 * kept[0]


def test_parallel_compares_two_processes_with_one(words, capsys):
    flags = "--rounds 1 --updates 1 --methods joint --batch_size 4"
    parallel.main(parallel.parse([*words, *flags.split()]))
    first, header, line = capsys.readouterr().out.splitlines()
    assert first.startswith("torch ") and first.endswith(
        "one thread per process, 1 rounds, medians"
    )
    assert header.split() == ["method", "speed", "2/1", "range", "memory", "2/1"]
    assert line.startswith("joint ")
    assert all(ratio > 0 for ratio in numbers(line[10:21]) + numbers(line[35:]))


def test_parallel_says_why_a_process_failed(words, monkeypatch, tmp_path):
    path = tmp_path / "python"
    path.write_text("#!/bin/bash\necho noise >&2\necho 'error: no room' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(InputError, match="^joint on 1 processes: no room$"):
        parallel.main(parallel.parse([*words, "--methods", "joint"]))


def test_parallel_refuses_a_wrong_flag_before_it_starts_a_process(words, capsys):
    with pytest.raises(SystemExit):
        parallel.main(parallel.parse([*words, "--pooling", "nothing"]))
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", IN_PROCESS, ids=lambda module: module.__name__)
def test_a_wrong_folder_is_one_line(benchmark, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored afterwards
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    words = [*words, "--data_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as exit:
        run_benchmark(benchmark.main, benchmark.get_args_parser().parse_args(words))
    assert exit.value.code == 1
    path = tmp_path / "sst-sentiment-train.csv"
    message = f"error: {path}: no such file; name it with --data_dir or its own flag\n"
    assert capsys.readouterr().err == message


def test_peak_memory_is_that_of_the_call():
    assert 64 <= peak_memory(lambda: torch.ones(2**24)) < 96  # MiB
    assert peak_memory(lambda: None) < 16
