"""Tags, augmented rows and class weights in whole runs: in batches, weights and files."""

import json

import numpy as np
import pytest
import torch

import evaluation
from datasets import load_data, read_examples
from evaluation import load_run
from inputs import tags
from inputs.batches import PAIR_ENCODINGS, TokenizedTask
from models import build_model
from models.pretrained import load_config, load_pretrained, load_tokenizer
from options.task_table import built_in_tasks
from tasks import Example
from training import build_training

TASKS = built_in_tasks()

QUICK = ("--num_batches_per_epoch", 2, "--batch_size", 4, "--epochs", 1, "--dev_samples", 8)
QUICK += ("--no_tensorboard", "--no_test_predictions")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTITASK_BERT_CACHE", str(tmp_path / "cache"))


def load(parse, tiny_model, *flags):
    args = parse(*flags)
    config = load_config(tiny_model)
    tokenizer = load_tokenizer(tiny_model, config)
    return args, load_data(args, tokenizer, config.pad_token_id, ("train",))["train"]


@pytest.mark.parametrize("extension", ["none", "hierarchical"])
@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
def test_every_word_piece_has_its_tags_and_step_0_is_the_plain_model(
    parse, tiny_model, few_rows, extension, pair_encoding
):
    pytest.importorskip("spacy")
    flags = ("--data_dir", few_rows, "--pair_encoding", pair_encoding, "--extension", extension)
    args, tagged = load(parse, tiny_model, *flags, "--additional_input")
    for name, rows in tagged.items():
        batch = rows.batch(np.arange(5))
        tags, ids = batch["tag_ids"], batch["input_ids"]
        assert tags.shape == (*ids.shape, 2)
        # Ids below 5 are padding and special tokens. All other pieces lie in a word.
        assert ((tags[..., 0] > 0) == (ids >= 5)).all()
    torch.manual_seed(0)
    model = build_model(args, load_pretrained(str(tiny_model))).eval()
    plain = {key: tensor for key, tensor in batch.items() if key != "tag_ids"}
    assert torch.equal(model(TASKS["sts"], batch), model(TASKS["sts"], plain))
    model.encoder.requires_grad_(False)
    embeddings = model.encoder.inner if extension == "hierarchical" else model.encoder
    embeddings.embeddings.tag_embeddings.requires_grad_(True)
    model(TASKS["sts"], batch).sum().backward()
    assert embeddings.embeddings.tag_embeddings.pos.weight.grad.any()


def test_the_second_run_tags_nothing_and_new_text_is_tagged(
    train, few_rows, monkeypatch, tmp_path, capsys
):
    pytest.importorskip("spacy")
    flags = (*QUICK, "--data_dir", few_rows, "--additional_input")
    first = train(*flags, "--run_name", "first")
    load_pipeline = tags.load_pipeline
    monkeypatch.setattr(tags, "load_pipeline", None)  # an error if it is called
    second = train(*flags, "--run_name", "second")
    name = "predictions/sst-sentiment-dev-output.csv"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    monkeypatch.setattr(tags, "load_pipeline", load_pipeline)
    assert load_run(second).model.encoder.embeddings.tag_embeddings.pos.weight.any()
    text = tmp_path / "text.txt"
    text.write_text("a plain new sentence\n")
    capsys.readouterr()
    flags = ["--run", str(second), "--task", "sst", "--input", str(text)]
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), flags))
    assert capsys.readouterr().out.startswith("sentence\tPredicted_Sentiment")


def test_augmented_rows_are_trained_on_and_counted_apart(parse, tiny_model, few_rows):
    """Pairs are swapped. The length of an epoch and the scheduler's sizes count the file's rows."""
    flags = ("--data_dir", few_rows, "--augment", 1, "--task_scheduler", "pal", "--batch_size", 4)
    args = parse("train_multitask_pal.py", *flags)
    names = [name for name, task in TASKS.items() if task.is_pair]
    args.tasks = {name: TASKS[name] for name in names}
    config = load_config(tiny_model)
    data = load_data(args, load_tokenizer(tiny_model, config), 0, ("train", "dev"))
    for name in names:
        originals = read_examples(few_rows / f"{TASKS[name].stem}-train.csv", TASKS[name])
        rows = data["train"][name]
        assert rows.num_in_file == len(originals) == 20 and len(rows) == 40
        assert rows.labels[20:].tolist() == rows.labels[:20].tolist()
        assert len(data["dev"][name]) == 20
        swapped = Example("x", originals[3].texts[::-1], None)
        tokenizer = load_tokenizer(tiny_model, config)
        expected = TokenizedTask(TASKS[name], [swapped], tokenizer, 0).batch(np.array([0]))
        assert torch.equal(rows.batch(np.array([23]))["input_ids"], expected["input_ids"])
    args.tasks, args.lr = {name: TASKS[name] for name in names}, 1e-3
    model = build_model(args, load_pretrained(str(tiny_model)))
    training = build_training(args, model, data["train"])
    assert training.updates_per_epoch == 20 * len(names) / 4
    assert training.task_scheduler.probabilities.tolist() == [0.5, 0.5]


def test_class_weights_reach_the_training_loss_alone(parse, tiny_model, few_rows):
    args, train_rows = load(parse, tiny_model, "--data_dir", few_rows, "--class_weights")
    logits, labels = torch.zeros(2, 5), torch.tensor([0, 4])
    counts = np.bincount(train_rows["sst"].labels, minlength=5)
    expected = np.log(5) * np.mean([20 / 5 / counts[0], 20 / 5 / counts[4]])
    assert float(train_rows["sst"].task.loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    assert train_rows["para"].task is TASKS["para"]
    _, plain = load(parse, tiny_model, "--data_dir", few_rows)
    assert plain["sst"].task is TASKS["sst"]


def test_combined_models_log_the_mean_gate_weights(train, few_rows):
    run = train(*QUICK, "--data_dir", few_rows, "--combined_models", "--run_name", "mixed")
    [line] = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert len(line["gate"]) == 3 and sum(line["gate"]) == pytest.approx(1)
