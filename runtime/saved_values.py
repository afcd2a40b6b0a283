"""The values of a checkpoint: of which kinds they are, and whether they are like those of a run."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

MAX_DEPTH = 100  # of nested values; ours have less than ten, names with dots in them
PLAIN = (str, int, float, bool, type(None))


def check_kinds(state: object) -> None:
    """Check that nested values are plain ones and tensors that hold each of their numbers once.

    Raises:
        ValueError: a value is of another kind; or a tensor is expanded, shares its numbers with
            another one, or is not on the CPU.
    """
    seen: set[int] = set()
    used: dict[int, int] = {}  # storage -> bytes of the tensors in it
    waiting: list[tuple[str, Any]] = [("", state)]
    while waiting:  # no recursion: the depth is not ours
        where, value = waiting.pop()
        if where.count(".") > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} times")
        if isinstance(value, Tensor):
            check_tensor(value, where)
            storage = value.untyped_storage()  # on a GPU, an LSTM's weights are parts of one
            used[storage._cdata] = used.get(storage._cdata, 0) + value.nbytes
            if used[storage._cdata] > storage.nbytes():
                raise ValueError(f"{where} shares its numbers with another tensor")
        elif type(value) in (dict, OrderedDict, list, tuple):
            if id(value) not in seen:
                is_dict = isinstance(value, dict)
                items = value.items() if is_dict else enumerate(value)
                waiting += [(f"{where}.{key}".lstrip("."), item) for key, item in items]
            seen.add(id(value))
        elif type(value) not in PLAIN:
            raise ValueError(f"{where} is a {type(value).__name__}")


def check_tensor(tensor: Tensor, where: str) -> None:
    """Check that a tensor is dense, on the CPU, and without a gradient."""
    is_dense = tensor.layout == torch.strided and not tensor.is_quantized
    if not (is_dense and tensor.device.type == "cpu" and not tensor.is_complex()):
        raise ValueError(f"{where} is not a dense tensor of real numbers on the CPU")
    if not tensor.is_contiguous() or tensor.is_neg():
        raise ValueError(f"{where} does not hold each of its numbers once, in their order")
    if tensor.requires_grad or tensor._backward_hooks:
        raise ValueError(f"{where} has a gradient, expected numbers alone")


def check_like(given: Any, own: Any, where: str = "") -> None:
    """Check that saved values have the types, keys, shapes and dtypes of a run's own ones.

    Numbers have to be finite, except where the run's own number is the same one.

    Args:
        given: the saved values.
        own: those of the run, before anything is restored.
        where: their name, for an error message.

    Raises:
        ValueError: they differ.
    """
    if isinstance(own, float):
        if type(given) not in (int, float) or not (math.isfinite(given) or given == own):
            raise ValueError(f"{where} is {shown(given)}, expected a finite number")
    elif isinstance(own, Tensor):
        check_like_tensor(given, own, where)
    elif isinstance(own, dict):
        check_keys(given, own, where)
        for key, value in own.items():
            check_like(given[key], value, f"{where}.{key}".lstrip("."))
    elif type(given) is not type(own):
        raise ValueError(f"{where} is {shown(given)}, expected a {type(own).__name__}")
    elif isinstance(own, (list, tuple)):
        if len(given) != len(own):
            raise ValueError(f"{where} has {len(given)} entries, expected {len(own)}")
        for i, (one, other) in enumerate(zip(given, own)):
            check_like(one, other, f"{where}.{i}".lstrip("."))


def check_like_tensor(given: Any, own: Tensor, where: str) -> None:
    """Check shape and dtype of a saved tensor, and that its numbers are finite."""
    if not isinstance(given, Tensor):
        raise ValueError(f"{where} is {shown(given)}, expected a tensor")
    if given.shape != own.shape or given.dtype != own.dtype:
        raise ValueError(
            f"{where} is {tuple(given.shape)} {given.dtype}, expected {tuple(own.shape)} "
            f"{own.dtype}"
        )
    if not given.isfinite().all():
        raise ValueError(f"{where} holds non-finite numbers")


def check_keys(given: Any, own: dict[str, Any], where: str = "") -> None:
    """Check that a saved value is a dict with the keys of the run's own one."""
    if not isinstance(given, dict):
        raise ValueError(f"{where or 'it'} is {shown(given)}, expected a dict")
    for key in own:
        if key not in given:
            raise ValueError(f"{f'{where}.{key}'.lstrip('.')} is missing")
    for key in given:
        if key not in own:
            raise ValueError(f"{f'{where}.{key}'.lstrip('.')} is not part of this run")


def check_number(
    given: Any, low: float, high: float, where: str, kind: type[int | float] = int
) -> None:
    """Check that a saved value is an int, or a finite float, in [low, high]."""
    if type(given) is not kind or not low <= given <= high:
        raise ValueError(f"{where} is {shown(given)}, expected {kind.__name__} in [{low}, {high}]")


def shown(value: object) -> str:
    """Return a short form of a value for an error message."""
    if type(value) in PLAIN:
        return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"a {type(value).__name__}"
