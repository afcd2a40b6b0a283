"""Whatever is read may be damaged: a command then works, or ends in one clear line.

Each case damages one file of a copied run, model or data folder, or draws a command line, and runs
a command in a process of its own. It has to end with status 0, or with 1 or 2 and at most two lines
without a traceback, within a minute of CPU and 2 GiB; nothing outside its directory may change.

    FUZZ_CASES=5000 bash run_tests.sh tests/test_fuzz.py -m slow
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import damage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evaluation
import train_multitask
import train_multitask_pal
from options.parsing import parse_args
from options.task_table import built_in_tasks
from runtime.startup import ROOT
from search.records import Record, write_record
from search.space import Range, search_space
from search.tune import resumed_search

TASKS = built_in_tasks()

MAX_SECONDS, MAX_MIB = 60, 2048
PROGRESS = ("POS and NER tags of ", "tagging ")  # which are no errors
SIZES = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --dev_samples 4 --no_tensorboard"
RESUME, EVALUATE = "--resume {run} --epochs 2", "--run {run}"
LABEL = "--run {run} --task sst --input {data}/text"
NEW = f"--model_name {{model}} --data_dir {{data}} --logdir {{logs}} --run_name new {SIZES}"
COMPARE, SOUP = "{run} {run}", "--soup {run} --to {logs}/soup"
JSON = [  # (folder, file, entry, command line)
    ("run", "args.json", "train", RESUME),
    ("run", "args.json", "evaluate", EVALUATE),
    ("run", "args.json", "evaluate", LABEL),
    ("run", "config.json", "train", RESUME),
    ("run", "config.json", "evaluate", EVALUATE),
    ("run", "tokenizer.json", "train", RESUME),
    ("run", "tokenizer.json", "evaluate", LABEL),
    ("run", "metrics.jsonl", "train", RESUME),
    ("run", "metrics-dev.json", "evaluate", EVALUATE),
    *(("run", f"{name}.json", "compare", SOUP) for name in ("args", "config", "tokenizer")),
    *(("run", name, "compare", COMPARE) for name in ("metrics.jsonl", "metrics-dev.json")),
    ("run", "search.json", "search", "--hpo_resume {run}"),
    ("run", "trials/000.json", "search", "--hpo_resume {run}"),
    ("run", "trials/000/args.json", "search", "--hpo_resume {run}"),
    ("run", "trials/000/metrics.jsonl", "search", "--hpo_resume {run}"),
    ("model", "config.json", "train", NEW),
    ("model", "tokenizer.json", "train", NEW),
]
CHECKPOINTS = [
    ("run", "checkpoints/last.pt", "train", RESUME),
    ("run", "checkpoints/best.pt", "evaluate", EVALUATE),
    ("run", "checkpoints/best.pt", "compare", SOUP),
    ("run", "checkpoints/best.pt", "train", NEW + " --checkpoint {run}/checkpoints/best.pt"),
]
FOLDERS = [
    ("run", folder, entry, flags)
    for folder in ("checkpoints", "predictions", "on-data", "on-data/predictions", "trials/000")
    for entry, flags in (
        ("train", RESUME),
        ("evaluate", EVALUATE + " --data_dir {data}"),
        ("evaluate", EVALUATE + " --split test"),
        ("search", "--hpo_resume {run}"),
    )
]
BYTES = [("model", "model.safetensors", "train", NEW), ("model", "vocab.txt", "train", NEW)]
BYTES += [("run", "tasks.toml", "train", RESUME), ("run", "tasks.toml", "evaluate", EVALUATE)]
ROWS = [
    ("data", f"{task.stem}-{end}.csv", "train", NEW + skip)
    for task in TASKS.values()
    for end in ("train", "dev", "test-student")
    for skip in ("", " --skip_bad_rows")
]
ROWS += [("data", "sts-similarity-dev.csv", "evaluate", EVALUATE + " --data_dir {data}")]
ROWS += [
    ("run", f"predictions/{task.stem}-dev-output.csv", "compare", COMPARE)
    for task in TASKS.values()
]
WORDS = [("data", "flags", "train", NEW + " --smoketest @{data}/flags")]
TABLE = {
    "json": JSON,
    "checkpoint": CHECKPOINTS,
    "bytes": BYTES,
    "rows": ROWS,
    "words": WORDS,
    "folder": FOLDERS,
}
ACTIONS = [
    action
    for action in train_multitask_pal.get_args_parser()._actions
    if not action.dest.startswith(("hpo", "ray")) and action.dest not in ("help", "resume")
]


class Case(NamedTuple):
    """One damage and the command that meets it."""

    target: str
    damage: damage.Damage
    entry: str
    flags: str


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen]:
    """The process that runs the commands."""
    command = [sys.executable, str(ROOT / "tests" / "fuzz_server.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def original(tiny_model, few_rows, tmp_path_factory) -> Path:
    """Folders that cases copy: run, model, data, logs; `outside` is what no case may change."""
    root = tmp_path_factory.mktemp("fuzz")
    place, outside = root / "original", root / "outside"
    (place / "logs").mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("mine")
    data = shutil.copytree(few_rows, place / "data")
    (data / "text").write_text("a film\nno film\n")
    (data / "flags").write_text("--seed 1 --lr 1e-4\n--pooling max # words\n")
    model = shutil.copytree(tiny_model, place / "model")
    flags = f"--model_name {model} --data_dir {data} --logdir {place} --run_name run {SIZES}"
    train_multitask.main(parse_args(train_multitask.get_args_parser(), flags.split()))
    shutil.copy(place / "run" / "tokenizer.json", model / "tokenizer.json")
    run = place / "run"
    evaluation.evaluate_run(str(run), "dev", str(data), "cpu")  # writes on-data
    (run / "search.json").write_bytes((run / "args.json").read_bytes())
    args = parse_args(train_multitask.get_args_parser(), ["--hpo_resume", str(run)])
    space = search_space(resumed_search(args)[0])
    sampled = {n: d.low if isinstance(d, Range) else d.values[0] for n, d in space.items()}
    shutil.copytree(run, run / "trials" / "000", ignore=shutil.ignore_patterns("trials", "on-*"))
    write_record(run, Record("000", sampled))
    return place


@st.composite
def cases(draw: Any, place: Path) -> Case:
    """Draw a case; `place` holds the undamaged files."""
    kind = draw(st.sampled_from([*TABLE, "flags", "kind"]))
    if kind == "flags":
        return Case("command line", lambda path: None, "train", NEW + drawn_flags(draw))
    every = [entry for entries in TABLE.values() for entry in entries]
    folder, name, entry, flags = draw(st.sampled_from(TABLE.get(kind, every)))
    target = f"{folder}/{name}"
    change: st.SearchStrategy = damage.other_kinds(place.parent / "outside")
    if kind in ("kind", "folder"):
        return Case(target, draw(change), entry, flags)
    content = (place / target).read_bytes()
    if kind == "words":
        change = st.builds(damage.written, st.just(drawn_flags(draw).encode(errors="replace")))
    elif kind == "rows":
        change = (damage.row_damage(content) | damage.byte_damage(content)).map(damage.written)
    elif kind == "bytes" or draw(st.integers(0, 4)) == 0:
        change = damage.byte_damage(content).map(damage.written)
    elif kind == "json":
        change = damage.json_damage(content).map(damage.written)
    else:
        change = damage.checkpoint_damage(place / target)
    return Case(target, draw(change), entry, flags)


def drawn_flags(draw: Any) -> str:
    """Return some flags of the parser with values that fit or do not."""
    words = ["", "--smoketest"]
    for action in draw(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=4)):
        words.append(draw(st.sampled_from(action.option_strings)))
        if action.nargs == 0:
            continue
        known = [str(choice) for choice in action.choices or ()] + [str(action.default), "1", "2"]
        words.append(draw(st.sampled_from(known) | damage.numbers.map(str) | damage.texts))
    return " ".join(word.replace(" ", "_").replace("{", "_").replace("}", "_") for word in words)


def snapshot(*folders: Path) -> dict[Path, str]:
    """Return a digest of every file, link and folder."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            is_file = path.is_file() and not path.is_symlink()
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else "no file"
    return found


def run_case(server: subprocess.Popen, case: Case, place: Path) -> tuple[int, float, float, str]:
    """Run a case's command; return status, seconds of CPU, peak MiB and its stderr."""
    folders = {name: str(place / name) for name in ("run", "model", "data", "logs")}
    words = [word.format(**folders) for word in case.flags.split(" ") if word]
    server.stdin.write(json.dumps([case.entry, words, str(place), MAX_SECONDS]) + "\n")
    server.stdin.flush()
    status, seconds, mib = json.loads(server.stdout.readline())
    return status, seconds, mib, (place / "stderr").read_text(errors="replace")


def check_case(server: subprocess.Popen, case: Case, original: Path, folder: Path) -> None:
    """Assert what this file promises of one case."""
    place = Path(shutil.copytree(original, folder / "case"))
    try:
        case.damage(place / case.target)
        kept = [original, original.parent / "outside", place / "data", place / "model"]
        before = snapshot(*kept)
        status, seconds, mib, err = run_case(server, case, place)
        lines = [line for line in err.splitlines() if line and not line.startswith(PROGRESS)]
        told = (
            f"{case.target}: {case.flags}\nstatus {status}, {seconds:.0f} s, {mib:.0f} MiB\n{err}"
        )
        assert status in (0, 1, 2), told
        assert "Traceback" not in err, told
        assert status == 0 or 1 <= len(lines) <= 2, told
        assert seconds < MAX_SECONDS and mib < MAX_MIB, told
        assert snapshot(*kept) == before, told
    finally:
        shutil.rmtree(place)


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SHORT = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=CHECKS
)
LONG = settings(SHORT, max_examples=int(os.environ.get("FUZZ_CASES", 5000)))


@SHORT
@given(data=st.data())
def test_damage_is_read_or_refused_in_one_line(server, original, tmp_path, data):
    check_case(server, data.draw(cases(original)), original, tmp_path)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_much_damage_is_read_or_refused_in_one_line(server, original, tmp_path, data):
    check_case(server, data.draw(cases(original)), original, tmp_path)
