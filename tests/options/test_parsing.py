"""The command line: every illegal combination, every bad value, and what --resume lets through."""

import shlex
from pathlib import Path

import pytest

from datasets import SPLITS, task_file
from options.legal import CONTRADICTIONS
from options.needs import NEEDS
from options.parsing import RESUME_OPTIONS, parse_args
from options.task_table import built_in_tasks
from options.techniques import joint_defaults
from train_multitask import get_args_parser
from train_multitask_pal import get_args_parser as get_pal_args_parser

TASKS = built_in_tasks()


def parse(flags: str, get_parser=get_args_parser):
    return parse_args(get_parser(), shlex.split(flags))


@pytest.mark.parametrize("contradiction", CONTRADICTIONS, ids=lambda c: c.flags)
def test_contradictions_end_in_one_line(contradiction, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(contradiction.flags, get_pal_args_parser)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"error: {contradiction.message} (--help" in line


def test_class_weights_look_at_the_task_that_is_trained(capsys):
    with pytest.raises(SystemExit):
        parse("--task_scheduler para --class_weights", get_pal_args_parser)
    assert "no trained task has them" in capsys.readouterr().err
    assert parse("--task_scheduler sst --class_weights", get_pal_args_parser).class_weights


VALUES = {"restarts": 1, "vaccine_groups": "layer", "pal_size": 6, "hess_interval": 5}
VALUES |= {
    "batches_per_update": 5,
    "layers": 1,
    "segment_length": 9,
    "unfreeze_interval": 1,
    "hpo_only": "",
    "hpo_trials": 2,
    "hpo_cpus": 2,
    "hpo_concurrent": 2,
}  # the others take any number


@pytest.mark.parametrize("name", NEEDS)
def test_an_option_that_would_do_nothing_is_refused(name, capsys):
    needed, _ = NEEDS[name]
    flags = "--scheduler none " if name == "warmup_fraction" else ""
    value = "" if name == "lora_per_task" else VALUES.get(name, 0.5)
    with pytest.raises(SystemExit):
        parse(f"{flags}--{name} {value}", get_pal_args_parser)
    assert f"--{name} does nothing without {needed}" in capsys.readouterr().err


@pytest.mark.parametrize("get_parser", [get_args_parser, get_pal_args_parser])
def test_defaults_contradict_nothing(get_parser):
    args = parse("", get_parser)
    assert args.given == []
    assert (args.lr, args.data_dir, args.run_name) == (None, None, None)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--batch_size 0", "argument --batch_size: '0' is not a positive integer"),
        ("--epochs two", "argument --epochs: 'two' is not a positive integer"),
        ("--lr nan", "argument --lr: 'nan' is not a positive number"),
        ("--lr -1", "argument --lr: '-1' is not a positive number"),
        ("--clip inf", "argument --clip: 'inf' is not a number of at least 0"),
        ("--hidden_dropout_prob 1", "'1' is not a number in [0, 1)"),
        ("--run_name ../other", "'../other' is not a plain name"),
        ("--task_weights sst", "'' is not a positive number"),
        ("--task_weights imdb=1", "'imdb=1' is not TASK=WEIGHT, tasks sst, para, sts"),
        ("--pooling median", "invalid choice: 'median' (choose from mean, cls, max)"),
        ("--no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("--batch 8", "unrecognized arguments: --batch 8"),
        ("@no_such_file", "no_such_file: no such file; an @file holds flags"),
    ],
)
def test_bad_values_name_flag_value_and_what_is_allowed(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse(flags)
    assert message in capsys.readouterr().err.replace("'mean', 'cls', 'max'", "mean, cls, max")


def test_none_is_a_schedule_in_any_case():
    assert parse("--scheduler None").scheduler == parse("--scheduler none").scheduler == "none"


def test_arguments_from_a_file(tmp_path):
    path = tmp_path / "options.txt"
    path.write_text("# a comment\n--lr 1e-3 --epochs 3\n--run_name 'my run'\n")
    args = parse(f"@{path} --epochs 4")
    assert (args.lr, args.epochs, args.run_name) == (1e-3, 4, "my run")
    assert args.given == ["epochs", "lr", "run_name"]


def test_quora_is_another_name_of_para():
    assert parse("--quora_dev a.csv").para_dev == "a.csv"


def test_resume_takes_only_its_own_options(capsys):
    assert parse("--resume runs/a --epochs 5 --use_gpu").given == ["epochs", "resume", "use_gpu"]
    with pytest.raises(SystemExit):
        parse("--resume runs/a --lr 1")
    assert "--resume takes --lr from the run's args.json" in capsys.readouterr().err
    dests = {action.dest for action in get_args_parser()._actions}
    assert set(RESUME_OPTIONS) <= dests


def test_entry_2_has_every_option_of_entry_1():
    joint = {action.dest for action in get_args_parser()._actions}
    pal = {action.dest for action in get_pal_args_parser()._actions}
    assert joint < pal and pal - joint == set(joint_defaults())
    args = parse("")
    assert all(getattr(args, name) == default for name, default in joint_defaults().items())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TASKS)
def test_every_file_flag_beats_the_data_directory(name, split):
    args = parse(f"--data_dir here --{name}_{split} own.csv")
    assert task_file(args, TASKS[name], split) == Path("own.csv")
    others = [task_file(args, task, s) for task in TASKS.values() for s in SPLITS]
    assert sum(path.parent == Path("here") for path in others) == len(others) - 1


def test_an_at_file_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "flags").write_bytes("\ufeff--epochs 3\r\n--seed 2\r\n".encode())
    args = parse(f"@{tmp_path}/flags")
    assert (args.epochs, args.seed) == (3, 2)


def test_a_thousand_batches_per_update_are_the_most(capsys):
    flags = "--task_scheduler pal --projection pcgrad --combine_strategy force"
    assert parse(f"{flags} --batches_per_update 1000", get_pal_args_parser).batches_per_update
    with pytest.raises(SystemExit):
        parse(f"{flags} --batches_per_update 1001", get_pal_args_parser)
    assert "'1001' is not a positive integer up to 1,000" in capsys.readouterr().err
