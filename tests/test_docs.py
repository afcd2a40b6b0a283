"""The documentation is right: length, links, paths, flags, and every command in its bash blocks."""

import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import documentation as docs
import pytest
from documentation import README, ROOT, Command
from every_kind import write_files

import compare
import evaluation
import export
import train_multitask
from experiments import report
from experiments import run as experiments_run
from experiments import transformers_baseline
from options.parsing import parse_args
from options.task_table import read_table
from runtime.files import read_json
from scripts import flag_tables, marked_page

COMMANDS = docs.commands()
# Flags of other programs, and one of a task that is only an example.
FOREIGN_FLAGS = {"--cola_train", "--shutdown_timeout", "--signal", "--gres", "--head"}
FOREIGN_FLAGS |= {"--test-only", "--help"}
page_ids = [page.name for page in docs.PAGES]


def test_readme_is_short():
    assert len(docs.text_of(README).splitlines()) <= 250


@pytest.mark.parametrize("page", docs.PAGES, ids=page_ids)
def test_every_local_link_leads_somewhere(page):
    for link in docs.links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in docs.anchors(target), link


@pytest.mark.parametrize("page", docs.PAGES, ids=page_ids)
def test_every_path_of_the_repository_exists(page):
    tracked = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs", "slurm_files"}
    for span in docs.code_spans(page):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]*)*", span):
            continue  # not a path, or one with <stem> in it
        is_file = re.search(r"\.(py|sh|md|cff|yml)$|^requirements.*\.txt$", span)
        if is_file or ("/" in span and span.split("/")[0] in tracked):
            assert (ROOT / span).exists(), span


def test_every_page_is_linked_from_the_readme():
    linked = set(docs.links(README))
    pages = [str(page.relative_to(ROOT)) for page in docs.PAGES if page != README]
    assert [page for page in pages if page not in linked] == []


@pytest.mark.parametrize("page", docs.PAGES, ids=page_ids)
def test_every_flag_exists(page):
    parsers = [get() for get in (*docs.TRAINING.values(), *docs.PLAIN_PARSERS.values())]
    parsers += [experiments_run.get_args_parser(), transformers_baseline.get_args_parser()]
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", docs.prose(page)))
    assert named - known - FOREIGN_FLAGS == set()


def test_the_table_of_wishes_has_legal_flags():
    table = docs.text_of(README).partition("| what you want | flags |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2] for line in table.splitlines()[2:]]
    assert len(cells) > 10
    for cell in cells:
        docs.parse("train_multitask_pal.py", shlex.split(re.search("`(.*?)`", cell)[1]))


def test_flag_tables_equal_the_parsers():
    start, end = marked_page.markers(flag_tables.NAME)
    _, _, rest = docs.text_of(ROOT / "docs" / "flags.md").partition(start)
    page = rest.partition(end)[0].strip()
    assert (
        page == flag_tables.all_tables()
    ), "run python -m scripts.flag_tables --page docs/flags.md"
    for get_parser in docs.TRAINING.values():
        flags = get_parser()._option_string_actions.keys() - {"-h", "--help"}
        assert [flag for flag in flags if not re.search(rf"`{flag}\b", page)] == []


def test_the_layout_names_every_file_at_the_top():
    layout = docs.text_of(README).partition("| place | what it holds |")[2].partition("\n\n")[0]
    names = [path.name for end in ("py", "sh") for path in ROOT.glob(f"*.{end}")]
    names += [f"{path.parent.name}/" for path in ROOT.glob("[a-z]*/*.py")]
    assert [name for name in names if f"`{name}`" not in layout] == []


def test_the_walk_of_a_batch_names_real_functions():
    (walk,) = [block for block in docs.blocks(README, "") if "train_step" in block]
    names = re.findall(r"^ *((?:\w+\.)+\w+)", walk, re.M)
    objects = {"task_scheduler", "task", "regularizer", "projection", "optimizer"}
    names = [name for name in names if name.split(".")[0] not in objects]
    assert len(names) >= 3
    for name in names:
        module, _, function = name.rpartition(".")
        assert hasattr(importlib.import_module(module), function), name


def test_every_command_is_of_a_known_kind():
    assert [command.name for command in COMMANDS if command.kind == docs.UNKNOWN] == []
    for line in ("make test", "python -m pip install x", "python train.py", "bash other.sh"):
        assert docs.classify(line.split())[0] == docs.UNKNOWN


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_parses(command, tmp_path, monkeypatch):
    for script in re.findall(r"\w+\.sh", command.text):
        assert (ROOT / script).is_file()
    for word in command.flags:
        if word.startswith("@"):
            (tmp_path / word[1:]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word[1:]).write_text("--pooling max\n")
            monkeypatch.chdir(tmp_path)
    docs.parse(command.kind, list(command.flags))


class Small:
    """Runs documented commands on tiny sizes, everything they write below one folder."""

    def __init__(self, folder: Path, model: Path, data: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self.inputs = ["--model_name", str(model), "--data_dir", str(data)]

    def training_flags(self, command: Command) -> list[str]:
        """Return a training command's flags without a GPU, on small inputs and sizes."""
        flags = [word for word in command.flags if word != "--use_gpu"]
        if "--resume" in flags:
            flags[flags.index("--resume") + 1] = str(self.run)
            return flags
        if "--checkpoint" in flags:
            flags[flags.index("--checkpoint") + 1] = str(self.run / "checkpoints" / "best.pt")
        for place, word in enumerate(flags):
            if word.startswith("@"):
                (self.folder / "options.txt").write_text("--pooling max\n")
                flags[place] = f"@{self.folder}/options.txt"
        if "--tasks" in flags:  # of generated rows, which come last and so replace the few ones
            data = self.folder / "data"
            data.mkdir()
            for task in read_table(flags[flags.index("--tasks") + 1]).tasks.values():
                write_files(task, data)
            return [*flags, *self.inputs, "--data_dir", str(data), *self.small()]
        return [*flags, *self.inputs, *self.small()]

    def small(self) -> list[str]:
        """Return the flags of a small run in this folder."""
        return ["--logdir", str(self.folder / "runs"), "--smoketest"]

    def train(self, command: Command) -> None:
        flags = self.training_flags(command)
        if command.launcher != "torchrun":
            args = parse_args(docs.TRAINING[command.kind](), flags)
            train_multitask.main(args)
            return
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        self.start(*launch, command.kind, *flags)

    def search(self, command: Command) -> None:
        flags = [*command.flags]
        sizes = "--samples_per_epoch 4 --batch_size 2 --epochs 1 --dev_samples 8 --hpo_trials 1"
        if "--hpo_resume" not in flags:
            if "--hpo_space" in flags:
                (space,) = docs.blocks(ROOT / "docs" / "search.md", "json")
                (self.folder / "space.json").write_text(json.dumps(json.loads(space)))
                flags[flags.index("--hpo_space") + 1] = str(self.folder / "space.json")
            where = ["--logdir", str(self.folder), "--run_name", "search"]
            self.start(command.kind, *flags, *sizes.split(), *self.inputs, *where)
            return
        where = [*self.inputs, "--logdir", str(self.folder), "--run_name", "resumed"]
        self.start(command.kind, "--hpo", "--hpo_only", *sizes.split(), *where)
        flags[flags.index("--hpo_resume") + 1] = str(self.folder / "resumed")
        self.start(command.kind, *flags)
        self.start(command.kind, f"@{self.folder}/resumed/best.txt", "--logdir", str(self.folder))

    def start(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def evaluate(self, command: Command) -> None:
        args = evaluation.get_args_parser().parse_args(list(command.flags))
        args.run = str(self.run)
        if args.output is not None:
            args.output = str(self.folder / Path(args.output).name)
        sentence = re.match('echo "(.*)"', command.text)
        with pytest.MonkeyPatch.context() as patch:
            raw = io.BytesIO(sentence[1].encode() + b"\n" if sentence else b"")
            patch.setattr("sys.stdin", io.TextIOWrapper(raw))
            evaluation.main(args)

    def compare(self, command: Command) -> None:
        """Run it on one run in place of each that the page names, and keep what it writes here."""
        args = compare.parse_args(compare.get_args_parser(), list(command.flags))
        args.runs = [str(self.run)] * len(args.runs)
        args.figure = str(self.folder / "curves.png")
        args.to = args.to and str(self.folder / "average")
        compare.main(args)
        assert len(list(self.folder.iterdir())) == 1

    def export(self, command: Command) -> None:
        """Export into this folder, without the upload."""
        args = export.get_args_parser().parse_args(list(command.flags))
        args.run, args.to, args.push = str(self.run), str(self.folder / args.to), None
        export.main(args)
        assert list((self.folder / args.to).rglob("README.md"))

    def run_experiment(self, command: Command) -> None:
        args, _ = experiments_run.parse(list(command.flags))
        flags = [(args.rows or ["joint"])[0], "--seeds", "1", *args.passed, *self.inputs]
        flags += "--samples_per_epoch 4 --epochs 1 --batch_size 2 --dev_samples 8".split()
        flags += ["--no_tensorboard", "--no_test_predictions"]
        flags += ["--work_dir", str(self.folder / "work"), "--results_dir", str(self.folder)]
        experiments_run.main(*experiments_run.parse(flags))
        assert len(list(self.folder.glob("*-seed1-*.json"))) == 1

    def write_page(self, command: Command) -> None:
        """Regenerate a page from the repository's own results: it is what the repository holds."""
        flags = list(command.flags)
        for own in {"--results_dir", "--figures_dir"} & {*flags}:
            del flags[flags.index(own) : flags.index(own) + 2]
        if command.kind == "experiments.report":
            flags += ["--figures_dir", str(self.folder / "experiments" / "figures")]
        pages = {
            "experiments.report": (report.main, "docs/results.md"),
            "scripts.flag_tables": (flag_tables.main, "docs/flags.md"),
        }
        main, name = pages[command.kind]
        if "--page" not in flags:
            flags += ["--page", name]
        assert flags[flags.index("--page") + 1] == name
        copy = self.folder / name
        copy.parent.mkdir()
        shutil.copy(ROOT / name, copy)
        flags[flags.index("--page") + 1] = str(copy)
        main(docs.PLAIN_PARSERS[command.kind]().parse_args(flags))
        assert docs.text_of(copy) == docs.text_of(ROOT / name)

    def make_sample(self, command: Command) -> None:
        self.start(command.kind, *command.flags, "--out", str(self.folder))
        assert len(list(self.folder.glob("*.csv"))) == 9


# Every kind of command that runs offline. `tests/benchmarks` runs the benchmarks in the suite, and
# `tests/experiments` the runner, which starts a process for each run.
RUNS = dict.fromkeys(docs.TRAINING, Small.train) | {
    "compare.py": Small.compare,
    "evaluation.py": Small.evaluate,
    "export.py": Small.export,
    "experiments.run": Small.run_experiment,
    "experiments.report": Small.write_page,
    "scripts.flag_tables": Small.write_page,
    "data/make_sample.py": Small.make_sample,
}


SLOW = {"experiments.run"}


def runnable() -> list:
    """Return every command that runs offline; all but the first one of each kind are slow."""
    params, kinds, seen = [], set(), set()
    for command in COMMANDS:
        key = (command.kind, command.flags, command.launcher == "torchrun")
        if command.kind not in RUNS or key in seen:
            continue
        is_slow = command.kind in kinds | SLOW or command.is_search
        is_slow = is_slow or command.launcher == "torchrun"
        marks = [pytest.mark.slow] if is_slow else []
        params.append(pytest.param(command, marks=marks, id=command.name))
        kinds |= set() if is_slow else {command.kind}
        seen.add(key)
    return params


@pytest.mark.parametrize("command", runnable())
def test_every_command_runs_in_a_small_form(
    command, tiny_wordnet, tiny_model, few_rows, run_copy, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = Small(tmp_path / "small", tiny_model, few_rows, run_copy)
    small.folder.mkdir()
    run = Small.search if command.is_search else RUNS[command.kind]
    run(small, command)


def test_python_examples_run(run_copy, tmp_path, monkeypatch):
    blocks = [block for page in docs.PAGES for block in docs.blocks(page, "python")]
    examples = [block for block in blocks if block.startswith("from evaluation ")]
    assert len(examples) == 2
    shutil.copytree(run_copy, tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(example, {})


@pytest.mark.slow
def test_the_first_run_learns_what_the_readme_shows(tmp_path):
    """The last digits, and so the scores, depend on the processor and the number of threads."""
    (shown,) = [block for block in docs.blocks(README, "") if "expected: about" in block]
    flags = ["--logdir", str(tmp_path), "--run_name", "first"]
    train_multitask.main(parse_args(docs.TRAINING["train_multitask.py"](), flags))
    metrics = read_json(tmp_path / "first" / "metrics-dev.json")["metrics"]
    rows = re.findall(r"^(\w+) +(accuracy|pearson) +([\d.]+) +(\S+)$", shown, re.M)
    assert len(rows) == 3
    for name, metric, score, baseline in rows:
        assert metrics[name][metric] == pytest.approx(float(score), abs=0.1)
        assert baseline == "nan" or metrics[name][metric] > float(baseline) + 0.1
