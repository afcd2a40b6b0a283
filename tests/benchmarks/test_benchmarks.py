"""Every benchmark for real, in its smallest form: the rows of its table, and finite numbers."""

import os
import re
import shlex
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks import (
    frozen,
    growth,
    labelling,
    parallel,
    scale,
    techniques,
    throughput,
    time_to_score,
    waiting,
)
from benchmarks.cost_file import read_costs
from benchmarks.precision import Precision, default_precision, device_precisions
from benchmarks.profiling import OPERATIONS
from benchmarks.setup import load_rows, open_arm, run_benchmark, silent_log
from options.task_table import built_in_tasks
from runtime import device
from runtime.errors import InputError

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--rows 8 --batch_size 4 --rounds 1 --updates 1 --threads 1"
IN_PROCESS = [frozen, growth, labelling, scale, techniques, throughput, time_to_score]


@pytest.fixture
def words(tiny_model, few_rows, monkeypatch) -> list[str]:
    """The options of the smallest form that every benchmark has, on the processor as it is."""
    monkeypatch.setattr("options.resolving.prefers_bfloat16", device.prefers_bfloat16)
    return ["--data_dir", str(few_rows), "--model_name", str(tiny_model)]


@pytest.fixture
def table(words, capsys):
    """table(benchmark, flags) -> what it prints, as lines without the empty ones."""

    def run(benchmark, flags: str) -> list[str]:
        capsys.readouterr()
        benchmark.main(benchmark.get_args_parser().parse_args([*words, *shlex.split(flags)]))
        return [line for line in capsys.readouterr().out.splitlines() if line]

    return run


def numbers(text: str) -> list[float]:
    """Return the numbers in a text, none of which may be nan or infinite."""
    assert not re.search(r"\b(nan|inf)\b", text), text
    return [float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?", text)]


def cells(lines: list[str], width: int) -> dict[str, list[float]]:
    """Return the numbers behind the first `width` characters of each line, by these."""
    return {line[:width].strip(): numbers(line[width:]) for line in lines}


@pytest.mark.parametrize("default", [[*device_precisions()][0], [*device_precisions()][-1]])
def test_throughput_prints_every_arm_in_every_precision_and_a_profile(table, monkeypatch, default):
    chosen = device_precisions()[default]
    monkeypatch.setattr(throughput, "default_precision", lambda use_gpu: chosen)
    first, second, header, *lines = table(throughput, f"{SMALL} --arms abcd --profile")
    precisions = [*device_precisions()]
    assert re.match(r".+, 1 threads, torch [\d.]+", first)
    assert second == "12 examples in 1 rounds, batch 4"  # 4 of each task
    assert header.split() == ["precision", "arm", "examples/s", "MiB", "(a)/arm", "rounds"]
    speeds, lines = lines[: 4 * len(precisions)], lines[4 * len(precisions) :]
    expected = [f"{p} ({name})" for p in precisions for name in "abcd"]
    assert [" ".join(line.split()[:2]) for line in speeds] == expected
    for line in speeds:
        rate, peak, ratio, low, high = numbers(line[48:])
        assert rate > 0 and peak >= 0 and 0 < low <= ratio <= high  # one round
        assert ratio == 1 or "(a)" not in line
    rates, defaults, title, profile = rates_and_rest(lines, len(precisions))
    assert list(rates) == precisions and rates["float32"][:3] == [1, 1, 1]
    for _, _, _, useful, products, share, low, high in rates.values():
        assert low <= share <= high and share == pytest.approx(100 * useful / products, abs=10)
    assert defaults.startswith(f"defaults of both sides: (a) in {default} / (b) in float32 ")
    assert title == f"profile of (a) in {default}"
    shares = cells(profile, 34)
    assert list(shares) == [*OPERATIONS, "everything else"]
    assert sum(share for [share] in shares.values()) == pytest.approx(100, abs=1)


def rates_and_rest(lines: list[str], num_precisions: int) -> tuple[dict, str, str, list[str]]:
    """Split what follows the speeds: the table of useful rates, and the lines after it."""
    assert lines[0].split()[:3] == ["(a)", "in", "speed"]
    rates, rest = lines[1 : 1 + num_precisions], lines[1 + num_precisions :]
    return cells(rates, 14), rest[0], rest[1], rest[2:]


@pytest.mark.parametrize("default", ["float32", "bfloat16"])
def test_throughput_compares_defaults_only_where_both_were_measured(table, monkeypatch, default):
    precision = Precision(default, False, "highest")
    monkeypatch.setattr(throughput, "default_precision", lambda use_gpu: precision)
    lines = table(throughput, f"{SMALL} --arms ab --precisions float32")
    expected = ["float32", "float32", "(a)", "float32", *["defaults"] * (default == "float32")]
    assert [line.split()[0] for line in lines[3:]] == expected


@pytest.mark.slow
def test_throughput_prints_the_memory_after_more_and_more_updates(table):
    first, second, header, *lines = table(throughput, "--rows 8 --batch_size 4 --memory 26")
    assert second == "resident MiB of our loop, batch 4"
    assert header.split() == ["updates", *device_precisions()]
    found = cells(lines, 9)
    assert list(found) == ["25", "26"]
    assert all(size > 50 for sizes in found.values() for size in sizes)


def test_memory_is_looked_at_twice_as_late_each_time():
    assert throughput.memory_marks(300) == [25, 50, 100, 200, 300]
    assert throughput.memory_marks(26) == [25, 26]
    assert throughput.memory_marks(25) == [25] and throughput.memory_marks(3) == [3]


def test_the_plan_of_throughput_holds_the_rows_that_our_loop_draws(words, tmp_path):
    parser = throughput.get_args_parser()
    options = parser.parse_args([*words, *SMALL.split(), "--updates", "3"])
    start = open_arm(options, throughput.common_flags(options, device_precisions()["float32"]))
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


# The loss weightings and aggregators are many and alike: one of each is among the fast tests.
FAST_ARMS = [*list(techniques.ARMS)[:6], "round robin", "hierarchical", "famo", "fairgrad"]


@pytest.mark.parametrize(
    "names", [FAST_ARMS, pytest.param(list(techniques.ARMS), marks=pytest.mark.slow)]
)
def test_techniques_prints_every_technique(table, names):
    if names != FAST_ARMS:
        for package in ("cvxpy", "clarabel", "ecos", "spacy"):
            pytest.importorskip(package)
    _, header, *lines = table(techniques, f"{SMALL} --only {shlex.join(names)}")
    assert header.split() == ["in", default_precision().name, "time", "rounds", "memory"]
    found = cells(lines, 24)
    assert list(found) == names
    assert found[techniques.PLAIN] == [1, 1, 1, 0]
    assert all(time > 0 and low <= time <= high for time, low, high, _ in found.values())


def test_only_the_named_techniques_run_in_every_named_precision(table):
    names = [*device_precisions()]
    lines = table(techniques, f"{SMALL} --only pal --precisions {' '.join(names)}")[1:]
    assert [line.split()[1] for line in lines[::3]] == names
    for number in range(0, len(lines), 3):
        assert list(cells(lines[number + 1 : number + 3], 24)) == ["plain sum", "pal"]


def test_the_costs_of_groups_are_written_for_the_report(table, tmp_path, capsys):
    path = tmp_path / "costs.json"
    flags = f"{SMALL} --only famo float32 pal --group_size 2 --to {path} --precisions float32"
    first, _, *lines = table(techniques, flags)
    costs = read_costs(path)
    assert (costs.machine, costs.precision) == (first, "float32")
    assert (costs.batch_size, costs.rounds, costs.updates) == (4, 1, 1)
    assert list(costs.arms) == ["plain sum", "pal", "float32", "famo"]  # the plain sum once
    for name, printed in cells(lines, 24).items():
        assert [*costs.arms[name]] == pytest.approx(printed, abs=0.051)
    with pytest.raises(InputError, match="--to holds the costs of one precision"):
        table(techniques, f"{SMALL} --to {path} --precisions float32 bfloat16")


def test_groups_hold_so_many_techniques_each_beside_a_plain_sum():
    parser = techniques.get_args_parser()
    flags = ["--data_dir", "data", "--group_size", "2", "--only"]
    names = [*techniques.groups(parser.parse_args([*flags, "pal", "lora", "rdrop"]))]
    assert names == [["plain sum", "rdrop", "pal"], ["plain sum", "lora"]]
    assert [*techniques.groups(parser.parse_args([*flags, "plain sum"]))] == [["plain sum"]]


def test_an_arm_in_turns_makes_as_many_more_updates(words, tmp_path):
    options = techniques.get_args_parser().parse_args([*words, *SMALL.split(), "--updates", "2"])
    precision = device_precisions()["float32"]
    inputs, made, every = {(): load_rows(open_arm(options), 8)}, {}, []

    def build(name: str) -> techniques.Arm:
        made[name] = techniques.Arm(options, inputs, silent_log(tmp_path), precision, name)
        every.append(made[name].training.progress)
        return made[name]

    found = techniques.measure(options, build, ["plain sum", "round robin"])
    assert found["plain sum"] == (1, 1, 1, 0)
    progress = {name: arm.training.progress for name, arm in made.items()}
    assert progress["plain sum"].examples == progress["round robin"].examples
    assert progress["round robin"].total_updates == 3 * progress["plain sum"].total_updates
    _, plain, turns, *_ = every  # the two whose memory was measured, after one that told its size
    assert plain.examples == turns.examples and turns.total_updates == 3 * plain.total_updates > 0


def test_frozen_prints_every_kind_of_features(table):
    first, header, *lines = table(frozen, "--rows 8 --batch_size 4 --rounds 1 --threads 1")
    name = default_precision().name
    assert re.fullmatch(rf".+, 1 threads, torch [\d.+cpu]+, {name}", first)
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
    flags = "--rounds 1 --updates 1 --methods joint --batch_size 4 --precisions float32"
    parallel.main(parallel.parse([*words, *flags.split()]))
    first, header, line = capsys.readouterr().out.splitlines()
    assert re.match(r".+, 1 threads, torch [\d.+cpu]+, 1 rounds, medians$", first)
    assert header.split() == ["precision", "method", "speed", "2/1", "range", "memory", "2/1"]
    assert line.split()[:2] == ["float32", "joint"]
    assert all(ratio > 0 for ratio in numbers(line[24:35]) + numbers(line[49:]))


@pytest.mark.parametrize("name", waiting.SETTINGS)
def test_a_setting_of_waiting_reaches_the_process_under_our_own_bound(name, monkeypatch):
    """The scripts bound the spinning of this process, and GOMP_SPINCOUNT wins over the policy."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    code = "import os; print(os.environ['GOMP_SPINCOUNT'], os.environ['OMP_NUM_THREADS'])"
    environment = os.environ | waiting.environment(name)
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    turns, threads = done.stdout.split()
    assert (turns == b"7") == (name == "one thread") and int(threads) >= 1
    assert (turns == b"0") == (name == "not at all")


@pytest.mark.slow
def test_waiting_compares_settings_alone_and_beside_another_process(words, capsys):
    flags = "--rounds 1 --updates 1 --batch_size 4 --settings".split()
    waiting.main(waiting.parse([*words, *flags, "one thread", "not at all"]))
    first, header, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith(", 1 rounds, medians")
    assert header.split() == ["threads", "wait", "alone", "beside", "one"]
    assert [line[:24].strip() for line in lines] == ["not at all", "one thread"]
    found = [numbers(line[24:]) for line in lines]
    assert found[0][0] == 1 and all(ratio > 0 for ratios in found for ratio in ratios)


def test_parallel_says_why_a_process_failed(words, monkeypatch, tmp_path):
    path = tmp_path / "python"
    path.write_text(
        f"#!/bin/bash\necho noise >&2\necho error: no room in ${device.FLOAT32} >&2\nexit 1\n"
    )
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(InputError, match="^joint on 1 processes: no room in mkl$"):
        flags = ["--methods", "joint", "--precisions", "float32"]
        parallel.main(parallel.parse([*words, *flags]))


def test_parallel_refuses_a_wrong_flag_before_it_starts_a_process(words, capsys):
    with pytest.raises(SystemExit):
        parallel.main(parallel.parse([*words, "--pooling", "nothing"]))
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_time_to_score_ends_an_arm_at_the_target(table):
    lines = table(time_to_score, "--rows 8 --threads 1 --every 12 --target -1 --seeds 1 2")
    assert re.match(r".+, 1 threads, torch [\d.]+", lines[0])
    assert lines[1] == (
        "target: a mean of -1 on all 60 rows of dev, looked at after every 12 examples; at most 30 "
        "minutes of training"
    )
    assert [line.split(":")[0] for line in lines[2:5]] == ["ours", "joint, separate", "all"]
    rows = [line.split() for line in lines[6:]]
    assert [row[:2] for row in rows] == [
        [seed, arm] for seed in ("1", "2", "all") for arm in ("ours", "joint", "separate")
    ]
    for row in rows[:6]:
        assert float(row[2]) >= 0 and 12 <= int(row[3]) <= 24 and float(row[4]) > 0
        assert row[5] == "reached" and float(row[6]) <= 1
    assert all(float(row[2]) > 0 for row in rows[6:]) and rows[6][2] == "1.00"


def test_time_to_score_says_what_does_not_reach_the_target(table):
    """The arms end with their epochs: two of ours, three of the plain loops, 24 rows in each."""
    lines = table(time_to_score, "--rows 8 --threads 1 --every 12 --target 1 --seeds 1")
    found = [line.split() for line in lines[6:]]
    assert [row[1] for row in found] == ["ours", "joint", "separate"]
    assert [int(row[3]) for row in found] == [48, 72, 72]
    assert all(re.search(r" -  not reached \(best -?\.\d{3}\)$", line) for line in lines[6:])


def test_time_to_score_ends_an_arm_that_is_late(table):
    flags = "--rows 8 --threads 1 --every 12 --target 1 --seeds 1 --minutes 1e-9"
    assert all(int(line.split()[3]) <= 24 for line in table(time_to_score, flags)[6:])


def test_growth_prints_every_size_and_how_much_larger_the_last_one_is(table):
    first, header, *lines = table(growth, "--rows 60 12 --updates 1 --threads 1")
    ending = f"{default_precision().name}, 1 updates of the entry's defaults"
    assert re.fullmatch(rf".+, 1 threads, torch [\d.+cpu]+, {ending}", first)
    assert header.split()[0] == "rows" and header.split()[-2:] == ["MiB", "checkpoint"]
    small, large, growing = [numbers(line.replace("x", " ")) for line in lines]
    assert small[0] == 12 and large[0] == 60 and growing[0] == 5
    assert len(small) == len(large) == len(growing) == 6
    assert all(value > 0 for value in small + large + growing)


def test_labelling_prints_both_arms_and_the_memory_of_every_tenth(table):
    flags = "--rows 70 --rounds 1 --threads 1 --task para --long_rows 100"
    first, header, *lines = table(labelling, flags)
    assert first.endswith("70 rows of para") and header.split() == [
        "arm",
        "rows/s",
        "ratio",
        "rounds",
    ]
    speeds = cells(lines[:2], 24)
    assert list(speeds) == ["one batch at a time", "windows of 4,096 rows"]
    assert speeds["one batch at a time"][1:] == [1, 1, 1]
    assert all(rate > 0 for rate, *_ in speeds.values())
    assert lines[2].split() == ["rows", "written", "MiB", "resident"]
    assert [line.split()[0] for line in lines[3:]] == ["100"]  # they are written in one window


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
    """In a process of its own: the holes in this one's heap would hold what the call allocates."""
    code = "import torch; from benchmarks.memory import peak_memory; "
    code += "print(peak_memory(lambda: torch.ones(2**24)), peak_memory(lambda: None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    filled, idle = numbers(done.stdout)
    assert 64 <= filled < 96 and idle < 16, done.stderr  # MiB
