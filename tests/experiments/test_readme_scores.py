"""The README's scores are those of the committed results."""

from pathlib import Path

import pytest

from experiments.comparison import MEAN, gather
from experiments.report import choose_settings, keep_current
from experiments.result_files import read_results
from experiments.row_files import read_rows
from experiments.tables import number
from options.task_table import built_in_tasks

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"


@pytest.mark.parametrize("name", ["joint", "round_robin"])
def test_the_readme_quotes_the_results_of_a_row(name):
    rows = read_rows(EXPERIMENTS / "rows")
    results = keep_current(read_results(EXPERIMENTS / "results"), rows)
    method = gather(rows, choose_settings(results, None))[name]
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith("| ") and f"(`{name}`)" in line]
    scores = [number(method.mean(task)) for task in (*built_in_tasks(), MEAN)]
    assert [cell.strip() for cell in line.strip("|").split("|")][2:] == scores
