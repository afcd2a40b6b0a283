"""The README's scores are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

from experiments.comparison import MEAN, gather
from experiments.report import choose_settings, keep_current
from experiments.result_files import read_results
from experiments.row_files import read_rows
from experiments.tables import number
from options.task_table import built_in_tasks
from train_multitask import get_args_parser

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


def test_the_run_with_the_defaults_is_a_row_and_those_are_the_defaults():
    """The page's scores are of seed 1, and the row's sizes those of the script without flags."""
    files = [next((EXPERIMENTS / "results").glob(f"joint_long-seed{seed}-*")) for seed in (1, 2, 3)]
    result, second, third = (json.loads(path.read_text()) for path in files)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.split("## One full run with the defaults\n")[1].split("\n## ")[0]
    shown = re.findall(r"^\| `\w+` \| [^|]+ \| (\.\d{3}) \|", section, re.M)
    assert shown == [number(x) for scores in result["dev"].values() for x in scores.values()]
    assert f"**{number(result['mean'])}**" in section
    assert f"end at {number(second['mean'])} and {number(third['mean'])}." in section
    defaults = vars(get_args_parser().parse_args([]))
    own = {name: result["options"][name] for name in ("batch_size", "epochs", "max_length")}
    assert own == {name: defaults[name] for name in own}
    [num_rows] = re.findall(r"([\d,]+) training rows", section)
    assert int(num_rows.replace(",", "")) == 3 * result["options"]["samples_per_epoch"]  # all
    assert result["hardware"].endswith(" 1 thread")
