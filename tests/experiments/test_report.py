"""The tables and figures, on made-up results with numbers computed by hand."""

import math
import random
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from errors import InputError
from experiments import comparison, plots, report
from experiments.result_files import FORMAT, encode_right, encode_scores, read_results
from experiments.row_files import read_rows
from run_directory import write_json
from tasks import TASKS

LABELS = np.tile([0, 1, 2, 3, 4, 5, 2.5, 3.5, 0.5, 4.5], 4)
N = len(LABELS)
NUM_DEV = dict.fromkeys(TASKS, N)
ROW_TEXTS = {
    "joint": "# Joint sum\n",
    "fast": "# Fast one\n--pooling max\n",
    "slow": "# Slow one\n# control: fast\n--pooling cls\n",
    "large": "# Large\n# not run by default: needs a dream\n--model_name large\n",
    "single_sst": "# Single task\n# part of: single_task\n--task sst\n",
    "single_para": "# Single task\n# part of: single_task\n--task para\n",
    "single_sts": "# Single task\n# part of: single_task\n--task sts\n",
}


class Folder:
    """A directory with rows and results of them, and the report on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results, self.rows = path / "results", path / "rows"
        self.rows.mkdir()
        for name, text in ROW_TEXTS.items():
            (self.rows / f"{name}.txt").write_text(text)
        for data in ("d1", "d2"):
            labels = {"num_dev": NUM_DEV, "labels": {"sts": encode_scores(LABELS)}}
            write_json(self.results / f"dev_labels-{data}.json", labels)

    def add(
        self, row: str, seed: int, sst: int = 5, para: int = 5, noise: float = 1, **changes
    ) -> None:
        """A result with so many tenths right, and scores that are off by noise in places."""
        scores = (LABELS + noise * np.resize([0, 1, 0, -1], N)).clip(0, 5)
        predictions = {
            "sst": encode_right(np.arange(N) < sst * N / 10),
            "para": encode_right(np.arange(N) >= N - para * N / 10),
            "sts": encode_scores(scores),
        }
        r = stats.pearsonr(scores, LABELS).statistic
        dev = {
            "sst": {"accuracy": sst / 10, "macro_f1": 0.25},
            "para": {"accuracy": para / 10, "f1": 0.125},
            "sts": {"pearson": r, "spearman": 0.5},
        }
        flags = ROW_TEXTS[row].splitlines()[-1].split()
        names = [flags[1]] if "--task" in flags else list(TASKS)
        content = {
            "format": FORMAT,
            "row": row,
            "seed": seed,
            "settings_key": "aaaa1111",
            "settings": {"model_name": "minilm-l6", "epochs": 2, "lr": None, "use_amp": True},
            "data": "d1",
            "script": "train_multitask.py",
            "flags": [] if row == "joint" else flags,
            "git_revision": "0123456789abcdef" * 2 + "01234567",
            "hardware": "some processor, 2 threads",
            "dev": {name: dev[name] for name in names},
            "training_seconds": 10.0,
            "wall_seconds": 1800.0,
            "peak_memory_mib": 1000.0,
            "predictions": {name: predictions[name] for name in names},
        } | changes
        write_json(self.results / f"{row}-seed{seed}-{content['settings_key']}.json", content)

    def methods(self) -> dict[str, comparison.Method]:
        methods = comparison.gather(read_rows(self.rows), read_results(self.results))
        comparison.resample(methods, {"sts": LABELS})
        return methods

    def report(self, *flags: object) -> None:
        folders = ["--results_dir", self.results, "--rows_dir", self.rows]
        folders += ["--figures_dir", self.path / "figures"]
        report.main(report.get_args_parser().parse_args([str(f) for f in [*folders, *flags]]))


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def cells(table: str) -> dict[str, list[str]]:
    """Cells of a table's lines by the method's name, in their order."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {re.search("`(.*)`", line[0])[1]: line[1:] for line in lines[2:]}


def test_mean_spread_order_and_bold_by_hand(folder):
    for seed, right in ((1, 4), (2, 5), (3, 6)):
        folder.add("joint", seed, sst=right, noise=0)
        folder.add("fast", seed, sst=right + 2, para=5, noise=0)
    folder.add("slow", 2, sst=9, para=2, noise=0)
    folder.add("slow", 1, sst=8, para=2, noise=0)
    methods = folder.methods()
    table = cells(report.task_table(methods, "sst"))
    assert list(table) == ["slow", "fast", "joint", "large", "single_task"]
    assert table["slow"][:2] == ["**.850**", "**.250**"]  # two seeds: no spread
    assert table["fast"][0] == ".700 ± .100" and table["joint"][0] == ".500 ± .100"
    assert [line[-1] for line in table.values()] == ["2", "3", "3", "–", "–"]
    assert table["large"][0] == table["single_task"][0] == "not run here"
    assert table["fast"][1] == "**.250 ± .000**"  # as good as the best
    overall = cells(report.overall_table(methods))
    assert list(overall)[:3] == ["fast", "slow", "joint"]  # .733, (.85 + .2 + 1) / 3, .667
    assert overall["fast"][0] == "**.733 ± .033**"
    assert overall["slow"][:4] == [".683", "**.850**", ".200", "**1.000**"]


def test_differences_are_to_the_control_over_common_seeds(folder):
    folder.add("joint", 1, sst=4, noise=0)
    folder.add("fast", 1, sst=6, noise=0)
    folder.add("fast", 2, sst=9, noise=0)
    folder.add("slow", 2, sst=9, noise=0)
    methods = folder.methods()
    value, (low, high) = comparison.difference(methods["fast"], methods["joint"], "sst")
    half = 1.96 * math.sqrt(0.2 * 0.8 / N)  # a fifth of the examples differs
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - half, 0.2 + half), abs=0.03)
    assert comparison.difference(methods["slow"], methods["fast"], "sst") == (0, (0, 0))
    assert comparison.difference(methods["joint"], methods["joint"], "sst") is None
    assert comparison.difference(methods["large"], methods["joint"], "sst") is None
    table = cells(report.task_table(methods, "sst"))
    assert table["fast"][2:] == [
        f"+.200 [{report.signed(low)}, {report.signed(high)}]",
        "joint",
        "2",
    ]
    assert table["slow"][2:] == ["+.000 [+.000, +.000]", "fast", "1 †"]
    assert table["joint"][2:] == ["–", "–", "1 †"]
    value, _ = comparison.difference(methods["fast"], methods["joint"], comparison.MEAN)
    assert value == pytest.approx(0.2 / 3)


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
        counts = comparison.draw_counts(np.random.default_rng([0, index]), comparison.CHUNK, N)
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
    _, found = comparison.difference(methods["fast"], methods["joint"], name)
    # Accuracies move in steps of 1/N.
    np.testing.assert_allclose(found, np.quantile(differences, [0.025, 0.975]), atol=1.1 / N)
    again = comparison.difference(folder.methods()["fast"], folder.methods()["joint"], name)
    assert again[1] == found


def test_a_constant_has_no_pearson_and_counts_nothing(folder):
    folder.add("joint", 1)
    changes = {"sst": encode_right(np.ones(N)), "para": encode_right(np.ones(N))}
    changes |= {"sts": encode_scores(np.full(N, 0.1))}
    dev = {"sst": {"accuracy": 1.0, "macro_f1": 1.0}, "para": {"accuracy": 1.0, "f1": 1.0}}
    dev |= {"sts": {"pearson": math.nan, "spearman": math.nan}}
    folder.add("fast", 1, predictions=changes, dev=dev)
    methods = folder.methods()
    assert (methods["fast"].runs[1].resampled["sts"] == 0).all()
    assert cells(report.task_table(methods, "sts"))["fast"][:2] == ["nan", "nan"]
    assert cells(report.overall_table(methods))["fast"][0] == "**.667**"
    value, _ = comparison.difference(methods["fast"], methods["joint"], "sts")
    assert value == -methods["joint"].runs[1].score("sts")


def test_rows_of_one_method_are_one_line(folder):
    folder.add("joint", 1, sst=5)
    for name, seconds, memory in (("sst", 4, 800), ("para", 5, 1500), ("sts", 6, 900)):
        cost = {"training_seconds": seconds, "peak_memory_mib": memory}
        folder.add(f"single_{name}", 1, sst=6, para=7, noise=0, **cost)
    folder.add("single_sst", 2, sst=8)
    overall = cells(report.overall_table(folder.methods()))
    assert overall["single_task"][:4] == ["**.767**", "**.700**", "**.700**", "**1.000**"]
    assert overall["single_task"][-3:] == ["1.50", "1.50", "1 †"]  # 4 + 5 + 6 s, the largest
    assert cells(report.task_table(folder.methods(), "sst"))["single_task"][-1] == "2"


def test_a_method_without_some_task_has_no_mean(folder):
    folder.add("single_sst", 1)
    line = cells(report.overall_table(folder.methods()))["single_task"]
    assert line[:4] == ["not run here", "**.500**", "not run here", "not run here"]
    assert line[-3:] == ["–", "–", "–"]


def test_costs_are_relative_to_joint_on_the_same_hardware(folder):
    folder.add("joint", 1)
    folder.add("fast", 1, training_seconds=5.0, peak_memory_mib=1250.0)
    folder.add("slow", 1, training_seconds=90.0, hardware="a GPU")
    overall = cells(report.overall_table(folder.methods()))
    assert overall["joint"][-3:-1] == ["1.00", "**1.00**"]
    assert overall["fast"][-3:-1] == ["**0.50**", "1.25"]
    assert overall["slow"][-3:-1] == ["–", "–"]


def test_settings_are_never_mixed(folder, capsys):
    folder.add("joint", 1, sst=3)
    folder.add("fast", 1, sst=3)
    folder.add("joint", 1, sst=9, settings_key="bbbb2222", data="d2")
    folder.report()
    out, err = capsys.readouterr()
    assert ".900" not in out and "Settings `aaaa1111`, data `d1`" in out
    assert err == "settings aaaa1111 chosen among aaaa1111 (2 results), bbbb2222 (1 results)\n"
    folder.report("--settings", "bbbb2222")
    out = capsys.readouterr().out
    assert "**.900**" in out and ".300" not in out and "data `d2`" in out
    with pytest.raises(InputError, match="--settings c: no results of it, only of aaaa1111"):
        folder.report("--settings", "c")


def test_results_of_changed_rows_are_left_out(folder, capsys):
    folder.add("joint", 1)
    folder.add("fast", 1, flags=["--pooling", "cls"])
    folder.report()
    out, err = capsys.readouterr()
    assert "fast seed 1: its row is gone or has other flags now; left out" in err
    assert out.count("(`fast`) | not run here") == 4


def test_without_results_it_says_so(folder):
    with pytest.raises(InputError, match="there are no results yet; run experiments/run.py"):
        folder.report()


def test_the_readme_keeps_all_but_the_marked_part(folder, capsys):
    folder.add("joint", 1, git_revision="f" * 40 + "-dirty")
    folder.add("fast", 2)
    readme = folder.path / "README.md"
    start, end = report.MARKERS
    readme.write_text(f"# Title\n\n{start}\nlast year\n{end}\n\n## Next\n", encoding="utf-8")
    folder.report("--readme", readme)
    once = readme.read_text(encoding="utf-8")
    folder.report("--readme", readme)
    assert readme.read_text(encoding="utf-8") == once
    assert once.startswith(f"# Title\n\n{start}\n\n```bash\n")
    assert once.endswith(f"\n\n{end}\n\n## Next\n") and "last year" not in once
    command = "python experiments/run.py --seeds 1 2 --model_name minilm-l6 --epochs 2 --use_amp\n"
    assert command in once
    assert "2 runs, seeds 1, 2, 1.0 hours in all, on some processor, 2 threads." in once
    assert "`0123456789ab`, `ffffffffffff-dirty` (several revisions)." in once
    assert "differences on `para` may be compressed" in once
    assert "](figures/cost.png)" in once and "](figures/scores.png)" in once
    assert str(folder.path) not in once


@pytest.mark.parametrize("text", ["", "{0}", "{1}\n{0}", "{0}\n{0}\n{1}", "{0}{1}{1}"])
def test_missing_markers_are_one_line(folder, text):
    folder.add("joint", 1)
    readme = folder.path / "README.md"
    readme.write_text(text.format(*report.MARKERS))
    with pytest.raises(InputError, match="expected one line <!-- results:start --> and, below it"):
        folder.report("--readme", readme)
    assert readme.read_text() == text.format(*report.MARKERS)


def test_a_result_that_does_not_fit_is_one_line(folder):
    folder.add("joint", 1, predictions={"sts": "1 2 3"})
    with pytest.raises(InputError, match="3 sts examples, expected 40"):
        folder.report()
    folder.add("joint", 1, format="other")
    with pytest.raises(InputError, match="format is 'other', expected"):
        folder.report()
    folder.add("joint", 1, data="d3")
    with pytest.raises(InputError, match="dev_labels-d3.json: no such file"):
        folder.report()


def test_figures_are_the_same_for_the_same_results(folder, capsys):
    for seed in (1, 2):
        folder.add("joint", seed)
        folder.add("fast", seed, sst=6, training_seconds=11.0)
    contents = []
    for _ in range(2):
        folder.report()
        paths = sorted((folder.path / "figures").iterdir())
        contents.append([path.read_bytes() for path in paths])
    assert [path.name for path in paths] == ["cost.png", "scores.png"]
    assert contents[0] == contents[1]
    assert all(content.startswith(b"\x89PNG") for content in contents[0])


def test_one_part_of_one_method_is_enough_to_draw(folder, capsys):
    folder.add("single_sst", 1)
    folder.report()
    assert len(list((folder.path / "figures").iterdir())) == 2


def test_labels_of_near_points_do_not_overlap():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5))
    axes = figure.subplots()
    points = [(1 + i % 4 / 50, 0.7 + i / 900) for i in range(16)]
    axes.scatter(*zip(*points))
    axes.margins(0.15)
    plots.place_labels(axes, points, [f"method_{i}" for i in range(16)])
    boxes = [label.get_window_extent() for label in axes.texts if label.get_text()]
    assert len(boxes) == 16
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))
