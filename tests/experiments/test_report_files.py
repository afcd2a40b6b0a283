"""What the report takes in, refuses, writes and draws."""

import pytest

from experiments import plots, report
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
    folder.add("joint", 1, git_revision="f" * 40 + "-dirty")
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
    command = "python -m experiments.run --seeds 1 2 --model_name minilm-l6 --epochs 2 --use_amp\n"
    assert command in once
    assert "2 runs, seeds 1, 2, 1.0 hours in all, on some processor, 2 threads." in once
    assert "`0123456789ab`, `ffffffffffff-dirty` (several revisions)." in once
    assert "differences on `para` may be compressed" in once
    assert "](figures/cost.png)" in once and "](figures/scores.png)" in once
    assert str(folder.path) not in once


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
    figure.draw_without_rendering()
    plots.place_labels(axes, points, [f"method_{i}" for i in range(16)])
    boxes = [label.get_window_extent() for label in axes.texts if label.get_text()]
    assert len(boxes) == 16
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))
