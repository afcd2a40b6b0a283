"""Options read back from args.json are checked like a command line, whoever wrote the file."""

import json
import shlex
import warnings
from pathlib import Path

import pytest

from options.parsing import parse_args
from options.run_options import PARSERS
from options.saved import check_saved_options, options_to_save
from runtime.errors import InputError

PAL = "train_multitask_pal.py"
WHERE = Path("runs/a/args.json")


def saved(flags: str, script: str = PAL) -> dict:
    """What args.json holds of a run with these flags."""
    args = parse_args(PARSERS[script](), shlex.split(flags))
    return json.loads(json.dumps(options_to_save(args) | {"run_dir": "a"}))


def check(options: object):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return check_saved_options(options, WHERE)


@pytest.mark.parametrize("script", PARSERS)
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--task_weights sst=2 sts=0.5 --no_tensorboard --seed 7 --lr 1e-5",
        "--train_mode single_layers --layers 1 2 --scheduler None --clip 0",
        "--run_name a.b-c --data_dir 'a dir' --no_train_classifier --samples_per_epoch 8",
        "--model_name=-x --checkpoint=@file",
    ],
)
def test_what_a_run_saves_comes_back_unchanged(flags, script):
    options = saved(flags, script)
    assert options_to_save(check(options)) == options | {"narrowed": {}, "data_sha256": {}}


def test_every_option_of_a_technique_comes_back(tmp_path):
    flags = "--task_scheduler pal --projection vaccine --combine_strategy force --use_pal "
    flags += "--pal_size 6 --use_smart_regularization --smart_radius 1 --optimizer sophiah --rho 2"
    args = check(saved(flags))
    assert (args.projection, args.pal_size, args.smart_radius, args.rho) == ("vaccine", 6, 1.0, 2.0)


def test_what_is_refused_since_stays_readable_in_older_runs():
    options = saved("--task_scheduler joint --loss_weighting famo") | {"optimizer": "sophiah"}
    assert check(options).optimizer == "sophiah"


def test_a_missing_option_takes_its_default_and_says_so():
    options = saved("")
    del options["patience"], options["clip"]
    with pytest.warns(
        UserWarning, match="older version wrote it; by default clip is 1.0, patience"
    ):
        args = check_saved_options(options, WHERE)
    assert (args.clip, args.patience) == (1.0, None)


def test_an_unknown_option_is_ignored_and_named():
    with pytest.warns(UserWarning, match="ignored options that this version does not have: 'x'"):
        args = check_saved_options(saved("") | {"x": 1}, WHERE)
    assert "x" not in args


def test_a_task_that_was_added_since_is_none_of_the_runs(monkeypatch):
    options = saved("") | {"tasks": ["sst", "sts"]}
    del options["para_train"]
    with pytest.warns(UserWarning, match="by default para_train is None"):
        assert list(check_saved_options(options, WHERE).tasks) == ["sst", "sts"]


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("lr", "fast", "argument --lr: 'fast' is not a positive number"),
        ("lr", True, "lr is True, expected a value as --lr takes it"),
        ("lr", -1, "argument --lr: '-1' is not"),
        ("lr", 1e999, "argument --lr: 'inf' is not"),
        ("epochs", 1.5, "argument --epochs: '1.5' is not a positive integer"),
        ("epochs", None, "epochs is None, expected a value"),
        ("epochs", 10**30, "argument --epochs"),
        ("epochs", {"a": [1]}, "epochs is {'a': [1]}, expected a value"),
        ("pooling", "median", "argument --pooling: invalid choice: 'median'"),
        ("seed", -1, "argument --seed: '-1' is not an integer from 0"),
        ("seed", 2**32, "argument --seed: '4294967296' is not"),
        ("smoketest", "yes", "smoketest is 'yes', expected true or false"),
        ("use_amp", 1, "use_amp is 1, expected true or false"),
        ("layers", 3, "layers is 3, expected a list of values"),
        ("layers", [], "layers is [], expected a list of values"),
        ("layers", [[1]], r"layers is [[1]], expected a list"),
        ("layers", ["--hpo"], "layers is ['--hpo'], expected a list"),
        ("layers", ["@/etc/passwd"], "argument --layers: '@/etc/passwd' is not"),
        ("task_weights", {"imdb": 1}, "argument --task_weights: 'imdb=1' is not TASK=WEIGHT"),
        ("task_weights", [1], "argument --task_weights: '1' is not TASK=WEIGHT"),
        ("tensorboard_subfolder", "../x", "'../x' is not a plain name"),
        ("run_name", "a\x1b[2J", "'a\\x1b[2J' is not a plain name"),
        ("data_dir", "a\nb", "'a\\nb' is empty or holds control characters"),
        ("data_dir", "\ud800", "is empty or holds control characters"),
        ("script", "setup.py", "script is 'setup.py', expected one of train_multitask.py"),
        ("script", ["a"], "script is ['a'], expected one of"),
        ("tasks", ["sts", "sst"], "tasks is ['sts', 'sst'], expected some of sst, para, sts"),
        ("tasks", [], "tasks is [], expected some of"),
        ("tasks", "sst", "tasks is 'sst', expected some of"),
        ("given", {"a": 1}, "given is {'a': 1}, expected a list of options"),
        ("data_sha256", ["a"], "data_sha256 is ['a'], expected a digest for each task"),
        ("run_dir", 3, "run_dir is 3, expected a path"),
        ("narrowed", 3, "narrowed is 3, expected an object"),
        ("micro_batch_size", 99, "--micro_batch_size splits a batch, so it must be at most"),
    ],
)
def test_a_wrong_value_names_file_option_and_what_is_allowed(name, value, message):
    with pytest.raises(InputError) as caught:
        check(saved("") | {name: value})
    assert str(caught.value).startswith(f"{WHERE}: ") and message in str(caught.value)


@pytest.mark.parametrize("options", [None, [], "a", 1])
def test_what_holds_no_options_is_one_line(options):
    with pytest.raises(InputError, match="args.json: holds no options of a run"):
        check(options)
