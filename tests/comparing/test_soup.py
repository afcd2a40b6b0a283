"""Soups: the mean of weights as a run that works like any other."""

import dataclasses
import json
import shutil

import pytest
import torch

import evaluation
from comparing.finished import read_run
from comparing.soup import Average, shape_of
from evaluation import load_run
from models.pretrained import load_config
from runtime import checkpoint
from runtime.errors import InputError


def weights(run) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints" / "best.pt")["model"]


def is_same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether all bits are equal, the sign of zeros among them."""
    return one.dtype == two.dtype and one.numpy().tobytes() == two.numpy().tobytes()


def evaluate(run) -> None:
    evaluation.main(evaluation.get_args_parser().parse_args(["--run", str(run)]))


@pytest.mark.parametrize("flags", [[1], [3], [3, "--greedy"]])
def test_a_soup_of_one_run_equals_it(runs, command, tmp_path, flags):
    command("--soup", *[runs["a"]] * flags[0], *flags[1:], "--to", "soup")
    soup, own = weights(tmp_path / "soup"), weights(runs["a"])
    assert soup.keys() == own.keys()
    assert all(is_same(soup[name], own[name]) for name in own)
    for name in ("config.json", "tokenizer.json", "tasks.toml", "metrics-dev.json"):
        assert (tmp_path / "soup" / name).read_bytes() == (runs["a"] / name).read_bytes(), name
    for path in (runs["a"] / "predictions").iterdir():
        assert (tmp_path / "soup" / "predictions" / path.name).read_bytes() == path.read_bytes()


def test_a_soup_of_two_runs_is_the_mean_and_a_run_like_any_other(
    runs, train, command, tmp_path, capsys
):
    command("--soup", runs["a"], runs["b"], "--to", "soup")
    out = capsys.readouterr().out
    assert "the soup averages a, b" in out and "minus a  b " in out
    soup, one, two = weights(tmp_path / "soup"), weights(runs["a"]), weights(runs["b"])
    for name, tensor in soup.items():
        assert is_same(tensor, torch.stack([one[name], two[name]]).double().mean(0).float())
    soup = (tmp_path / "soup").rename(tmp_path / "moved")
    written = {path: path.read_bytes() for path in (soup / "predictions").iterdir()}
    scores = json.loads((soup / "metrics-dev.json").read_text())
    evaluate(soup)
    assert {path: path.read_bytes() for path in written} == written
    assert json.loads((soup / "metrics-dev.json").read_text())["metrics"] == scores["metrics"]
    record = json.loads((soup / "args.json").read_text())
    assert record["soup"] == {"runs": [str(runs[n]) for n in "ab"], "greedy": False}
    assert record["options"]["fingerprint"] != load_run(runs["a"]).args.fingerprint
    with pytest.raises(InputError, match="is an average of other runs, which has no training to "):
        train("--resume", soup)
    flags = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --no_tensorboard".split()
    train(*flags, "--checkpoint", soup / "checkpoints" / "best.pt")
    command("--soup", soup, runs["b"], "--to", "again")


def with_heads_times(factor: float, run, folder):
    """A copy of a run whose heads are multiplied by a factor, evaluated again; and its dev mean."""
    copy = shutil.copytree(run, folder)
    state = checkpoint.load(copy / "checkpoints" / "best.pt")
    for name, tensor in state["model"].items():
        if name.startswith("heads."):
            state["model"][name] = factor * tensor
    checkpoint.save(copy / "checkpoints" / "best.pt", state)
    evaluate(copy)
    return json.loads((copy / "metrics-dev.json").read_text())["mean"], copy


def test_a_greedy_soup_leaves_out_what_lowers_the_dev_mean(runs, command, tmp_path, capsys):
    """The mean of weights w and -3 w is -w, which is right wherever w is wrong."""
    signs = [with_heads_times(sign, runs["a"], tmp_path / f"{sign}") for sign in (1, -1)]
    (worse, _), (best, good) = sorted(signs)
    mean, _ = with_heads_times(-3, good, tmp_path / "bad")
    assert max(mean, worse) < best
    capsys.readouterr()
    command("--soup", "--greedy", "bad", good, good, "--to", "soup")
    out = capsys.readouterr().out.splitlines()
    assert f"{good.name} (2): dev mean {best:.4f} with it, {best:.4f} without: kept" in out
    [line] = [line for line in out if line.startswith("bad: dev mean")]
    assert line.endswith(f" with it, {best:.4f} without: left out")
    assert f"the soup averages {good.name}, {good.name} (2)" in out
    own, bad, soup = weights(good), weights(tmp_path / "bad"), weights(tmp_path / "soup")
    assert all(is_same(tensor, own[name]) for name, tensor in soup.items())
    command("--soup", good, "bad", "--to", "uniform")
    uniform = weights(tmp_path / "uniform")
    for name, tensor in uniform.items():
        assert is_same(tensor, torch.stack([own[name], bad[name]]).double().mean(0).float())


def test_averages_keep_whole_numbers_and_bits(runs):
    run = read_run(str(runs["a"]), "a")
    odd = torch.tensor([0.1, -0.0, 1e300, 5e-324], dtype=torch.float64)
    state = {"odd": odd, "half": torch.tensor([0.1]).half(), "count": torch.tensor(3)}
    average = Average(state, run)
    for _ in range(4):
        average = average.with_run(state, run)
    assert all(is_same(tensor, state[name]) for name, tensor in average.state_dict().items())
    for other, message in (
        ({"count": torch.tensor(4)}, "'count' holds other whole numbers"),
        ({"half": torch.zeros(2).half()}, r"'half' is \(2,\) float64, not \(1,\) float64"),
        ({"new": torch.zeros(1)}, "only one of them has 'new'"),
    ):
        with pytest.raises(InputError, match=message):
            average.with_run(state | other, run)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--pooling max", "pooling is max, but mean in .*a, so their weights cannot be averaged"),
        ("--pair_encoding bi", "pair_encoding is bi, but cross"),
        ("--n_hidden_layers 1", "n_hidden_layers is 1, but 0"),
        ("--task sst", "its tasks are sst, not sst, para, sts"),
    ],
)
def test_other_models_and_tasks_are_refused(
    runs, train, few_rows, command, tmp_path, flags, message
):
    words = "--num_batches_per_epoch 1 --batch_size 2 --epochs 1 --no_tensorboard".split()
    other = train(*words, *flags.split(), "--data_dir", few_rows)
    with pytest.raises(InputError, match=message) as caught:
        command("--soup", runs["a"], other, "--to", "soup")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "soup").exists()


def test_other_tokenizers_and_encoders_are_refused(runs, command, tmp_path):
    other = shutil.copytree(runs["b"], tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="other: its tokenizer is not that of .*a, so their wei"):
        command("--soup", runs["a"], other, "--to", "soup")
    config = json.loads((other / "config.json").read_text()) | {"hidden_act": "relu"}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="hidden_act is relu, but gelu in"):
        command("--soup", runs["a"], other, "--to", "soup")


def test_shapes_of_all_kinds_of_encoders_compare(tiny_model, tiny_checkpoint):
    ours, theirs = load_config(tiny_model), load_config(tiny_checkpoint("distilbert"))
    wet = dataclasses.replace(theirs, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    assert shape_of(wet) == shape_of(theirs)
    assert shape_of(ours)["model_type"] != shape_of(theirs)["model_type"]
    deeper = theirs.published | {"n_layers": 5}
    assert shape_of(dataclasses.replace(theirs, published=deeper)) != shape_of(theirs)


def test_low_rank_updates_make_no_soup(runs, command, tmp_path):
    other = shutil.copytree(runs["a"], tmp_path / "other")
    record = json.loads((other / "args.json").read_text())
    record["options"] |= {"script": "train_multitask_pal.py", "lora_rank": 4}
    (other / "args.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="the mean of low-rank updates .* is no update of that"):
        command("--soup", other, "--to", "soup")


def test_a_full_disk_leaves_no_half_soup(runs, command, small_disk):
    with pytest.raises(OSError, match="No space left on device"):
        command("--soup", runs["a"], "--to", small_disk / "soup")
    assert not list(small_disk.iterdir())
