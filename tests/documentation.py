"""The documentation as data: pages, commands in their bash blocks, and what each command starts."""

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import compare
import evaluation
import export
import train_multitask
import train_multitask_pal
from benchmarks import (
    cost_table,
    frozen,
    growth,
    labelling,
    parallel,
    scale,
    techniques,
    throughput,
    time_to_score,
    waiting,
)
from experiments import dashboard, report, run
from options.parsing import parse_args
from scripts import flag_tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

TRAINING = {
    "train_multitask.py": train_multitask.get_args_parser,
    "train_multitask_pal.py": train_multitask_pal.get_args_parser,
}
PLAIN_PARSERS = {
    "benchmarks.cost_table": cost_table.get_args_parser,
    "benchmarks.frozen": frozen.get_args_parser,
    "benchmarks.growth": growth.get_args_parser,
    "benchmarks.labelling": labelling.get_args_parser,
    "benchmarks.scale": scale.get_args_parser,
    "benchmarks.techniques": techniques.get_args_parser,
    "benchmarks.throughput": throughput.get_args_parser,
    "benchmarks.time_to_score": time_to_score.get_args_parser,
    "compare.py": compare.get_args_parser,
    "evaluation.py": evaluation.get_args_parser,
    "export.py": export.get_args_parser,
    "experiments.report": report.get_args_parser,
    "experiments.dashboard": dashboard.get_args_parser,
    "scripts.flag_tables": flag_tables.get_args_parser,
}
OTHERS = (
    "benchmarks.parallel",
    "benchmarks.waiting",
    "data/download.py",
    "data/make_sample.py",
    "experiments.run",
    "pytest",
)
# Commands of other programs, and those that need a network or a cluster.
OUTSIDE = {"source", "tensorboard", "pre-commit", "squeue", "scancel", "srun", "ssh", "hf"}
OUTSIDE |= {"setup_gwdg.sh", "nltk.downloader"}
UNKNOWN = "unknown"
PYTEST_OPTIONS = {"-k": 1, "-m": 1, "-rP": 0, "--cov=.": 0}  # and how many words follow each


@dataclass(frozen=True)
class Command:
    """One command line of a page.

    Attributes:
        page: where it stands.
        text: the line, comment included.
        kind: what it starts: a script, a module, a program.
        flags: the words after that.
        launcher: python, bash, sbatch or torchrun.
    """

    page: str
    text: str
    kind: str
    flags: tuple[str, ...]
    launcher: str

    @property
    def name(self) -> str:
        """The command without its comment, for a test's name."""
        return " ".join(self.text.partition(" #")[0].split())

    @property
    def is_search(self) -> bool:
        """Whether it starts or resumes a search for options."""
        return any(word.startswith("--hpo") for word in self.flags)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.M | re.S)
    return [block for name, block in found if name == language]


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


def commands() -> list[Command]:
    """Return every command line of every page."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append(Command(page.name, line, *classify(words)))
    return found


def classify(words: list[str]) -> tuple[str, tuple[str, ...], str]:
    """Return a command's kind, its flags and its launcher; the kind is UNKNOWN for a new one.

    A new kind gets its place here, and one in `test_docs.RUNS` if it can run offline. Variables of
    the environment before a command are left out.
    """
    words = list(dropwhile(re.compile(r"[A-Z_][A-Z0-9_]*=").match, words))
    if words[0] == "echo" and "|" in words:
        words = words[words.index("|") + 1 :]
    launcher, *rest = words
    if launcher in OUTSIDE:
        return launcher, tuple(rest), launcher
    if launcher in ("torchrun", "sbatch"):  # their own flags come first
        start = next(i for i, word in enumerate(rest) if word.endswith((".py", ".sh")))
        rest = rest[start:]
    elif launcher == "python" and rest[:1] == ["-m"]:
        rest = rest[1:]
    elif launcher not in ("python", "bash"):
        return UNKNOWN, tuple(rest), launcher
    kind, *flags = rest
    kind = {"run_experiments.sh": "experiments.run", "run_tests.sh": "pytest"}.get(kind, kind)
    if kind == "run_train.sh":
        kind = flags.pop(0) if flags and flags[0].endswith(".py") else "train_multitask.py"
    known = {*TRAINING, *PLAIN_PARSERS, *OTHERS, *OUTSIDE}
    return kind if kind in known else UNKNOWN, tuple(flags), launcher


def parse(kind: str, flags: list[str]) -> object:
    """Parse flags with the real parser of what they are for. Raises SystemExit for wrong ones."""
    if kind in TRAINING:
        return parse_args(TRAINING[kind](), flags)
    if kind == "compare.py":  # whose flags exclude each other
        return compare.parse_args(compare.get_args_parser(), flags)
    if kind in PLAIN_PARSERS:
        return PLAIN_PARSERS[kind]().parse_args(flags)
    if kind == "experiments.run":
        args, shared = run.parse(flags)
        run.choose_rows(args.rows, run.read_rows(Path(args.rows_dir)))
        return args, shared
    if kind == "pytest":
        return parse_pytest(flags)
    if kind == "benchmarks.parallel":
        return parallel.parse(flags)
    if kind == "benchmarks.waiting":
        return waiting.parse(flags)
    if kind == "data/download.py":
        return runpy.run_path(str(ROOT / kind))["get_args_parser"]().parse_args(flags)
    return None  # make_sample.py is run, and the others are not ours


def parse_pytest(flags: list[str]) -> None:
    """Check that the flags are known ones and that the files exist."""
    words = list(flags)
    while words:
        word = words.pop(0)
        if word in PYTEST_OPTIONS:
            del words[: PYTEST_OPTIONS[word]]
        else:
            assert (ROOT / word.partition("::")[0]).exists(), word


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    plain = [re.sub(r"[^\w -]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def links(page: Path) -> Iterator[str]:
    """Yield the local links of a page, pictures included."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not link.startswith(("http:", "https:")):
            yield link


def code_spans(page: Path) -> list[str]:
    """Return what stands between backticks outside code blocks."""
    return re.findall(r"`([^`]+)`", prose(page))
