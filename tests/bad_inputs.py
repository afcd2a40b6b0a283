"""What may be wrong with the input of a run: how to damage it, and what a user shall read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SST = "sst-sentiment-train.csv"
STS = "sts-similarity-dev.csv"
PARA = "quora-paraphrase-test-student.csv"


class Place(NamedTuple):
    """What a case may damage: a copy of the data, of the model and of a finished run; a folder."""

    data: Path
    model: Path
    run: Path
    folder: Path


def append(name: str, line: bytes) -> Callable[[Place], None]:
    """Return a function that adds a line to a data file."""

    def damage(place: Place) -> None:
        with (place.data / name).open("ab") as file:
            file.write(line)

    return damage


def replace(part: str, name: str, content: bytes | None) -> Callable[[Place], None]:
    """Return a function that overwrites a file, or deletes it if `content` is None."""

    def damage(place: Place) -> None:
        path = getattr(place, part) / name
        (
            path.unlink()
            if content is None
            else path.write_bytes(content.replace(b"{folder}", str(place.folder).encode()))
        )

    return damage


def truncate(part: str, name: str) -> Callable[[Place], None]:
    """Return a function that cuts a file in half."""

    def damage(place: Place) -> None:
        path = getattr(place, part) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def pipe(part: str, name: str) -> Callable[[Place], None]:
    """Return a function that puts a named pipe, which nobody writes to, in a file's place."""

    def damage(place: Place) -> None:
        path = getattr(place, part) / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return damage


def multiply(place: Place) -> None:
    """Write @files each of which names the next one a hundred times."""
    for number in range(9):
        (place.folder / str(number)).write_text(f"@{place.folder}/{number + 1}\n" * 100)
    (place.folder / "9").write_text("--seed 1\n")


def edit_config(name: str, value: object) -> Callable[[Place], None]:
    """Return a function that sets a value in the config of the model."""

    def damage(place: Place) -> None:
        config = json.loads((place.model / "config.json").read_text())
        (place.model / "config.json").write_text(json.dumps(config | {name: value}))

    return damage


def nothing(place: Place) -> None:
    """Damage nothing: the flags alone are wrong."""


HEADER = b"id\tsentence\tsentiment\n"
CASES = {  # what is wrong: (damage, flags, pattern of the error message)
    "a label out of range": (
        append(SST, b"i\ta film\t5\r\n"),
        "",
        rf"{SST}:1802: column 'sentiment'",
    ),
    "a label of words": (
        append(STS, b"i\ta\tb\tclose\r\n"),
        "",
        rf"{STS}:202: .* is 'close', expec",
    ),
    "an empty label": (append(STS, b"i\ta\tb\t\r\n"), "", r"is '', expected a number in \[0, 5\]"),
    "an empty sentence": (append(SST, b"i\t \t1\r\n"), "", "column 'sentence' is ' ', expected a"),
    "a label too small for a number": (append(STS, b"i\ta\tb\t1e-400\r\n"), "", "is '1e-400', exp"),
    "a label in other digits": (
        append(SST, "i\ta\t١\r\n".encode()),
        "",
        "'sentiment' is '١', expe",
    ),
    "a sentence of NULs": (append(SST, b"i\t\0\0\t1\r\n"), "", r"is '\\x00\\x00', expected a sen"),
    "a sentence that nobody sees": (
        append(SST, "i\t\u200b\ufeff\t1\r\n".encode()),
        "",
        r"is '\\u200b\\ufeff', expected a sentence",
    ),
    "a pipe for a data file": (pipe("data", STS), "", f"{STS}: is a pipe, expected a regular file"),
    "a pipe for a config": (pipe("model", "config.json"), "", "is a pipe, expected a regular file"),
    "a pipe for options": (pipe("run", "args.json"), "--resume {run}", "no args.json in it"),
    "a pipe for an @file": (pipe("folder", "flags"), "@{folder}/flags", "flags: is a pipe"),
    "a device for a data file": (nothing, "--sst_dev /dev/zero", "is a device, expected a regular"),
    "an @file that names itself": (
        replace("folder", "flags", b"@{folder}/flags"),
        "@{folder}/flags",
        "names itself, or is nested deeper than 10 files",
    ),
    "@files that hold ever more words": (
        multiply,
        "@{folder}/0",
        "and the files that it names hold more than 10,000 words",
    ),
    "more batches per update than memory": (
        nothing,
        "--batches_per_update 1000000000",
        "'1000000000' is not a positive integer up to 1,000|unrecognized arguments",
    ),
    "JSON that is nested too deeply": (
        replace("model", "config.json", b'{"a":' * 50_000),
        "",
        "config.json: cannot be read as JSON: nested too deeply",
    ),
    "JSON with a number of JavaScript": (
        replace("run", "args.json", b'{"options": NaN}'),
        "--resume {run}",
        "args.json: cannot be read as JSON: NaN is no JSON",
    ),
    "options that are no options": (
        replace("run", "args.json", b'{"options": [1]}'),
        "--resume {run}",
        "args.json: holds no options of a run",
    ),
    "a seed that no generator takes": (nothing, "--seed 4294967296", "integer from 0 to 4,294,967"),
    "more layers than memory": (nothing, "--n_hidden_layers 1000000", "an integer from 0 to 100"),
    "a number of Python's": (nothing, "--epochs 1_0", "'1_0' is not a positive integer"),
    "a name with control characters": (
        nothing,
        "--run_name a\x1bb",
        r"'a\\x1bb' is not a plain name",
    ),
    "a weight given twice": (
        nothing,
        "--task_weights sst=1 sst=2",
        "--task_weights names sst more than once",
    ),
    "results whose checkpoint is gone": (
        replace("run", "checkpoints/last.pt", None),
        "--resume {run} --epochs 5",
        "last.pt: missing, although .*best.pt is there; starting over would replace it",
    ),
    "too few columns": (
        append(PARA, b"i\tonly one\n"),
        "",
        rf"{PARA}:202: 2 columns .* expected 3",
    ),
    "too many columns": (append(SST, b"i\ta\t1\t\r\n"), "", "4 columns in .* expected 3"),
    "bytes that are no UTF-8": (append(SST, b"i\t\xff\t1\r\n"), "", "expected UTF-8 text"),
    "an unclosed quote": (append(SST, b'i\t"a\r\n'), "", "a quote is not closed on its line"),
    "a missing column": (
        replace("data", SST, b"id\tsentence\nx\ty\n"),
        "",
        "1: column 'sentiment'",
    ),
    "an empty file": (replace("data", SST, b""), "", "the file is empty, expected a header"),
    "a header alone": (replace("data", SST, HEADER), "", "no examples in it"),
    "a missing file": (replace("data", STS, None), "", rf"{STS}: no such file; name it with"),
    "a folder for a file": (nothing, "--sst_dev {folder}", "is a folder, expected a regular file"),
    "a missing data folder": (nothing, "--data_dir {folder}/none", "no such file; name it with"),
    "a max_length too short": (nothing, "--max_length 4", "--max_length is 4, but para needs at"),
    "a max_length too long": (nothing, "--max_length 999", "this encoder has positions for 128"),
    "a batch of nothing": (nothing, "--batch_size 0", "'0' is not a positive integer"),
    "contradictory flags": (nothing, "--restarts 2", "--restarts does nothing without --sch"),
    "an unknown flag": (nothing, "--poolling max", "unrecognized arguments: --poolling"),
    "a run name that escapes": (nothing, "--run_name ../x", "is not a plain name"),
    "a run name that is taken": (nothing, "--run_name done", "a run of this name exists"),
    "no GPU": (nothing, "--use_gpu", "torch finds no CUDA device"),
    "a missing model folder": (
        nothing,
        "--model_name ./none",
        "no such directory; use --model_name",
    ),
    "an unreachable hub": (nothing, "--model_name some/model", "cannot be had from the hub"),
    "a model without weights": (
        replace("model", "model.safetensors", None),
        "",
        "no such file; only",
    ),
    "truncated weights": (truncate("model", "model.safetensors"), "", "truncated or not a safet"),
    "weights of another shape": (edit_config("hidden_size", 64), "", r"has shape .* asks for"),
    "another architecture": (edit_config("model_type", "gpt2"), "", "'gpt2', known: bert, roberta"),
    "a config that is no JSON": (truncate("model", "config.json"), "", "cannot be read as JSON"),
    "a model without vocabulary": (replace("model", "vocab.txt", None), "", "no tokenizer can be"),
    "a truncated checkpoint": (
        truncate("run", "checkpoints/last.pt"),
        "--checkpoint {run}/checkpoints/last.pt",
        "truncated or not a checkpoint",
    ),
    "a missing checkpoint": (nothing, "--checkpoint {folder}/a.pt", "no such checkpoint"),
    "a checkpoint of other options": (
        nothing,
        "--checkpoint {run}/checkpoints/best.pt --n_hidden_layers 1",
        "weights do not fit this model",
    ),
    "to resume what is no run": (nothing, "--resume {folder}", "no args.json in it"),
    "to resume from a truncated state": (
        truncate("run", "checkpoints/last.pt"),
        "--resume {run}",
        "truncated or not a checkpoint",
    ),
    "to resume with other options": (nothing, "--resume {run} --lr 1", "takes --lr from the run's"),
    "a run's options damaged": (
        truncate("run", "args.json"),
        "--resume {run}",
        "args.json: cannot",
    ),
    "a run's options of another kind": (
        replace("run", "args.json", b'{"options": {}}'),
        "--resume {run}",
        "args.json: script is None, expected one of",
    ),
    "a run's tokenizer missing": (
        replace("run", "tokenizer.json", None),
        "--resume {run} --epochs 2",
        "no tokenizer can be",
    ),
    "a run's metrics damaged": (
        truncate("run", "metrics.jsonl"),
        "--resume {run} --epochs 2",
        "metrics.jsonl:1: not a line of metrics",
    ),
    "an @file with an open quote": (
        replace("folder", "flags", b"--run_name 'a"),
        "@{folder}/flags",
        "flags:1: No closing quotation",
    ),
    "an @file that is not there": (
        nothing,
        "@{folder}/none",
        "none: no such file; an @file holds flags",
    ),
    "a space of another option": (
        replace("folder", "space.json", b'{"batch_size": [1, 2]}'),
        "--hpo --hpo_space {folder}/space.json",
        "space.json: 'batch_size' is not searched here",
    ),
    "a space that is no JSON": (
        replace("folder", "space.json", b"lr: 1"),
        "--hpo --hpo_space {folder}/space.json",
        "space.json: cannot be read as JSON",
    ),
    "to resume what is no search": (nothing, "--hpo_resume {run}", "no search.json in it"),
    "a damaged search": (
        replace("run", "search.json", b"{"),
        "--hpo_resume {run}",
        "search.json: cannot be read as JSON",
    ),
    "a layer that is not there": (
        nothing,
        "--train_mode single_layers --layers 1 7",
        "7 is not one of 1 to 2",
    ),
    "a file where runs should go": (
        nothing,
        "--logdir {data}/" + SST,
        "no run directory can be made",
    ),
}
