"""The model card: README.md of an export, from the run's own files."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from datasets import file_name
from exporting.encoder import EncoderExport
from exporting.markdown import cell, fenced, table
from models.pretrained import BUNDLED, HUB_IDS
from predicting.run import Run
from reporting.metrics_file import is_number
from runtime.errors import InputError
from runtime.files import read_json
from tasks import KINDS, SPLITS

BASES = {BUNDLED: "sentence-transformers/all-MiniLM-L6-v2"} | HUB_IDS
LICENCES = {  # as the hub states them
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "bert-base-uncased": "apache-2.0",
    "bert-large-uncased": "apache-2.0",
    "roberta-base": "mit",
}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # a run names a local directory by its absolute path
UNKNOWN = "unknown"


def model_card(export: EncoderExport, name: str) -> str:
    """Return the model card of an export.

    Args:
        export: what the directory holds.
        name: under which a reader loads it: the directory's, or that of a repository on the hub.

    Raises:
        InputError: a file of the run is damaged.
    """
    source = export.source
    record = read_json(source.directory / "args.json")
    base = base_model(source.args.model_name)
    licence = LICENCES.get(base or "", UNKNOWN)
    rounding = "; the run itself predicts in bfloat16, which rounds" * bool(source.args.use_amp)
    parts = [
        front_matter(export, base, licence),
        f"# {cell(name)}",
        f"Exported by Multitask BERT for {export.library}. {' '.join(export.notes())}",
        "## Use",
        fenced(export.usage(name), "python"),
        f"A row has at most {export.max_length} tokens; what is beyond is cut off. The weights are "
        f"float32{rounding}.",
        "## Tasks and scores",
        tasks_table(source),
        "Scores are those of the best checkpoint, each by the metric that the task is judged by.",
        "## Data",
        data_table(source),
        "## Training",
        table(["what", "value"], training_rows(source, record, base, licence)),
        fenced(command_of(record), "bash"),
    ]
    return "\n\n".join(parts) + "\n"


def base_model(model_name: str) -> str | None:
    """Return the hub's id of the encoder that a run started from; None for a local directory."""
    name = BASES.get(model_name, model_name)
    return name if HUB_ID.fullmatch(name) else None


def front_matter(export: EncoderExport, base: str | None, licence: str) -> str:
    """Return the block at the top, which the hub reads. A JSON text is a YAML text, too."""
    values: dict[str, Any] = {"library_name": export.library, "pipeline_tag": export.pipeline_tag}
    values |= {"license": licence} if licence != UNKNOWN else {}
    values |= {"base_model": base} if base is not None else {}
    values |= {"tags": ["multitask-bert", export.name]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def tasks_table(source: Run) -> str:
    """Return the tasks of the run, with their scores where the run has them."""
    splits = {split: read_scores(source, split) for split in SPLITS if split != "train"}
    splits = {split: found for split, found in splits.items() if found}
    rows = []
    for task in source.args.tasks.values():
        kind = next(name for name, kind in KINDS.items() if isinstance(task, kind))
        scores = [found.get(task.name, UNKNOWN) for found in splits.values()]
        rows.append([task.name, kind, len(task.text_columns), task.metric_name, *scores])
    return table(["task", "kind", "texts", "metric", *splits], rows)


def read_scores(source: Run, split: str) -> dict[str, str]:
    """Return the score of each task on a split; nothing if the run has no metrics of it.

    Raises:
        InputError: the file of metrics is damaged.
    """
    path = source.directory / f"metrics-{split}.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    metrics, num_rows = content.get("metrics"), content.get("num_rows")
    found: dict[str, str] = {}
    for name, task in source.args.tasks.items():
        if not isinstance(metrics, dict) or not isinstance(metrics.get(name, {}), dict):
            raise InputError(f"{path}: metrics is {metrics!r:.80}, expected those of each task")
        score = metrics.get(name, {}).get(task.metric_name)
        if not is_number(score, or_null=True):
            raise InputError(f"{path}: {task.metric_name} of {name} is {score!r:.80}, no number")
        rows = num_rows.get(name) if isinstance(num_rows, dict) else None
        counted = f" ({rows:,} rows)" if type(rows) is int else ""
        found |= {} if score is None else {name: f"{score:.4f}{counted}"}
    return found


def data_table(source: Run) -> str:
    """Return which files the tasks were trained on; a digest tells whether one has the same."""
    rows = []
    for task in source.args.tasks.values():
        digest = source.args.data_sha256.get(task.name, UNKNOWN)
        rows.append([task.name, file_name(task, "train"), digest])
    return table(["task", "training file", "its SHA-256"], rows)


def training_rows(
    source: Run, record: dict[str, Any], base: str | None, licence: str
) -> list[list[object]]:
    """Return what the card says of the training, one row for each fact."""
    args = source.args
    local = f"a local directory, {Path(args.model_name).name}"
    revision = record.get("git_revision")
    return [
        ["base model", base or local],
        ["licence of the base model", licence],
        ["pair encoding", args.pair_encoding],
        ["pooling", args.pooling],
        ["git revision of Multitask BERT", revision if isinstance(revision, str) else UNKNOWN],
        ["seed", args.seed],
    ]


def command_of(record: dict[str, Any]) -> str:
    """Return the command line of the run, its absolute paths cut down to their last part.

    A reader has other folders, and where ours lie is nobody's business.
    """
    words = record.get("command_line")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
        return f"# {UNKNOWN}"
    script, *flags = words
    shown = [Path(script).name, *(re.sub(r"(^|=)/.*/(?=.)", r"\1…/", flag) for flag in flags)]
    quoted = (w if re.fullmatch(r"[\w./=…@-]+", w) else shlex.quote(w) for w in shown)
    return " ".join(["python", *quoted])
