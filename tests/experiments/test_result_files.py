"""The rows' files, and what a run leaves of itself."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from small_rows import ROOT, ROWS, read_result

import train_multitask
import train_multitask_pal
from benchmarks import techniques
from benchmarks.cost_file import spaced
from datasets import read_examples
from experiments import result_files, transformers_baseline
from experiments.findings import SEARCH_SEED
from experiments.row_files import SCRIPTS, read_row, read_rows
from options.parsing import parse_args
from options.task_table import built_in_tasks
from runtime import device
from runtime.errors import InputError

TASKS = built_in_tasks()
MORE_SEEDS = ("joint", "round_robin", "pcgrad", "vaccine", "smart")


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_accepted_by_its_script(name):
    row = ROWS[name]
    modules = (train_multitask, train_multitask_pal, transformers_baseline)
    parsers = dict(zip(SCRIPTS, modules, strict=True))
    args = parse_args(parsers[row.script].get_args_parser(), [f"@{row.path}"])
    assert args.script == row.script
    assert bool(args.given) == (name != "joint")


def test_the_rows_name_their_controls():
    assert [name for name, row in ROWS.items() if row.obstacle] == ["bert_large"]
    others = {name: row.control for name, row in ROWS.items() if row.control != "joint"}
    in_turns = {"joint_small", "original", "pal_scheduler", "pals", "rdrop", "smart", "temperature"}
    in_turns |= {"round_robin_unclipped"}
    in_turns |= {name for name, row in ROWS.items() if row.method == "single_task"}
    expected = dict.fromkeys([*in_turns, "round_robin_long"], "round_robin")
    expected["recipe"] = "round_robin_long"
    expected |= dict.fromkeys(("pcgrad_small", "vaccine_small"), "joint_small")
    expected |= {"original_pcgrad": "pcgrad", "original_vaccine": "vaccine"}
    of_recipe = ("without_", "transformers_long")
    expected |= {name: "recipe" for name in ROWS if name.startswith(of_recipe)}
    assert others == expected | {"lora_per_task": "lora", "sophiah_pos_ner": "sophiah"}
    controls = {"joint", "recipe", *others.values()}  # of averages too
    assert {*list(ROWS)[: len(controls)]} == controls
    for method in ("single_task", "transformers_long"):
        parts = [row for row in ROWS.values() if row.method == method]
        assert [row.flags[:2] for row in parts] == [("--task", name) for name in sorted(TASKS)]
        assert len({row.title for row in parts}) == 1


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_the_arm_that_it_names_and_is_like_the_rest_of_its_method(name):
    row = ROWS[name]
    if row.cost != name:  # otherwise there may be no arm
        assert spaced(row.cost) in map(spaced, techniques.ARMS)
    of_method = [other for other in ROWS.values() if other.method == row.method]
    shared = {(one.family, one.control, one.differs_in, one.num_seeds, one.lr) for one in of_method}
    assert len(shared) == 1


def test_rows_have_the_rate_that_was_best_in_the_search_of_their_family():
    searched: dict[str, dict[float, float]] = {}
    for result in result_files.read_results(ROOT / "experiments" / "results"):
        if result["seed"] == SEARCH_SEED and result["settings"]["lr"] is not None:
            searched.setdefault(result["row"], {})[result["options"]["lr"]] = result["mean"]
    families = {
        "joint": ["rlw", "max_pooling", "last_four_layers", "joint_unclipped"],
        "sophiah": ["sophiah_pos_ner"],
        "lora": ["frozen", "lora_per_task"],
        "attention": ["bilstm", "cnn", "combined", "hierarchical"],
        "round_robin": [
            "joint_small",
            "pals",
            "rdrop",
            "round_robin_unclipped",
            "single_sst",
            "smart",
            "temperature",
        ],
    }
    assert searched.keys() == families.keys()
    for name, rates in searched.items():
        default = sorted(rates)[1]  # of half, once and twice the default
        for one in (name, *families[name]):
            assert float(ROWS[one].lr or default) == max(rates, key=lambda lr: rates[lr])


def test_rows_of_techniques_have_an_arm():
    arms = {*map(spaced, techniques.ARMS)}
    without = {name for name, row in ROWS.items() if spaced(row.cost) not in arms}
    families = {"gradient surgery", "loss weightings", "features", "adapters", "task schedulers"}
    missing = {name for name in without if ROWS[name].family in families}
    assert missing <= {"pcgrad_small", "vaccine_small"}
    asked = {name: row.num_seeds for name, row in ROWS.items() if row.num_seeds > 3}
    assert asked.items() >= dict.fromkeys(MORE_SEEDS, 5).items()


@pytest.mark.parametrize(
    "text, message",
    [
        ("# A\n# family: mine\n", "family is 'mine', expected one of controls, "),
        ("# A\n", "family is '', expected one of controls, "),
        ("# A\n# family: recipe\n# seeds: many\n", "seeds is 'many', expected a number from 1"),
        ("# A\n# family: recipe\n# seeds: 0\n", "seeds is '0', expected a number from 1 on"),
        ("# A\n# family: recipe\n# lr: 0\n", "lr: '0' is not a positive number"),
        ("# A\n# family: recipe\n# lr: 1\n# average of: b\n", "compare.py does not train with"),
        ("--pooling max\n", ":1: expected '# ' and the row's title"),
        ("# A\n# script: other.py\n", "script is 'other.py', expected one of train_multitask.py, "),
        ("# A\n# family: recipe\n# control: nobody\n", "control is 'nobody', expected one of "),
        ("# A\n# family: recipe\n# average of: a\n", "average of is 'a', expected one of b$"),
        ("# A\n# average of: b\n# script: train.py\n", "is 'train.py', expected one of compare.py"),
    ],
)
def test_a_bad_row_file_is_one_line(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("# B\n# family: recipe\n")
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path)


def test_a_row_file_is_read_as_a_script_reads_it(tmp_path):
    text = "# It's 'A'\n# family: inputs\n# note: script: no\n--lr 1e-3 # high\n--x 'b c'\n"
    (tmp_path / "a.txt").write_text(text)
    row = read_row(tmp_path / "a.txt")
    assert (row.title, row.script, row.control, row.method) == (
        "It's 'A'",
        SCRIPTS[0],
        "joint",
        "a",
    )
    assert row.flags == ("--lr", "1e-3", "--x", "b c")
    assert (row.family, row.num_seeds, row.cost, row.at_majority) == ("inputs", 3, "a", "")


def test_a_result_holds_what_the_run_wrote(place):
    result = read_result(place, "turns")
    (run_dir,) = (path for path in (place / "work").glob("turns*") if path.is_dir())
    dev = json.loads((run_dir / "metrics-dev.json").read_text())
    assert (result["dev"], result["mean"]) == (dev["metrics"], dev["mean"])
    assert result["flags"] == ["--task_scheduler", "round_robin", "--lr", "1e-3"]
    assert (result["options"]["lr"], result["settings"]["lr"]) == (0.001, None)
    assert result["options"]["task_scheduler"] == "round_robin"
    assert "task_scheduler" not in result["settings"]
    assert (result["seed"], result["best_epoch"], result["processes"]) == (3, 1, 1)
    assert result["examples"] == {"sst": 2} and result["updates"] == {"sst": 1}
    assert 0 < result["training_seconds"] + 0.1 < result["wall_seconds"]
    assert result["peak_memory_mib"] > 1
    assert len(result["git_revision"]) >= 40 and result["versions"]["torch"]
    assert read_result(place, "joint")["examples"] == dict.fromkeys(TASKS, 2)


def test_predictions_survive_their_encoding(place, few_rows):
    results = result_files.read_results(place / "results")
    assert [result["row"] for result in results] == ["joint", "turns"]
    labels = result_files.read_dev_labels(place / "results", results[0]["data"])
    majority = result_files.read_majority(place / "results", results[0]["data"])
    for result in results:
        for name, task in TASKS.items():
            values = result["predictions"][name]
            assert len(values) == 20
            score = result["dev"][name][task.metric_name]
            if result_files.is_score(task):
                assert task.metric(values, labels[name]) == pytest.approx(
                    score, abs=1e-3, nan_ok=True
                )
            else:
                assert values.mean() == pytest.approx(score)
    assert list(majority) == ["sst", "para", "sts"] and majority["sts"] == 0
    for name in ("sst", "para"):
        examples = read_examples(few_rows / f"{TASKS[name].stem}-dev.csv", TASKS[name], True)
        counts = Counter(example.label for example in examples)
        assert majority[name] == counts.most_common(1)[0][1] / len(examples)


def test_a_local_model_is_told_from_another_one_of_its_name(tmp_path):
    names = set()
    for weights in (b"1", b"2"):
        folder = tmp_path / weights.decode() / "export"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        names.add(result_files.local_model(folder))
    assert len(names) == 2 and all(name.startswith("export@") for name in names)


def test_a_macs_gpu_has_a_name_too(monkeypatch):
    monkeypatch.setattr(device, "gpu_type", lambda: "mps")
    assert result_files.hardware(use_gpu=True) == "MPS"


def test_no_path_and_no_checkpoint_is_left_behind(place, tiny_model):
    result = read_result(place, "joint")
    assert result["settings"]["model_name"] == result_files.local_model(tiny_model)
    assert re.fullmatch(rf"{tiny_model.name}@[0-9a-f]{{8}}", result["settings"]["model_name"])
    for path in (place / "results").iterdir():
        text = path.read_text()
        assert '"/' not in text and str(place) not in text and str(ROOT) not in text
    assert not list((place / "work").glob("*/checkpoints"))


def test_right_and_scores_are_decoded_as_they_were():
    is_right = np.random.default_rng(0).random(21) < 0.5
    assert (result_files.decode_right(result_files.encode_right(is_right), 21) == is_right).all()
    scores = np.array([0, 5, 3.14159, 2.5, 0.00004])
    text = result_files.encode_scores(scores)
    assert text == "0 5 3.1416 2.5 0"
    np.testing.assert_allclose(result_files.decode_scores(text), scores, atol=5e-5)


@pytest.mark.parametrize(
    "part", ["average_weights", "layer_decay", "rdrop", "symmetric_pairs", "temperature"]
)
def test_a_row_without_a_part_differs_in_that_part_alone(part):
    recipe, without = (
        vars(parse_args(train_multitask_pal.get_args_parser(), [*ROWS[name].flags]))
        for name in ("recipe", f"without_{part}")
    )
    changed = {name for name in recipe if recipe[name] != without[name]} - {"given"}
    assert changed == {{"rdrop": "rdrop_weight", "temperature": "task_scheduler"}.get(part, part)}
