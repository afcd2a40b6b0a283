"""train_multitask.py, end to end on a tiny encoder: its files, its flags, and its errors."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from datasets import SPLITS, read_examples
from evaluation import load_run
from options.task_table import built_in_tasks
from runtime import checkpoint
from runtime.errors import InputError, exit_status

TASKS = built_in_tasks()

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
SMALL = ["--num_batches_per_epoch", "2", "--batch_size", "4", "--epochs", "1"]
SMALL += ["--dev_samples", "8", "--no_test_predictions", "--no_tensorboard"]


def metrics_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_smoketest_writes_a_self_contained_run(train, capsys):
    run = train("--smoketest", "--run_name", "smoke")
    assert {path.name for path in run.iterdir()} == {
        *(
            "args.json",
            "config.json",
            "tokenizer.json",
            "tasks.toml",
            "metrics.jsonl",
            "metrics-dev.json",
        ),
        *("checkpoints", "predictions", "tensorboard"),
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    for task in TASKS.values():
        for split in ("dev", "test"):
            check_prediction_file(run, task, split)
    record = json.loads((run / "args.json").read_text())
    assert record["script"] == "train_multitask.py" and record["seed"] == 0
    assert record["options"]["lr"] == 2e-4 and record["versions"]["torch"]
    [line] = metrics_of(run)
    assert line["updates"] == dict.fromkeys(TASKS, 2) == {name: 2 for name in line["dev"]}
    assert line["examples"] == dict.fromkeys(TASKS, 4)
    out = capsys.readouterr().out
    assert "best checkpoint, epoch 1" in out and "baseline" in out and str(run) in out


def check_prediction_file(run, task, split) -> None:
    """Check the header, that ids are in input order, and that values are in range."""
    path = run / "predictions" / f"{task.stem}-{split}-output.csv"
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter="\t", strict=True)
    assert header == ["id", task.prediction_column]
    source = SAMPLE / f"{task.stem}-{SPLITS[split]}.csv"
    assert [row[0] for row in rows] == [e.id for e in read_examples(source, task)[:8]]
    low, high = task.label_range
    values = [task.label_type(row[1]) for row in rows]
    assert all(low <= value <= high for value in values)


def test_a_run_learns_what_it_is_shown(train, tmp_path, data_copy):
    """Twelve rows per task are learned by heart, which a missing gradient would prevent."""
    for task in TASKS.values():
        for split, end in SPLITS.items():
            path = data_copy / f"{task.stem}-{end}.csv"
            source = data_copy / f"{task.stem}-{'train' if split == 'dev' else end}.csv"
            path.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:13]))
    flags = ["--data_dir", data_copy, "--batch_size", 4, "--num_batches_per_epoch", 120]
    flags += ["--epochs", 1, "--lr", "5e-3", "--hidden_dropout_prob", 0, "--no_tensorboard"]
    run = train(*flags, "--run_name", "a")
    dev = metrics_of(run)[-1]["dev"]
    assert dev["sst"]["accuracy"] > 0.9
    assert dev["para"]["accuracy"] > 0.9
    assert dev["sts"]["pearson"] > 0.9


def test_the_same_seed_gives_the_same_run_and_another_another(train):
    losses = [
        metrics_of(train(*SMALL, "--seed", seed, "--run_name", name))[0]["loss"]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_load_run_gives_back_the_best_model(train, capsys):
    run = train(*SMALL, "--run_name", "a", "--n_hidden_layers", 1, "--add_layers", 1)
    loaded = load_run(run)
    best = checkpoint.load(run / "checkpoints" / "best.pt")["model"]
    found = loaded.model.state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in found.items())
    assert not loaded.model.training and loaded.args.n_hidden_layers == 1
    assert loaded.tokenizer.encode("a film").tokens[0] == "[CLS]"


def test_a_moved_run_still_loads(train):
    run = train(*SMALL, "--run_name", "a")
    run.rename(run.parent / "b")
    args = load_run(run.parent / "b").args
    assert args.predictions_path == str(run.parent / "b" / "predictions")


def test_single_task_training_reads_and_trains_that_task_alone(train, data_copy):
    for task in ("quora-paraphrase", "sts-similarity"):
        for end in SPLITS.values():
            (data_copy / f"{task}-{end}.csv").unlink()
    run = train(*SMALL, "--task", "sst", "--data_dir", data_copy, "--run_name", "a")
    [line] = metrics_of(run)
    assert list(line["dev"]) == list(line["examples"]) == ["sst"]
    assert line["mean"] == line["dev"]["sst"]["accuracy"]


@pytest.mark.parametrize(
    "flags, updates, examples",
    [
        (["--samples_per_epoch", 40], 5, 120),  # 3 · 40 examples in updates of 3 · 8
        (["--num_batches_per_epoch", 3], 3, 72),
        (["--batch_size", 100], 2, 360),  # all training rows
    ],
)
def test_how_long_an_epoch_is(train, flags, updates, examples):
    flags = ["--batch_size", 8, "--epochs", 1, "--dev_samples", 8, *flags]
    run = train(*flags, "--no_test_predictions", "--no_tensorboard", "--run_name", "a")
    [line] = metrics_of(run)
    assert line["update"] == updates
    assert sum(line["examples"].values()) == examples


def frozen_parts(run) -> set[str]:
    """The parts of the model that have the same weights after both runs.

    Args:
        run: two runs that differ in their learning rate only.
    """
    fast, slow = (checkpoint.load(path / "checkpoints" / "last.pt")["model"] for path in run)
    moved = {name for name in fast if not torch.equal(fast[name], slow[name])}
    return {name.split(".")[0] for name in fast} - {name.split(".")[0] for name in moved}


@pytest.mark.parametrize(
    "flag, frozen",
    [([], set()), (["--option", "pretrain"], {"encoder"}), (["--no_train_classifier"], {"heads"})],
)
def test_what_is_frozen_does_not_move(train, flag, frozen):
    flags = [*SMALL, "--hidden_dropout_prob", 0, "--warmup_fraction", 0, *flag]
    runs = [train(*flags, "--lr", lr, "--run_name", f"lr{lr}") for lr in ("1e-2", "1e-5")]
    assert frozen_parts(runs) == frozen


def test_patience_stops_early(train, monkeypatch):
    import training

    monkeypatch.setattr(training, "mean_score", lambda scores: 0.5)  # never better than the first
    flags = [*SMALL, "--epochs", 6, "--patience", 2]
    assert (
        len(metrics_of(train(*flags, "--run_name", "a"))) == 4
    )  # the best one, two that patience allows, the last


def test_task_weights_scale_a_tasks_gradient(train):
    heavy = train(*SMALL, "--task_weights", "sst=1e-12", "--lr", "1e-3", "--run_name", "a")
    plain = train(*SMALL, "--lr", "1e-3", "--run_name", "b")
    assert metrics_of(heavy)[0]["loss"]["para"] != metrics_of(plain)[0]["loss"]["para"]


def test_amp_trains_and_differs_from_float32(train):
    runs = [train(*SMALL, *flag, "--run_name", f"a{len(flag)}") for flag in ([], ["--use_amp"])]
    float32, bfloat16 = (metrics_of(run)[0]["loss"]["sts"] for run in runs)
    assert float32 != bfloat16 and math.isclose(float32, bfloat16, rel_tol=0.05)


def test_paths_may_be_moved_and_the_profiler_writes_a_trace(train, tmp_path, capsys):
    flags = [*SMALL, "--num_batches_per_epoch", 6, "--profiler"]
    flags += ["--filepath", tmp_path / "ckpt", "--predictions_path", tmp_path / "pred"]
    run = train(*flags, "--run_name", "a")
    assert (tmp_path / "ckpt" / "best.pt").is_file()
    assert (tmp_path / "pred" / "sst-sentiment-dev-output.csv").is_file()
    assert not (run / "checkpoints").exists() and not (run / "predictions").exists()
    assert json.loads((run / "profile.json").read_text())["traceEvents"]
    assert "aten::" in capsys.readouterr().out


def test_tensorboard_holds_scalars_hyper_parameters_and_a_figure(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    flags = [flag for flag in SMALL if flag != "--no_tensorboard"]
    script = "train_multitask_pal.py"
    flags += ["--projection", "pcgrad"]
    run = train(script, *flags, "--tensorboard_subfolder", "events", "--run_name", "a")
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    tags = events.Tags()
    expected = {f"loss/{name}" for name in TASKS} | {"dev/mean", "train/learning_rate"}
    expected |= {f"dev_{task.name}/{task.metric_name}" for task in TASKS.values()}
    assert expected | {"final/mean"} <= set(tags["scalars"])
    assert "confusion/sst" in tags["images"]
    assert any("hparams" in tag for tag in events.summary_metadata)
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    shown = [tag for page in layout.category for chart in page.chart for tag in chart.multiline.tag]
    assert expected <= set(shown) <= set(tags["scalars"])  # every chart shows something


def test_a_taken_run_name_is_refused_and_the_run_untouched(train):
    run = train(*SMALL, "--run_name", "a")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(InputError, match="a run of this name exists; choose another --run_name"):
        train(*SMALL, "--run_name", "a")
    with pytest.raises(InputError, match="holds another run's checkpoints"):
        train(*SMALL, "--run_name", "b", "--filepath", run / "checkpoints")
    with pytest.raises(InputError, match="holds another run's predictions; name an empty one"):
        train(*SMALL, "--run_name", "b", "--predictions_path", run / "predictions")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert [path.name for path in run.parent.iterdir()] == ["a"]


def test_bad_data_leaves_no_run_behind(train, data_copy, tmp_path):
    path = data_copy / "sts-similarity-dev.csv"
    with path.open("a", newline="") as file:
        file.write("id1\ta sentence\tanother\t7\r\n")
    with pytest.raises(InputError, match=r"dev.csv:202: column 'similarity' is '7', expected a nu"):
        train(*SMALL, "--data_dir", data_copy)
    assert not (tmp_path / "runs").exists()
    run = train(*SMALL, "--data_dir", data_copy, "--skip_bad_rows", "--run_name", "a")
    assert metrics_of(run)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_number_names_task_and_update_and_keeps_the_last_checkpoint(
    train, monkeypatch, where, tmp_path
):
    import engine

    original, calls = engine.train_step, []

    def poisoned(training, *rest):
        calls.append(1)
        if len(calls) == 3:  # the first update of epoch 2
            bias = training.model.heads["para"].output.bias
            if where == "loss":
                bias.data.fill_(math.inf)
            else:
                bias.register_hook(lambda grad: grad * math.nan)
        return original(training, *rest)

    monkeypatch.setattr(engine, "train_step", poisoned)
    text = "loss of task para is (inf|nan)" if where == "loss" else "gradient norm is nan"
    with pytest.raises(FloatingPointError, match=f"{text} in epoch 2, update 1"):
        train(*SMALL, "--epochs", 2, "--run_name", "a")
    state = checkpoint.load(tmp_path / "runs" / "a" / "checkpoints" / "last.pt")
    assert state["progress"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_use_gpu_without_cuda_is_an_error(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--use_gpu is given, but torch finds no CUDA device"):
        train(*SMALL, "--use_gpu")


def test_max_length_beyond_the_encoder_is_an_error(train):
    with pytest.raises(InputError, match="--max_length is 500, but this encoder has .* 128"):
        train(*SMALL, "--max_length", 500)


def test_exit_status_prints_one_line_for_what_a_user_can_fix(capsys):
    def fail():
        raise InputError("a.csv:3: bad")

    assert exit_status(fail) == 1
    assert capsys.readouterr().err == "error: a.csv:3: bad\n"
    assert exit_status(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)
