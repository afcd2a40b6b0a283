"""The file of costs: what is checked before measuring, how it is merged, and its table."""

import re
from pathlib import Path

import pytest

from benchmarks import cost_table, techniques
from benchmarks.cost_file import Cost, Costs, read_costs, write_costs
from benchmarks.precision import device_precisions, machine
from benchmarks.setup import event_log
from experiments.row_files import read_rows
from options import packages
from runtime.errors import InputError
from runtime.files import read_text
from scripts import marked_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "techniques.md"
SMALL = "--rows 8 --batch_size 4 --rounds 1 --updates 1 --threads 1 --precisions float32 --only"
OLD = Cost(7, 6, 8, 9)


@pytest.fixture
def options(tiny_model, few_rows):
    """options(flags) -> those of a benchmark of techniques on the tiny model and rows."""

    def parse(flags: str):
        words = ["--data_dir", str(few_rows), "--model_name", str(tiny_model)]
        parser = techniques.get_args_parser()
        return parser.parse_args([*words, *SMALL.split(), *flags.split()])

    return parse


@pytest.fixture
def old(options, tmp_path) -> Costs:
    """Costs measured as `options` measures them, in costs.json."""
    name = Path(options("pal").model_name).name
    arms = {"krum": OLD, "pal": OLD, techniques.PLAIN: Cost(1, 1, 1, 0)}
    costs = Costs(machine(1), name, "float32", 4, 1, 1, arms, 8)
    write_costs(tmp_path / "costs.json", costs)
    return costs


@pytest.fixture
def unmeasured(monkeypatch):
    """Whatever is wrong has to be noticed before the first arm is built."""

    def fail(*args: object) -> None:
        raise AssertionError("an arm was built")

    monkeypatch.setattr(techniques, "Arm", fail)


def test_new_costs_replace_those_of_the_same_arms_and_keep_the_others(options, old, tmp_path):
    path = tmp_path / "costs.json"
    techniques.main(options(f"pal --to {path}"))
    new = read_costs(path)
    assert [*new.arms] == [techniques.PLAIN, "pal", "krum"]  # in the order of the benchmark
    assert new.arms["krum"] == OLD != new.arms["pal"]
    assert new._replace(arms={}) == old._replace(arms={})


@pytest.mark.parametrize(
    "key, value",
    [("machine", "another"), ("precision", "bfloat16"), ("batch_size", 5), ("rows", None)],
)
def test_costs_measured_in_another_way_are_kept(options, old, tmp_path, unmeasured, key, value):
    path = tmp_path / "costs.json"
    other = old._replace(**{key: value})
    write_costs(path, other)
    with pytest.raises(InputError, match=f"^--to {path}: its costs have {key} {value!r}, these "):
        techniques.main(options(f"pal --to {path}"))
    assert read_costs(path) == other


def test_a_missing_folder_is_noticed_before_anything_is_measured(options, tmp_path, unmeasured):
    path = tmp_path / "nowhere" / "costs.json"
    with pytest.raises(InputError, match=f"^--to {path}: {path.parent} is not a folder that "):
        techniques.main(options(f"pal --to {path}"))


@pytest.mark.parametrize("arm, package", [("pos ner", "spacy"), ("krum", "torchjd")])
def test_a_missing_package_is_noticed_before_anything_is_measured(
    options, monkeypatch, unmeasured, arm, package
):
    chosen = options("pal")
    chosen.only.append(arm)
    found = packages.find_spec
    monkeypatch.setattr(
        packages, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(InputError, match=f"{package} is not installed.* requirements-extras.txt$"):
        techniques.main(chosen)


def test_rows_are_tokenized_once_for_each_kind_of_input_and_not_while_measuring(
    options, monkeypatch
):
    loaded, load = [], techniques.load_rows
    monkeypatch.setattr(
        techniques, "load_rows", lambda start, n: loaded.append(start.args) or load(start, n)
    )
    chosen = options("pal hierarchical")
    inputs = techniques.load_inputs(chosen, [device_precisions()["float32"]])
    assert [args.extension for args in loaded] == ["none", "hierarchical"]
    assert [*inputs] == [(), ("hierarchical",)]
    techniques.main(chosen)
    assert len(loaded) == 4
    kinds = {techniques.input_kind(name) for name in techniques.ARMS}
    assert kinds == {(), ("hierarchical",), ("--additional_input",)}


def test_rows_in_turns_have_an_arm_in_turns():
    rows = read_rows(ROOT / "experiments" / "rows")
    in_turns = [row for row in rows.values() if row.control == "round_robin" and row.flags]
    assert {"pals", "rdrop", "smart"} <= {row.name for row in in_turns}
    for row in in_turns:
        arm = next((name for name in techniques.ARMS if name == row.cost.replace("_", " ")), None)
        assert arm is None or techniques.JOINT not in techniques.ARMS[arm], row.name


def test_the_table_has_a_line_for_every_arm_of_the_file(old, tmp_path, capsys):
    arms = {name: Cost(2, 1.5, 2.25, -0.5) for name in techniques.ARMS}
    write_costs(tmp_path / "costs.json", old._replace(arms=arms, rows=8000))
    page = tmp_path / "page.md"
    start, end = marked_page.markers(cost_table.NAME)
    page.write_text(f"above\n{start}\nold\n{end}\nbelow\n")
    words = ["--costs", str(tmp_path / "costs.json")]
    for more in ([], ["--page", str(page)]):
        cost_table.main(cost_table.get_args_parser().parse_args([*words, *more]))
    table = capsys.readouterr().out
    assert page.read_text() == f"above\n{start}\n\n{table}\n{end}\nbelow\n"
    assert f"in float32 with `{old.model_name}` on {machine(1)}: the first 8,000 training" in table
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    named = re.findall(r"^\| (.+?) \| `.+?` \| 2\.00 \| 1\.50 to 2\.25 \| −0\.5 \|$", table, re.M)
    assert named == [name for name in techniques.ARMS if name != techniques.PLAIN]
    assert len(lines) == 1 + len(named)


def test_the_page_of_techniques_has_the_table_of_the_costs():
    start, end = marked_page.markers(cost_table.NAME)
    text = read_text(PAGE)
    assert text.count(start) == text.count(end) == 1
    part = text.partition(start)[2].partition(end)[0].strip()
    assert part  # the table of the file, or where there is none yet an older one
    if cost_table.COSTS.exists():
        assert part == cost_table.cost_table(
            read_costs(cost_table.COSTS)
        ), "run python -m benchmarks.cost_table --page docs/techniques.md"


def test_sophiah_makes_whole_intervals_between_its_estimates(options):
    precision = device_precisions()["float32"]
    chosen = options("sophiah")
    inputs = techniques.load_inputs(chosen, [precision])
    with event_log() as log:
        arms = [
            techniques.Arm(chosen, inputs, log, precision, name)
            for name in (techniques.PLAIN, "sophiah")
        ]
    counts = [[arm.updates_of(n * arm.mean_examples) for n in (1, 4, 26)] for arm in arms]
    assert counts == [[1, 4, 26], [10, 10, 30]]
