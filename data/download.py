"""Download SST-5, QQP and STS-B, or GLUE, from the Hugging Face hub as files to train on.

    python data/download.py
    python data/download.py --out data --force      # replace files that exist already
    python data/download.py --glue                  # the tasks of data/glue.toml, to data/glue

It writes `<stem>-{train,dev,test-student}.csv`: tab-separated UTF-8, LF line ends, quoted as RFC
4180 says, one record per line. Either all files are written or none: sources are fetched,
converted and checked in a temporary folder inside the output folder, before any file there changes.
The hub's cache keeps 160 MB of sources. What is fetched, and what is expected of it, is in
`sources.toml`. GLUE's sources are Parquet files, which pyarrow reads.

Limits: our tests use small local stand-ins of the sources, and the download from the real hub was
never run in them. A source that differs is an error. The splits are those of the benchmarks. Other
editions of the files are split differently, so scores on them do not compare. Test labels are not
written.
"""

import argparse
import csv
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError, XetDownloadError
from huggingface_hub.utils import logging as hub_logging

FOLDER = Path(__file__).resolve().parent
SPLITS = ("train", "dev", "test-student")

# ConnectionError includes the error of the hub's offline mode; HTTPError is a proxy's.
HUB_ERRORS = (ConnectionError, TimeoutError, EntryNotFoundError, HTTPError, XetDownloadError)
WAY_OUT = (
    "download on a machine with network and copy the files, or train on data/sample with no flags"
)

# White space with a tab or any kind of line end in it. It becomes one space: a record is one line.
LINE_BREAK = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")


class Source(NamedTuple):
    """One task on the hub, as `sources.toml` describes it."""

    repo_id: str
    revision: str
    files: tuple[str, ...]
    num_rows: tuple[int, ...]
    text_fields: tuple[str, ...]
    columns: tuple[str, ...]
    num_classes: int | None = None
    floats: bool = False
    max_empty_rows: int = 0
    splits: tuple[str, ...] = SPLITS

    def format_label(self, label: Any) -> str | None:
        """Return a label as our cell; None if it is not allowed, as -1 for "unlabelled" is not."""
        if self.num_classes is None:
            is_allowed = type(label) in (int, float) and 0 <= label <= 5
            # The source was float32 once: its 3.7999999523 was 3.8.
            return str(round(float(label), 5)) if is_allowed else None
        is_allowed = type(label) is int and 0 <= label < self.num_classes
        return f"{label}{'.0' * self.floats}" if is_allowed else None

    @property
    def allowed_labels(self) -> str:
        """The allowed labels in words."""
        if self.num_classes is None:
            return "a number in [0, 5]"
        return "0 or 1" if self.num_classes == 2 else f"an integer from 0 to {self.num_classes - 1}"


def read_sources(name: str) -> dict[str, Source]:
    """Return the sources of a set, built_in or glue, by the beginning of our files' names."""
    tables = tomllib.loads((FOLDER / "sources.toml").read_text(encoding="utf-8"))[name]
    sources = {}
    for stem, keys in tables.items():
        values: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in keys.items()}
        sources[stem] = Source(**values)
    return sources


def file_names(sources: dict[str, Source]) -> list[str]:
    """Return the names of the files that are written, relative to their folder."""
    return [f"{stem}-{split}.csv" for stem, source in sources.items() for split in source.splits]


def get_args_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        description="Download SST-5, QQP and STS-B, or GLUE, from the Hugging Face hub.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the files; unset: data, or data/glue with --glue",
    )
    parser.add_argument(
        "--glue", action="store_true", help="the eight tasks of data/glue.toml in their place"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist already")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0 if the files are there, 1 after an error, 130 after Ctrl-C."""
    args = get_args_parser().parse_args(argv)
    hub_logging.set_verbosity_error()  # the hub's messages about retries would hide our error
    try:
        if args.glue:
            if find_spec("pyarrow") is None:
                raise ValueError("--glue reads Parquet files; run pip install pyarrow")
            download(args.out or FOLDER / "glue", args.force, read_sources("glue"))
        else:
            download(args.out or FOLDER, args.force)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was changed", file=sys.stderr)
        return 130
    return 0


def download(out_dir: Path, force: bool = False, sources: dict[str, Source] | None = None) -> None:
    """Fetch, convert and check the sources, then move all files into a folder.

    After any error or interrupt, the folder is as it was.

    Args:
        out_dir: the folder. If it has all files already, nothing is done.
        force: replace files that exist already.
        sources: by the beginning of our files' names; None for those of the built-in tasks.

    Raises:
        FileExistsError: some of the files exist already, and `force` is False.
        ConnectionError: a source cannot be fetched.
        ValueError: a source is not as expected.
    """
    sources = sources or SOURCES
    names = file_names(sources)
    existing = [name for name in names if (out_dir / name).exists()]
    if existing and not force:
        found = f"{out_dir} already holds {len(existing)} of the {len(names)} files"
        found += "; --force replaces them"
        if len(existing) < len(names):
            raise FileExistsError(found)
        print(found)
        return
    paths = fetch_sources(sources)
    out_dir_is_new = not out_dir.exists()
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Inside out_dir, because os.replace works only within one file system.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=out_dir) as staging:
            for (stem, number), path in paths.items():
                target = Path(staging, f"{stem}-{sources[stem].splits[number]}.csv")
                for folder in (target.parent, (out_dir / target.relative_to(staging)).parent):
                    folder.mkdir(exist_ok=True)
                convert_split(path, target, sources[stem], number)
            move_all_or_none(Path(staging), out_dir, names)
    except BaseException:
        for folder in {(out_dir / name).parent for name in names} - {out_dir}:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        if out_dir_is_new:
            out_dir.rmdir()
        raise
    print(f"{out_dir} now holds the {len(names)} files")


def fetch_sources(sources: dict[str, Source]) -> dict[tuple[str, int], Path]:
    """Fetch the source files, unless the hub's cache has them.

    Returns:
        (stem, number of the split) -> local path.

    Raises:
        ConnectionError: a file cannot be fetched.
    """
    paths = {}
    for stem, source in sources.items():
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
    """Convert one source file to one of ours, and print its number of examples.

    An id is the name of the split and the position of the row in the source file, so that a dropped
    row does not change the ids of the others.

    Args:
        path: the source file.
        target: the file to write.
        source: the task.
        number: of the split, in `source.splits`.

    Raises:
        ValueError: a row is no JSON object, a field is missing, a label is not allowed, too many
            texts are empty, or the number of rows is not the expected one. The message has the
            file, the line, the value and what is allowed.
    """
    name = f"{source.repo_id}/{source.files[number]}"
    split = source.splits[number].removesuffix("-student")
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
    """Yield the number (from 1) and the object of each row of a JSON-lines or Parquet file.

    Args:
        path: the file.
        name: what error messages call it.
        fields: that every object must have.

    Raises:
        ValueError: the file cannot be read, a row is no JSON object, or lacks a field.
    """
    for line, row in enumerate(read_objects(path, name), 1):
        if not isinstance(row, dict):
            raise ValueError(f"{name}:{line}: {row!r} is not a JSON object")
        missing = [field for field in fields if field not in row]
        if missing:
            raise ValueError(
                f"{name}:{line}: field {missing[0]!r} is missing, expected it among {sorted(row)}"
            )
        yield line, row


def read_objects(path: Path, name: str) -> Iterator[Any]:
    """Yield the row of each line. Raises ValueError as `read_rows` does."""
    if name.endswith(".parquet"):
        yield from read_parquet(path, name)
        return
    with open(path, "rb") as file:
        for line, text in enumerate(file, 1):
            try:
                yield json.loads(text)
            except ValueError as error:  # bad JSON or bad UTF-8
                raise ValueError(f"{name}:{line}: {text[:60]!r} is not JSON ({error})") from error


def read_parquet(path: Path, name: str) -> Iterator[dict]:
    """Yield every row of a Parquet file. Raises ValueError if it is none."""
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: cannot be read as Parquet ({reason[:200]})") from error


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


def move_all_or_none(staging: Path, out_dir: Path, names: Iterable[str]) -> None:
    """Move the files from `staging` to `out_dir`. If that fails, restore the files there."""
    replaced = [name for name in names if (out_dir / name).exists()]
    try:
        for name in names:
            if name in replaced:
                os.replace(out_dir / name, staging / f"old-{name.replace('/', '-')}")
            os.replace(staging / name, out_dir / name)
    except BaseException:
        # What lies on the disk decides: an interrupt may come between a move and a count of it.
        for name in names:
            if (staging / f"old-{name.replace('/', '-')}").exists():
                os.replace(staging / f"old-{name.replace('/', '-')}", out_dir / name)
            elif name not in replaced:
                (out_dir / name).unlink(missing_ok=True)
        raise


SOURCES = read_sources("built_in")
FILE_NAMES = file_names(SOURCES)

if __name__ == "__main__":
    sys.exit(main())
