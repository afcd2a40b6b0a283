"""Read a safetensors file: its header is compared with the encoder before anything is allocated."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.auto import new_encoder
from models.bert_config import BertConfig
from runtime.errors import InputError, is_out_of_memory
from runtime.files import MAX_WEIGHT_BYTES, MIB, check_regular

FLOATS = ("F64", "F32", "F16", "BF16")  # what safetensors calls the dtypes that we take
Shape = tuple[int, ...]


def encoder_shapes(config: BertConfig) -> dict[str, Shape]:
    """Return the name and shape of every weight of an encoder, which is not allocated."""
    with torch.device("meta"):
        return {name: tuple(w.shape) for name, w in new_encoder(config).state_dict().items()}


def read_weights(
    path: Path, shapes: dict[str, Shape], rename: Callable[[str], str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Read those weights of a file that an encoder has, in the file's precision.

    Args:
        path: the file.
        shapes: name -> shape of the encoder's weights.
        rename: maps a name in the file to ours.

    Returns:
        The weights by our names, and our names of what else is in the file.

    Raises:
        InputError: the file cannot be read, or a weight in it has another shape, is no floating
            point number, or is not finite.
    """
    check_regular(path, MAX_WEIGHT_BYTES, "only safetensors weights are read, never a pickle")
    try:
        with safe_open(path, framework="pt") as file:
            published = {rename(name): name for name in file.keys()}
            for name, shape in shapes.items():
                if name in published:
                    part = file.get_slice(published[name])
                    check_header(path, name, tuple(part.get_shape()), part.get_dtype(), shape)
            weights = {n: file.get_tensor(published[n]) for n in shapes if n in published}
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise InputError(f"{path}: there is not enough memory to read it") from None
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        raise InputError(
            f"{path}: truncated or not a safetensors file, download it again: {error}"
        ) from None
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: holds non-finite weights, the first in {name}; use another")
    return weights, [name for name in published if name not in shapes]


def check_header(path: Path, name: str, given: Shape, dtype: str, expected: Shape) -> None:
    """Compare what the file says of a weight with what the encoder needs."""
    if given != expected:
        raise InputError(f"{path}: {name} has shape {given}, config.json asks for {expected}")
    if dtype not in FLOATS:
        raise InputError(f"{path}: {name} has dtype {dtype}, expected one of {', '.join(FLOATS)}")


def check_size(config: BertConfig, config_path: Path, checkpoints: list[Path]) -> None:
    """Check that the encoder of a run is not larger than its checkpoints, before it is allocated.

    Args:
        config: shape of the encoder.
        config_path: where it comes from, for an error message.
        checkpoints: files of which each holds the encoder in float32. Missing ones do not count,
            and a truncated one is found when it is read.

    Raises:
        InputError: the largest file is too small.
    """
    sizes = [path.stat().st_size for path in checkpoints if path.is_file()]
    if not sizes:
        return
    needed = 4 * sum(torch.Size(shape).numel() for shape in encoder_shapes(config).values())
    if needed > max(sizes):
        raise InputError(
            f"{config_path}: describes an encoder of {needed / MIB:,.1f} MiB, but the run's "
            f"checkpoints have {max(sizes) / MIB:,.1f}; one of the two files is damaged"
        )
