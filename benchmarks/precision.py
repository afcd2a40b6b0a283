"""The precisions that a benchmark compares, and the best product rate of the machine in each.

    float32        as torch has it by default
    fast_float32   the products by oneDNN, where `runtime.device` finds that faster and as exact
    bfloat16       autocast, where the processor multiplies bfloat16 natively

`runtime.device` also decides which of them a run without flags computes in.
"""

import platform
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.setup import seconds_of
from models.bert_config import BertConfig
from runtime.device import (
    FLOAT32,
    gpu_name,
    gpu_type,
    has_native_bfloat16,
    prefers_bfloat16,
    use_fastest_float32,
)
from runtime.errors import InputError

NAMES = ("float32", "fast_float32", "bfloat16")
TORCHS_OWN, BY_ONEDNN = "highest", "medium"  # of torch.set_float32_matmul_precision
REPEATS = 10  # of every product that is timed
KINDS = {"family": "cpu family", "model": "model"}  # our words -> those of /proc/cpuinfo


class Precision(NamedTuple):
    """What an arm computes in.

    Attributes:
        name: one of `NAMES`.
        use_amp: bfloat16 autocast.
        matmul: what float32 products go through, as torch.set_float32_matmul_precision takes it.
    """

    name: str
    use_amp: bool
    matmul: str

    @property
    def flag(self) -> str:
        """The flag of the entry scripts."""
        return "--use_amp" if self.use_amp else "--no_use_amp"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make an entry script, in a process of its own, compute in it."""
        return {FLOAT32: "mkl"} if self.matmul == TORCHS_OWN else {}

    @property
    def dtype(self) -> torch.dtype:
        """The type of the factors of a layer's products."""
        return torch.bfloat16 if self.use_amp else torch.float32

    @contextmanager
    def products(self) -> Iterator[None]:
        """Send float32 products where this precision has them; put torch's switch back afterwards.

        Autocast is left to the arm, which has it around its forward pass alone.
        """
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


GPU_PRECISIONS = (Precision("float32", False, TORCHS_OWN), Precision("bfloat16", True, TORCHS_OWN))


def device_precisions(use_gpu: bool = False) -> dict[str, Precision]:
    """Return the precisions of this machine's CPU or GPU, by name, in the order of `NAMES`."""
    if use_gpu:
        has_bfloat16 = has_native_bfloat16(gpu_type())
        return {p.name: p for p in GPU_PRECISIONS if has_bfloat16 or not p.use_amp}
    before = torch.get_float32_matmul_precision()
    is_fast = use_fastest_float32()
    torch.set_float32_matmul_precision(before)
    use_fastest_float32.cache_clear()  # a run in this process decides anew, and sets the switch
    best = BY_ONEDNN if is_fast else TORCHS_OWN
    found = [Precision("float32", False, TORCHS_OWN)]
    if is_fast:
        found.append(Precision("fast_float32", False, BY_ONEDNN))
    if has_native_bfloat16("cpu"):
        found.append(Precision("bfloat16", True, best))
    return {precision.name: precision for precision in found}


def default_precision(use_gpu: bool = False) -> Precision:
    """Return what a run without flags computes in on this machine's CPU or GPU."""
    return precision_of(prefers_bfloat16(gpu_type() if use_gpu else "cpu"), use_gpu)


def precision_of(use_amp: bool, use_gpu: bool = False) -> Precision:
    """Return the precision of a run that has resolved --use_amp like this."""
    known = device_precisions(use_gpu)
    return known["bfloat16"] if use_amp else known.get("fast_float32", known["float32"])


def add_precisions(parser: ArgumentParser, unset: str) -> None:
    """Add --precisions to a benchmark's options. `unset` says what it is without the flag."""
    parser.add_argument(
        "--precisions", nargs="+", choices=NAMES, help=f"what to compute in; unset: {unset}"
    )


def chosen_precisions(
    names: list[str] | None, unset: list[Precision], use_gpu: bool = False
) -> list[Precision]:
    """Return the precisions that --precisions names, each once, or `unset` without the flag.

    Args:
        names: as the flag has them.
        unset: what to compute in without the flag.
        use_gpu: look at the GPU.

    Raises:
        InputError: this machine does not have one of them.
    """
    if names is None:
        return unset
    known = device_precisions(use_gpu)
    device = "GPU" if use_gpu else "CPU"
    for name in names:
        if name not in known:
            raise InputError(
                f"--precisions {name}: this {device} does not have it, expected {', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


def product_rate(config: BertConfig, num_tokens: int, precision: Precision) -> float:
    """Return the best rate of the matrix products of one layer, in operations per second.

    A layer has three kinds of products, all timed in the layouts that they have in an update: the
    forward pass, the gradient of the input and that of the weight. Of the three rates, each over
    the layer's shapes as often as it uses them, the highest one counts.

    Args:
        config: the encoder's shape.
        num_tokens: rows of the products.
        precision: of the factors and of the kernels.
    """
    shapes = [  # inputs, outputs, how often
        (config.hidden_size, config.hidden_size, 4),
        (config.hidden_size, config.intermediate_size, 1),
        (config.intermediate_size, config.hidden_size, 1),
    ]
    operations = sum(2 * num_tokens * inner * outer * count for inner, outer, count in shapes)
    seconds = [0.0, 0.0, 0.0]
    with precision.products():
        for inner, outer, count in shapes:
            x = torch.randn(num_tokens, inner).to(precision.dtype)
            w = torch.randn(outer, inner).to(precision.dtype)
            y = torch.randn(num_tokens, outer).to(precision.dtype)
            for kind, factors in enumerate([(x, w.T), (y, w), (y.T, x)]):
                multiply = partial(torch.mm, *factors)
                multiply()
                taken = seconds_of(lambda: [multiply() for _ in range(REPEATS)])
                seconds[kind] += count * taken / REPEATS
    return operations / min(seconds)


def machine(threads: int, use_gpu: bool = False) -> str:
    """Return the processor, the number of threads and torch's version, for a table's first line.

    Args:
        threads: those of the CPU.
        use_gpu: name the GPU, too.
    """
    gpu = f"{gpu_name()}, " if use_gpu else ""
    return f"{gpu}{processor_name()}, {threads} threads, torch {torch.__version__}"


def processor_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor as Linux names it, with family and model; elsewhere as Python does.

    A virtual machine often says no more than "AMD EPYC"; family and model tell which it is.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.partition(":") for line in reversed(lines)]  # the first processor's come last
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = [f"{word} {facts[key]}" for word, key in KINDS.items() if key in facts]
    return f"{facts['model name']} ({' '.join(numbers)})" if numbers else facts["model name"]
