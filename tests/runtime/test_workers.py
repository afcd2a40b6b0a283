"""Data parallelism: two processes under torchrun against one, and what a dead worker leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import parallel_worker
import pytest
import torch

from datasets import read_examples
from options.task_table import built_in_tasks
from runtime import checkpoint

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "data" / "sample"
WORKER = ROOT / "tests" / "parallel_worker.py"
JOINT, PAL = "train_multitask.py", "train_multitask_pal.py"
SMART = "--use_smart_regularization --smart_radius .1"
CASES = {
    "plain": (JOINT, ""),
    "uneven": (JOINT, "--batch_size 7"),
    "fewer_rows_than_workers": (JOINT, "--batch_size 1"),
    "bi": (JOINT, "--pair_encoding bi --batch_size 5"),
    "hierarchical": (JOINT, "--extension hierarchical --segment_length 8 --batch_size 5"),
    "frozen": (JOINT, "--option pretrain --batch_size 5"),
    "bfloat16": (JOINT, "--use_amp --batch_size 5"),
    "pcgrad": (PAL, "--projection pcgrad --micro_batch_size 3"),
    "vaccine": (PAL, "--projection vaccine --vaccine_groups layer --batch_size 5"),
    "sophiah": (PAL, "--optimizer sophiah --hess_interval 5 --micro_batch_size 5"),
    "smart": (PAL, f"{SMART} --smart_mu 1 --batch_size 5"),
    "pal": (PAL, "--use_pal --task_scheduler pal --projection pcgrad --combine_strategy force "
            "--batches_per_update 5 --batch_size 3"),
    "micro": (JOINT, "--micro_batch_size 3"),
    "gradnorm": (PAL, "--loss_weighting gradnorm --projection fairgrad --batch_size 5"),
    "lora": (PAL, f"--lora_rank 4 --projection vaccine {SMART} --micro_batch_size 3"),
    "lora_per_task": (PAL, "--lora_rank 4 --lora_per_task --gradient_checkpointing --batch_size 5"),
    "recipe": (PAL, "--rdrop_weight 1 --average_weights .9 --layer_decay .8 --batch_size 5"),
    "all": (PAL, f"--use_pal --projection vaccine --optimizer sophiah {SMART} --batch_size 5"),
}  # fmt: skip
SLOW_CASES = {  # on the bundled encoder alone
    "class_weights": (JOINT, "--class_weights --batch_size 5"),
    "smart_bi": (PAL, f"{SMART} --pair_encoding bi --micro_batch_size 3"),
    "uncertainty": (PAL, "--loss_weighting uncertainty --micro_batch_size 3"),
    "famo": (PAL, f"--loss_weighting famo --projection pcd {SMART} --micro_batch_size 3"),
    "imtl_l": (PAL, "--loss_weighting imtl_l --task_scheduler joint --batch_size 7"),
    "rlw": (PAL, "--loss_weighting rlw --batch_size 5"),
    "famo_joint": (PAL, "--loss_weighting famo --task_scheduler joint --use_pal --batch_size 5"),
}
RUNS = [("whole", "whole"), ("resumed", "resumed"), ("resumed", "resumed_in_evaluation")]
COMMON = "--batch_size 8 --epochs 1 --num_batches_per_epoch 20 --no_tensorboard --dev_samples 16 "
COMMON += "--no_test_predictions --warmup_fraction 0 "


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def torchrun(*command: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*TORCHRUN, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        **options,
    )


def in_float32(flags: str) -> str:
    """Return a case's flags with a precision, which does not depend on the processor."""
    return flags if "--use_amp" in flags else f"{flags} --no_use_amp"


def contents(directory: Path, model: object, data: Path, is_fast: bool = True) -> dict:
    flags = f"{COMMON} --model_name {model} --data_dir {data} --logdir {directory}".split()
    cases = {
        name: ("case", script, f"{in_float32(own)} --hidden_dropout_prob 0".split())
        for name, (script, own) in (CASES if is_fast else SLOW_CASES | CASES).items()
    }
    for kind, name in RUNS:
        own = "--epochs 2 --num_batches_per_epoch 4 --projection pcgrad --no_use_amp".split()
        cases[name] = (kind, PAL, own)
    cases["drifted"] = ("drifted", JOINT, ["--no_use_amp"])
    return {"flags": flags, "cases": cases}


@pytest.fixture(scope="module")
def results(tiny_model, few_rows, tmp_path_factory) -> tuple[dict, dict]:
    """What one process and two find, on all cases."""
    alone = parallel_worker.run_all(contents(tmp_path_factory.mktemp("1"), tiny_model, few_rows))
    directory = tmp_path_factory.mktemp("2")
    (directory / "cases.json").write_text(json.dumps(contents(directory, tiny_model, few_rows)))
    done = torchrun(WORKER, directory / "out.pt", directory / "cases.json")
    assert done.returncode == 0, done.stderr[-3000:]
    return alone, torch.load(directory / "out.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_two_workers_do_what_one_does(name, results):
    alone, both = (result[name] for result in results)
    assert alone["first"].keys() == both["first"].keys()
    has = {"losses", "examples"} | ({"J"} if CASES[name][1].count("projection") else set())
    assert has <= both["first"].keys()
    # bfloat16 keeps 8 bits: a gradient's two sums are each rounded to 4e-3 of a value. SMART's
    # ascent divides by a small change of the outputs, and so enlarges their rounding.
    first, later, last = (4e-3, 2e-2, 5e-2) if name == "bfloat16" else (1e-6, 1e-4, 1e-5)
    first = 1e-5 if "smart" in CASES[name][1] else first
    for key, expected in alone["first"].items():
        difference = (both["first"][key].double() - expected.double()).norm()
        assert difference <= first * expected.double().norm(), key
    torch.testing.assert_close(both["losses"], alone["losses"], rtol=later, atol=later)
    for task, logits in alone["logits"].items():
        assert (both["logits"][task] - logits).abs().max() <= last, task


@pytest.mark.parametrize("run, update", [("resumed", 7), ("resumed_in_evaluation", 4)])
def test_a_resumed_run_of_two_workers_ends_with_the_same_bits(results, run, update):
    """A worker's wish to stop reaches all with the next sum, be it of gradients or of votes."""
    _, both = results
    assert both[run]["stopped_at"] == update
    for name, tensor in both["whole"]["weights"].items():
        assert torch.equal(both[run]["weights"][name], tensor), name


def test_no_thread_of_the_group_outlives_it(results):
    """It would hold tensors, and abort a process that ends before it has let them go."""
    _, both = results
    assert not [name for name in both["threads"] if "gloo" in name], both["threads"]


def test_weights_that_differ_are_noticed(results):
    alone, both = (result["drifted"]["messages"] for result in results)
    assert alone == ["", ""]
    assert both[0] == "" and both[1].startswith("the weights of workers [1] differ from worker 0")


def test_dropout_differs_between_workers(results):
    """Each worker has a generator of its own."""
    _, both = results
    first, second = both["whole"]["random"]
    assert not torch.equal(first, second)


def test_the_entry_script_under_torchrun_writes_one_run(tiny_model, few_rows, tmp_path):
    flags = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} --run_name both"
    flags += " --num_batches_per_epoch 3 --batch_size 4 --epochs 1"
    done = torchrun("train_multitask.py", *flags.split())
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("best checkpoint, epoch 1") == 1
    [line] = (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["examples"] == {name: 12 for name in TASKS}
    events = list((tmp_path / "both" / "tensorboard").iterdir())
    assert len(events) == 2  # torch writes hyper-parameters to a file of their own
    for task in TASKS.values():
        examples = read_examples(few_rows / f"{task.stem}-dev.csv", task)
        path = tmp_path / "both" / "predictions" / f"{task.stem}-dev-output.csv"
        ids = [row.split("\t")[0] for row in path.read_text().splitlines()[1:]]
        assert ids == [example.id for example in examples]


def test_evaluation_is_sharded_and_equal(tiny_model, tmp_path, finished_run):
    """Predictions of a run's weights, from one process and from two, four batches per task."""
    flags = f"--model_name {tiny_model} --data_dir {SAMPLE} --logdir {tmp_path} --run_name both"
    flags += f" --checkpoint {finished_run}/checkpoints/best.pt --num_batches_per_epoch 1"
    flags += " --epochs 1 --lr 1e-30 --weight_decay 0 --no_tensorboard --no_use_amp"
    import train_multitask
    from options.parsing import parse_args

    done = torchrun("train_multitask.py", *flags.split())
    assert done.returncode == 0, done.stderr[-3000:]
    alone = flags.replace("--run_name both", "--run_name alone").split()
    train_multitask.main(parse_args(train_multitask.get_args_parser(), alone))
    for task in TASKS.values():
        name = f"predictions/{task.stem}-test-output.csv"
        both, one = ((tmp_path / run / name).read_text().splitlines() for run in ("both", "alone"))
        assert len(both) == len(one) == 201
        for line, other in zip(both[1:], one[1:]):
            (name, value), (other_name, other_value) = line.split("\t"), other.split("\t")
            assert name == other_name
            assert abs(float(value) - float(other_value)) <= (task.label_type is float) * 1e-4


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--data_dir nowhere", "nowhere"),
        ("--batch_size 0", "argument --batch_size"),
        ("--use_gpu", "torch finds no CUDA device"),
    ],
)
def test_two_workers_report_one_error(flags, message, tiny_model):
    done = torchrun("train_multitask.py", "--model_name", tiny_model, *flags.split())
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and message in done.stderr


def test_sigterm_to_torchrun_saves_once_for_all(tiny_model, few_rows, tmp_path):
    """As a time limit or a preemption sends it."""
    flags = f"{COMMON} --model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path}"
    command = [*TORCHRUN, "train_multitask.py", *flags.split(), "--epochs", "500"]
    with subprocess.Popen(
        [*command, "--run_name", "stopped"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGTERM)
                break
        _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    [line] = [line for line in err.splitlines() if line.startswith("stopped by ")]
    resume = f"torchrun --nproc_per_node 2 {ROOT}/train_multitask.py --resume {tmp_path}/stopped"
    assert f"saved; resume with: {resume}" in line
    progress = checkpoint.load(tmp_path / "stopped" / "checkpoints" / "last.pt")["progress"]
    assert progress["total_updates"] >= 40


def test_a_dead_worker_ends_the_job_with_one_message(tiny_model, few_rows, tmp_path):
    flags = f"{COMMON} --model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path}"
    flags += " --run_name dead --save_every 1"
    done = torchrun(WORKER, "--die", *flags.split())
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a worker of this job has ended" in line
    assert f"--nproc_per_node 2 {ROOT}/train_multitask.py --resume {tmp_path}/dead" in line
    assert (tmp_path / "dead" / "checkpoints" / "last.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("plain", "uneven", "micro", "pcgrad", "vaccine", "sophiah", "smart", "pal"),
        "gradnorm",
        *SLOW_CASES,
    ],
)
def test_two_workers_do_what_one_does_on_the_bundled_encoder(name, tmp_path, few_rows):
    content = contents(tmp_path, "minilm-l6", few_rows, is_fast=False)
    content["cases"] = {name: content["cases"][name]}
    (tmp_path / "cases.json").write_text(json.dumps(content))
    done = torchrun(WORKER, tmp_path / "out.pt", tmp_path / "cases.json")
    assert done.returncode == 0, done.stderr[-3000:]
    content["flags"] += ["--logdir", str(tmp_path / "alone")]
    alone = parallel_worker.run_all(content)[name]
    both = torch.load(tmp_path / "out.pt", weights_only=True)[name]
    # SMART's ascent divides by a small change of the outputs, and so enlarges their rounding.
    tolerance = 1e-5 if "smart" in (CASES | SLOW_CASES)[name][1] else 1e-6
    for key, expected in alone["first"].items():
        difference = (both["first"][key].double() - expected.double()).norm()
        assert difference <= tolerance * expected.double().norm(), key
    for task, logits in alone["logits"].items():
        assert (both["logits"][task] - logits).abs().max() <= 1e-5, task
