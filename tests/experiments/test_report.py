"""The tables' numbers, on made-up results computed by hand."""

import math
import random
import statistics

import numpy as np
import pytest
from matplotlib.figure import Figure
from result_folder import COSTS, LABELS, Folder, N, cells

from comparing import bootstrap
from experiments import comparison, findings, plots, tables
from experiments.encoding import encode_right, encode_scores
from experiments.result_files import read_results
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


def test_mean_spread_order_and_bold_by_hand(folder):
    for seed, right in ((1, 4), (2, 5), (3, 6)):
        folder.add("joint", seed, sst=right, noise=0)
        folder.add("fast", seed, sst=right + 2, para=5, noise=0)
    folder.add("slow", 2, sst=9, para=2, noise=0)
    folder.add("slow", 1, sst=8, para=2, noise=0)
    methods = folder.methods()
    text = tables.task_table(methods, "sst")
    table = cells(text)
    order = ["joint", "single_task", "surgery", "fast", "slow", "large"]
    # By family, then by the mean: .733 and (.85 + .2 + 1) / 3; the same for every task.
    assert list(table) == list(cells(tables.overall_table(methods))) == order
    families = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| **")]
    names = ["controls", "baselines", "gradient surgery", "features", "recipe"]
    assert families == [f"| **{name}**" for name in names]
    assert table["slow"][:2] == ["**.850**", "**.250**"]  # two seeds: no spread
    assert table["fast"][0] == ".700 ± .100" and table["joint"][0] == ".500 ± .100"
    assert [line[-1] for line in table.values()] == ["3", "–", "–", "3", "2", "–"]
    assert table["large"][0] == table["single_task"][0] == "not run here"
    assert table["fast"][1] == "**.250 ± .000**"  # as good as the best
    overall = cells(tables.overall_table(methods))
    assert overall["fast"][0] == "**.733 ± .033**"
    assert overall["slow"][:4] == [".683", "**.850**", ".200", "**1.000**"]


def test_differences_are_to_the_control_over_common_seeds(folder):
    folder.add("joint", 1, sst=4, noise=0)
    folder.add("fast", 1, sst=6, noise=0)
    folder.add("fast", 2, sst=9, noise=0)
    folder.add("slow", 2, sst=9, noise=0)
    methods = folder.methods()
    value, (low, high), *_ = comparison.difference(methods["fast"], methods["joint"], "sst")
    half = 1.96 * math.sqrt(0.2 * 0.8 / N)  # a fifth of the examples differs
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.03)
    assert comparison.difference(methods["slow"], methods["fast"], "sst") == (0, (0, 0), [0], 1)
    assert comparison.difference(methods["joint"], methods["joint"], "sst") is None
    assert comparison.difference(methods["large"], methods["joint"], "sst") is None
    table = cells(tables.task_table(methods, "sst"))
    assert table["fast"][2:] == [
        f"+.200 [{tables.number(low, '+')}, {tables.number(high, '+')}]",
        "joint",
        "2",
    ]
    assert table["slow"][2:] == [".000 [.000, .000]", "fast", "1 †"]
    assert table["joint"][2:] == ["–", "–", "1 †"]
    found = comparison.difference(methods["fast"], methods["joint"], comparison.MEAN)
    assert found.mean == pytest.approx(0.2 / 3)
    # With two common seeds, the single ones too.
    folder.add("joint", 2, sst=8, noise=0)
    assert "; +.100 to +.200" in cells(tables.task_table(folder.methods(), "sst"))["fast"][2]


def test_numbers_are_short_and_signed_where_asked():
    values = (0.12345, -0.5, 1, -0.0004, math.nan)
    assert [tables.number(value) for value in values] == [".123", "−.500", "1.000", ".000", "nan"]
    assert [tables.number(value, "+") for value in values[:3]] == ["+.123", "−.500", "+1.000"]
    # An interval of [−.000, +.000] or [.000, +.000] includes 0, one of [+.000, +.000] does not.
    small = (-0.0004, 0.0004, 0.0, -0.0, 0.3 - 0.1 - 0.2)
    signed = [tables.number(value, "+") for value in small]
    assert signed == ["−.000", "+.000", ".000", ".000", ".000"]


def random_methods(folder: Folder) -> dict[str, comparison.Method]:
    """Two methods with two seeds, every run with other predictions."""
    for seed in (1, 2):
        folder.add("joint", seed, sst=3 + seed, para=6, noise=seed)
        folder.add("fast", seed, sst=5 + seed, para=4, noise=seed / 2)
    return folder.methods()


def slow_scores(run: comparison.SeedRun, rows: dict[str, list[int]]) -> dict[str, float]:
    """A run's metrics on the given dev rows, with loops."""
    found = {}
    for name, chosen in rows.items():
        values = [run.predictions[name][row] for row in chosen]
        if name == "sts":
            found[name] = statistics.correlation(values, [LABELS[row] for row in chosen])
        else:
            found[name] = statistics.fmean(values)
    return found


def test_resampled_metrics_equal_those_of_repeated_rows(folder):
    run = random_methods(folder)["fast"].runs[2]
    for index, name in enumerate(TASKS):
        counts = bootstrap.draw_counts(np.random.default_rng([0, index]), bootstrap.CHUNK, N)
        assert (counts.sum(axis=1) == N).all()
        for resample in range(25):
            rows = np.repeat(np.arange(N), counts[resample].astype(int)).tolist()
            slow = slow_scores(run, {name: rows})[name]
            assert run.resampled[name][resample] == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("name", ["sst", "sts", comparison.MEAN])
def test_intervals_equal_those_of_an_independent_slow_loop(folder, name):
    methods = random_methods(folder)
    draw = random.Random(1)
    differences = []
    for _ in range(1000):
        rows = {task: draw.choices(range(N), k=N) for task in TASKS if name in (task, "mean")}
        both = []
        for method in ("fast", "joint"):
            runs = methods[method].runs.values()
            both.append(
                statistics.fmean(x for run in runs for x in slow_scores(run, rows).values())
            )
        differences.append(both[0] - both[1])
    found = comparison.difference(methods["fast"], methods["joint"], name).interval
    # Accuracies move in steps of 1/N.
    np.testing.assert_allclose(found, np.quantile(differences, [0.025, 0.975]), atol=1.1 / N)
    again = comparison.difference(folder.methods()["fast"], folder.methods()["joint"], name)
    assert again.interval == found


def test_a_constant_has_no_pearson_and_counts_nothing(folder):
    folder.add("joint", 1)
    changes = {"sst": encode_right(np.ones(N)), "para": encode_right(np.ones(N))}
    changes |= {"sts": encode_scores(np.full(N, 0.1))}
    dev = {"sst": {"accuracy": 1.0, "macro_f1": 1.0}, "para": {"accuracy": 1.0, "f1": 1.0}}
    dev |= {"sts": {"pearson": math.nan, "spearman": math.nan}}
    folder.add("fast", 1, predictions=changes, dev=dev)
    methods = folder.methods()
    assert (methods["fast"].runs[1].resampled["sts"] == 0).all()
    assert cells(tables.task_table(methods, "sts"))["fast"][:2] == ["nan", "nan"]
    assert cells(tables.overall_table(methods))["fast"][0] == "**.667**"
    assert (
        comparison.difference(methods["fast"], methods["joint"], "sts").mean
        == -methods["joint"].runs[1].scores["sts"]
    )


def test_rows_of_one_method_are_one_line(folder):
    folder.add("joint", 1, sst=5)
    for name in TASKS:
        folder.add(f"single_{name}", 1, sst=6, para=7, noise=0)
    folder.add("single_sst", 2, sst=8)
    overall = cells(tables.overall_table(folder.methods()))
    assert overall["single_task"][:4] == ["**.767**", "**.700**", "**.700**", "**1.000**"]
    assert overall["single_task"][-1] == "1 †"  # with every task
    assert cells(tables.task_table(folder.methods(), "sst"))["single_task"][-1] == "2"


def test_a_method_without_some_task_has_no_mean(folder):
    folder.add("single_sst", 1)
    line = cells(tables.overall_table(folder.methods()))["single_task"]
    assert line[:4] == ["not run here", "**.500**", "not run here", "not run here"]
    assert line[-3:] == ["–", "–", "–"]  # difference, control, seeds


def test_costs_are_those_of_the_rows_arms(folder):
    for name in ("joint", "fast", "slow", "surgery"):
        folder.add(name, 1)
    overall = cells(tables.overall_table(folder.methods(), COSTS))
    assert overall["joint"][-3:-1] == ["1.00", "+0.0"]
    assert overall["fast"][-3:-1] == ["**0.50**", "**−1.2**"]
    assert overall["surgery"][-3:-1] == ["1.50", "+6.0"]  # by its header
    assert overall["slow"][-3:-1] == ["–", "–"]  # no arm
    assert COSTS._replace(arms={"layer decay": 1}).find("layer_decay") == 1
    without = tables.overall_table(folder.methods())
    assert " time " not in without and len(cells(without)["fast"]) == len(overall["fast"]) - 2


def test_a_score_far_below_all_others_does_not_press_them_together():
    points = {"a": (1.0, 0.70), "b": (1.1, 0.71), "c": (1.2, 0.72), "d": (0.9, 0.69)}
    texts, same = plots.raise_outliers(points)
    assert same == points and texts == {name: name for name in points}
    equal = {name: (1.0, 0.7) for name in "abc"} | {"d": (1.0, 0.69)}
    assert plots.raise_outliers(equal)[1] == equal
    texts, raised = plots.raise_outliers(points | {"frozen": (0.3, 0.4)})
    assert texts == {name: name for name in points} | {"frozen": "frozen ↓ .400"}
    assert raised.pop("frozen") == (0.3, pytest.approx(0.69 - 0.15 * 0.03)) and raised == points
    many = {str(i): (1.0, 0.70 + 0.002 * i) for i in range(10)} | {"low": (1.0, 0.659)}
    texts, same = plots.raise_outliers(many | {"lower": (1.0, 0.655)})  # no need to move it
    assert texts["lower"] == "lower" and same["lower"] == (1.0, 0.655)


@pytest.mark.parametrize("largest", [1.02, 1.3, 2.4, 2.6, 4.0, 20.0])
def test_times_have_several_ticks_however_far_apart_they_are(largest):
    axes = Figure().subplots()
    plots.set_time_scale(axes, largest)
    axes.set_xlim(0.99, 1.01 * largest)
    low, high = axes.get_xlim()
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    shown = [text for text, x in zip(ticks, axes.get_xticks()) if low <= x <= high]
    assert len({*shown}) == len(shown) and 3 <= len(shown) <= 9
    assert axes.get_xscale() in axes.get_xlabel() or axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    "interval, by_seed, num_runs, expected",
    [
        ((0.01, 0.03), [0.01, 0.02, 0.03], 3, True),
        ((-0.03, -0.01), [-0.01, -0.02, -0.03], 3, True),
        ((0.01, 0.03), [0.01, 0.02], 2, False),  # two seeds
        ((0.01, 0.03), [0.01, 0.02, 0.03], 1, False),  # an average of three
        ((0.01, 0.03), [0.06, -0.001, 0.03], 3, False),  # one seed disagrees
        ((0.0, 0.03), [0.01, 0.02, 0.03], 3, False),  # 0 is in the interval
        ((-0.01, 0.03), [0.01, 0.02, 0.03], 3, False),
    ],
)
def test_a_finding_needs_its_interval_and_three_seeds_of_one_sign(
    interval, by_seed, num_runs, expected
):
    found = comparison.Difference(0.01, interval, by_seed, num_runs)
    assert found.is_finding == expected
    assert (tables.difference_text(found)[0] in (tables.BETTER, tables.WORSE)) == expected


def test_searched_rates_stand_beside_each_other_whatever_flags_a_row_has_by_now(folder):
    assert "No learning rates" in findings.searched_rates([])
    for key, lr, mean in (("bbbb2222", 2e-4, 0.7), ("aaaa1111", 1e-4, 0.6)):
        settings = {"model_name": "minilm-l6", "lr": lr}
        changes = {"settings": settings, "settings_key": key, "mean": mean, "flags": ["--old"]}
        changes |= {"options": {"lr": lr}}
        folder.add("fast", 11, **changes)
        folder.add("fast", 1, **changes | {"mean": 0.9})
    text = findings.searched_rates(read_results(folder.results))
    assert text.endswith("| `fast` | 0.0001: .600, **0.0002: .700** |")
    assert "code `0123456789ab`." in text
    longer = {"settings": {"model_name": "minilm-l6", "lr": 4e-4, "samples_per_epoch": 9}}
    folder.add("fast", 11, **changes | longer | {"settings_key": "c", "options": {"lr": 4e-4}})
    assert findings.searched_rates(read_results(folder.results)) == text  # another budget
