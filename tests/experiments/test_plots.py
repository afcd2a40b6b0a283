"""What the figures of the results page draw, and where they put it."""

import random

import pytest
from matplotlib.transforms import Bbox

from experiments import comparison, forest, plots


def test_an_axis_ends_before_what_is_far_off():
    def reach(*ends: float) -> float:
        found = [comparison.Difference(end, (-end, end), [end], 1) for end in ends]
        return forest.axis_reach({str(number): one for number, one in enumerate(found)})

    assert reach(0.02, 0.05, 0.06) == 0.06
    assert reach(*[0.02] * 9, 0.5) == pytest.approx(0.026)
    assert reach(0.001) == 0.01


@pytest.mark.parametrize(
    "low, high, seed, arrows", [(-0.5, 0.05, 0, "<"), (-0.05, 0.1, 0.5, ">"), (-0.1, 0.1, 0.1, "")]
)
def test_what_an_axis_cuts_off_has_an_arrow(low, high, seed, arrows):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    found = comparison.Difference(0.01, (low, high), [0.01, seed], 2)
    forest.draw_line(axes, 0, found, 0.1)
    assert [line.get_marker() for line in axes.lines if line.get_marker() in "<>"] == [*arrows]


@pytest.mark.parametrize(
    "values, step", [([0.001], 0.001), ([-0.008, 0.0064], 0.005), ([0.3, 0.9], 0.2), ([9.0], 0.2)]
)
def test_ticks_are_exact_in_three_decimals(values, step):
    assert plots.tick_step(values) == step


def test_findings_are_named_first_and_drawn_over_other_points(monkeypatch):
    finding = comparison.Difference(0.01, (0.005, 0.02), [0.01, 0.01, 0.01], 3)
    hint = comparison.Difference(0.01, (0.005, 0.02), [0.01], 1)
    found = {"low": finding, "high": finding, "hint": hint}
    monkeypatch.setattr(plots, "differences", lambda methods, task: found)
    points = {"hint": (1, 0.9), "low": (1, 0.5), plots.BASELINE: (1, 0.1), "high": (1, 0.6)}
    names = plots.by_importance({}, points)
    assert names == [plots.BASELINE, "high", "low", "hint"]


def discs_of(axes, points):
    """Return the box of each point as drawn, in pixels."""
    radius = plots.RADIUS * axes.figure.dpi / 72
    return [Bbox([xy, xy]).padded(radius) for xy in axes.transData.transform(points)]


def test_labels_cover_nothing_and_those_without_a_place_are_left_out():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5))
    axes = figure.subplots()
    points = [(1 + i % 4 / 50, 0.7 + i / 900) for i in range(60)]
    axes.scatter(*zip(*points))
    axes.margins(0.15)
    figure.draw_without_rendering()
    plots.place_labels(axes, points, [f"method_{i}" for i in range(60)])
    labels = [label for label in axes.texts if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert 10 < len(boxes) < 60 and labels[0].get_text() == "method_0"
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))
    assert not any(box.count_overlaps(discs_of(axes, points)) for box in boxes)


@pytest.mark.parametrize("seed", [0, 6, 36, 38])
def test_no_label_or_line_to_one_covers_another_label_or_point(seed):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5))
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    draw = random.Random(seed).gauss
    points = [(draw(0.5, 0.04), draw(0.5, 0.04)) for _ in range(30)]
    plots.place_labels(axes, points, [f"method_{i}" for i in range(30)])
    labels = [label for label in axes.texts if label.get_text()]
    lines = [line for line in axes.texts if not line.get_text()]
    assert len(lines) == len(labels) > 4
    discs = discs_of(axes, points)
    assert not any(label.get_window_extent().count_overlaps(discs) for label in labels)
    for line in lines:
        [x, y], [dx, dy] = axes.transData.transform(line.xy), line.xyann
        pixels = [step / 50 * figure.dpi / 72 for step in range(51)]
        path = [(x + dx * size, y + dy * size) for size in pixels]
        others = [label.get_window_extent() for label in labels if label.xy != line.xy]
        others += [disc for disc in discs if not disc.contains(x, y)]
        assert not any(box.count_contains(path) for box in others)
