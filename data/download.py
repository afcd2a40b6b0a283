"""Download SST-5, QQP and STS-B from the Hugging Face hub as the nine files that training reads.

    python data/download.py
    python data/download.py --out data --force      # replace files that exist already

It writes `<stem>-{train,dev,test-student}.csv`: tab-separated UTF-8, LF line ends, quoted as RFC
4180 says, one record per line. Either all nine files are written or none: sources are fetched,
converted and checked in a temporary folder inside the output folder, before any file there changes.
The hub's cache keeps 160 MB of sources.

Limits: our tests use small local stand-ins of the sources, and the download from the real hub was
never run in them. Names, fields and row counts of the sources are from their public pages. A source
that differs is an error. The splits are those of the benchmarks. Other editions of the nine files
are split differently, so scores on them do not compare. Test labels are not written.
"""

import argparse
import csv
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError, XetDownloadError
from huggingface_hub.utils import logging as hub_logging

SPLITS = ("train", "dev", "test-student")

# ConnectionError includes the error of the hub's offline mode; HTTPError is a proxy's.
HUB_ERRORS = (ConnectionError, TimeoutError, EntryNotFoundError, HTTPError, XetDownloadError)
WAY_OUT = (
    "download on a machine with network and copy the nine files to data/, "
    "or train on data/sample with no flags"
)

# White space with a tab or any kind of line end in it. It becomes one space: a record is one line.
LINE_BREAK = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class Source(NamedTuple):
    """One task on the hub.

    Attributes:
        repo_id: the dataset's repository.
        revision: a commit or branch of it.
        files: its files, in the order of `SPLITS`.
        num_rows: rows of each file, in the same order.
        text_fields: fields of a row with a text.
        columns: our header: the id, the texts in the order of `text_fields`, the label.
        format_label: label as read from JSON -> our cell. None if the label is not allowed, as -1
            for "unlabelled" is not.
        allowed_labels: the allowed labels in words.
        max_empty_rows: rows with an empty text that are dropped from each file; more are an error.
    """

    repo_id: str
    revision: str
    files: tuple[str, str, str]
    num_rows: tuple[int, int, int]
    text_fields: tuple[str, ...]
    columns: tuple[str, ...]
    format_label: Callable[[Any], str | None]
    allowed_labels: str
    max_empty_rows: int = 0


def format_sentiment(label: Any) -> str | None:
    """Return a class from 0 to 4 as its digit."""
    return str(label) if type(label) is int and 0 <= label <= 4 else None


def format_duplicate(label: Any) -> str | None:
    """Return 0 or 1 as `0.0` or `1.0`."""
    return f"{label}.0" if type(label) is int and label in (0, 1) else None


def format_similarity(label: Any) -> str | None:
    """Return a score from 0 to 5 as a float with at most five decimals."""
    is_allowed = type(label) in (int, float) and 0 <= label <= 5
    # The source was float32 once: its 3.7999999523 was 3.8.
    return str(round(float(label), 5)) if is_allowed else None


SOURCES = {
    "sst-sentiment": Source(
        repo_id="SetFit/sst5",
        revision="e51bdcd8cd3a30da231967c1a249ba59361279a3",
        files=("train.jsonl", "dev.jsonl", "test.jsonl"),
        num_rows=(8544, 1101, 2210),
        text_fields=("text",),
        columns=("id", "sentence", "sentiment"),
        format_label=format_sentiment,
        allowed_labels="an integer from 0 to 4",
    ),
    "quora-paraphrase": Source(
        repo_id="SetFit/qqp",
        revision="main",  # last changed in 2022, in commit df33eff
        files=("train.jsonl", "validation.jsonl", "test.jsonl"),
        num_rows=(363846, 40430, 390965),
        text_fields=("text1", "text2"),
        columns=("id", "sentence1", "sentence2", "is_duplicate"),
        format_label=format_duplicate,
        allowed_labels="0 or 1",
        max_empty_rows=10,  # two training pairs are known to have an empty second question
    ),
    "sts-similarity": Source(
        repo_id="SetFit/stsb",
        revision="77bd85cf73a244d4503e477ce6de81196187839f",
        files=("train.jsonl", "validation.jsonl", "test.jsonl"),
        num_rows=(5749, 1500, 1379),
        text_fields=("text1", "text2"),
        columns=("id", "sentence1", "sentence2", "similarity"),
        format_label=format_similarity,
        allowed_labels="a number in [0, 5]",
    ),
}
FILE_NAMES = tuple(f"{stem}-{split}.csv" for stem in SOURCES for split in SPLITS)


def get_args_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Download SST-5, QQP and STS-B from the Hugging Face hub as our nine files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder for the nine files",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist already")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 if the nine files are there, 1 after an error, 130 after an interrupt.
    """
    args = get_args_parser().parse_args(argv)
    hub_logging.set_verbosity_error()  # the hub's messages about retries would hide our error
    try:
        download(args.out, args.force)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was changed", file=sys.stderr)
        return 130
    return 0


def download(out_dir: Path, force: bool = False) -> None:
    """Fetch, convert and check the three sources, then move the nine files into a folder.

    After any error or interrupt, the folder is as it was.

    Args:
        out_dir: the folder. If it has all nine files already, nothing is done.
        force: replace files that exist already.

    Raises:
        FileExistsError: some of the nine files exist already, and `force` is False.
        ConnectionError: a source cannot be fetched.
        ValueError: a source is not as expected.
    """
    existing = [name for name in FILE_NAMES if (out_dir / name).exists()]
    if existing and not force:
        found = f"{out_dir} already holds {len(existing)} of the nine files; --force replaces them"
        if len(existing) < len(FILE_NAMES):
            raise FileExistsError(found)
        print(found)
        return
    paths = fetch_sources()
    out_dir_is_new = not out_dir.exists()
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Inside out_dir, because os.replace works only within one file system.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=out_dir) as staging:
            for (stem, number), path in paths.items():
                convert_split(
                    path, Path(staging, f"{stem}-{SPLITS[number]}.csv"), SOURCES[stem], number
                )
            move_all_or_none(Path(staging), out_dir)
    except BaseException:
        if out_dir_is_new:
            out_dir.rmdir()
        raise
    print(f"{out_dir} now holds the nine files")


def fetch_sources() -> dict[tuple[str, int], Path]:
    """Fetch the nine source files, unless the hub's cache has them.

    Returns:
        (stem, number of the split) -> local path.

    Raises:
        ConnectionError: a file cannot be fetched.
    """
    paths = {}
    for stem, source in SOURCES.items():
        for number, filename in enumerate(source.files):
            print(f"fetching {source.repo_id}/{filename}", flush=True)
            try:
                paths[stem, number] = Path(
                    hf_hub_download(
                        source.repo_id, filename, repo_type="dataset", revision=source.revision
                    )
                )
            except HUB_ERRORS as error:
                cause = error.__cause__ or error
                reason = " ".join(f"{type(cause).__name__}: {cause}".split())
                raise ConnectionError(
                    f"cannot fetch {source.repo_id}/{filename} from the Hugging Face hub "
                    f"({reason}): {WAY_OUT}"
                ) from error
    return paths


def convert_split(path: Path, target: Path, source: Source, number: int) -> None:
    """Convert one source file to one of the nine files, and print its number of examples.

    An id is the name of the split and the position of the row in the source file, so that a dropped
    row does not change the ids of the others.

    Args:
        path: the source file.
        target: the file to write.
        source: the task.
        number: of the split, in `SPLITS`.

    Raises:
        ValueError: a row is no JSON object, a field is missing, a label is not allowed, too many
            texts are empty, or the number of rows is not the expected one. The message has the
            file, the line, the value and what is allowed.
    """
    name = f"{source.repo_id}/{source.files[number]}"
    split = SPLITS[number].removesuffix("-student")
    is_labelled = split != "test"
    fields = (*source.text_fields, "label") if is_labelled else source.text_fields
    line, empty_lines = 0, []
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(source.columns[: 1 + len(fields)])
        for line, row in read_rows(path, name, fields):
            where = f"{name}:{line}"
            texts = [text_cell(row[field], field, where) for field in source.text_fields]
            label = [label_cell(row["label"], source, where)] if is_labelled else []
            if all(texts):
                writer.writerow([f"{split}-{line - 1}", *texts, *label])
            else:
                empty_lines.append(line)
            if len(empty_lines) > source.max_empty_rows:
                raise ValueError(
                    f"{where}: field {source.text_fields[texts.index('')]!r} is '', expected a "
                    f"text (at most {source.max_empty_rows} rows may have none)"
                )
    if line != source.num_rows[number]:
        raise ValueError(f"{name}: {line} rows, expected {source.num_rows[number]}")
    print(f"{target.name}: {line - len(empty_lines)} examples")
    if empty_lines:
        print(
            f"    dropped {len(empty_lines)} with an empty text: {name}, lines "
            f"{', '.join(map(str, empty_lines))}"
        )


def read_rows(path: Path, name: str, fields: tuple[str, ...]) -> Iterator[tuple[int, dict]]:
    """Yield the number (from 1) and the object of each line of a JSON-lines file.

    Args:
        path: the file.
        name: what error messages call it.
        fields: that every object must have.

    Raises:
        ValueError: a line is no JSON object, or lacks a field.
    """
    with open(path, "rb") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
            except ValueError as error:  # bad JSON or bad UTF-8
                raise ValueError(f"{name}:{line}: {text[:60]!r} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{name}:{line}: {row!r} is not a JSON object")
            missing = [field for field in fields if field not in row]
            if missing:
                raise ValueError(
                    f"{name}:{line}: field {missing[0]!r} is missing, "
                    f"expected it among {sorted(row)}"
                )
            yield line, row


def text_cell(text: object, field: str, where: str) -> str:
    """Return a text on one line, without white space around it; null becomes an empty text.

    Raises:
        ValueError: it is neither a string nor null.
    """
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: field {field!r} is {text!r}, expected a string")
    return LINE_BREAK.sub(" ", text or "").strip()


def label_cell(label: object, source: Source, where: str) -> str:
    """Return a label as our files have it.

    Raises:
        ValueError: it is not allowed.
    """
    if (cell := source.format_label(label)) is None:
        raise ValueError(f"{where}: field 'label' is {label!r}, expected {source.allowed_labels}")
    return cell


def move_all_or_none(staging: Path, out_dir: Path) -> None:
    """Move the nine files from `staging` to `out_dir`. If that fails, restore the files there."""
    replaced = [name for name in FILE_NAMES if (out_dir / name).exists()]
    try:
        for name in FILE_NAMES:
            if name in replaced:
                os.replace(out_dir / name, staging / f"old-{name}")
            os.replace(staging / name, out_dir / name)
    except BaseException:
        # What lies on the disk decides: an interrupt may come between a move and a count of it.
        for name in FILE_NAMES:
            if (staging / f"old-{name}").exists():
                os.replace(staging / f"old-{name}", out_dir / name)
            elif name not in replaced:
                (out_dir / name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
