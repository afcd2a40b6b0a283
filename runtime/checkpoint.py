"""Checkpoints: written atomically, read safely, holding all that an exact resume needs.

A checkpoint holds tensors and plain values alone, so that `torch.load(weights_only=True)` reads it.
"""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime import workers
from runtime.errors import InputError
from runtime.files import atomic_write

FORMAT = "multitask-bert-1"


def seed_everything(seed: int) -> None:
    """Seed the global generators: dropout, initial weights. Samplers have their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def save(path: Path | str, state: dict[str, Any]) -> None:
    """Write `state` atomically; worker 0 writes, and the others wait for it.

    Raises:
        OSError: it cannot be written; an older file of this name stays.
    """
    if workers.is_main():
        with atomic_write(path, "wb") as file:
            try:
                torch.save({"format": FORMAT} | state, file)
            except RuntimeError as error:  # torch's writer hides a full disk behind this
                raise OSError(str(error).splitlines()[0]) from None
    workers.barrier()


def load(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: the file is missing, truncated, or not a checkpoint of this program.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except Exception as error:  # the unpickler and the zip reader raise whatever they meet
        raise InputError(
            f"{path}: truncated or not a checkpoint of this program ({type(error).__name__}); "
            "give another, best.pt or last.pt of a run"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    return state


def load_weights(path: Path | str, model: nn.Module) -> dict[str, Any]:
    """Load all weights of a checkpoint into `model`, and return the checkpoint.

    Raises:
        InputError: the checkpoint cannot be read, or its weights do not fit the model.
    """
    state = load(path)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    different = [name for name in own | given if own.get(name) != given.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{path}: {len(different)} weights do not fit this model, {name!r} the first: shape "
            f"{given.get(name)} in the file, {own.get(name)} in the model; give the options the "
            "checkpoint was trained with"
        )
    model.load_state_dict(state["model"])
    return state


def random_states() -> list[dict[str, Any]]:
    """Return every worker's `random_state`; all workers call it together."""
    return workers.gather(random_state())


def set_random_states(states: list[dict[str, Any]]) -> None:
    """Restore this worker's generators; warn if the number of workers has changed."""
    if len(states) != workers.size():
        warnings.warn(
            f"saved by {len(states)} workers, now {workers.size()}: the run continues with other "
            "dropout masks than it would have had",
            stacklevel=2,
        )
    if workers.rank() < len(states):
        set_random_state(states[workers.rank()])


def random_state() -> dict[str, Any]:
    """Return the state of every global generator, as tensors and plain values."""
    version, words, cached = random.getstate()
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": [version, list(words), cached],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore every global generator; the GPUs' only if there are as many as then."""
    version, words, cached = state["python"]
    random.setstate((version, tuple(words), cached))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
