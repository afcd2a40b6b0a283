"""Write the tables of all flags, read from the parsers themselves.

python -m scripts.flag_tables                        # Markdown to the terminal
python -m scripts.flag_tables --page docs/flags.md   # into the page, between its two markers
"""

import re
import sys
from argparse import Action, Namespace
from pathlib import Path

import compare
import evaluation
import export
import train_multitask
import train_multitask_pal
from experiments import report, run
from options import types
from options.parsing import ArgumentParser
from runtime.errors import exit_status
from scripts.marked_page import insert

ROOT = Path(__file__).resolve().parent.parent
NAME = "flags"  # of the page's markers
NUMBERS: dict[object, str] = {
    types.positive_int: "N",
    types.count: "N",
    types.few: "N",
    types.batch_count: "N",
    types.seed: "N",
    types.multiple_of_six: "N",
    types.positive_float: "X",
    types.non_negative_float: "X",
    types.probability: "X",
    types.fraction: "X",
    types.rate: "X",
}


def all_tables() -> str:
    """Return the tables of every command that has many flags, as Markdown."""
    joint = train_multitask.get_args_parser()
    pal = train_multitask_pal.get_args_parser()
    known = {action.dest for action in joint._actions}
    parts = [
        "## Both training scripts",
        *group_tables(joint, set()),
        "## train_multitask_pal.py alone",
        *group_tables(pal, known),
        "## evaluation.py",
        table(evaluation.get_args_parser()._actions),
        "## export.py",
        table(export.get_args_parser()._actions),
        "## compare.py",
        table(compare.get_args_parser()._actions),
        "## python -m experiments.run",
        "The flags of `train_multitask.py` are allowed too and go to every run, except those that "
        "the runner sets itself: " + ", ".join(f"`--{name}`" for name in run.RESERVED) + ".",
        table(run.get_args_parser()._actions),
        "## python -m experiments.report",
        table(report.get_args_parser()._actions),
    ]
    return "\n\n".join(parts)


def group_tables(parser: ArgumentParser, known: set[str]) -> list[str]:
    """Return a heading and a table for each group of a parser.

    Args:
        parser: of an entry script.
        known: options that stand in another table.
    """
    parts = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest not in known | {"help"}]
        if actions:
            title = group.title or ""
            parts += [f"### {title[:1].upper()}{title[1:]}", table(actions)]
    return parts


def table(actions: list[Action]) -> str:
    """Return one table: a line for each flag, with its default and its help."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    lines += [line(action) for action in actions if action.dest != "help"]
    return "\n".join(lines)


def line(action: Action) -> str:
    """Return a flag with what kind of value follows it, its default and its help."""
    name, *others = action.option_strings or [str(action.metavar or action.dest)]
    default, value = "", ""
    if action.nargs == 0:
        default = "on" if action.const is True and action.default is True else ""
    else:
        kind: object = action.metavar or NUMBERS.get(action.type, "VALUE")
        if action.choices is not None:
            kind = "{" + ",".join(map(str, action.choices)) + "}"
        value = f" {kind}" * bool(action.option_strings) + " …" * (action.nargs == "+")
        values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        if action.default not in (None, []):
            default = f"`{' '.join(map(str, values))}`".replace(f"{ROOT}/", "")
    text = re.sub(r"--\w+", r"`\g<0>`", action.help or "").replace("|", "\\|").replace("<", "&lt;")
    text += f" (also {', '.join(f'`{other}`' for other in others)})" if others else ""
    return f"| `{name}{value}` | {default} | {text} |"


def get_args_parser() -> ArgumentParser:
    """Return the parser of this command."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--page", metavar="FILE", help="file with the two markers; unset: print")
    return parser


def main(args: Namespace) -> None:
    """Print the tables, or write them into the page."""
    if args.page is None:
        print(all_tables())
    else:
        insert(Path(args.page), NAME, all_tables())


if __name__ == "__main__":
    args = get_args_parser().parse_args()
    sys.exit(exit_status(lambda: main(args)))
