"""The device that a command computes on, and the precision that it is good at."""

import os
import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from runtime import workers
from runtime.errors import InputError

FLOAT32 = "MULTITASK_BERT_FLOAT32"  # set to "mkl" to leave float32 products where torch has them
# Of a product's elements, relative to the largest: up to 1e-6 in float32, by either library and in
# any order of its sums; 2e-3 in bfloat16.
MAX_ERROR = 1e-5


def gpu_type() -> str:
    """Return what torch calls this machine's GPU: cuda, or mps on a Mac; cuda if there is none."""
    return "mps" if not torch.cuda.is_available() and has_mps() else "cuda"


def gpu_name() -> str:
    """Return what the GPU calls itself; "MPS" on a Mac."""
    return torch.cuda.get_device_name() if gpu_type() == "cuda" else "MPS"


def has_mps() -> bool:
    """Tell whether there is a Mac's GPU."""
    return torch.backends.mps.is_available()


def select_device(use_gpu: bool) -> torch.device:
    """Return the GPU if it is asked for, else the CPU.

    Raises:
        InputError: a GPU is asked for and there is none, so that no job silently runs on the CPU,
            or torchrun started more workers than there are GPUs.
    """
    if not use_gpu:
        return torch.device("cpu")
    if gpu_type() == "mps":
        if workers.size() > 1:
            raise InputError(
                "--use_gpu: workers cannot share a Mac's GPU; leave torchrun or --use_gpu out"
            )
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise InputError(
            "--use_gpu is given, but torch finds no CUDA device, nor a Mac's MPS; leave it out to "
            "run on the CPU"
        )
    if workers.local_rank() >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started more workers here than the {torch.cuda.device_count()} GPUs; give "
            "that number as --nproc_per_node"
        )
    return torch.device("cuda")


def connect(use_gpu: bool) -> torch.device:
    """Select the device and, where torchrun has started several workers, connect them.

    Raises:
        InputError: as in `select_device`.
        WorkerLost: the workers cannot connect.
    """
    device = select_device(use_gpu)
    if device.type == "cpu":
        use_fastest_float32()
    elif device.type == "cuda":
        choose_cuda_kernels()
    workers.join(use_gpu)
    return device


def choose_cuda_kernels() -> None:
    """Set torch's switches as a run on CUDA has them.

    cuDNN's attention is off: it plans anew for every shape, and our batches have many. cuDNN's
    convolutions are deterministic: without that, a resumed run with `--extension cnn` did not end
    with the same bits.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.deterministic = True


def has_native_bfloat16(kind: str) -> bool:
    """Tell whether a device multiplies bfloat16 in units of its own.

    Args:
        kind: cuda (Ampere, 8.0, and later have them), cpu (AVX512_BF16 or AMX), or mps (never
            taken for native).
    """
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def prefers_bfloat16(kind: str) -> bool:
    """Tell whether a run on a device computes in bfloat16 unless a flag decides.

    AMD's AVX512_BF16 was faster than float32. That of an Intel processor without AMX was slower
    (docs/scale.md), so all of these compute in float32. Units of CUDA and AMX are taken for faster.
    Where the system does not say whose the processor is, it counts as not AMD's.

    Args:
        kind: cuda, cpu or mps.
    """
    if kind == "cpu" and not torch.cpu._is_amx_tile_supported():
        return is_amd() and has_native_bfloat16(kind)
    return has_native_bfloat16(kind)


@cache
def use_fastest_float32() -> bool:
    """Give float32 products to oneDNN where that is faster and as exact; tell whether it is so.

    torch leaves them to MKL, which uses half of what an AMD core with AVX512 can do. Its "medium"
    precision sends them to oneDNN instead. That would round to bfloat16 where the processor has
    AMX, and else computes in float32: which of the two, a product tells.
    """
    if os.environ.get(FLOAT32) == "mkl" or not is_amd() or torch.cpu._is_amx_tile_supported():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if product_error() < MAX_ERROR:
        return True
    torch.set_float32_matmul_precision(before)
    return False


def num_cores() -> int:
    """Return how many cores this process may use: a job's share of a machine, if known."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_amd() -> bool:
    """Tell whether the processor is AMD's. False where the system does not say."""
    path = Path("/proc/cpuinfo")
    return platform.machine() == "x86_64" and path.exists() and "AuthenticAMD" in path.read_text()


def product_error() -> float:
    """Return the largest error of a float32 product of the encoder's size, over its largest value.

    The factors come from sines: the global generators are left as they are.
    """
    left, right = pattern(256, 384), pattern(384, 384)
    exact = left.double() @ right.double()
    return float(((left @ right).double() - exact).abs().max() / exact.abs().max())


def pattern(rows: int, columns: int) -> Tensor:
    """Return a matrix [rows, columns] that looks random and is always the same."""
    numbers = torch.arange(1, rows * columns + 1, dtype=torch.float64)
    return (numbers**2).sin().float().view(rows, columns)


def device_name(use_gpu: bool, use_amp: bool) -> str:
    """Return the device and its precision, for the line that a run begins with."""
    name = gpu_name() if use_gpu else "CPU"
    count = f"{workers.size()} x " if workers.size() > 1 else ""
    if use_amp:
        return f"{count}{name} in bfloat16 (--no_use_amp: float32)"
    kernel = "" if use_gpu or not use_fastest_float32() else f" by oneDNN ({FLOAT32}=mkl: by MKL)"
    return f"{count}{name} in float32{kernel}"
