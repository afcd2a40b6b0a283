"""Every arm of a benchmark computes in the precision that its line names."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import precision, techniques, throughput
from benchmarks.arms import OurArm, ReferenceArm
from benchmarks.memory import peak_memory
from benchmarks.precision import Precision
from benchmarks.setup import kernels_of_a_run, load_rows, open_arm, seconds_of, silent_log
from models.bert_config import BertConfig
from runtime import device
from runtime.errors import InputError

FLOAT32 = Precision("float32", False, "highest")
FAST = Precision("fast_float32", False, "medium")
BFLOAT16 = Precision("bfloat16", True, "medium")
MKL_BFLOAT16 = BFLOAT16._replace(matmul="highest")


@pytest.fixture
def cpu(monkeypatch):
    """Pretend to be AMD's processor, where oneDNN is fast, or Intel's without AMX."""

    def pretend(is_fast: bool, has_bfloat16: bool) -> None:
        device.use_fastest_float32.cache_clear()
        monkeypatch.delenv(device.FLOAT32, raising=False)
        monkeypatch.setattr(device, "is_amd", lambda: is_fast)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(device, "product_error", lambda: 3e-7)

    yield pretend
    device.use_fastest_float32.cache_clear()


@pytest.mark.parametrize(
    "is_fast, has_bfloat16, expected",
    [
        (False, False, [FLOAT32]),
        (True, False, [FLOAT32, FAST]),
        (True, True, [FLOAT32, FAST, BFLOAT16]),
        (False, True, [FLOAT32, MKL_BFLOAT16]),
    ],
)
def test_a_device_has_its_precisions_in_order(cpu, is_fast, has_bfloat16, expected):
    cpu(is_fast, has_bfloat16)
    with FLOAT32.products():
        assert [*precision.device_precisions().values()] == expected
        assert torch.get_float32_matmul_precision() == "highest"  # only looked at
        device.use_fastest_float32()  # a run that follows in the same process
        assert torch.get_float32_matmul_precision() == ("medium" if is_fast else "highest")


@pytest.mark.parametrize(
    "is_fast, has_bfloat16, expected",
    [
        (False, False, FLOAT32),
        (True, False, FAST),
        (True, True, BFLOAT16),
        (False, True, FLOAT32),
    ],
)
def test_the_default_of_a_run_is_one_of_them(cpu, is_fast, has_bfloat16, expected):
    cpu(is_fast, has_bfloat16)
    assert precision.default_precision() == expected


def test_a_gpu_has_a_default_of_its_own(cpu, monkeypatch):
    cpu(True, False)
    monkeypatch.setattr(precision, "gpu_type", lambda: "cuda")
    for is_native, expected in ((False, FLOAT32), (True, MKL_BFLOAT16)):
        monkeypatch.setattr(device, "has_native_bfloat16", lambda kind: is_native)
        monkeypatch.setattr(precision, "has_native_bfloat16", lambda kind: is_native)
        assert precision.default_precision(use_gpu=True) == expected


def test_a_precision_that_the_device_lacks_is_refused(cpu):
    cpu(True, False)
    message = "^--precisions bfloat16: this CPU does not have it, expected float32, fast_float32$"
    with pytest.raises(InputError, match=message):
        precision.chosen_precisions(["float32", "bfloat16"], [])
    assert precision.chosen_precisions(["fast_float32"] * 2, []) == [FAST]
    assert precision.chosen_precisions(None, [FLOAT32]) == [FLOAT32]


def test_the_switch_of_products_is_put_back_even_after_an_error():
    before = torch.get_float32_matmul_precision()
    for chosen in (FLOAT32, FAST):
        with pytest.raises(KeyError), chosen.products():
            assert torch.get_float32_matmul_precision() == chosen.matmul
            raise KeyError
        assert torch.get_float32_matmul_precision() == before


def test_throughput_sets_the_precision_around_every_turn_of_every_arm():
    turns = []

    class Turn:
        def __init__(self, name: str, chosen: Precision) -> None:
            self.label = (name, chosen.name)

        def run(self, updates: list) -> None:
            turns.append((self.label, len(updates), torch.get_float32_matmul_precision()))

    plans = {name: [[{}] * 2, [{}] * 3, [{}] * 3] for name in "ab"}
    multiply = {FLOAT32: 1.0, FAST: 2.0}.__getitem__
    before = torch.get_float32_matmul_precision()
    figures = throughput.measure(plans, [FLOAT32, FAST], Turn, multiply)
    assert torch.get_float32_matmul_precision() == before
    assert all(switch == {"float32": "highest"}.get(p, "medium") for (_, p), _, switch in turns)
    in_turns = [("a", "float32"), ("b", "float32"), ("a", "fast_float32"), ("b", "fast_float32")]
    timed = [label for label, size, _ in turns if size == 3]
    assert timed == in_turns * 2
    for name, rate in (("float32", 1), ("fast_float32", 2)):
        assert figures[name].products.tolist() == [rate] * 2
        assert {arm: len(times) for arm, times in figures[name].seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("arm", [OurArm, ReferenceArm])
@pytest.mark.parametrize("chosen", [FLOAT32, BFLOAT16])
def test_an_arm_computes_its_forward_pass_in_its_precision(
    arm, chosen, tiny_model, few_rows, tmp_path
):
    words = ["--data_dir", str(few_rows), "--model_name", str(tiny_model), "--batch_size", "4"]
    options = throughput.get_args_parser().parse_args(words)
    start = open_arm(options, throughput.common_flags(options, chosen))
    data = load_rows(start, 8)
    more = [silent_log(tmp_path)] if arm is OurArm else []
    built = arm(start, data, *more)
    model = built.training.model if arm is OurArm else built.model
    linear = next(
        module
        for name, module in model.encoder.named_modules()
        if "intermediate" in name and isinstance(module, torch.nn.Linear)
    )
    seen, outside = [], []
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    linear.weight.register_hook(lambda grad: outside.append(torch.is_autocast_enabled("cpu")))
    built.run([{name: np.arange(4) for name in data}])
    assert set(seen) == {chosen.dtype}
    assert outside and not any(outside)  # autocast belongs around the forward pass alone
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_product_rate_is_that_of_the_best_kind_of_product(monkeypatch):
    """Of three shapes, the forward pass takes 4, 1, 1 s, the input's gradient 1 s each."""
    taken = iter([4.0, 1.0, 9.0, 1.0, 1.0, 9.0, 1.0, 1.0, 9.0])
    factors = []

    def seconds(run) -> float:
        factors.append({product.dtype for product in run()})
        return next(taken)

    monkeypatch.setattr(precision, "seconds_of", seconds)
    monkeypatch.setattr(precision, "REPEATS", 1)
    config = BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16)
    rate = precision.product_rate(config, 5, BFLOAT16)
    operations = 2 * 5 * (4 * 8 * 8 + 2 * 8 * 16)
    assert rate == pytest.approx(operations / (4 * 1 + 1 + 1))
    assert factors == [{torch.bfloat16}] * 9


def test_a_processor_is_named_with_its_family_and_model(tmp_path):
    path = tmp_path / "cpuinfo"
    first = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\n"
    path.write_text(first + first.replace("26", "25"))
    assert precision.processor_name(path) == "AMD EPYC (family 26 model 2)"
    path.write_text("model name\t: Some CPU\n")
    assert precision.processor_name(path) == "Some CPU"
    assert precision.processor_name(Path(tmp_path / "nothing"))  # as Python says


def test_a_gpu_has_its_own_precisions(monkeypatch):
    """Without TF32, and bfloat16 from Ampere on; the GPU is a stand-in."""
    for is_native, expected in ((False, [FLOAT32]), (True, [FLOAT32, MKL_BFLOAT16])):
        monkeypatch.setattr(precision, "has_native_bfloat16", lambda kind: is_native)
        assert [*precision.device_precisions(use_gpu=True).values()] == expected
    monkeypatch.setattr(precision, "gpu_name", lambda: "a GPU")
    assert precision.machine(1, use_gpu=True) == f"a GPU, {precision.machine(1)}"
    with pytest.raises(InputError, match="this GPU does not have it, expected float32, bfloat16$"):
        precision.chosen_precisions(["fast_float32"], [], use_gpu=True)


@pytest.fixture
def words(tiny_model, few_rows) -> list[str]:
    return ["--data_dir", str(few_rows), "--model_name", str(tiny_model), "--use_gpu"]


@pytest.mark.parametrize("flag", ["--memory", "--profile"])
def test_what_looks_at_the_cpu_is_refused_on_a_gpu(words, flag):
    with pytest.raises(InputError, match="--memory and --profile look at the CPU"):
        throughput.main(throughput.get_args_parser().parse_args([*words, flag]))


@pytest.mark.parametrize("benchmark", [throughput, techniques])
@pytest.mark.parametrize("flags", [[], ["--precisions", "bfloat16"]])
def test_without_a_gpu_there_is_one_line(words, benchmark, flags, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no CUDA device"):
        benchmark.main(benchmark.get_args_parser().parse_args([*words, *flags]))


@pytest.fixture
def stand_in(monkeypatch) -> list[str]:
    """Pretend that this process computes on a GPU; a list of what is asked of it."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    return calls


def test_seconds_and_memory_of_a_gpu_are_those_of_its_own_work(stand_in):
    assert seconds_of(lambda: stand_in.append("run")) > 0
    assert stand_in == ["wait", "run", "wait"]
    stand_in.clear()
    assert peak_memory(lambda: stand_in.append("run")) == 2.0
    assert stand_in == ["reset", "run"]


def test_both_arms_are_on_the_device_and_ours_has_the_kernels_of_a_run(words, monkeypatch):
    """The meta device stands in for a GPU, on which nothing is computed."""
    monkeypatch.setattr("benchmarks.setup.select_device", lambda use_gpu: torch.device("meta"))
    options = throughput.get_args_parser().parse_args(words[:-1])
    start = open_arm(options, throughput.common_flags(options, FLOAT32))
    data = load_rows(start, 4)
    ours, reference = OurArm(start, data, silent_log("")), ReferenceArm(start, data)
    for model in (ours.training.model, reference.model):
        assert {p.device.type for p in model.parameters()} == {"meta"}
    seen = []
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.deterministic
    for use_gpu in (False, True):
        with kernels_of_a_run(use_gpu):
            now = torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.deterministic
            seen.append(now)
    assert seen == [before, (False, True)]
    assert before == (torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.deterministic)


def test_an_arm_on_a_gpu_is_opened_for_it_and_runs_with_the_kernels_of_a_run(words, monkeypatch):
    options = throughput.get_args_parser().parse_args(words)
    assert open_arm(options, throughput.common_flags(options, FLOAT32)).args.use_gpu
    seen = []
    look = torch.backends.cuda.cudnn_sdp_enabled
    monkeypatch.setattr("benchmarks.arms.run_updates", lambda *_: seen.append(look()))
    arm = OurArm.__new__(OurArm)
    arm.training, arm.log = Namespace(device=torch.device("cuda")), None
    before = look()
    arm.run([])
    assert seen == [False] and look() is before
