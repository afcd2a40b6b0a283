"""Devices and precision. What this machine lacks stands in: no GPU of any kind was ever used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.bert_config import BertConfig
from options import resolving
from reporting import run_log
from runtime import device, startup
from runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# AMD?, AVX512?, AVX512_BF16?, AMX?; are float32 products given to oneDNN, is bfloat16 native,
# does a run without flags compute in it
CPUS = [
    (True, True, True, False, True, True, True),
    (True, True, False, False, True, False, False),
    (True, False, False, False, False, False, False),
    (True, True, True, True, False, True, True),
    (False, True, True, False, False, True, False),
    (False, True, True, True, False, True, True),
    (False, True, False, False, False, False, False),
]


@pytest.fixture
def cpu(monkeypatch):
    """Pretend to be a processor; the precision of products is put back at the end."""

    def pretend(is_amd: bool, has_avx512: bool, has_bfloat16: bool, has_amx: bool) -> None:
        device.use_fastest_float32.cache_clear()
        torch.set_float32_matmul_precision("highest")
        monkeypatch.delenv(device.FLOAT32, raising=False)
        monkeypatch.setattr(device, "is_amd", lambda: is_amd)
        capability = "AVX512" if has_avx512 else "AVX2"
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
        monkeypatch.setattr(device, "product_error", lambda: 3e-7)

    yield pretend
    device.use_fastest_float32.cache_clear()
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def resolved(parse, tiny_model):
    """The options that flags lead to, with what the device decides."""

    def resolve(*flags: object):
        args = parse(*flags)
        resolving.resolve_model_options(args, config_of(tiny_model))
        return args

    return resolve


def config_of(model: Path) -> BertConfig:
    return BertConfig.from_dict(json.loads((model / "config.json").read_text()))


def run_python(code: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


@pytest.mark.parametrize("is_amd, avx512, bfloat16, amx, is_onednn, is_native, is_default", CPUS)
def test_a_processor_decides_how_it_multiplies(
    cpu, is_amd, avx512, bfloat16, amx, is_onednn, is_native, is_default
):
    cpu(is_amd, avx512, bfloat16, amx)
    assert device.use_fastest_float32() is is_onednn
    expected = "medium" if is_onednn else "highest"
    assert torch.get_float32_matmul_precision() == expected
    assert device.has_native_bfloat16("cpu") is is_native
    assert device.prefers_bfloat16("cpu") is is_default


def test_products_that_would_be_rounded_stay_where_they_are(cpu, monkeypatch):
    cpu(True, True, True, False)
    monkeypatch.setattr(device, "product_error", lambda: 2e-3)
    assert not device.use_fastest_float32()
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_environment_variable_leaves_products_to_mkl(cpu, monkeypatch):
    cpu(True, True, True, False)
    monkeypatch.setenv(device.FLOAT32, "mkl")
    assert not device.use_fastest_float32()
    assert "oneDNN" not in device.device_name(use_gpu=False, use_amp=False)


def test_the_product_of_this_machine_is_exact():
    """Measured, in a process of its own, after the choice that `connect` makes."""
    code = (
        "from runtime.device import connect, product_error, MAX_ERROR\n"
        "connect(use_gpu=False)\n"
        "assert product_error() < MAX_ERROR, product_error()\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_a_product_that_is_rounded_exceeds_the_bound():
    """The bound lies between what float32 and what bfloat16 leaves."""
    left, right = device.pattern(256, 384), device.pattern(384, 384)
    product = (left.bfloat16() @ right.bfloat16()).float()
    assert (product - left @ right).abs().max() > 10 * device.MAX_ERROR * product.abs().max()


@pytest.mark.parametrize("capability, is_native", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_from_ampere_on_has_bfloat16(monkeypatch, capability, is_native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(device, "is_amd", lambda: False)  # the GPU decides, not the processor
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert device.has_native_bfloat16("cuda") is is_native
    assert device.prefers_bfloat16("cuda") is is_native
    assert not device.prefers_bfloat16("mps")


def test_a_mac_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "has_mps", lambda: True)
    assert device.select_device(use_gpu=True).type == "mps"
    assert device.select_device(use_gpu=False).type == "cpu"
    assert device.device_name(use_gpu=True, use_amp=False) == "MPS in float32"
    monkeypatch.setattr(device.workers, "size", lambda: 2)
    with pytest.raises(InputError, match="workers cannot share a Mac's GPU"):
        device.select_device(use_gpu=True)


TRAINED_IN_FLOAT64 = [
    ["--projection", "pcgrad"],
    ["--task_scheduler", "joint", "--log_conflicts"],
    ["--task_scheduler", "joint", "--loss_weighting", "famo"],
    ["--use_smart_regularization"],
]


@pytest.mark.parametrize("flags", [["--combined_models"], *TRAINED_IN_FLOAT64], ids=" ".join)
def test_what_a_mac_cannot_do_is_one_line(monkeypatch, parse, tiny_model, flags):
    monkeypatch.setattr(resolving, "gpu_type", lambda: "mps")
    args = parse("train_multitask_pal.py", *flags, "--use_gpu")
    with pytest.raises(InputError, match="needs float64, which MPS lacks"):
        resolving.resolve_options(args, config_of(tiny_model))


@pytest.mark.parametrize("flags", TRAINED_IN_FLOAT64, ids=" ".join)
def test_a_mac_evaluates_what_it_cannot_train(monkeypatch, resolved, flags):
    monkeypatch.setattr(resolving, "gpu_type", lambda: "mps")
    resolved("train_multitask_pal.py", *flags, "--use_gpu")


@pytest.mark.parametrize("is_native, is_default", [(True, True), (True, False), (False, False)])
def test_the_device_decides_the_precision_unless_a_flag_does(
    monkeypatch, recwarn, resolved, is_native, is_default
):
    monkeypatch.setattr(resolving, "has_native_bfloat16", lambda kind: is_native)
    monkeypatch.setattr(resolving, "prefers_bfloat16", lambda kind: is_default)
    assert resolved().use_amp is is_default
    assert resolved("--no_use_amp").use_amp is False
    if is_native:
        assert resolved("--use_amp").use_amp is True
        assert not recwarn.list
    else:
        with pytest.warns(UserWarning, match="CPU has no units for it"):
            assert resolved("--use_amp").use_amp is True


@pytest.mark.parametrize("platform, mib", [("linux", 2048), ("darwin", 2)])
def test_memory_is_counted_in_the_unit_of_the_system(monkeypatch, platform, mib):
    usage = type("Usage", (), {"ru_maxrss": 2 * 2**20})
    monkeypatch.setattr(run_log.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(run_log.sys, "platform", platform)
    assert run_log.peak_memory_mib(torch.device("cpu")) == mib


def test_cores_are_counted_where_a_process_has_no_share_of_its_own(monkeypatch):
    monkeypatch.delattr(device.os, "sched_getaffinity")
    monkeypatch.setattr(device.os, "cpu_count", lambda: 10)
    assert device.num_cores() == 10


def test_both_flags_are_refused(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--use_amp", "--no_use_amp")
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, str(startup.SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
    ],
    ids=str,
)
def test_spinning_is_bounded_unless_the_environment_says_otherwise(variables, expected):
    """In a process of its own, by what torch's OpenMP is going to read."""
    environment = {name: value for name, value in os.environ.items() if name not in SPINNING}
    code = "import os, runtime.startup; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = run_python(code, env=environment | variables)
    assert done.stdout.strip() == str(expected)


def test_cudnn_neither_plans_attention_anew_nor_varies_its_convolutions(monkeypatch):
    """Without a GPU: these are switches alone, which a run on the CPU leaves as they are."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        device.connect(use_gpu=False)
        assert torch.backends.cuda.cudnn_sdp_enabled() and not torch.backends.cudnn.deterministic
        monkeypatch.setattr(device, "select_device", lambda use_gpu: torch.device("cuda"))
        device.connect(use_gpu=True)
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cudnn.deterministic
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("value, is_on_gpu", [("1", True), ("0", False)])
def test_a_variable_puts_the_trainings_of_tests_on_the_gpu(parse, monkeypatch, value, is_on_gpu):
    monkeypatch.setenv("MULTITASK_BERT_TEST_GPU", value)
    assert parse("--epochs", 1).use_gpu is is_on_gpu
