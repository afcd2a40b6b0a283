"""Checkpoints: written atomically, read safely, holding all that an exact resume needs.

A checkpoint holds tensors and plain values alone, so that `torch.load(weights_only=True)` reads it.
"""

import errno
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime import workers
from runtime.archives import check_archive
from runtime.errors import InputError, first_line, is_out_of_memory
from runtime.files import MAX_WEIGHT_BYTES, atomic_write, check_regular
from runtime.saved_values import check_kinds, check_like, check_number

FORMAT = "multitask-bert-1"
PARTS = {"last.pt": "progress", "best.pt": "score"}  # kind of checkpoint -> a part it alone has
# What restoring a wrong value raises. InputError is a ValueError: catch it before.
WRONG_VALUE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


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
            except RuntimeError as error:  # torch's writer hides the reason behind this
                reason = getattr(error.__context__, "strerror", None)
                raise OSError(reason or str(error).splitlines()[0]) from None
    workers.barrier()


def load(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: plain values and dense tensors.

    Raises:
        InputError: the file is missing, cannot be read, is truncated or damaged, or is not a
            checkpoint of this program.
    """
    path = Path(path)
    check_file(path)
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_kinds(state)
    except InputError:
        raise
    except Exception as error:  # the unpickler and the zip reader raise whatever they meet
        raise InputError(f"{path}: {reason_of(error)}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    return state


def check_file(path: Path) -> None:
    """Raise InputError if there is no such file, or one that no checkpoint can be."""
    if is_missing(path):
        raise InputError(f"{path}: no such checkpoint")
    check_regular(path, MAX_WEIGHT_BYTES)


def is_missing(path: Path) -> bool:
    """Tell whether there is no file of this name; one that cannot be looked at is there."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


def reason_of(error: Exception) -> str:
    """Return why a checkpoint could not be read, and what to do."""
    if is_out_of_memory(error):
        return "there is not enough memory to read it; the file may be whole"
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return f"cannot be read: {error.strerror}"  # EINVAL: an offset in the file is nonsense
    return (
        f"truncated or not a checkpoint of this program ({type(error).__name__}); "
        "give another, best.pt or last.pt of a run"
    )


def check_kind(path: Path | str, state: dict[str, Any], kind: str) -> None:
    """Check that a checkpoint is a best.pt or a last.pt, whatever its name is.

    Raises:
        InputError: it is the other one, or neither.
    """
    found = [name for name, part in PARTS.items() if part in state]
    if not found or "model" not in state:
        raise InputError(f"{path}: holds neither a best.pt nor a last.pt of a run")
    if kind not in found:
        uses = "a run resumes from last.pt" if kind == "last.pt" else "the best epoch is in best.pt"
        raise InputError(f"{path}: is a {found[0]} of a run, expected a {kind}; {uses}")
    if kind == "best.pt":
        with fitting("best.pt", path):
            check_number(state["epoch"], 1, math.inf, "epoch")
            check_number(state["score"], -1, 1, "score", float)


def check_run(path: Path | str, state: dict[str, Any], fingerprint: str | None) -> None:
    """Raise InputError if a checkpoint is another run's; an older version's could be any run's."""
    found = state.get("run")
    if None not in (found, fingerprint) and found != fingerprint:
        raise InputError(f"{path}: is of a run with other options; put this run's own file there")


def load_weights(
    path: Path | str,
    model: nn.Module,
    fingerprint: str | None = None,
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Load all weights of a checkpoint into `model`, and return the checkpoint.

    A file of the name best.pt has to be one; under other names, a last.pt serves as well.

    Args:
        path: the checkpoint.
        model: gets the weights.
        fingerprint: of the run that the checkpoint has to be of; None for any.
        state: what the checkpoint holds, if it has been loaded already.

    Raises:
        InputError: the checkpoint cannot be read, is another run's, or does not fit the model.
    """
    path = Path(path)
    state = load(path) if state is None else state
    check_kind(path, state, "best.pt" if path.name == "best.pt" or "score" in state else "last.pt")
    check_run(path, state, fingerprint)
    with fitting("model", path):
        restore_weights(state["model"], model)
    return state


def restore_weights(given: Any, model: nn.Module) -> None:
    """Load saved weights into `model`.

    Raises:
        InputError: shapes, dtypes or names differ, or a number is not finite.
    """
    own = {name: describe(tensor) for name, tensor in model.state_dict().items()}
    if not isinstance(given, dict):
        raise ValueError(f"expected a dict of weights, got a {type(given).__name__}")
    known = {name: describe(tensor) for name, tensor in given.items()}
    different = [name for name in own | known if own.get(name) != known.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{len(different)} weights do not fit this model, {name!r} the first: shape "
            f"{known.get(name)} in the file, {own.get(name)} in the model; give the options the "
            "checkpoint was trained with"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise InputError(f"holds non-finite weights, {name!r} the first; give another")
    model.load_state_dict(given)


def describe(value: object) -> str:
    """Return shape and dtype of a weight, or what it is instead, in words."""
    if not isinstance(value, Tensor):
        return f"none ({type(value).__name__})"
    dtype = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{dtype}"


@contextmanager
def fitting(part: str, path: Path | str | None = None) -> Iterator[None]:
    """Turn what goes wrong inside the block into an InputError that names file and part.

    Args:
        part: the part of the checkpoint that the block checks or restores.
        path: the file; None if the caller names it.

    Raises:
        InputError: the block has raised one, or an error that a wrong value causes.
    """
    where = "" if path is None else f"{path}: "
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    except WRONG_VALUE as error:
        if is_out_of_memory(error):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"{where}does not fit this run: {part}: {reason}; give a checkpoint that this run has "
            "written"
        ) from None


def check_random_states(states: Any) -> None:
    """Check the states of the workers' generators, whose words torch and numpy partly trust.

    Raises:
        ValueError: there is none, or a value has the wrong type or is out of range.
    """
    if not isinstance(states, list) or not states:
        raise ValueError("expected a list with the state of every worker")
    own = random_state() | {"cuda": []}
    for state in states:
        cuda = state["cuda"]
        if not isinstance(cuda, list) or not all(isinstance(part, Tensor) for part in cuda):
            raise ValueError("cuda is no list of tensors")
        plain = {"python": state["python"][:2], "numpy": state["numpy"]}
        check_like(state | plain | {"cuda": []}, own | {"python": own["python"][:2]})
        for gauss in state["python"][2:]:
            if gauss is not None:
                check_like(gauss, 0.0, "python.2")
        check_number(state["numpy"][2], 0, 624, "numpy.2")  # a place among its 624 words
        check_number(state["numpy"][3], 0, 1, "numpy.3")


def random_states() -> list[dict[str, Any]]:
    """Return every worker's `random_state`; all workers call it together."""
    return workers.gather(random_state())


def set_random_states(states: list[dict[str, Any]], device: torch.device) -> None:
    """Restore this worker's generators; warn if the run may not get its own numbers.

    That is if the number of workers has changed or, in a run on a GPU, of visible GPUs. A Mac's GPU
    has a generator that is not saved.

    Args:
        states: what `random_states` returned.
        device: what the run computes on.
    """
    if len(states) != workers.size():
        warnings.warn(
            f"saved by {len(states)} workers, now {workers.size()}: the run continues with other "
            "dropout masks than it would have had",
            stacklevel=2,
        )
    if workers.rank() < len(states):
        state = states[workers.rank()]
        num_gpus = torch.cuda.device_count()
        if device.type == "cuda" and len(state["cuda"]) not in (0, num_gpus):  # 0: from a CPU
            warnings.warn(
                f"saved with {len(state['cuda'])} visible GPUs, now {num_gpus}: the run continues "
                "with other dropout masks than it would have had; set CUDA_VISIBLE_DEVICES as then",
                stacklevel=2,
            )
        if device.type == "mps":
            warnings.warn(
                "a Mac's GPU draws other dropout masks than in an uninterrupted run", stacklevel=2
            )
        set_random_state(state)


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
