"""A finished run: its best model, and what that predicts for new texts.

    run = load_run("runs/joint")
    run.predict("sst", ["a film to remember"]).values
    run.predict("para", [("Is it open?", "Is it closed?")]).probabilities

Axis letters: N examples, C outputs, or classes.
"""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from datasets import is_visible, tokenize
from engine import EVALUATION_BATCH_SIZE, predict_logits
from models import MultitaskBert, build_model
from models.pretrained import load_config, load_tokenizer
from options.resolving import resolve_model_options
from predicting.temperatures import read_temperatures
from reporting.run_directory import read_options
from reporting.start import saved_encoder
from runtime import checkpoint
from runtime.errors import InputError, shorten
from tasks import Example, Task


@dataclass(frozen=True)
class Prediction:
    """What a run predicts for N examples of one task.

    Attributes:
        values: [N] int64, the classes; [N] float64, the scores; of a multilabel task, [N, C] of 0
            and 1.
        probabilities: [N, C] float32, of every class, those of 0 and 1 for a binary task; None for
            scores.
    """

    values: np.ndarray
    probabilities: np.ndarray | None


@dataclass
class Run:
    """A finished run with the weights of its best checkpoint.

    Attributes:
        directory: of the run.
        model: in eval mode.
        tokenizer: of the encoder. A prediction sets its truncation.
        args: the run's options.
        best: what tells its checkpoint from others: `run` (a digest of the run's options), `epoch`
            and `score`.
        temperatures: task name -> what its logits are divided by before they become
            probabilities; 1 for a task that is missing.
    """

    directory: Path
    model: MultitaskBert
    tokenizer: Tokenizer
    args: Namespace
    best: dict[str, Any]
    temperatures: dict[str, float] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        tasks: dict[str, Task] = self.args.tasks
        return tasks

    @property
    def pad_token_id(self) -> int:
        """What fills token ids at padding."""
        return self.model.encoder.config.pad_token_id

    def chosen(self, names: Sequence[str] | None) -> dict[str, Task]:
        """Return the tasks of these names in the run's order, all for None. Raises InputError."""
        for name in names or ():
            if name not in self.tasks:
                raise InputError(f"--task {name}: this run was trained on {', '.join(self.tasks)}")
        return {name: task for name, task in self.tasks.items() if names is None or name in names}

    def predict(
        self,
        task: str,
        texts: Iterable[str | Sequence[str]],
        batch_size: int = EVALUATION_BATCH_SIZE,
    ) -> Prediction:
        """Predict the labels of new texts.

        Texts of similar length share a batch; what is predicted comes in the order of the texts.

        Args:
            task: the name of one of the run's tasks.
            texts: one text for each example, or two for a task of pairs.
            batch_size: examples per batch.

        Raises:
            InputError: the run has no such task, or a text is missing or blank.
        """
        if task not in self.tasks:
            raise InputError(f"task {task!r}: this run was trained on {', '.join(self.tasks)}")
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}, expected a positive integer")
        chosen = self.tasks[task]
        logits = self.logits(chosen, make_examples(chosen, texts), batch_size)
        return Prediction(chosen.decode(logits), chosen.probabilities(self.scaled(chosen, logits)))

    def logits(
        self,
        task: Task,
        examples: list[Example],
        batch_size: int = EVALUATION_BATCH_SIZE,
        bar: tqdm | None = None,
    ) -> np.ndarray:
        """Return the logits [N, C] of examples, which may be none.

        Args:
            task: of the examples.
            examples: their texts count.
            batch_size: examples per batch.
            bar: advanced by the examples of every batch; None for a bar of its own.
        """
        if not examples:
            return np.zeros((0, task.num_outputs), dtype=np.float32)
        rows = tokenize(
            self.args, task, examples, self.tokenizer, self.pad_token_id, are_tags_kept=False
        )
        return predict_logits(
            self.model, rows, use_amp=self.args.use_amp, batch_size=batch_size, bar=bar
        )

    def scaled(self, task: Task, logits: np.ndarray) -> np.ndarray:
        """Return logits [N, C] of which calibrated probabilities follow."""
        return logits / np.float32(self.temperatures.get(task.name, 1.0))


def make_examples(task: Task, texts: Iterable[str | Sequence[str]]) -> list[Example]:
    """Return examples without labels.

    Raises:
        InputError: an example has another number of texts than the task takes, or a blank one.
    """
    expected = "two texts, the sentences of a pair" if task.is_pair else "a text"
    if isinstance(texts, str):
        raise InputError(f"texts is {shorten(texts)}, expected a list with {expected} per example")
    examples = []
    for number, given in enumerate(texts):
        is_whole = isinstance(given, str)
        parts = (given,) if is_whole or not isinstance(given, Sequence) else tuple(given)
        are_texts = all(isinstance(part, str) and is_text(part) for part in parts)
        if is_whole == task.is_pair or len(parts) != len(task.text_columns) or not are_texts:
            raise InputError(f"texts[{number}] is {shorten(repr(given))}, expected {expected}")
        examples.append(Example(str(number), tuple(map(str, parts)), None))
    return examples


def is_text(text: str) -> bool:
    """Tell whether a text is visible, and valid Unicode: no half of a surrogate pair."""
    return is_visible(text) and not any("\ud800" <= character <= "\udfff" for character in text)


def load_run(
    directory: Path | str,
    device: torch.device | str = "cpu",
    filepath: str | None = None,
    is_calibrated: bool = True,
) -> Run:
    """Return a run with its best model, in eval mode.

    Args:
        directory: of the run.
        device: where the model goes.
        filepath: the folder of the checkpoints, for a run that keeps them elsewhere.
        is_calibrated: read the temperatures of a calibrated run.

    Raises:
        InputError: this is no directory of a run, or its checkpoint does not fit.
    """
    directory = Path(directory)
    given = {} if filepath is None else {"filepath": filepath}
    args = read_options(directory, given, needed=("filepath",))
    config, path = load_config(directory), Path(args.filepath) / "best.pt"
    state = checkpoint.load(path)
    encoder = saved_encoder(args, config, directory / "config.json", path)
    tokenizer = load_tokenizer(directory, config)
    args.use_gpu = torch.device(device).type != "cpu"  # this device, not that of the training
    resolve_model_options(args, config)
    model = build_model(args, encoder)
    checkpoint.load_weights(path, model, args.fingerprint, state)
    best = {"run": args.fingerprint, "epoch": state["epoch"], "score": state["score"]}
    run = Run(directory, model.to(device).eval(), tokenizer, args, best)
    if is_calibrated:
        run.temperatures = read_temperatures(directory, run.tasks, best)
    return run
