"""Evaluate a finished run, or label new text with it.

    python evaluation.py --run runs/joint --split dev
    python evaluation.py --run runs/joint --data_dir other_data     # to runs/joint/on-other_data
    python evaluation.py --run runs/joint --task sst --input sentences.txt
    echo "a film to remember" | python evaluation.py --run runs/joint --task sst --input -

`--run` alone rewrites metrics-<split>.json and the prediction files from the run's best checkpoint.
With `--data_dir` or `--output`, they go to a folder of their own. `--input` labels new text, one
sentence per line or two separated by a tab, and prints TSV with the probability of what is
predicted (a score has none).
"""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports

# isort: split
import sys

from options.evaluation_options import get_args_parser, parse_args
from runtime.errors import exit_status, read_command_line

if __name__ == "__main__":  # before the slow imports: --help and a wrong flag are answered at once
    ARGS = read_command_line(lambda: parse_args(get_args_parser()))

# isort: split
import warnings
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from datasets import is_visible, load_data, tokenize
from engine import evaluate, predict_logits
from inputs.batches import Rows
from models import MultitaskBert, build_model
from models.pretrained import load_config, load_tokenizer
from options.resolving import resolve_model_options
from reporting.figures import dev_figures
from reporting.outputs import redirect, write_outputs
from reporting.run_directory import read_options
from reporting.run_log import RunLog
from reporting.start import saved_encoder
from reporting.summary import baselines, count_parameters, format_table, print_end
from runtime import checkpoint
from runtime.device import connect
from runtime.errors import InputError
from runtime.files import MAX_DATA_BYTES, MIB, make_folder, read_bytes, read_json
from tasks import Example, Task, mean_score, scores
from training import Training


def finish(
    args: Namespace,
    training: Training,
    data: dict[str, dict[str, Rows]],
    log: RunLog,
    check: Callable[[], None],
) -> None:
    """Evaluate the best checkpoint on all of dev, predict test, and print where everything is.

    Args:
        args: the run's options.
        training: its finished training, whose model gets the best weights.
        data: split -> task name -> rows.
        log: gets the final scores and figures.
        check: called after every batch; it may raise to stop.
    """
    best = checkpoint.load_weights(
        Path(args.filepath) / "best.pt", training.model, args.fingerprint
    )
    training.exchange.check_replicas(training.model)
    shares = training.conflicts.shares()
    facts: dict[str, object] = {"num_parameters": count_parameters(training.model)}
    facts |= {"conflicts": shares} if shares else {}
    metrics, predictions = {}, {}
    for split in [split for split in data if split != "train"]:
        metrics[split], predictions[split] = evaluate(
            training.model, data[split], use_amp=args.use_amp, check=check, split=split
        )
        write_outputs(args, split, data[split], metrics[split], predictions[split], facts)
    finals = scores(metrics["dev"])
    finals |= {"mean": mean_score(finals)}
    # TensorBoard shows the figures; without it, matplotlib is not imported for them.
    figures = dev_figures(data["dev"], predictions["dev"]) if args.write_summary else {}
    total_updates = training.progress.total_updates
    log.finish(vars(args), finals, figures, training.conflicts, total_updates)
    baseline = baselines(data["train"], data["dev"])
    print_end(args, best["epoch"], metrics["dev"], baseline, shares)


def load_run(
    directory: Path | str,
    device: torch.device | str = "cpu",
    filepath: str | None = None,
) -> tuple[MultitaskBert, Tokenizer, Namespace]:
    """Return the best model of a run, in eval mode, its tokenizer and its options.

    Args:
        directory: of the run.
        device: where the model goes.
        filepath: the folder of the checkpoints, for a run that keeps them elsewhere.

    Raises:
        InputError: this is no directory of a run, or its checkpoint does not fit.
    """
    directory = Path(directory)
    given = {} if filepath is None else {"filepath": filepath}
    args = read_options(directory, given, needed=("filepath",))
    config, best = load_config(directory), Path(args.filepath) / "best.pt"
    state = checkpoint.load(best)
    encoder = saved_encoder(args, config, directory / "config.json", best)
    tokenizer = load_tokenizer(directory, config)
    args.use_gpu = torch.device(device).type != "cpu"  # this device, not that of the training
    resolve_model_options(args, config)
    model = build_model(args, encoder)
    checkpoint.load_weights(best, model, args.fingerprint, state)
    return model.to(device).eval(), tokenizer, args


def evaluate_run(
    run: str,
    split: str,
    data_dir: str | None,
    device: torch.device | str,
    output: str | None = None,
    filepath: str | None = None,
    task_names: list[str] | None = None,
) -> None:
    """Evaluate a finished run on one split; print the metrics, then write them and predictions.

    Args:
        run: its directory.
        split: dev or test.
        data_dir: other data; None for the run's own.
        device: where to compute.
        output: the folder to write to; None for the run's own, or for one of the other data.
        filepath: as for `load_run`.
        task_names: the tasks to evaluate; None for all.

    Raises:
        InputError: the run cannot be read, lacks a task, or the results would replace others.
        OSError: the results cannot be written.
    """
    model, tokenizer, args = load_run(run, device, filepath)
    args.tasks = chosen_tasks(args, task_names)
    facts: dict[str, object] = {"num_parameters": count_parameters(model)}
    if data_dir is not None or output is not None:
        redirect(args, split, data_dir, output)
    elif args.predictions_path is None:
        raise InputError(f"{run}: its predictions are outside the run; name a folder with --output")
    else:
        facts |= known_conflicts(Path(run) / f"metrics-{split}.json")
        with suppress(OSError):  # on a read-only disk the scores are printed all the same
            make_folder(Path(args.predictions_path))
    if args.smoketest:
        warnings.warn("the run is a --smoketest: only its few rows are evaluated", stacklevel=1)
    data = load_data(args, tokenizer, model.encoder.config.pad_token_id, (split,))[split]
    metrics, predictions = evaluate(model, data, use_amp=args.use_amp, split=split)
    print(
        format_table(metrics, split=split)
        if metrics
        else f"{split} has no labels: predictions only"
    )
    write_outputs(args, split, data, metrics, predictions, facts)
    print(f"written to {args.run_dir}")


def known_conflicts(path: Path) -> dict[str, object]:
    """Return what the training knew of conflicts, from the metrics that are written again."""
    try:
        known = read_json(path) if path.is_file() else {}
    except InputError:  # damaged: this evaluation repairs it
        known = {}
    return {"conflicts": known["conflicts"]} if "conflicts" in known else {}


def chosen_tasks(args: Namespace, names: list[str] | None) -> dict[str, Task]:
    """Return the run's tasks of these names, all for None. Raises InputError if it lacks one."""
    for name in names or ():
        if name not in args.tasks:
            raise InputError(f"--task {name}: this run was trained on {', '.join(args.tasks)}")
    return {name: task for name, task in args.tasks.items() if names is None or name in names}


def label_text(
    run: str,
    task_name: str,
    path: str,
    device: torch.device | str,
    filepath: str | None = None,
    all_probabilities: bool = False,
) -> None:
    """Label new text, one example per line, and print it as TSV.

    A score has no probability. `all_probabilities` adds a column for every class.
    """
    model, tokenizer, args = load_run(run, device, filepath)
    task = chosen_tasks(args, [task_name])[task_name]
    examples = read_text(path, task)
    pad_token_id = model.encoder.config.pad_token_id
    data = tokenize(args, task, examples, tokenizer, pad_token_id, are_tags_kept=False)
    logits = predict_logits(model, data, use_amp=args.use_amp)
    columns = [[*example.texts] for example in examples]
    header = [*task.text_columns, task.prediction_column]
    for row, prediction in zip(columns, task.written(task.decode(logits))):
        row.append(prediction)
    probability, probabilities = task.probability(logits), task.probabilities(logits)
    if probability is not None and probabilities is not None:
        header.append("Probability")
        parts = [probability[:, None]]
        if all_probabilities:
            header += [f"Probability_{task.class_label(c)}" for c in range(task.num_classes)]
            parts.append(probabilities)
        for row, values in zip(columns, np.concatenate(parts, axis=1)):
            row += [f"{value:.4f}" for value in values]
    print("\t".join(header))
    for row in columns:
        print("\t".join(map(str, row)))


def read_text(path: str, task: Task) -> list[Example]:
    """Read examples from a text file or, for `-`, standard input.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or a line holds another number of
            sentences than the task takes; the message names the line.
    """
    name = "standard input" if path == "-" else path
    hint = "name the text to label with --input, - for standard input"
    if path == "-":
        raw = sys.stdin.buffer.read(MAX_DATA_BYTES + 1)
    else:
        raw = read_bytes(path, MAX_DATA_BYTES, hint)
    if len(raw) > MAX_DATA_BYTES:
        raise InputError(f"{name}: has more than {MAX_DATA_BYTES / MIB:,.0f} MiB; give it in parts")
    try:
        content = raw.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: byte {error.start + 1} is not UTF-8 text") from None
    if not raw:
        raise InputError(f"{name}: it is empty, expected one example per line")
    examples = []
    for number, line in enumerate(content.removesuffix("\n").split("\n"), start=1):
        texts = tuple(line.split("\t"))
        if "\r" in line:
            raise InputError(f"{name}:{number}: a carriage return in {line[:80]!r}; remove it")
        if len(texts) != len(task.text_columns) or not all(map(is_visible, texts)):
            raise InputError(
                f"{name}:{number}: {len(texts)} sentences in {line[:80]!r}, expected "
                f"{len(task.text_columns)}, separated by tabs and not empty"
            )
        examples.append(Example(str(number), texts, None))
    return examples


def main(args: Namespace) -> None:
    """Label --input, or evaluate the run on a split."""
    device = connect(args.use_gpu)
    if args.input is not None:
        task, path = args.task[0], args.input
        label_text(args.run, task, path, device, args.filepath, args.probabilities)
    else:
        evaluate_run(
            args.run, args.split, args.data_dir, device, args.output, args.filepath, args.task
        )


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(ARGS), is_output_needed=ARGS.input is not None))
