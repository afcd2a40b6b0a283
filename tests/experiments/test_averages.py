"""Rows that average the runs of another row: what they are made of, need, and look like."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import result_folder
from result_folder import LABELS, N, cells
from small_rows import AVERAGES, ROW_TEXTS, words, write_rows

import train_multitask
from datasets import read_examples
from evaluation import load_run
from experiments import averages, comparison, findings, report, result_files, run, tables
from options.comparison_options import get_args_parser
from options.comparison_options import parse_args as parse_comparison
from options.parsing import parse_args
from runtime.errors import InputError

FLAGS = "--num_batches_per_epoch 2 --epochs 1 --no_use_amp"


@pytest.fixture
def plan_of(tiny_model, few_rows):
    """plan_of(place, flags) -> the runner's options, and its plan."""

    def plan(place: Path, flags: str):
        args, shared = run.parse(words(place, tiny_model, few_rows, f"{flags} {FLAGS}"))
        return args, run.plan_runs(args, shared)

    return plan


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, tiny_model, few_rows, invoke):
    """Two seeds of a row, their ensemble and their greedy soup, finished; and the output."""
    place = tmp_path_factory.mktemp("averages")
    write_rows(place / "rows", "joint", "mean", "soup")
    flags = f"--seeds 2 1 {FLAGS}"
    args, shared = run.parse(words(place, tiny_model, few_rows, f"joint {flags}"))
    for one in run.plan_runs(args, shared):  # in this process, as the runner's children take longer
        options = [*args.passed, "--seed", str(one.seed), "--logdir", args.work_dir]
        options += ["--run_name", one.directory.name]
        train_multitask.main(parse_args(train_multitask.get_args_parser(), options))
        result_files.write_result(one.result, one.row, one.settings, one.directory, [1.0], [])
        run.remove_checkpoints(args, one)
    output, error = invoke(place, flags)
    assert error is None, error
    return place, output


@pytest.fixture
def copy(averaged, tmp_path) -> Path:
    """A copy of the finished place, without the averages, that may be changed."""
    place = Path(shutil.copytree(averaged[0], tmp_path / "copy"))
    for path in place.glob("results/*+*"):
        path.unlink()
    return place


def read_one(place: Path, pattern: str) -> dict:
    (path,) = (place / "results").glob(pattern)
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", AVERAGES)
def test_every_average_is_accepted_by_its_script(name):
    row = AVERAGES[name]
    args = parse_comparison(get_args_parser(), [*row.flags, "a", "b", "--to", "c"])
    assert (args.ensemble or args.soup) and row.script == "compare.py"


def test_averages_come_last_and_once(averaged):
    place, output = averaged
    lines = output.splitlines()
    assert lines[0].startswith("runs: 4, finished before: 2;")
    assert lines[1].startswith("[3/4] mean seeds 1+2 ... ")
    assert lines[2].startswith("[4/4] soup seeds 1+2 ... ")
    names = {path.name.rpartition("-")[0] for path in (place / "results").glob("*-seed*.json")}
    assert names == {"joint-seed1", "joint-seed2", "mean-seed1+2", "soup-seed1+2"}


def test_an_ensemble_row_is_the_mean_of_its_members_predictions(averaged, few_rows):
    place, _ = averaged
    (result,) = (r for r in result_files.read_results(place / "results") if r["row"] == "mean")
    members = [load_run(path) for path in sorted(place.glob("work/joint-seed?-*/"))]
    assert len(members) == 2
    for name, task in members[0].tasks.items():
        examples = read_examples(few_rows / f"{task.stem}-dev.csv", task)
        texts = [example.texts for example in examples]
        texts = texts if task.is_pair else [text for (text,) in texts]
        labels = np.array([example.label for example in examples])
        predictions = [member.predict(name, texts) for member in members]
        found = result["predictions"][name]
        if name == "sts":
            values = [prediction.values for prediction in predictions]
            assert np.abs(values[0] - values[1]).max() > 1e-3
            np.testing.assert_allclose(found, np.mean(values, axis=0), atol=2e-4)
            expected = np.corrcoef(np.mean(values, axis=0), labels)[0, 1]
        else:
            mean = np.mean([prediction.probabilities for prediction in predictions], axis=0)
            np.testing.assert_array_equal(found, mean.argmax(1) == labels)
            expected = np.mean(mean.argmax(1) == labels)
        assert result["dev"][name][task.metric_name] == pytest.approx(expected, abs=1e-4)


def test_an_average_costs_what_its_members_cost(averaged):
    place, _ = averaged
    members = [read_one(place, f"joint-seed{seed}-*") for seed in (1, 2)]
    for row in ("mean", "soup"):
        result = read_one(place, f"{row}-seed1+2-*")
        assert (result["row"], result["seeds"]) == (row, [1, 2])
        assert result["member_means"] == [member["mean"] for member in members]
        seconds = sum(member["training_seconds"] for member in members)
        assert result["training_seconds"] == pytest.approx(seconds, abs=0.01)
        assert result["examples"] == {name: 8 for name in members[0]["examples"]}
        assert result["hardware"] == members[0]["hardware"] and result["wall_seconds"] > 0
        text = json.dumps(result)
        assert '"/' not in text and str(place) not in text


def test_a_greedy_soup_says_which_runs_it_kept(averaged):
    place, _ = averaged
    (log,) = place.glob("work/soup-*.log")
    kept = re.search("the soup averages (.*)", log.read_text())[1]
    result = read_one(place, "soup-*")
    assert result["kept_seeds"] == [seed for seed in (1, 2) if f"joint-seed{seed}-" in kept]
    (metrics,) = place.glob("work/soup-*/metrics-dev.json")
    assert json.loads(metrics.read_text())["mean"] == result["mean"]
    assert read_one(place, "mean-*")["kept_seeds"] == [1, 2]


def test_only_the_best_checkpoint_of_a_member_is_left(averaged):
    place, _ = averaged
    names = [path.name for path in place.glob("work/*/checkpoints/*")]
    assert names == ["best.pt", "best.pt"]


def test_an_average_is_finished_for_the_same_members_alone(averaged, plan_of, tmp_path):
    place, _ = averaged
    _, [mean] = plan_of(place, "mean --seeds 1 2")
    assert mean.is_finished
    _, [more] = plan_of(place, "mean --seeds 1 2 3")
    assert not more.is_finished and [one.seed for one in more.members] == [1, 2, 3]
    first, second = mean.members
    result = json.loads(second.result.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(result | {"mean": result["mean"] + 1e-9}))  # trained again
    assert not mean._replace(members=(first, second._replace(result=other))).is_finished
    other.write_text(json.dumps(result | {"flags": ["--lr", "1e-3"]}))  # of an earlier row
    assert not mean._replace(members=(first, second._replace(result=other))).is_finished


def test_what_another_runner_has_finished_meanwhile_stays(averaged, plan_of):
    place, _ = averaged

    def stamps() -> dict:
        return {path: path.stat().st_mtime_ns for path in place.glob("work/*/*")}

    before = stamps()
    stop = run.ForwardedStop("")
    args, [joint, *_, mean, _] = plan_of(place, "--seeds 1 2")
    averages.average(args, mean, stop)
    run.execute(args, joint, stop)
    assert stamps() == before


def test_members_are_checked_again_under_the_lock(copy, plan_of):
    args, [mean] = plan_of(copy, "mean --seeds 1 2")
    (mean.directory / "metrics-dev.json").touch()
    mean.members[1].result.unlink()
    with pytest.raises(InputError, match="no finished run with its best checkpoint of joint"):
        averages.average(args, mean, run.ForwardedStop(""))
    assert (mean.directory / "metrics-dev.json").exists()


def test_one_seed_is_no_average(averaged, plan_of):
    place, _ = averaged
    assert [str(one) for one in plan_of(place, "--seeds 1")[1]] == ["joint seed 1"]
    message = "row soup averages runs of several seeds, but --seeds is 4 alone; give two or more"
    with pytest.raises(InputError, match=message):
        plan_of(place, "soup joint --seeds 4")


def test_a_missing_member_is_one_line_with_its_command(copy, invoke, plan_of):
    output, error = invoke(copy, f"mean --seeds 1 2 3 4 {FLAGS}")
    assert error.startswith("1 of 1 runs failed")
    message = output.splitlines()[-1]
    assert "mean seeds 1+2+3+4: no finished run with its best checkpoint of joint" in message
    command = re.search("for seed 3, 4; make them: (python .*)", message)[1]
    head, *flags = command.split()[2:]
    assert head == "experiments.run"
    args, plan = run.parse(flags)[0], run.plan_runs(*run.parse(flags))
    assert (args.work_dir, [str(one) for one in plan]) == (
        f"{copy}/work",
        ["joint seed 3", "joint seed 4"],
    )
    _, [mean] = plan_of(copy, "mean --seeds 1 2 3 4")
    assert plan[0] == mean.members[2]


def test_a_finished_member_without_its_checkpoint_has_to_be_repeated(copy, plan_of):
    args, [mean] = plan_of(copy, "mean --seeds 1 2")
    averages.check_members(args, mean)
    first, second = mean.members
    (second.directory / "checkpoints" / "best.pt").unlink()
    metrics = json.loads((first.directory / "metrics-dev.json").read_text())
    metrics["mean"] += 1e-9  # the directory is another run's than the result
    (first.directory / "metrics-dev.json").write_text(json.dumps(metrics))
    command = f"for seed 1, 2; make them: rm {first.result} {second.result} && python -m "
    with pytest.raises(InputError, match=re.escape(command)):
        averages.check_members(args, mean)


def test_a_failing_average_leaves_no_result(copy, invoke):
    (copy / "rows" / "soup.txt").write_text(ROW_TEXTS["soup"].replace("--soup ", ""))
    output, _ = invoke(copy, f"soup --seeds 1 2 {FLAGS}")
    assert "--greedy does nothing without --soup" in output
    assert not list(copy.glob("results/soup*"))


@pytest.fixture
def made_up(folder, monkeypatch):
    """Three seeds of a row with .4, .5 and .6 right, and a row for their ensembles."""
    text = ROW_TEXTS["mean"]
    monkeypatch.setitem(result_folder.ROW_TEXTS, "mean", text)
    (folder.rows / "mean.txt").write_text(text)
    for seed, right in ((1, 4), (2, 5), (3, 6)):
        folder.add("joint", seed, sst=right, noise=0, mean=right / 10)
    return folder


def add_mean(folder, seeds: list[int], sst: int, means: tuple[float, ...] = (0.4, 0.5, 0.6)):
    """A result of the ensemble of the first seeds."""
    changes = {"script": "compare.py", "seeds": seeds, "member_means": means[: len(seeds)]}
    folder.add("mean", seeds[-1], sst=sst, noise=0, training_seconds=30.0, **changes)


def test_an_ensemble_is_compared_with_every_members_control(made_up):
    add_mean(made_up, [1, 2, 3], sst=7)
    methods = made_up.methods()
    found = comparison.difference(methods["mean"], methods["joint"], "sst")
    assert found.mean == pytest.approx(0.2)
    assert found.by_seed == pytest.approx([0.3, 0.2, 0.1])
    assert found.interval[0] < 0.2 < found.interval[1]
    overall = cells(report.overall_table(methods))
    assert overall["mean"][1] == "**.700**"  # no ±
    assert found.num_runs == 1 and not found.is_finding  # one model, not three seeds
    text = overall["mean"][4]
    assert text.startswith("+.067 [") and text.endswith("]; one average of 3 runs")
    assert overall["mean"][5] == "joint"
    assert overall["mean"][-1] == "of 3"
    assert overall["joint"][1] == ".500 ± .100" and overall["joint"][-1] == "3"


def test_the_report_takes_the_average_of_most_present_members(made_up, capsys):
    add_mean(made_up, [1, 2], sst=9)
    add_mean(made_up, [1, 2, 3], sst=7)
    made_up.report()
    out, err = capsys.readouterr()
    assert "| of 3 |" in out and "| of 2 |" not in out and err == ""
    made_up.add("joint", 3, sst=8, noise=0, mean=0.8)  # trained again
    made_up.report()
    out, err = capsys.readouterr()
    assert err == "mean seeds 1, 2, 3: its members are gone or other runs now; dropped\n"
    assert "| of 2 |" in out and "| of 3 |" not in out
    made_up.add("joint", 3, sst=6, noise=0, mean=0.6)
    path = made_up.results / "mean-seed3-aaaa1111.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kept_seeds": [1, 3]}))
    made_up.report()  # of a greedy soup, how many it kept
    assert "| 2 of 3 |" in capsys.readouterr().out
    (made_up.results / "joint-seed1-aaaa1111.json").unlink()
    made_up.report()
    assert "(`mean`)" not in capsys.readouterr().out


def test_how_much_the_members_of_an_average_agree(made_up, capsys):
    made_up.add("joint", 2, sst=5, para=1, noise=1, mean=0.5)
    made_up.add("joint", 4, sst=9, para=9, noise=1, mean=0.9)  # no member
    assert findings.agreements(made_up.methods()) == ""
    add_mean(made_up, [1, 2, 3], sst=7)
    noisy = (LABELS + np.resize([0, 1, 0, -1], N)).clip(0, 5)
    r = np.corrcoef(noisy, LABELS)[0, 1]
    # The members have .4, .5, .6 of sst, .5, .1, .5 of para; seeds 1 and 3 predict sts exactly.
    sst, para = (0.9 + 0.8 + 0.9) / 3, (0.6 + 1 + 0.6) / 3
    expected = f"| `joint` | {' | '.join(map(tables.number, [sst, para, (1 + 2 * r) / 3]))} |"
    assert findings.agreements(made_up.methods()).splitlines()[-1] == expected
    made_up.report()
    assert expected in capsys.readouterr().out.splitlines()
    methods = made_up.methods()
    methods["joint"].runs[2].predictions["sts"] = np.ones(N)  # only the other two correlate
    assert f"| {tables.number(1 / 3)} |" in findings.agreements(methods)
    methods["mean"].row = methods["mean"].row._replace(average_of="single_sts")
    assert findings.agreements(methods) == ""
