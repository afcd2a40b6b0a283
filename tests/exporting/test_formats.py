"""What transformers and sentence-transformers load from an export equals the run's own model."""

import json
from dataclasses import replace
from pathlib import Path

import documentation
import numpy as np
import pytest
import torch
import transformers
from tiny_checkpoints import TYPES
from tokenizers import ByteLevelBPETokenizer, normalizers

import export
from datasets import read_examples, tokenize
from engine import predict_logits
from evaluation import load_run
from exporting import FORMATS
from exporting.obstacles import ENCODER_OBSTACLES, VECTOR_OBSTACLES
from exporting.sentence_transformer import POOLING_KEYS
from models.features import FEATURES, POOLINGS, TRAIN_MODES
from options.export_options import get_args_parser, parse_args
from options.task_table import built_in_tasks
from runtime.errors import InputError
from tasks import Example

ROOT = Path(__file__).resolve().parents[2]
TASKS = built_in_tasks()
TEXTS = [
    "a film to remember",
    "Dull, far too long; is [SEP] or </s> one token?",
    "très bien 🙂 ok",
    " word " * 60,  # cut off
]
PAIRS = [(first, second) for first in TEXTS for second in TEXTS]
# Every pooling, every head, both encodings and both model types.
RUNS = {
    "cross": "--pooling mean",
    "bi": "--pair_encoding bi --pooling max --n_hidden_layers 2",
    "roberta": "--pooling cls --add_layers 1 --n_hidden_layers 1",
    "lora": "--pooling mean --lora_rank 4 --task_scheduler joint",
    "deberta-v2": "--pooling mean",
}
MORE = {name: "--pooling mean" for name in TYPES if name not in RUNS}
SMALL = "--num_batches_per_epoch 1 --batch_size 4 --epochs 1 --dev_samples 4 --no_tensorboard "
SMALL += "--no_test_predictions --max_length 24 --warmup_fraction 0 --lr 0.01"


@pytest.fixture(scope="module")
def tiny_roberta(tmp_path_factory, few_rows) -> Path:
    """A directory with a random RoBERTa of two layers, and a byte-level BPE vocabulary."""
    directory = tmp_path_factory.mktemp("tiny-roberta")
    tokenizer = ByteLevelBPETokenizer()
    specials = ["</s>", "<pad>", "<s>", "<unk>", "<mask>"]  # not in the published order
    texts = (few_rows / "sst-sentiment-train.csv").read_text().splitlines()
    tokenizer.train_from_iterator(
        texts, vocab_size=400, special_tokens=specials, show_progress=False
    )
    tokenizer.save_model(str(directory))
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        initializer_range=0.2,
    )
    transformers.RobertaModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_roberta, tiny_checkpoint, few_rows, tmp_path_factory):
    """finished(name, flags) -> the directory of that run of `RUNS` or `MORE`, trained once."""
    import train_multitask
    import train_multitask_pal
    from options.parsing import parse_args as parse_training

    logdir = tmp_path_factory.mktemp("runs")

    def run(name: str, flags: str = "") -> Path:
        if not (logdir / name).exists():
            model = tiny_roberta if name == "roberta" else tiny_model
            model = tiny_checkpoint(name) if name in TYPES else model
            entry = train_multitask_pal if "lora" in name else train_multitask
            words = f"{flags or (RUNS | MORE)[name]} {SMALL} --model_name {model} "
            words += f"--data_dir {few_rows} --logdir {logdir} --run_name {name}"
            entry.main(parse_training(entry.get_args_parser(), words.split()))
        return logdir / name

    return run


@pytest.fixture
def exported(tmp_path):
    """exported(run, format, *flags) -> the directory that the command has written."""

    def write(run: Path, name: str, *flags: str) -> Path:
        words = ["--run", run, "--to", tmp_path / name, "--format", name, *flags]
        export.main(parse_args(get_args_parser(), [str(word) for word in words]))
        return tmp_path / name

    return write


def own_logits(run: Path, name: str, texts: list[tuple[str, ...]]) -> np.ndarray:
    """Return the run's own logits [N, C], in float32."""
    found = load_run(run)
    model, tokenizer, args = found.model, found.tokenizer, found.args
    examples = [Example(str(i), parts, None) for i, parts in enumerate(texts)]
    rows = tokenize(args, args.tasks[name], examples, tokenizer, model.encoder.config.pad_token_id)
    return predict_logits(model, rows, use_amp=False)


SOME_AND_SLOW = [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]


@pytest.mark.parametrize("name", SOME_AND_SLOW)
def test_hidden_states_equal_those_of_auto_model(finished, exported, name):
    source = load_run(finished(name))
    folder = exported(source.directory, "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    length = source.model.encoder.config.max_tokens
    for texts in (TEXTS, PAIRS):
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        source.tokenizer.enable_truncation(length)
        source.tokenizer.enable_padding(pad_id=source.model.encoder.config.pad_token_id)
        ours = source.tokenizer.encode_batch(texts)
        assert batch["input_ids"].tolist() == [encoding.ids for encoding in ours]
        types = torch.tensor([encoding.type_ids for encoding in ours])
        with torch.no_grad():
            expected = reference.eval()(**batch).last_hidden_state
            found = source.model.encoder(batch["input_ids"], batch["attention_mask"], types)
        is_token = batch["attention_mask"] == 1
        assert (found.last_hidden_state - expected)[is_token].abs().max() < 1e-5
    assert length == tokenizer.model_max_length <= 130
    has_no_types = ("roberta", "deberta-v2", "modernbert", "mpnet", "distilbert")
    assert ("token_type_ids" in batch) == (name not in has_no_types)
    if name == "roberta":
        ids = reference.config.bos_token_id, reference.config.eos_token_id
        assert ids == (2, 0) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_the_tokenizer_is_taken_as_it_is(finished_run, tmp_path):
    """transformers does not build one of its own, and a prediction's truncation stays here."""
    source = load_run(finished_run)
    source.tokenizer.normalizer = normalizers.Sequence([])  # keeps capitals
    source.tokenizer.enable_truncation(3)
    FORMATS["transformers"](source).write(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = source.tokenizer.encode("A Film Très").ids
    assert tokenizer("A Film Très")["input_ids"] == ids
    assert (
        len(ids) > 3 and json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None
    )


@pytest.mark.parametrize("name", SOME_AND_SLOW)
def test_sentence_transformer_encodes_what_the_heads_read(finished, exported, name):
    from sentence_transformers import SentenceTransformer

    source = load_run(finished(name))
    folder = exported(source.directory, "sentence-transformers")
    model = SentenceTransformer(str(folder), device="cpu")
    assert (model.max_seq_length, model.similarity_fn_name) == (24, "cosine")
    examples = [Example(text, (text,), None) for text in TEXTS]
    pad_token_id = source.model.encoder.config.pad_token_id
    rows = tokenize(source.args, source.args.tasks["sst"], examples, source.tokenizer, pad_token_id)
    with torch.no_grad():
        expected, _ = source.model.prefix(rows.task, rows.batch(np.arange(len(TEXTS))))
    np.testing.assert_allclose(model.encode(TEXTS), expected.numpy(), atol=1e-5)


def test_cosine_of_a_bi_encoder_is_its_own_score(finished, exported):
    from sentence_transformers import SentenceTransformer

    run = finished("bi")
    folder = exported(run, "sentence-transformers", "--normalize")
    model = SentenceTransformer(str(folder), device="cpu")
    first, second = (model.encode(list(texts)) for texts in zip(*PAIRS))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    cosines = model.similarity_pairwise(first, second).numpy()
    own = own_logits(run, "sts", PAIRS)[:, 0]
    assert own.std() > 0.1
    np.testing.assert_allclose(5 * cosines, own, atol=1e-5)
    np.testing.assert_allclose(5 * (first * second).sum(axis=1), own, atol=1e-5)


@pytest.mark.parametrize("name", [*(name for name in SOME_AND_SLOW if name != "bi")])
def test_cross_encoders_predict_the_logits_of_every_head(finished, exported, name):
    from sentence_transformers import CrossEncoder

    run = finished(name)
    folder = exported(run, "cross-encoder")
    assert sorted(path.name for path in folder.iterdir()) == sorted(TASKS)
    for task in TASKS.values():
        model = CrossEncoder(str(folder / task.name), device="cpu")
        assert model.num_labels == task.num_outputs
        expected = own_logits(run, task.name, PAIRS if task.is_pair else [(t,) for t in TEXTS])
        if task.is_pair:
            found = model.predict(PAIRS)[:, None]
        else:
            found = np.stack([model.predict(text) for text in TEXTS])
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_low_rank_updates_of_each_task_are_merged_for_its_head(finished, exported, one_line):
    from sentence_transformers import CrossEncoder

    flags = "--task_scheduler joint --lora_rank 4 --lora_per_task"
    run = finished("lora_per_task", flags)
    message = one_line(exported, run, "transformers")
    assert "its low-rank updates make another encoder for each task" in message
    folder = exported(run, "cross-encoder")
    for name in ("para", "sts"):
        found = CrossEncoder(str(folder / name), device="cpu").predict(PAIRS)
        np.testing.assert_allclose(found, own_logits(run, name, PAIRS)[:, 0], atol=1e-5)


def test_one_head_is_the_directory_itself(finished, exported):
    """Its hidden layers become modules, and its config names the classes."""
    from sentence_transformers import CrossEncoder

    run = finished("bi")
    folder = exported(run, "cross-encoder", "--task", "sst")
    model = CrossEncoder(str(folder), device="cpu")
    names = [type(module).__name__ for module in model]
    assert names == ["Transformer", "Pooling", "Dense", "Dense", "Dense"]
    assert model.config.id2label[4] == TASKS["sst"].class_names[4]
    expected = own_logits(run, "sst", [(text,) for text in TEXTS])
    np.testing.assert_allclose([model.predict(t) for t in TEXTS], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["para", "sts"])
def test_heads_of_two_vectors_are_no_cross_encoder(finished, exported, one_line, name):
    message = one_line(exported, finished("bi"), "cross-encoder", "--task", name)
    assert f"head of task {name} reads two sentence vectors (--pair_encoding bi)" in message


@pytest.mark.parametrize("obstacle", ENCODER_OBSTACLES + VECTOR_OBSTACLES, ids=lambda o: o.flags)
def test_what_a_format_cannot_hold_is_refused(finished_run, parse, obstacle, one_line):
    source = load_run(finished_run)
    args = parse("train_multitask_pal.py", *obstacle.flags.split())
    for name, kind in FORMATS.items():
        task = [args.tasks["sst"]] if name == "cross-encoder" else []
        held = kind(replace(source, args=args), *task)
        if obstacle not in kind.obstacles:
            held.check()
            continue
        message = one_line(held.check)
        assert f"--format {name} cannot hold this run's model: {obstacle.reason}; " in message


def test_every_part_between_encoder_and_head_is_held_or_refused(parse):
    """A new pooling, extension or train mode has to be put in one of the two places."""
    assert POOLING_KEYS.keys() == POOLINGS.keys()
    wishes = [f"--extension {name}" for name in FEATURES if name != "none"]
    wishes += [f"--train_mode {name}" for name in TRAIN_MODES if name != "last_hidden_state"]
    for flags in wishes:
        args = parse(*flags.split())
        assert any(o.stands(args) for o in ENCODER_OBSTACLES + VECTOR_OBSTACLES), flags
    assert not any(o.stands(parse()) for o in ENCODER_OBSTACLES + VECTOR_OBSTACLES)


def test_an_encoder_with_other_weights_is_refused(finished_run, one_line):
    source = load_run(finished_run)
    source.model.encoder.layer[0].intermediate.bias = None
    message = one_line(FORMATS["transformers"](source).check)
    assert "its encoder has other weights than a published one" in message


def test_padding_needs_a_token(finished_run, one_line):
    source = load_run(finished_run)
    source.model.encoder.config.pad_token_id = source.model.encoder.config.vocab_size
    message = one_line(FORMATS["transformers"](source).tokenizer_config)
    assert "its tokenizer has no token of id" in message


def test_a_run_of_the_sample_keeps_its_dev_score(finished_run, exported):
    """From its own dev file to its own score, through the exported directory alone."""
    from sentence_transformers import CrossEncoder

    folder = exported(finished_run, "cross-encoder", "--task", "para")
    args = load_run(finished_run).args
    examples = read_examples(Path(args.data_dir) / "quora-paraphrase-dev.csv", TASKS["para"])
    logits = CrossEncoder(str(folder), device="cpu").predict([e.texts for e in examples])
    labels = np.array([example.label for example in examples])
    metrics = json.loads((finished_run / "metrics-dev.json").read_text())["metrics"]
    assert ((logits > 0) == labels).mean() == pytest.approx(metrics["para"]["accuracy"])


def test_a_task_that_the_run_lacks(finished_run, exported):
    with pytest.raises(InputError, match="--task cola: this run was trained on sst, para, sts"):
        exported(finished_run, "cross-encoder", "--task", "cola")


def test_the_python_examples_of_the_page_run(finished_run, tmp_path, monkeypatch):
    page = ROOT / "docs" / "export.md"
    commands = [
        c for c in documentation.commands() if c.page == page.name and c.kind == "export.py"
    ]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        args = parse_args(get_args_parser(), list(command.flags))
        if args.push is None:
            args.run = str(finished_run)
            export.main(args)
    examples = documentation.blocks(page, "python")
    assert len(examples) == 2
    for example in examples:
        exec(example, {})
