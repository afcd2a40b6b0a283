"""A model soup: the mean of several runs' weights as a run of its own.

Wortsman et al. (ICML 2022, arXiv:2203.05482). A uniform soup averages all runs. A greedy one starts
with the run that is best on dev, then adds each other one, the better first, if the dev mean does
not fall. The runs should start from the same weights: averaging those of heads that were
initialised differently is legal, but hardly ever good.
"""

import hashlib
import json
import os
import warnings
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from comparing.ensemble import check_same_rows, check_same_tasks, splits_of
from comparing.finished import FinishedRun
from datasets import load_data
from engine import evaluate
from models.auto_config import TransformersConfig
from models.bert_config import BertConfig
from models.pretrained import load_config, load_tokenizer
from predicting.run import load_run
from reporting.outputs import in_folder, write_outputs
from reporting.run_directory import SOUP, make_run_dir
from reporting.summary import count_parameters
from runtime import checkpoint
from runtime.errors import InputError
from tasks import Metrics, mean_score, scores

# What decides which function the weights compute. How to predict with them (--symmetric_pairs,
# --use_amp) is taken from the first run.
MODEL_OPTIONS = (
    *("pooling", "train_mode", "layers", "extension", "segment_length", "pair_encoding"),
    *("additional_input", "combined_models", "use_pal", "pal_size"),
    *("n_hidden_layers", "add_layers", "max_length"),
)
# Of the encoder's config, what matters only while it is trained.
TRAINING_VALUES = {"hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"}
Result = tuple[Metrics, dict[str, np.ndarray]]  # metrics and predictions by task
OTHERWISE = "--ensemble averages the predictions of different models"


def make_soup(
    runs: list[FinishedRun],
    folder: Path,
    is_greedy: bool = False,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Average the weights of runs, and write the result as a new run.

    Its options, tokenizer and data are those of the first run, under `is_greedy` of the best one.
    Test rows are predicted too, unless a run has --no_test_predictions.

    Args:
        runs: with models of the same shape for the same tasks.
        folder: of the new run; does not exist yet.
        is_greedy: keep only the runs that do not lower the dev mean.
        device: where to evaluate.

    Returns:
        The titles of the runs that it averages.

    Raises:
        InputError: models, tasks or, under `is_greedy`, dev data differ, or a run cannot be read.
    """
    if is_greedy:
        runs = sorted(runs, key=lambda run: -mean_score(run.scores))
        for run in runs:
            check_same_rows(runs[0], run)
    first, *others = runs
    config, tokenizer = encoder_of(first)
    for run in runs:
        if run.args.lora_rank is not None:
            raise InputError(
                f"{run.path}: the mean of low-rank updates (--lora_rank) is no update of that "
                f"rank; {OTHERWISE}"
            )
    for run in others:
        check_same_model(first, config, tokenizer, run)
    trial = Trial(first, splits_of(runs), device)
    average = Average(trial.model.state_dict(), first)
    found = {"dev": trial.evaluate(average, "dev")} if is_greedy else {}
    for run in others:
        larger = average.with_run(load_run(run.path, is_calibrated=False).model.state_dict(), run)
        if is_greedy:
            result = trial.evaluate(larger, "dev")
            mean, best = (mean_score(scores(metrics)) for metrics, _ in (result, found["dev"]))
            verdict = "kept" if mean >= best else "left out"
            print(f"{run.title}: dev mean {mean:.4f} with it, {best:.4f} without: {verdict}")
            if mean < best:
                continue
            found["dev"] = result
        average = larger
    results = {split: found.get(split) or trial.evaluate(average, split) for split in trial.data}
    name_soup(trial.args, folder, average.runs)
    facts = {"runs": [run.args.run_dir for run in average.runs], "greedy": is_greedy}
    write = partial(trial.write, average, results)
    make_run_dir(trial.args, config, trial.tokenizer, {SOUP: facts}, write)
    return [run.title for run in average.runs]


class Trial:
    """A run's model with its data, in which averages of weights are tried.

    Args:
        run: the run.
        splits: of its data.
        device: where to evaluate.
    """

    def __init__(
        self, run: FinishedRun, splits: tuple[str, ...], device: torch.device | str
    ) -> None:
        found = load_run(run.path, device, is_calibrated=False)
        self.model, self.tokenizer, self.args = found.model, found.tokenizer, found.args
        pad_token_id = self.model.encoder.config.pad_token_id
        self.data = load_data(self.args, self.tokenizer, pad_token_id, splits)

    def evaluate(self, average: "Average", split: str) -> Result:
        """Return the metrics and predictions of an average by task."""
        self.model.load_state_dict(average.state_dict())
        return evaluate(self.model, self.data[split], use_amp=self.args.use_amp, split=split)

    def write(self, average: "Average", results: dict[str, Result], folder: Path) -> None:
        """Write best.pt, metrics and prediction files of an average into a folder."""
        args = in_folder(self.args, folder)
        facts: dict[str, object] = {"num_parameters": count_parameters(self.model)}
        for split, (metrics, predictions) in results.items():
            write_outputs(args, split, self.data[split], metrics, predictions, facts)
        mean = mean_score(scores(results["dev"][0]))
        # An average has no epoch, but every best.pt has to have one.
        state = {"model": average.state_dict(), "epoch": 1, "score": mean, "run": args.fingerprint}
        checkpoint.save(folder / "checkpoints" / "best.pt", state)


class Average:
    """The mean of the weights of runs, in float64. Weights that are equal keep all of their bits.

    Args:
        state: the state dict of the first run's model.
        run: this run.

    Attributes:
        runs: those that are averaged.
    """

    def __init__(self, state: dict[str, Tensor], run: FinishedRun) -> None:
        self.runs = [run]
        self.dtypes = {name: tensor.dtype for name, tensor in state.items()}
        self.means = {name: exact(tensor) for name, tensor in state.items()}

    def with_run(self, state: dict[str, Tensor], run: FinishedRun) -> "Average":
        """Return the average of one run more.

        Numbers that are no floating-point ones, such as counters and indices, have no mean. They
        have to be equal, and stay.

        Raises:
            InputError: its weights have other names or shapes.
        """
        average = Average({}, run)
        average.runs, average.dtypes = [*self.runs, run], self.dtypes
        where = f"{run.path}: its weights cannot be averaged with those of {self.runs[0].path}"
        for name in self.means | state:
            if name not in self.means or name not in state:
                raise InputError(f"{where}: only one of them has {name!r}; {OTHERWISE}")
            mean, value = self.means[name], exact(state[name])
            if mean.shape != value.shape or mean.dtype != value.dtype:
                found, own = checkpoint.describe(value), checkpoint.describe(mean)
                raise InputError(f"{where}: {name!r} is {found}, not {own}; {OTHERWISE}")
            average.means[name] = mean
            if value.is_floating_point():
                moved = mean + (value - mean) / len(average.runs)
                average.means[name] = torch.where(value == mean, mean, moved)
            elif not torch.equal(value, mean):
                raise InputError(f"{where}: {name!r} holds other whole numbers; {OTHERWISE}")
        return average

    def state_dict(self) -> dict[str, Tensor]:
        """Return the means in the dtypes of the first run's weights."""
        return {name: mean.to(self.dtypes[name]) for name, mean in self.means.items()}


def exact(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, floating-point numbers in float64."""
    copy = tensor.detach().cpu().clone()
    return copy.double() if copy.is_floating_point() else copy


def encoder_of(run: FinishedRun) -> tuple[BertConfig, Tokenizer]:
    """Return the config and the tokenizer of a run's encoder. Raises InputError."""
    directory = Path(run.args.run_dir)
    config = load_config(directory)
    return config, load_tokenizer(directory, config)


def shape_of(config: BertConfig) -> dict[str, Any]:
    """Return all of an encoder's config but what matters only while it is trained."""
    values, unread = asdict(config), TRAINING_VALUES
    if isinstance(config, TransformersConfig):
        values = {"model_type": config.model_type} | config.build().to_dict()
        kind = config.architecture
        unread = unread | {*kind.hidden_dropout, kind.attention_dropout}
    return {name: value for name, value in values.items() if name not in unread}


def check_same_model(
    first: FinishedRun, config: BertConfig, tokenizer: Tokenizer, run: FinishedRun
) -> None:
    """Check that a run's model computes what the first run's does, but for its weights.

    Their shapes are compared when they are averaged. Warns if the encoders have other names.

    Args:
        first: the first run.
        config: of its encoder.
        tokenizer: of its encoder.
        run: the other run.

    Raises:
        InputError: tasks, options of the model, encoders or tokenizers differ.
    """
    check_same_tasks(first, run)
    other_config, other_tokenizer = encoder_of(run)
    one = shape_of(config) | {name: getattr(first.args, name) for name in MODEL_OPTIONS}
    two = shape_of(other_config) | {name: getattr(run.args, name) for name in MODEL_OPTIONS}
    for name in one | two:
        if one.get(name) != two.get(name):
            raise InputError(
                f"{run.path}: {name} is {two.get(name)}, but {one.get(name)} in {first.path}, so "
                f"their weights cannot be averaged; {OTHERWISE}"
            )
    if other_tokenizer.to_str() != tokenizer.to_str():
        raise InputError(
            f"{run.path}: its tokenizer is not that of {first.path}, so their weights cannot be "
            f"averaged; {OTHERWISE}"
        )
    names = [os.path.basename(each.args.model_name) for each in (first, run)]
    if names[0] != names[1]:
        warnings.warn(
            f"{run.path} started from {names[1]}, {first.path} from {names[0]}: the mean of such "
            "weights is hardly ever good",
            stacklevel=2,
        )


def name_soup(args: Namespace, folder: Path, runs: list[FinishedRun]) -> None:
    """Turn the options of the first run into those of the soup, in place."""
    place = Path(os.path.abspath(folder))
    args.run_dir, args.logdir, args.run_name = str(place), str(place.parent), place.name
    args.filepath, args.predictions_path = str(place / "checkpoints"), str(place / "predictions")
    fingerprints = json.dumps([SOUP, *(run.args.fingerprint for run in runs)])
    args.fingerprint = hashlib.sha256(fingerprints.encode()).hexdigest()
    if any(run.args.data_sha256 != args.data_sha256 for run in runs):
        args.data_sha256 = {}  # the runs were trained on different rows
