"""Download SST-5, QQP and STS-B from the Hugging Face hub as the nine files that training reads.

    python data/download.py
    python data/download.py --out data --force      # replace files that are already there

Writes `<stem>-{train,dev,test-student}.csv`: TAB separated, UTF-8, LF, quoted as RFC 4180 says, one
record a line. All or nothing: everything is fetched, converted and checked in a temporary folder
inside the output folder before a file there changes. The hub's cache keeps 160 MB of sources.

Limits: the download from the real hub was never run by our tests, which use small local stand-ins
of the sources. Names, fields and row counts of the real ones come from their public pages; a source
that differs is reported, never guessed at. The splits are the benchmarks' own: other editions of
the nine files cut them differently, so scores do not compare. Test labels, if any, are left out.
"""

import argparse
import csv
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError, XetDownloadError
from huggingface_hub.utils import logging as hub_logging

SPLITS = ("train", "dev", "test-student")

# ConnectionError covers the hub's offline mode; a proxy's HTTPError reaches us as it is.
HUB_ERRORS = (ConnectionError, TimeoutError, EntryNotFoundError, HTTPError, XetDownloadError)
WAY_OUT = (
    "download on a machine with network and copy the nine files to data/, "
    "or train on data/sample with no flags"
)

# A record is one line, so blanks that hold a tab or a line's end, in any form, become one space.
LINE_BREAK = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


@dataclass(frozen=True)
class Source:
    """One task on the hub: where its splits lie, which fields a row has, which labels are allowed.

    files: in SPLITS' order. columns: our header, label last; texts in the order of text_fields.
    format_label: label as read from JSON -> cell, or None if not allowed, as -1 (unlabelled) is.
    max_empty_rows: so many rows with an empty text are dropped per split; more are an error.
    """

    repo_id: str
    revision: str
    files: tuple[str, str, str]
    text_fields: tuple[str, ...]
    columns: tuple[str, ...]
    format_label: Callable[[object], str | None]
    allowed_labels: str
    max_empty_rows: int = 0


def format_sentiment(label: object) -> str | None:
    """Return a class 0 to 4 as its digit."""
    return str(label) if type(label) is int and 0 <= label <= 4 else None


def format_duplicate(label: object) -> str | None:
    """Return 0 or 1 as `0.0` or `1.0`."""
    return f"{label}.0" if type(label) is int and label in (0, 1) else None


def format_similarity(label: object) -> str | None:
    """Return a score from 0 to 5 as a float with at most five decimals."""
    is_allowed = type(label) in (int, float) and 0 <= label <= 5
    # The source went through float32: what it calls 3.7999999523 was 3.8.
    return str(round(float(label), 5)) if is_allowed else None


SOURCES = {
    "sst-sentiment": Source(
        repo_id="SetFit/sst5",
        revision="e51bdcd8cd3a30da231967c1a249ba59361279a3",
        files=("train.jsonl", "dev.jsonl", "test.jsonl"),
        text_fields=("text",),
        columns=("id", "sentence", "sentiment"),
        format_label=format_sentiment,
        allowed_labels="an integer from 0 to 4",
    ),
    "quora-paraphrase": Source(
        repo_id="SetFit/qqp",
        revision="main",  # last changed in 2022, in commit df33eff
        files=("train.jsonl", "validation.jsonl", "test.jsonl"),
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
        text_fields=("text1", "text2"),
        columns=("id", "sentence1", "sentence2", "similarity"),
        format_label=format_similarity,
        allowed_labels="a number in [0, 5]",
    ),
}

# Rows of the sources, in SPLITS' order.
COUNTS = {
    "sst-sentiment": (8544, 1101, 2210),
    "quora-paraphrase": (363846, 40430, 390965),
    "sts-similarity": (5749, 1500, 1379),
}
FILE_NAMES = tuple(f"{stem}-{split}.csv" for stem in SOURCES for split in SPLITS)


def get_args_parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parser = argparse.ArgumentParser(
        description="Download SST-5, QQP and STS-B from the Hugging Face hub as our nine files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here, help="folder for the nine files")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0 (done, or nothing to do), 1 (failed) or 130 (interrupted)."""
    args = get_args_parser().parse_args(argv)
    hub_logging.set_verbosity_error()  # its retries would bury our one line
    try:
        download(args.out, force=args.force)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was changed", file=sys.stderr)
        return 130
    return 0


def fetch_from_hub(repo_id: str, filename: str, revision: str) -> str:
    """Return the local path of one dataset file, fetched unless the hub's cache has it."""
    return hf_hub_download(repo_id, filename, repo_type="dataset", revision=revision)


def download(
    out_dir: Path,
    fetch: Callable[[str, str, str], str | Path] = fetch_from_hub,
    counts: Mapping[str, tuple[int, int, int]] = COUNTS,
    force: bool = False,
) -> None:
    """Fetch, convert and check the three sources, then move the nine files into `out_dir`.

    fetch: (repo_id, filename, revision) -> local path. counts: rows per stem, in SPLITS' order.
    Without `force`: nothing to do if all nine files are there, FileExistsError if only some are.
    Raises ConnectionError if a source cannot be fetched, ValueError if one is not as expected.
    After any error, an interrupt too, `out_dir` is as it was.
    """
    existing = [name for name in FILE_NAMES if (out_dir / name).exists()]
    if existing and not force:
        found = f"{out_dir} already holds {len(existing)} of the nine files; --force replaces them"
        if len(existing) < len(FILE_NAMES):
            raise FileExistsError(found)
        print(found)
        return
    paths = fetch_sources(fetch)
    out_dir_is_new = not out_dir.exists()
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Inside out_dir, because os.replace is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=out_dir) as staging:
            for (stem, split), path in paths.items():
                convert_split(path, Path(staging), stem, split, counts[stem][SPLITS.index(split)])
            move_all_or_none(Path(staging), out_dir)
    except BaseException:
        if out_dir_is_new:
            out_dir.rmdir()
        raise
    print(f"{out_dir} now holds the nine files")


def fetch_sources(fetch: Callable[[str, str, str], str | Path]) -> dict[tuple[str, str], Path]:
    """Fetch the nine source files; return their local paths by (stem, split)."""
    paths = {}
    for stem, source in SOURCES.items():
        for split, filename in zip(SPLITS, source.files, strict=True):
            print(f"fetching {source.repo_id}/{filename}", flush=True)
            try:
                paths[stem, split] = Path(fetch(source.repo_id, filename, source.revision))
            except HUB_ERRORS as error:
                cause = error.__cause__ or error
                reason = " ".join(f"{type(cause).__name__}: {cause}".split())
                what = f"cannot fetch {source.repo_id}/{filename} from the Hugging Face hub"
                raise ConnectionError(f"{what} ({reason}): {WAY_OUT}") from error
    return paths


def convert_split(path: Path, staging: Path, stem: str, split: str, expected_rows: int) -> None:
    """Write the source rows at `path` as one of the nine files in `staging`.

    An id is the split and the row's place in the source, so a dropped row does not shift others.
    Raises ValueError with file, line, value and what is allowed for a missing field, a bad label,
    too many empty texts, or a count other than `expected_rows` (dropped rows included).
    """
    source = SOURCES[stem]
    name = f"{source.repo_id}/{source.files[SPLITS.index(split)]}"
    target = staging / f"{stem}-{split}.csv"
    is_labelled = split != "test-student"
    num_rows, empty_lines = 0, []
    with open(target, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(source.columns if is_labelled else source.columns[:-1])
        for line, row in read_rows(path, name):
            where = f"{name}:{line}"
            texts = [text_cell(row, field, where) for field in source.text_fields]
            label = [label_cell(row, source, where)] if is_labelled else []
            if all(texts):
                writer.writerow([f"{split.removesuffix('-student')}-{num_rows}", *texts, *label])
            else:
                empty_lines.append(line)
            if len(empty_lines) > source.max_empty_rows:
                field = source.text_fields[texts.index("")]
                allowed = f"a text (at most {source.max_empty_rows} rows may have none)"
                raise ValueError(f"{where}: field {field!r} is '', expected {allowed}")
            num_rows += 1
    if num_rows != expected_rows:
        raise ValueError(f"{name}: {num_rows} rows, expected {expected_rows}")
    print(f"{target.name}: {num_rows - len(empty_lines)} examples")
    if empty_lines:
        lines = ", ".join(map(str, empty_lines))
        print(f"    dropped {len(empty_lines)} with an empty text: {name}, lines {lines}")


def read_rows(path: Path, name: str) -> Iterator[tuple[int, dict]]:
    """Yield line number (from 1) and row of a JSON-lines file.

    Raises ValueError with `name`, line and value for a line that is not a JSON object.
    """
    with open(path, "rb") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
            except ValueError as error:  # bad JSON or bad UTF-8
                raise ValueError(f"{name}:{line}: {text[:60]!r} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{name}:{line}: {row!r} is not a JSON object")
            yield line, row


def text_cell(row: dict, field: str, where: str) -> str:
    """Return one text on one line without surrounding blanks; null counts as empty."""
    text = get_field(row, field, where)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: field {field!r} is {text!r}, expected a string")
    return LINE_BREAK.sub(" ", text or "").strip()


def label_cell(row: dict, source: Source, where: str) -> str:
    """Return the label as it is written, or raise ValueError where it is missing or not allowed."""
    label = get_field(row, "label", where)
    cell = source.format_label(label)
    if cell is None:
        raise ValueError(f"{where}: field 'label' is {label!r}, expected {source.allowed_labels}")
    return cell


def get_field(row: dict, field: str, where: str) -> object:
    """Return `row[field]`, or raise ValueError naming the fields that the row has instead."""
    if field not in row:
        raise ValueError(f"{where}: field {field!r} is missing, expected it among {sorted(row)}")
    return row[field]


def move_all_or_none(staging: Path, out_dir: Path) -> None:
    """Move the nine files from `staging` into `out_dir`; if that fails, put back what was there."""
    replaced = [name for name in FILE_NAMES if (out_dir / name).exists()]
    try:
        for name in FILE_NAMES:
            if name in replaced:
                os.replace(out_dir / name, staging / f"old-{name}")
            os.replace(staging / name, out_dir / name)
    except BaseException:
        # Judged by what lies on disk: an interrupt may leave a counter one step behind.
        for name in FILE_NAMES:
            if (staging / f"old-{name}").exists():
                os.replace(staging / f"old-{name}", out_dir / name)
            elif name not in replaced:
                (out_dir / name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
