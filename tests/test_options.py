"""The command line: every illegal combination, every bad value, and what --resume lets through."""

import re
import shlex
from pathlib import Path

import pytest

from options import CONTRADICTIONS, RESUME_OPTIONS, parse_args
from train_multitask import get_args_parser

README = Path(__file__).resolve().parent.parent / "README.md"


def parse(flags: str):
    return parse_args(get_args_parser(), shlex.split(flags))


@pytest.mark.parametrize("contradiction", CONTRADICTIONS, ids=lambda c: c.flags)
def test_contradictions_end_in_one_line(contradiction, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(contradiction.flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith(f"error: {contradiction.message}")


def test_defaults_contradict_nothing():
    args = parse("")
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
        ("@no_such_file", "No such file or directory: 'no_such_file'"),
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


def test_readme_lists_every_flag_with_its_default():
    """The README's flag table and the parser say the same, flag by flag."""
    rows = re.findall(r"^\| `(--[^|]*)` \| ([^|]*) \|", README.read_text(encoding="utf-8"), re.M)
    written = {flag.split()[0]: default.strip() for flag, default in rows}
    expected = {}
    for action in get_args_parser()._actions:
        if action.dest == "help":
            continue
        default = action.default
        if action.nargs == 0 or default in (None, []):
            default = "on" if action.dest == "write_summary" and default and action.const else ""
        expected[action.option_strings[0]] = (
            f"`{default}`" if default not in ("", "on") else default
        )
    assert written == expected
