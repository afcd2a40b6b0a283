"""Evaluate a finished run, label new text with it, or calibrate its probabilities.

    python evaluation.py --run runs/joint --split dev
    python evaluation.py --run runs/joint --data_dir other_data     # to runs/joint/on-other_data
    python evaluation.py --run runs/joint --input rows.jsonl --output labelled.jsonl
    echo "a film to remember" | python evaluation.py --run runs/joint --task sst --input -
    python evaluation.py --run runs/joint --calibrate

`--run` alone rewrites metrics-<split>.json and the prediction files from the run's best checkpoint.
With `--data_dir` or `--output`, they go to a folder of their own. `--input` labels the rows of a
file. `--calibrate` fits the temperatures that its probabilities use.
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

import torch

from datasets import load_data
from engine import evaluate
from inputs.batches import Rows
from predicting.calibration import calibrate_run
from predicting.labelling import label_file
from predicting.run import load_run
from reporting.figures import dev_figures
from reporting.outputs import redirect, write_outputs
from reporting.run_log import RunLog
from reporting.summary import baselines, count_parameters, format_table, print_end
from runtime import checkpoint
from runtime.device import connect
from runtime.errors import InputError
from runtime.files import make_folder, read_json
from tasks import mean_score, scores
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
    found = load_run(run, device, filepath, is_calibrated=False)
    model, args = found.model, found.args
    args.tasks = found.chosen(task_names)
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
    data = load_data(args, found.tokenizer, found.pad_token_id, (split,))[split]
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


def main(args: Namespace) -> None:
    """Label --input, calibrate the run, or evaluate it on a split."""
    device = connect(args.use_gpu)
    if args.input is not None:
        label_file(args, device)
    elif args.calibrate:
        calibrate_run(args.run, args.data_dir, device, args.filepath, args.task)
    else:
        evaluate_run(
            args.run, args.split, args.data_dir, device, args.output, args.filepath, args.task
        )


if __name__ == "__main__":
    is_result = ARGS.input is not None and ARGS.output is None  # what goes to standard output
    sys.exit(exit_status(lambda: main(ARGS), is_output_needed=is_result))
