"""Tags and augmented rows in whole runs: from the flag to the batch, the weights and the files."""

import numpy as np
import pytest
import torch

from batches import PAIR_ENCODINGS
from datasets import load_data, read_examples
from evaluation import label_text, load_run
from models import build_model, linguistic
from models.bert import BertModel
from models.pretrained import load_config, load_tokenizer
from tasks import TASKS

QUICK = ("--num_batches_per_epoch", 2, "--batch_size", 4, "--epochs", 1, "--dev_samples", 8)
QUICK += ("--no_tensorboard", "--no_test_predictions")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTITASK_BERT_CACHE", str(tmp_path / "cache"))


def load(parse, tiny_model, *flags):
    args = parse(*flags)
    args.tasks = list(TASKS)
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
        # Ids below 5 are padding and specials; every other piece lies in a word of some kind.
        assert ((tags[..., 0] > 0) == (ids >= 5)).all()
    torch.manual_seed(0)
    model = build_model(args, BertModel.from_pretrained(str(tiny_model))).eval()
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
    load_pipeline = linguistic.load_pipeline
    monkeypatch.setattr(linguistic, "load_pipeline", None)  # an error, if it is asked for
    second = train(*flags, "--run_name", "second")
    name = "predictions/sst-sentiment-dev-output.csv"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    monkeypatch.setattr(linguistic, "load_pipeline", load_pipeline)
    model, _, _ = load_run(second)
    assert model.encoder.embeddings.tag_embeddings.pos.weight.any()
    text = tmp_path / "text.txt"
    text.write_text("a plain new sentence\n")
    label_text(str(second), "sst", str(text), use_gpu=False)
    assert "Predicted_Sentiment" in capsys.readouterr().out


def test_augmented_rows_are_trained_on_and_counted_apart(parse, tiny_model, few_rows):
    """Pairs are swapped; the annealed scheduler still goes by the file's rows."""
    flags = ("--data_dir", few_rows, "--augment", 1)
    args = parse(*flags)
    names = [name for name, task in TASKS.items() if task.is_pair]
    args.tasks = names
    config = load_config(tiny_model)
    data = load_data(args, load_tokenizer(tiny_model, config), 0, ("train", "dev"))
    for name in names:
        originals = read_examples(few_rows / f"{TASKS[name].stem}-train.csv", TASKS[name])
        rows = data["train"][name]
        assert rows.num_in_file == len(originals) == 20 and len(rows) == 40
        assert rows.labels[20:].tolist() == rows.labels[:20].tolist()
        assert len(data["dev"][name]) == 20
