"""Made-up results with numbers that can be computed by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.cost_file import Cost, Costs, write_costs
from experiments import comparison, report
from experiments.encoding import encode_right, encode_scores
from experiments.result_files import FORMAT, read_results
from experiments.row_files import read_rows
from options.task_table import built_in_tasks
from runtime.files import write_json

TASKS = built_in_tasks()

LABELS = np.tile([0, 1, 2, 3, 4, 5, 2.5, 3.5, 0.5, 4.5], 4)
N = len(LABELS)
NUM_DEV = dict.fromkeys(TASKS, N)
ROW_TEXTS = {
    "joint": "# Joint sum\n# family: controls\n# seeds: 2\n# cost: plain sum\n",
    "fast": "# Fast one\n# family: features\n# at majority: too fast\n--pooling max\n",
    "slow": "# Slow one\n# family: features\n# control: fast\n--pooling cls\n",
    "surgery": "# Surgery\n# family: gradient surgery\n# cost: mgda\n--projection mgda\n",
    "large": "# Large\n# family: recipe\n# not run by default: needs a dream\n--model_name large\n",
    "single_sst": "# Single task\n# family: baselines\n# part of: single_task\n--task sst\n",
    "single_para": "# Single task\n# family: baselines\n# part of: single_task\n--task para\n",
    "single_sts": "# Single task\n# family: baselines\n# part of: single_task\n--task sts\n",
}


COSTS = Costs(
    "some processor, 2 threads, torch 3",
    *("minilm-l6", "bfloat16", 16, 3, 10),
    arms={
        "plain sum": Cost(1, 1, 1, 0),
        "fast": Cost(0.5, 0.4, 0.6, -1.25),
        "mgda": Cost(1.5, 1, 2, 6),
    },
)


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
            labels["majority"] = {"sst": 0.2, "para": 0.4}
            write_json(self.results / f"dev_labels-{data}.json", labels, make_parents=True)

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
            "wall_seconds": 1800.0,
            "examples": {name: 100 for name in names},
            "predictions": {name: predictions[name] for name in names},
        } | changes
        write_json(self.results / f"{row}-seed{seed}-{content['settings_key']}.json", content)

    def methods(self) -> dict[str, comparison.Method]:
        methods = comparison.gather(read_rows(self.rows), read_results(self.results))
        comparison.resample(methods, {"sts": LABELS})
        return methods

    def add_costs(self) -> None:
        write_costs(self.results / "costs.json", COSTS)

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
    return {re.search("`(.*)`", line[0])[1]: line[1:] for line in lines[2:] if "`" in line[0]}
