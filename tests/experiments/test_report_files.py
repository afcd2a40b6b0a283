"""What the report takes in, refuses, writes and draws."""

import json
import math
from argparse import Namespace

import pytest

from benchmarks.cost_file import Cost, read_costs, write_costs
from experiments import comparison, findings, plots, report
from runtime.errors import InputError
from scripts.marked_page import markers


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


def test_results_of_changed_rows_are_dropped(folder, capsys):
    folder.add("joint", 1)
    folder.add("fast", 1, flags=["--pooling", "cls"])
    folder.report()
    out, err = capsys.readouterr()
    assert "fast seed 1: its row is gone or has other flags now; dropped" in err
    assert "(`fast`)" not in out
    [line] = [line for line in out.splitlines() if line.startswith("Not run here: ")]
    assert "`fast`" in line and "`joint`" not in line


def test_without_results_it_says_so(folder):
    with pytest.raises(InputError, match="there are no results yet; run python -m experiments.run"):
        folder.report()


def test_the_page_keeps_all_but_the_marked_part(folder, capsys):
    dirty = "f" * 40 + "-dirty"
    folder.add("joint", 1, git_revision=dirty, git_revisions=[dirty, "e" * 40])
    folder.add("fast", 2)
    page = folder.path / "results.md"
    start, end = markers(report.MARKED)
    page.write_text(f"# Title\n\n{start}\nlast year\n{end}\n\n## Next\n", encoding="utf-8")
    folder.report("--page", page)
    once = page.read_text(encoding="utf-8")
    folder.report("--page", page)
    assert page.read_text(encoding="utf-8") == once
    assert once.startswith(f"# Title\n\n{start}\n\n```bash\n")
    assert once.endswith(f"\n\n{end}\n\n## Next\n") and "last year" not in once
    options = "--model_name minilm-l6 --epochs 2 --use_amp\n"
    for words in ("--seeds 1", "fast --seeds 2"):
        assert f"python -m experiments.run {words} {options}" in once
    assert "2 runs, seeds 1, 2, 1.0 hours in all, on some processor, 2 threads." in once
    assert "`0123456789ab`, `eeeeeeeeeeee`, `ffffffffffff-dirty` (several revisions)." in once
    assert "differences on `para` may be compressed" in once
    assert "What rounds to 0 keeps its sign: [−.000, +.006] includes 0," in once
    assert "](figures/differences.png)" not in once and "](figures/cost.png)" not in once
    assert "There is no file of costs, so" in once and "No run of gradient surgery has" in once
    assert str(folder.path) not in once


@pytest.mark.parametrize(
    "few, most", [("a processor", "b processor"), ("b processor", "a processor")]
)
def test_runs_on_other_hardware_are_named(folder, capsys, few, most):
    for seed in (1, 2, 3):
        folder.add("joint", seed, hardware=most)
    folder.add("fast", 2, hardware=few)
    folder.add("joint", 4, hardware=few)
    folder.report()
    named = f"on {most}; `fast` seed 2, `joint` seed 4 on {few}. Settings"
    assert named in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{0}", "{1}\n{0}", "{0}\n{0}\n{1}", "{0}{1}{1}"])
def test_missing_markers_are_one_line(folder, text):
    folder.add("joint", 1)
    page = folder.path / "results.md"
    page.write_text(text.format(*markers(report.MARKED)))
    with pytest.raises(InputError, match="expected one line <!-- results:start --> and, below it"):
        folder.report("--page", page)
    assert page.read_text() == text.format(*markers(report.MARKED))


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


def add_three_seeds(folder) -> None:
    """Two findings on sst, one of each sign, and conflicts with and without a control's seed."""
    for seed in (1, 2, 3):
        folder.add("joint", seed, noise=0)
        folder.add("fast", seed, sst=7, para=4 + seed % 2, noise=0)
        shares = {"sst-para": seed / 10, "sst-sts": 0.5, "para-sts": 0.6}
        folder.add("surgery", seed, sst=3, noise=0, conflicts=shares)
    folder.add("surgery", 4, conflicts=shares)
    folder.add("slow", 1, sst=9)


def test_figures_are_the_same_for_the_same_results(folder, capsys):
    add_three_seeds(folder)
    folder.add_costs()
    contents = []
    for _ in range(2):
        folder.report()
        paths = sorted((folder.path / "figures").iterdir())
        contents.append([path.read_bytes() for path in paths])
    assert [path.name for path in paths] == ["conflicts.png", "cost.png", "differences.png"]
    assert contents[0] == contents[1]
    assert all(content.startswith(b"\x89PNG") for content in contents[0])
    out = capsys.readouterr().out
    assert all(f"figures/{path.name})" in out for path in paths)
    assert "on some processor, 2 threads, torch 3: batches of 16, 3 rounds of 10 updates" in out
    assert "with `minilm-l6` in bfloat16" in out


def test_findings_are_listed_by_task(folder, capsys):
    add_three_seeds(folder)
    folder.report()
    out = capsys.readouterr().out
    text = out.partition("### Findings\n\n")[2].partition("\n\n###")[0]
    head, *parts = text.split("\n\n")
    # Two rows with three seeds on the mean and on three tasks.
    assert "8 differences have so many seeds, 4 of them are findings" in head
    lists = dict(zip(parts[::2], parts[1::2]))
    assert list(lists) == ["**mean**", "**sst**", "**para**", "**sts**"]
    surgery, fast = lists["**sst**"].splitlines()
    assert surgery.startswith("- `surgery` − `joint`: ▼ −.200 [")
    assert fast.startswith("- `fast` − `joint`: ▲ +.200 [") and fast.endswith(", 3 seeds")
    assert lists["**para**"] == lists["**sts**"] == "None yet."


def test_without_a_finding_it_says_so(folder):
    folder.add("joint", 1)
    folder.add("fast", 1, sst=9)
    text = findings.findings(folder.methods())
    assert "0 differences have so many seeds" in text and text.endswith("\n\nNone yet.")


def test_rows_at_the_majority_class_are_named_with_their_reason(folder):
    majority = {"sst": 0.3, "para": 0.6, "sts": 0.0}
    folder.add("joint", 1, sst=4, para=7)
    assert "Every run is better by more than .010." in findings.at_majority(
        folder.methods(), majority
    )
    folder.add("fast", 1, sst=3, para=5)
    folder.add("single_para", 1, para=6)
    text = findings.at_majority(folder.methods(), majority)
    assert "itself, scores: sst .300, para .600, sts .000. Runs" in text
    assert "- `fast`: sst .300 (seed 1), para .500 (seed 1): too fast" in text
    assert "- `single_task`: para .600 (seed 1): not explained yet" in text
    assert "`joint`" not in text
    assert "- `fast`" in findings.at_majority(folder.methods(), {"sst": 0.295})
    assert "- `fast`" not in findings.at_majority(folder.methods(), {"sst": 0.285})
    folder.add("fast", 2, sst=3, para=9)  # the mean of para is above its share
    text = findings.at_majority(folder.methods(), majority)
    assert "- `fast`: sst .300 (seed 1), .300 (seed 2), para .500 (seed 1): too fast" in text
    folder.add("slow", 1, noise=0)
    nothing = {"pearson": math.nan, "spearman": math.nan}
    folder.add("slow", 2, dev={"sst": {"accuracy": 1.0}, "para": {"accuracy": 1.0}, "sts": nothing})
    text = findings.at_majority(folder.methods(), {"sts": 0.1})
    assert "- `slow`: sts .000 (seed 2)" in text  # nan counts as 0, as in the mean
    methods = folder.methods()
    methods["slow"].runs[1] = methods["slow"].runs[2]  # one run of several seeds
    assert "- `slow`: sts .000 (average): not" in findings.at_majority(methods, {"sts": 0.1})
    old = findings.at_majority(folder.methods(), {"sts": 0.0})
    assert "Not known of sst, para: the labels' file is of an older version." in old


def test_rows_with_too_few_seeds_are_named(folder):
    folder.add("joint", 1)
    folder.add("joint", 2)
    folder.add("slow", 1)
    folder.add("slow", 2)
    folder.add("fast", 1)
    folder.add("single_para", 1)
    run = {name: method for name, method in folder.methods().items() if method.runs}
    wanted = {name: method.row.num_seeds for name, method in run.items()}
    assert wanted == {"joint": 2, "slow": 3, "fast": 3, "single_task": 3}
    assert findings.too_few_seeds(run) == (
        "Fewer seeds than the protocol asks for:\n\n"
        "- 0 of 3: `single_task`\n"  # two of its tasks are missing
        "- 1 of 3: `fast`\n"
        "- 2 of 3: `slow`"
    )
    assert findings.too_few_seeds({"joint": run["joint"]}).startswith("Every row here has the see")


def test_each_set_of_seeds_has_a_command():
    rows = {"joint": (1, 2, 3, 4), "large": (1, 2), "mgda": (1, 2), "pals": (1, 2), "mean": (3, 4)}
    results = [
        {"row": name, "seed": seed, "settings": {"epochs": 2, "lr": None, "use_amp": False}}
        for name, seeds in rows.items()
        for seed in (seeds if name != "mean" else seeds[:1])
    ]
    results[-1]["seeds"] = list(rows["mean"])
    obstacles = {name: Namespace(obstacle="a dream" * (name == "large")) for name in rows}
    commands = [
        "python -m experiments.run --seeds 1 2 --epochs 2 --no_use_amp",
        "python -m experiments.run large --seeds 1 2 --epochs 2 --no_use_amp",
        "python -m experiments.run joint --seeds 1 2 3 4 --epochs 2 --no_use_amp",
        "python -m experiments.run mean --seeds 3 4 --epochs 2 --no_use_amp",
    ]
    assert report.command_lines(results, obstacles) == commands
    only = [result for result in results if result["row"] == "large"]
    assert report.command_lines(only, obstacles) == commands[1:2]


def test_a_figure_that_is_not_drawn_again_is_removed(folder, capsys):
    add_three_seeds(folder)
    folder.add_costs()
    folder.report()
    (folder.path / "figures" / "custom_scalars.png").touch()  # of another command
    for path in folder.results.glob("*surgery*"):
        path.unlink()
    (folder.results / "costs.json").unlink()
    folder.report()
    names = sorted(path.name for path in (folder.path / "figures").iterdir())
    assert names == ["custom_scalars.png", "differences.png"]


def test_figures_stay_as_they_are_where_no_page_is_written(folder, tmp_path, monkeypatch, capsys):
    add_three_seeds(folder)
    figure = tmp_path / "experiments" / "figures" / report.CONFLICTS
    figure.parent.mkdir(parents=True)
    figure.write_text("the published one")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("no markers")
    words = ["--results_dir", str(folder.results), "--rows_dir", str(folder.rows)]
    report.main(report.get_args_parser().parse_args(words))
    assert "figure" not in capsys.readouterr().out
    with pytest.raises(InputError, match="page.md: expected one line <!-- results:start -->"):
        report.main(report.get_args_parser().parse_args([*words, "--page", str(page)]))
    assert [*figure.parent.iterdir()] == [figure] and figure.read_text() == "the published one"


def test_a_row_that_differs_in_several_things_says_so(folder, capsys, monkeypatch):
    add_three_seeds(folder)
    path = folder.rows / "fast.txt"
    path.write_text(path.read_text().replace("# at", "# differs in: pooling, luck\n# at"))
    folder.report()
    out = capsys.readouterr().out
    assert ", 3 seeds; differs in: pooling, luck\n" in out and "whole trainings" not in out
    assert "‡ marks the control of a row that differs" in out and "`fast` (pooling, luck)." in out
    for path in folder.results.glob("fast-*"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"examples": {"sst": 450, "sts": 0}}))
    folder.add_costs()
    names: list[str] = []
    monkeypatch.setattr(plots, "place_labels", lambda axes, points, texts: names.extend(texts))
    folder.report()
    assert "joint" in names and "fast (1.5× examples)" in names
    longer = capsys.readouterr().out
    assert "`fast` (pooling, luck, 1.5 times the examples)." in longer
    assert ", 3 seeds; differs in: pooling, luck, 1.5 times the examples\n" in longer
    assert "multiply the time of these rows: `fast` (1.5 times the examples)." in longer
    assert out.count("| joint ‡ |") == 1 + len(comparison.built_in_tasks())


def test_one_part_of_one_method_is_enough(folder, capsys):
    folder.add("single_sst", 1)
    folder.add_costs()
    folder.report()
    assert not (folder.path / "figures").exists()  # no difference, no mean, no surgery
    assert "(`single_task`)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "format is None, expected 'multitask-bert-costs-1'"),
        ('{"format": "multitask-bert-costs-1"}', "not as benchmarks.techniques --to writes it"),
        (None, "the costs of 'a' are .-1, 1, 1, 0., expected three ratios above 0 and a memory"),
    ],
)
def test_a_wrong_file_of_costs_is_one_line(folder, text, message):
    folder.add("joint", 1)
    folder.add_costs()
    path = folder.results / "costs.json"
    if text is None:
        costs = read_costs(path)
        write_costs(path, costs._replace(arms={"a": Cost(-1, 1, 1, 0)}))
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=f"costs.json: {message}"):
        folder.report()
    with pytest.raises(InputError, match="nowhere.json: no such file"):
        folder.report("--costs", folder.path / "nowhere.json")
