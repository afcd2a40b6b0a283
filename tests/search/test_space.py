"""Hyper-parameter search: the space, legal trials, and how trials are ranked."""

import json
import math
from argparse import Namespace
from itertools import product

import pytest

import train_multitask
import train_multitask_pal
from optimizers import PROJECTIONS
from options.legal import CONTRADICTIONS
from options.parsing import parse_args
from runtime.errors import InputError
from search import report, tune
from search.ray_session import check_resources
from search.records import Record, ended_state
from search.space import SPACE, Choice, Range, search_space, trial_options
from search.trial import NAME, finished_epochs, run_trial
from task_schedulers import TASK_SCHEDULERS


def search_args(flags: str = "", script: str = "train_multitask_pal.py", narrowed=None):
    module = train_multitask_pal if "pal" in script else train_multitask
    args = parse_args(module.get_args_parser(), f"--hpo --hpo_space s.json {flags}".split())
    args.narrowed = narrowed or {}
    return args


def test_choices_are_keys_of_the_registries():
    assert set(SPACE["projection"].values) <= PROJECTIONS.keys()
    assert set(SPACE["task_scheduler"].values) <= TASK_SCHEDULERS.keys()


def test_the_space_is_that_of_the_script_without_given_options():
    assert list(search_space(search_args())) == list(SPACE)
    joint = search_space(search_args(script="train_multitask.py"))
    assert set(SPACE) - set(joint) == {
        "projection",
        "task_scheduler",
        "smart_weight_regularization",
    }
    assert "lr" not in search_space(search_args("--lr 1e-4"))
    assert "warmup_fraction" not in search_space(search_args("--scheduler plateau"))
    assert "projection" not in search_space(search_args("--task sst"))
    assert "projection" not in search_space(search_args("--task_scheduler sst"))
    assert "projection" not in search_space(search_args("--option pretrain"))
    smart = search_space(search_args("--use_smart_regularization"))["smart_weight_regularization"]
    assert smart == Choice((0.3, 1.0, 3.0))
    everything = "--lr 1 --weight_decay 0 --hidden_dropout_prob 0 --clip 1 --warmup_fraction 0"
    with pytest.raises(InputError, match="nothing to search: .*drop one of --lr, --weight_decay, "):
        search_space(search_args(everything, "train_multitask.py"))


def test_a_file_narrows_the_space():
    space = search_space(search_args(narrowed={"lr": [1e-4, 2e-4], "projection": ["pcgrad"]}))
    assert space["lr"] == Range(1e-4, 2e-4, True) and space["projection"] == Choice(("pcgrad",))
    assert space["clip"] == SPACE["clip"]


@pytest.mark.parametrize(
    "narrowed, message",
    [
        ({"lr": [1e-4]}, "'lr' is [0.0001], expected [low, high] inside [1e-05, 0.001]"),
        ({"lr": [1e-3, 1e-4]}, "expected [low, high]"),
        ({"lr": [1e-9, 1e-4]}, "expected [low, high]"),
        ({"lr": ["a", "b"]}, "expected [low, high]"),
        ({"projection": ["pcgrab"]}, "'projection' is ['pcgrab'], expected a list of some of"),
        ({"batch_size": [1, 2]}, "'batch_size' is not searched here, expected some of lr, "),
    ],
)
def test_a_wrong_file_is_one_clear_error(narrowed, message):
    with pytest.raises(InputError) as error:
        search_space(search_args(narrowed=narrowed))
    assert str(error.value).startswith("s.json: ") and message in str(error.value)


def test_every_choice_gives_a_legal_trial_that_can_be_run_again(tmp_path):
    names = [name for name, domain in SPACE.items() if isinstance(domain, Choice)]
    args = search_args()
    for values in product(*(SPACE[name].values for name in names)):
        options = trial_options(args, dict(zip(names, values)))
        trial = Namespace(**vars(args) | options)
        assert not [c.flags for c in CONTRADICTIONS if c.holds(trial)], options
        weight = values[names.index("smart_weight_regularization")]
        assert trial.use_smart_regularization == (weight > 0)
        assert trial.smart_weight_regularization == (weight or 1.0)
        report.write_best(tmp_path / "best.txt", args, options)
        again = parse_args(train_multitask_pal.get_args_parser(), [f"@{tmp_path / 'best.txt'}"])
        assert all(getattr(again, name) == value for name, value in options.items())


def test_the_best_trial_is_one_that_ended_by_itself():
    """A stopped trial is better than a failed one, and a finished one is better than both."""
    rows = [
        {"trial": "a", "state": "stopped", "mean": 0.5},
        {"trial": "b", "state": "failed", "mean": 0.9},
    ]
    assert max(rows, key=report.rank)["trial"] == "a"
    rows.append({"trial": "c", "state": "done", "mean": 0.1})
    assert max(rows, key=report.rank)["trial"] == "c"


@pytest.mark.parametrize(
    "means, patience, state, best",
    [
        ([0.1, 0.3, 0.2], None, "done", 2),
        ([0.3, 0.2], 0, "done", 1),  # --patience ended it
        ([0.3, 0.2], None, "stopped", 1),
        ([], None, "stopped", 0),
    ],
)
def test_a_trial_counts_by_its_best_epoch(tmp_path, means, patience, state, best):
    (tmp_path / "trials" / "t").mkdir(parents=True)
    with open(tmp_path / "trials" / "t" / "metrics.jsonl", "w") as file:
        for epoch, mean in enumerate(means, start=1):
            dev = {"sts": {"pearson": None, "spearman": None}}  # of a constant
            line = {"epoch": epoch, "mean": mean, "dev": dev, "examples": {"sst": 8}, "loss": {}}
            file.write(json.dumps(line | {"examples_per_second": 4}) + "\n")
    args = Namespace(patience=patience, epochs=3, smoketest=False)
    ended = ended_state(finished_epochs(tmp_path / "trials" / "t"), args)
    row = report.trial_row(Record("t", {"lr": 1}, ended), tmp_path)
    assert (row["state"], row["epoch"], row["epochs"]) == (state, best, len(means))
    assert row["seconds"] == 2 * len(means) and row["lr"] == 1
    if means:
        assert row["mean"] == max(means) and math.isnan(row["sts"])


@pytest.mark.parametrize(
    "flags, num_lines, state",
    [
        ("--epochs 2", 1, "stopped"),
        ("--epochs 2 --smoketest", 1, "done"),
        ("--option pretrain --unfreeze_interval 1 --smoketest", 1, "stopped"),
        ("--option pretrain --unfreeze_interval 1 --smoketest", 2, "done"),
    ],
)
def test_a_smoke_test_has_epochs_of_its_own(flags, num_lines, state):
    lines = [{"epoch": epoch, "mean": 0.5} for epoch in range(1, num_lines + 1)]
    assert ended_state(lines, search_args(flags)) == state


def test_a_full_disk_leaves_no_search_behind(monkeypatch, tmp_path):
    def full(path, content):
        raise OSError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(tune, "write_json", full)
    args = search_args(f"--logdir {tmp_path} --run_name s --data_dir {tmp_path}")
    args.hpo_space = None
    with pytest.raises(OSError, match="No space left"):
        tune.new_search(args)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("cpus, gpus, name", [(3, 0, "CPU"), (1, 0.5, "GPU")])
def test_a_trial_that_fits_nowhere_is_one_line(cpus, gpus, name):
    with pytest.raises(InputError, match=f"a trial asks for .* {name}, but there are . here"):
        check_resources({"CPU": 2.0}, cpus, gpus)
    check_resources({"CPU": 2.0, "GPU": 1.0}, 2, 0.5)


def test_a_resumed_search_gives_trials_nothing_to_search(tmp_path):
    """A trial is a run of the entry script's `main`, which would otherwise start a search in it."""
    options = vars(search_args(f"--hpo --logdir {tmp_path} --data_dir {tmp_path}"))
    options |= {"hpo_resume": str(tmp_path), "narrowed": {}}
    given = []
    run_trial({NAME: "one"}, options, str(tmp_path), lambda args, report: given.append(args))
    assert (given[0].hpo, given[0].hpo_resume) == (False, None)
    assert given[0].run_name == "one"
