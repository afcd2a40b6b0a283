"""Data files: read and checked as examples, then turned into token ids once.

A file is tab-separated UTF-8 text: one header line, then one record per line. Lines end in LF or
CRLF. Cells are quoted as RFC 4180 says.
"""

import csv
import hashlib
import os
import unicodedata
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from inputs.augmentation import augment
from inputs.batches import Rows, TokenizedTask
from inputs.segments import SegmentedTask
from inputs.tags import TextTags, swapped, tag_texts
from runtime.errors import InputError, shorten
from runtime.files import MAX_DATA_BYTES, read_bytes
from tasks import SPLITS, Example, Task

BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # Unicode counts them as letters and symbols
SMOKETEST_ROWS = {"train": 4, "dev": 8, "test": 8}
csv.field_size_limit(MAX_DATA_BYTES)  # a quoted cell may be as long as any other


def read_examples(
    path: Path | str, task: Task, require_labels: bool = False, skip_bad_rows: bool = False
) -> list[Example]:
    """Read one tab-separated file strictly. No record is lost silently.

    Args:
        path: the file.
        task: names the columns and the allowed labels.
        require_labels: whether a file without a label column is an error.
        skip_bad_rows: skip bad records and print on which lines they are. Otherwise the first one
            is an error.

    Raises:
        InputError: a record is bad, a column is missing, the header cannot be read, or there are no
            examples. The message has the path, the line and the value.
    """
    lines = read_lines(Path(path))
    columns, num_columns = find_columns(path, lines[0], task, require_labels)
    examples, bad_lines = [], []
    for number, line in enumerate(lines[1:], start=2):
        try:
            cells = split_record(line, num_columns)
            examples.append(make_example(cells, columns, task))
        except ValueError as error:
            if not skip_bad_rows:
                raise InputError(f"{path}:{number}: {error}") from None
            bad_lines.append(number)
    if bad_lines:
        print(f"{path}: skipped {len(bad_lines)} bad rows, lines {', '.join(map(str, bad_lines))}")
    if not examples:
        raise InputError(f"{path}: no examples in it, expected one per line after the header")
    warn_of_repeated_ids(path, examples)
    return examples


def warn_of_repeated_ids(path: Path | str, examples: list[Example]) -> None:
    """Warn if several rows have the same id, which a prediction file cannot tell apart."""
    counts = Counter(example.id for example in examples)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        warnings.warn(
            f"{path}: {len(repeated)} ids stand in several rows, {shorten(repeated[0])} the first",
            stacklevel=2,
        )


def read_lines(path: Path) -> list[bytes]:
    """Return the lines of a file without LF, CRLF, byte order mark and empty lines at the end.

    Raises:
        InputError: there is no such file, it cannot be read, or it is empty.
    """
    content = read_data_file(path)
    lines = [
        line.removesuffix(b"\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path}: the file is empty, expected a header line and rows")
    return lines


def find_columns(
    path: Path | str, header: bytes, task: Task, require_labels: bool
) -> tuple[dict[str, int], int]:
    """Find the columns that are read in the header line.

    Returns:
        Their positions by name, and the number of all columns.

    Raises:
        InputError: the header cannot be read, or a column is missing or there twice.
    """
    try:
        names = split_record(header, header.count(b"\t") + 1)
    except ValueError as error:
        raise InputError(f"{path}:1: {error}") from None
    wanted = ["id", *task.text_columns]
    if require_labels or task.label_column in names:
        wanted.append(task.label_column)
    for name in wanted:
        if names.count(name) != 1:
            raise InputError(
                f"{path}:1: column {name!r} occurs {names.count(name)} times in {names}, "
                f"expected the tab-separated columns {', '.join(wanted)}, as task {task.name!r} "
                "says with text and label"
            )
    return {name: names.index(name) for name in wanted}, len(names)


def split_record(line: bytes, num_columns: int) -> list[str]:
    """Return the cells of one record. Raises ValueError as `decode_line` and `split_text` do."""
    return split_text(decode_line(line), num_columns)


def decode_line(line: bytes) -> str:
    """Return a line as text. Raises ValueError if it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad_byte = line[error.start : error.start + 1]
        raise ValueError(f"byte {error.start + 1} is {bad_byte!r}, expected UTF-8 text") from None


def split_text(text: str, num_columns: int) -> list[str]:
    """Return the cells of one record.

    A quote that does not close on its line is taken literally if the number of columns fits then.

    Raises:
        ValueError: its quotes are wrong, or it has another number of columns.
    """
    cells = text.split("\t")
    # `csv` refuses a CR outside quotes, which could be the line end of another system.
    if "\r" in text or any(cell.startswith('"') for cell in cells):
        cells = split_quoted(text, num_columns)
    if len(cells) != num_columns:
        raise ValueError(
            f"{len(cells)} columns in {shorten(text)}, expected {num_columns}, tab-separated"
        )
    return cells


def split_quoted(text: str, num_columns: int) -> list[str]:
    """Split a record with `csv`, or at its tabs if a quote does not close. Raises ValueError."""
    try:
        return next(csv.reader([text], delimiter="\t", strict=True))
    except csv.Error as error:
        if "unexpected end of data" not in str(error):
            # What follows " - " is advice for programmers.
            reason = str(error).partition(" - ")[0].replace("\t", "\\t")
            raise ValueError(
                f"{reason} in {shorten(text)}, expected quotes as RFC 4180 says"
            ) from None
    cells = text.split("\t")
    if len(cells) != num_columns:
        raise ValueError(
            f"a quote is not closed on its line in {shorten(text)}, expected a closing quote"
        )
    # Only the cell with the unclosed quote is literal. The others may be quoted.
    return [cell[1:-1].replace('""', '"') if is_quoted(cell) else cell for cell in cells]


def is_quoted(cell: str) -> bool:
    """Tell whether a cell is quoted, with every quote inside it doubled."""
    inner = cell[1:-1].replace('""', "")
    return len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner


def make_example(cells: list[str], columns: dict[str, int], task: Task) -> Example:
    """Check the cells of one record.

    Raises:
        ValueError: a sentence is blank or a label is not allowed. The message has the column, the
            value and what was expected.
    """
    texts = tuple(cells[columns[name]] for name in task.text_columns)
    for name, text in zip(task.text_columns, texts):
        if not is_visible(text):
            raise ValueError(f"column {name!r} is {shorten(text)}, expected a sentence")
    label = None
    if task.label_column in columns:
        cell = cells[columns[task.label_column]]
        try:
            label = task.parse_label(cell)
        except ValueError:
            raise ValueError(
                f"column {task.label_column!r} is {shorten(cell)}, expected {task.label_expected}"
            ) from None
    return Example(cells[columns["id"]], texts, label)


def is_visible(text: str) -> bool:
    """Tell whether a text has a character that is neither white space nor invisible."""
    return any(
        not character.isspace()
        and unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        and character not in BLANK_LETTERS
        for character in text
    )


def use_data(args: Namespace, split: str, data_dir: str) -> None:
    """Read all rows of a split from another folder; change the options in place."""
    args.data_dir, args.smoketest = os.path.abspath(data_dir), False
    vars(args).update({f"{name}_{split}": None for name in args.tasks})


def task_file(args: Namespace, task: Task, split: str) -> Path:
    """Return the file of a split: the one that its own flag names, else the one in --data_dir."""
    own = getattr(args, f"{task.name}_{split}")
    return Path(own) if own else Path(args.data_dir) / file_name(task, split)


def file_name(task: Task, split: str) -> str:
    """Return the name of a task's file of a split, a key of `SPLITS`."""
    return f"{task.stem}-{SPLITS[split]}.csv"


def read_split(args: Namespace, task: Task, split: str) -> list[Example]:
    """Read what a run uses of a task's file: with --smoketest, its first rows. Raises InputError.

    Args:
        args: the run's options.
        task: the task.
        split: a key of `SPLITS`; only the test file may have no labels.
    """
    path = task_file(args, task, split)
    rows = read_examples(path, task, split != "test", args.skip_bad_rows)
    return rows[: SMOKETEST_ROWS[split]] if args.smoketest else rows


def load_data(
    args: Namespace, tokenizer: Tokenizer, pad_token_id: int, splits: tuple[str, ...] | None = None
) -> dict[str, dict[str, Rows]]:
    """Read and tokenize the files of a run; print the size of each and its truncated rows.

    All files are read and checked before any is tokenized, so that a bad row is found at once.

    Args:
        args: the run's options.
        tokenizer: of the encoder.
        pad_token_id: of the encoder.
        splits: keys of `SPLITS`; None for all, but without test under --no_test_predictions.

    Returns:
        split -> task name -> rows.

    Raises:
        InputError: a file is missing or wrong, or an option does not fit the texts.
    """
    if splits is None:
        splits = ("train", "dev") if args.no_test_predictions else tuple(SPLITS)
    tasks = list(args.tasks.values())
    data: dict[str, dict[str, Rows]] = {}
    examples = {}
    for split in splits:
        for task in tasks:
            examples[split, task.name] = read_split(args, task, split)
    for (split, name), rows in examples.items():
        num_in_file = len(rows)
        if split == "train" and args.augment:
            rows = augment(rows, args.tasks[name], args.augment, args.seed)
        is_trained = split == "train"
        tokenized = tokenize(
            args, args.tasks[name], rows, tokenizer, pad_token_id, is_trained=is_trained
        )
        tokenized.num_in_file = num_in_file
        if split == "train" and args.class_weights:
            assert tokenized.labels is not None, "training rows have labels"
            tokenized.task = tokenized.task.weighing_classes(tokenized.labels)
        data.setdefault(split, {})[name] = tokenized
        cut = f", {tokenized.num_truncated} truncated" if tokenized.num_truncated else ""
        print(f"{name} {split}: {len(rows):,} examples{cut}")
    return data


def training_digests(args: Namespace) -> dict[str, str]:
    """Return the SHA-256 of every training file, by task. Raises InputError."""
    return {
        name: hashlib.sha256(read_data_file(task_file(args, task, "train"))).hexdigest()
        for name, task in args.tasks.items()
    }


def read_data_file(path: Path) -> bytes:
    """Return the content of a data file. Raises InputError."""
    return read_bytes(path, MAX_DATA_BYTES, hint="name it with --data_dir or its own flag")


def tokenize(
    args: Namespace,
    task: Task,
    examples: list[Example],
    tokenizer: Tokenizer,
    pad_token_id: int,
    are_tags_kept: bool = True,
    is_trained: bool = False,
) -> TokenizedTask:
    """Turn examples into token ids as the run's options say, with tags or in segments.

    Args:
        args: the run's options.
        task: the task of the examples.
        examples: at least one.
        tokenizer: of the encoder.
        pad_token_id: of the encoder.
        are_tags_kept: write the tags of the examples to the cache, for the next run.
        is_trained: whether these are training rows, which --symmetric_pairs leaves as they are.
    """
    build: Callable[..., TokenizedTask] = TokenizedTask
    if args.extension == "hierarchical":
        build = partial(SegmentedTask, segment_length=args.segment_length)
    texts = [text for example in examples for text in example.texts]
    tags = tag_texts(texts, is_kept=are_tags_kept) if args.additional_input else None

    def rows_of(examples: list[Example], tags: TextTags | None) -> TokenizedTask:
        return build(
            task, examples, tokenizer, pad_token_id, args.pair_encoding, args.max_length, tags=tags
        )

    rows = rows_of(examples, tags)
    if args.symmetric_pairs and task.is_unordered_pair and not is_trained:
        others = [replace(example, texts=example.texts[::-1]) for example in examples]
        rows.swapped = rows_of(others, None if tags is None else swapped(tags))
    return rows
