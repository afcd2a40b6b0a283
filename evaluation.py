"""Predictions, metrics and prediction files; also a command on a finished run.

    python evaluation.py --run runs/joint --split dev
    python evaluation.py --run runs/joint --task sst --input sentences.txt
    echo "a film to remember" | python evaluation.py --run runs/joint --task sst --input -

`--run` rewrites metrics-<split>.json and the prediction files from the run's best checkpoint.
`--input` labels new text, one sentence a line or two separated by a tab, and prints TSV with a
probability (a score has none).
"""

import argparse
import csv
import math
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import checkpoint
import workers
from batches import Rows
from datasets import Example, load_data, tokenize
from errors import InputError, exit_status
from models import MultitaskBert, build_model
from models.bert import BertModel
from models.pretrained import load_config, load_tokenizer, read_json
from run_directory import read_options, write_json
from tasks import TASKS, Task, mean_score

BATCH_SIZE = 64
TURNS_A_VOTE = 20  # batches of each worker between votes on stopping
Metrics = dict[str, dict[str, float]]


def select_device(use_gpu: bool) -> torch.device:
    """The GPU exactly if asked for. Raises InputError where there is none: no job crawls unseen."""
    if use_gpu and not torch.cuda.is_available():
        raise InputError(
            "--use_gpu is given, but torch finds no CUDA device; leave it out to run on CPU"
        )
    if use_gpu and workers.local_rank() >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started more workers here than the {torch.cuda.device_count()} GPUs; give "
            "that number as --nproc_per_node"
        )
    return torch.device("cuda" if use_gpu else "cpu")


@torch.inference_mode()
def predict_logits(
    model: MultitaskBert,
    data: Rows,
    rows: np.ndarray | None = None,
    use_amp: bool = False,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Logits [N, C] of all rows, or of the given ones, in their order. Leaves the model in eval
    mode.

    check: called after every batch; it may raise to stop early.
    """
    rows = np.arange(len(data)) if rows is None else rows
    device = next(model.parameters()).device
    model.eval()
    logits = np.zeros((len(data), data.task.num_outputs), dtype=np.float32)
    num_turns = math.ceil(len(rows) / (BATCH_SIZE * workers.size()))
    batches = data.sequential_batches(BATCH_SIZE, rows)
    for turn in range(num_turns):
        for chunk, batch in islice(batches, 1):  # a worker may have none in the last turn
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_amp):
                logits[chunk] = model(data.task, batch).cpu().numpy()
        if turn % TURNS_A_VOTE == 0:
            workers.note_votes(workers.sum_([torch.zeros(1, device=device)]))
        check()
    if workers.size() > 1:
        total = torch.from_numpy(logits).to(device)  # zeros where other workers' rows are
        workers.note_votes(workers.sum_([total]))
        check()
        logits = total.cpu().numpy()
    return logits[rows]


def evaluate(
    model: MultitaskBert,
    data: dict[str, Rows],
    num_samples: int | None = None,
    seed: int = 0,
    use_amp: bool = False,
    check: Callable[[], None] = lambda: None,
) -> tuple[Metrics, dict[str, np.ndarray]]:
    """Metrics by task (none where labels are missing), and predictions by task.

    num_samples: look at a fixed seeded sample of so many rows a task; None at all of them.
    """
    metrics, predictions = {}, {}
    for name, rows_of_task in data.items():
        task, rows = TASKS[name], rows_of_task.sample_rows(num_samples, seed)
        logits = predict_logits(model, rows_of_task, rows, use_amp, check)
        predictions[name] = task.decode(logits)
        if rows_of_task.labels is not None:
            metrics[name] = task.evaluate(predictions[name], rows_of_task.labels[rows])
    return metrics, predictions


def scores(metrics: Metrics) -> dict[str, float]:
    """Each task's own metric, the one it is judged by."""
    return {name: values[TASKS[name].metric_name] for name, values in metrics.items()}


def baselines(train: dict[str, Rows], dev: dict[str, Rows]) -> Metrics:
    """Metrics of predicting the training set's majority class, or mean, for every dev example."""
    metrics = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant has no correlation, as the table says
        for name, rows in dev.items():
            predictions = TASKS[name].baseline(train[name].labels, len(rows))
            metrics[name] = TASKS[name].evaluate(predictions, rows.labels)
    return metrics


def format_table(metrics: Metrics, baseline: Metrics | None = None, split: str = "dev") -> str:
    """A plain table, a line a metric, the deciding one of each task first."""
    header = f"{'task':<6}{'metric':<12}{split:>8}" + (f"{'baseline':>11}" if baseline else "")
    lines = [header]
    for name, values in metrics.items():
        for metric, value in values.items():
            beside = f"{baseline[name][metric]:>11.4f}" if baseline else ""
            lines.append(f"{name:<6}{metric:<12}{value:>8.4f}{beside}")
    mean = f"{'mean':<18}{mean_score(scores(metrics)):>8.4f}"
    lines.append(mean + (f"{mean_score(scores(baseline)):>11.4f}" if baseline else ""))
    return "\n".join(lines)


def write_predictions(path: Path, task: Task, ids: list[str], predictions: np.ndarray) -> None:
    """Write one line per input row, in input order, under the header `id<TAB>Predicted_…`."""
    with checkpoint.atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", task.prediction_column])
        writer.writerows(zip(ids, predictions.tolist()))


def write_outputs(
    args: Namespace,
    split: str,
    data: dict[str, Rows],
    metrics: Metrics,
    predictions: dict[str, np.ndarray],
    facts: dict[str, object] | None = None,
) -> None:
    """Write the prediction files of a split and, where there are labels, metrics-<split>.json.

    facts: what else that file shall say of the run. Worker 0 writes.
    """
    if not workers.is_main():
        return
    for name, rows in data.items():
        path = Path(args.predictions_path) / f"{rows.task.stem}-{split}-output.csv"
        write_predictions(path, rows.task, rows.ids, predictions[name])
    if not metrics:
        return
    content: dict = {"metrics": metrics, "mean": mean_score(scores(metrics)), "confusion": {}}
    content |= facts or {}
    for name, rows in data.items():
        confusion = rows.task.confusion(predictions[name], rows.labels)
        if confusion is not None:
            content["confusion"][name] = confusion.tolist()
    write_json(Path(args.run_dir) / f"metrics-{split}.json", content)


def load_run(
    directory: Path | str, device: str = "cpu"
) -> tuple[MultitaskBert, Tokenizer, Namespace]:
    """The best model of a run, in eval mode, its tokenizer and its options. Raises InputError."""
    directory = Path(directory)
    args = read_options(directory)
    config = load_config(directory)
    tokenizer = load_tokenizer(directory, config)
    model = build_model(args, BertModel(config))
    checkpoint.load_weights(Path(args.filepath) / "best.pt", model)
    return model.to(device).eval(), tokenizer, args


def evaluate_run(run: str, split: str, data_dir: str | None, use_gpu: bool) -> None:
    """Rewrite a finished run's metrics and prediction files of one split, and print the metrics."""
    model, tokenizer, args = load_run(run, str(select_device(use_gpu)))
    if data_dir is not None:
        args.data_dir = data_dir
        for task in TASKS.values():
            setattr(args, f"{task.name}_{split}", None)
    data = load_data(args, tokenizer, model.encoder.config.pad_token_id, (split,))[split]
    metrics, predictions = evaluate(model, data, use_amp=args.use_amp)
    written = Path(args.run_dir) / f"metrics-{split}.json"
    known = read_json(written) if written.is_file() else {}
    facts: dict = {"num_parameters": sum(p.numel() for p in model.parameters())}
    facts |= {"conflicts": known["conflicts"]} if "conflicts" in known else {}
    write_outputs(args, split, data, metrics, predictions, facts)
    print(
        format_table(metrics, split=split)
        if metrics
        else f"{split} has no labels: predictions only"
    )
    print(f"written to {args.predictions_path}")


def label_text(run: str, task_name: str, path: str, use_gpu: bool) -> None:
    """Label new text, a line an example, and print it as TSV."""
    model, tokenizer, args = load_run(run, str(select_device(use_gpu)))
    if task_name not in args.tasks:
        raise InputError(f"--task {task_name}: this run was trained on {', '.join(args.tasks)}")
    task = TASKS[task_name]
    examples = read_text(path, task)
    pad_token_id = model.encoder.config.pad_token_id
    data = tokenize(args, task, examples, tokenizer, pad_token_id, are_tags_kept=False)
    logits = predict_logits(model, data, use_amp=args.use_amp)
    columns = [[*example.texts] for example in examples]
    header = [*task.text_columns, task.prediction_column]
    for row, prediction in zip(columns, task.decode(logits).tolist()):
        row.append(prediction)
    if task.probability is not None:
        header.append("Probability")
        for row, probability in zip(columns, task.probability(logits)):
            row.append(f"{probability:.4f}")
    print("\t".join(header))
    for row in columns:
        print("\t".join(map(str, row)))


def read_text(path: str, task: Task) -> list[Example]:
    """Examples from a text file or, for `-`, standard input. Raises InputError naming the line."""
    name = "standard input" if path == "-" else path
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        lines = raw.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise InputError(f"--input {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: byte {error.start + 1} is not UTF-8 text") from None
    if not raw:
        raise InputError(f"{name}: it is empty, expected a line an example")
    examples = []
    for number, line in enumerate(lines, start=1):
        texts = tuple(line.split("\t"))
        if len(texts) != len(task.text_columns) or not all(text.strip() for text in texts):
            raise InputError(
                f"{name}:{number}: {len(texts)} sentences in {line[:80]!r}, expected "
                f"{len(task.text_columns)}, separated by tabs and not empty"
            )
        examples.append(Example(str(number), texts, None))
    return examples


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("evaluation.py", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="directory of a run")
    parser.add_argument(
        "--split", choices=["dev", "test"], default="dev", help="rows to evaluate on"
    )
    parser.add_argument(
        "--data_dir", default=None, help="where the files are (default: as the run)"
    )
    parser.add_argument("--task", choices=list(TASKS), help="task that labels --input")
    parser.add_argument("--input", metavar="FILE", help="text to label, - for standard input")
    parser.add_argument("--use_gpu", action="store_true", help="run on CUDA, an error without it")
    return parser


def main(args: Namespace) -> None:
    select_device(args.use_gpu)
    workers.join(args.use_gpu)
    if args.input is not None:
        label_text(args.run, args.task, args.input, args.use_gpu)
    else:
        evaluate_run(args.run, args.split, args.data_dir, args.use_gpu)


if __name__ == "__main__":
    parser = get_args_parser()
    args = parser.parse_args()
    if (args.input is None) != (args.task is None):
        parser.error("--task and --input go together: the task labels the input")
    sys.exit(exit_status(lambda: main(args)))
