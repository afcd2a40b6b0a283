"""Checkpoints: written atomically, read safely, holding all that an exact resume needs.

A checkpoint holds tensors and plain values alone, so that `torch.load(weights_only=True)` reads it.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch

import workers
from errors import InputError

FORMAT = "multitask-bert-1"


def seed_everything(seed: int) -> None:
    """Seed the global generators (dropout, initial weights). Samplers have their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO]:
    """Open a file that takes its name only when it is whole and on the disk.

    Whatever goes wrong, a full disk or a kill, the file that had the name before stays as it was.
    Raises OSError naming the path.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from None


def save(path: Path | str, state: dict) -> None:
    """Write `state` atomically; worker 0 does. Raises OSError; an older file stays."""
    if not workers.is_main():
        return
    with atomic_write(path, "wb") as file:
        try:
            torch.save({"format": FORMAT} | state, file)
        except RuntimeError as error:  # torch's writer hides a full disk behind this
            raise OSError(str(error).splitlines()[0]) from None


def load(path: Path | str) -> dict:
    """Read a checkpoint of ours. Raises InputError for any other, or a truncated, file."""
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


def load_weights(path: Path | str, model: torch.nn.Module) -> dict:
    """Load all weights of a checkpoint into `model`; return it. Raises InputError."""
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


def random_state() -> dict:
    """Every global generator's state, as tensors and plain values."""
    version, words, cached = random.getstate()
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": [version, list(words), cached],
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict) -> None:
    """Put every global generator back; the GPUs' only where there are as many as then."""
    version, words, cached = state["python"]
    random.setstate((version, tuple(words), cached))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
