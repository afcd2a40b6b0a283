"""The README's scores are those of the committed results."""

import re
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
SECTION = (
    (ROOT / "README.md").read_text(encoding="utf-8").split("## Results\n")[1].split("\n## ")[0]
)
LINES = {  # name of the method -> its cells
    match[1]: [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if (match := re.match(r"\| .*\(`(\w+)`\) \|", line))
}


@pytest.fixture(scope="module")
def methods():
    rows = read_rows(EXPERIMENTS / "rows")
    results = keep_current(read_results(EXPERIMENTS / "results"), rows)
    return gather(rows, choose_settings(results, None))


@pytest.mark.parametrize("name", LINES)
def test_the_readme_quotes_the_results_of_a_row(name, methods):
    scores = [number(methods[name].mean(task)) for task in (*built_in_tasks(), MEAN)]
    assert [cell.strip("*") for cell in LINES[name][3:]] == scores


@pytest.mark.parametrize("name", LINES)
def test_the_readme_quotes_the_number_of_seeds(name, methods):
    counts = {len(methods[name].seeds(task)) for task in (*built_in_tasks(), MEAN)}
    assert LINES[name][1] == " to ".join(map(str, sorted(counts)))


def test_the_readme_has_the_controls():
    assert {*LINES} >= {"joint", "round_robin"}
