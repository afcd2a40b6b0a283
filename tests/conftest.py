"""Fixtures: a tiny BERT checkpoint as transformers writes it, and the generated sample files."""

import os
import shutil
import signal
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import offline  # noqa: F401
import pytest
import torch
from small_wordnet import no_wordnet, tiny_wordnet  # noqa: F401
from tiny_checkpoints import write_checkpoint
from tqdm import tqdm
from transformers import BertConfig, BertModel

from datasets import SPLITS, read_examples
from options.task_table import built_in_tasks
from runtime.errors import InputError

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample"
ON_GPU = "MULTITASK_BERT_TEST_GPU"  # set to 1, runs that a test starts in its process use the GPU


def pytest_configure() -> None:
    torch.set_num_threads(1)  # tiny models: a second thread only waits
    os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too
    # A shell that starts the tests in the background may ignore these, and a run would, too.
    for signum, handler in (signal.SIGINT, signal.default_int_handler), (
        signal.SIGHUP,
        signal.SIG_DFL,
    ):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)
    tqdm.monitor_interval = 0  # its thread would get the signals that a test holds back


@pytest.fixture(scope="session", autouse=True)
def float32() -> Iterator[None]:
    """Let the tests run in float32 on every processor; those of bfloat16 ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("options.resolving.prefers_bfloat16", lambda kind: False)
        yield


def sample_words() -> list[str]:
    """The words of the sample's training files."""
    words: dict[str, None] = {}
    for task in TASKS.values():
        for example in read_examples(SAMPLE / f"{task.stem}-train.csv", task):
            words |= dict.fromkeys(" ".join(example.texts).lower().split())
    return [word for word in words if word.isalpha() and word.isascii()]


def sample_vocabulary() -> list[str]:
    """Special tokens, letters as pieces, and the words of the sample."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [f"##{letter}" for letter in letters]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys(specials + letters + pieces + sample_words()))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A directory with a random BERT of two layers, H = 32, and a WordPiece vocabulary."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = sample_vocabulary()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def some_rows(tmp_path_factory) -> Path:
    """The nine files with 120 rows each for training, forty for dev and for test."""
    directory = tmp_path_factory.mktemp("some-rows")
    for path in SAMPLE.glob("*.csv"):
        count = 120 if path.stem.endswith("-train") else 40
        lines = path.read_bytes().splitlines(keepends=True)[: 1 + count]
        (directory / path.name).write_bytes(b"".join(lines))
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """tiny_checkpoint(model_type) -> a directory with a random encoder of that type."""
    made: dict[str, Path] = {}

    def make(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = tmp_path_factory.mktemp(model_type)
            write_checkpoint(model_type, made[model_type], sample_words())
        return made[model_type]

    return make


@pytest.fixture
def parse(tiny_model, some_rows, tmp_path):
    """Options of an entry script from flags, on the tiny encoder and some rows, in tmp_path."""
    import train_multitask
    import train_multitask_pal
    from options.parsing import parse_args

    def parse_flags(*flags: object) -> Namespace:
        is_pal = flags[:1] == ("train_multitask_pal.py",)
        flags = flags[is_pal:]
        get_args_parser = (train_multitask_pal if is_pal else train_multitask).get_args_parser
        defaults = ["--model_name", tiny_model, "--data_dir", some_rows]
        defaults += ["--logdir", tmp_path / "runs"]
        resumed = "--resume" in flags or "--hpo_resume" in flags
        words = [*(defaults * (not resumed)), *flags]
        words += ["--use_gpu"] * (os.environ.get(ON_GPU) == "1")
        return parse_args(get_args_parser(), [str(word) for word in words])

    return parse_flags


@pytest.fixture
def train(parse):
    """Run entry 1 in this process on tiny sizes; returns its run directory.

    Entry 2 if its name is the first argument.
    """
    import train_multitask

    def run(*flags: object) -> Path:
        args = parse(*flags)
        train_multitask.main(args)
        return Path(args.resume or args.run_dir)

    return run


@pytest.fixture(scope="session")
def finished_run(tiny_model, some_rows, tmp_path_factory) -> Path:
    """A run of one short epoch on the tiny encoder; shared, so look but do not touch."""
    import train_multitask
    from options.parsing import parse_args

    logdir = tmp_path_factory.mktemp("finished")
    flags = f"--model_name {tiny_model} --data_dir {some_rows} --logdir {logdir} --run_name done"
    flags += " --num_batches_per_epoch 2 --batch_size 4 --epochs 1 --dev_samples 8 --no_tensorboard"
    train_multitask.main(parse_args(train_multitask.get_args_parser(), flags.split()))
    return logdir / "done"


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    """A copy of the finished run that may be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "logs" / "done"))


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory) -> Path:
    """The nine files with twenty rows each, for runs whose data does not matter."""
    directory = tmp_path_factory.mktemp("few-rows")
    for path in SAMPLE.glob("*.csv"):
        lines = path.read_bytes().splitlines(keepends=True)[:21]
        (directory / path.name).write_bytes(b"".join(lines))
    return directory


@pytest.fixture
def data_copy(tmp_path) -> Path:
    """A writable copy of the nine sample files."""
    directory = tmp_path / "data"
    directory.mkdir()
    for task in TASKS.values():
        for end in SPLITS.values():
            name = f"{task.stem}-{end}.csv"
            (directory / name).write_bytes((SAMPLE / name).read_bytes())
    return directory


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB; needs to be root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def sizes():
    """Arguments of our BertConfig and of transformers' ones."""
    return {
        "vocab_size": 400,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    }


@pytest.fixture(scope="session")
def make_batch():
    """make_batch(lengths, vocab_size, ...) -> random ids and types of these lengths, padded."""

    def make(lengths, vocab_size, pad_token_id=0, num_types=2):
        generator = torch.Generator().manual_seed(1)
        shape = len(lengths), max(lengths)
        mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        ids = torch.randint(5, vocab_size, shape, generator=generator)
        return {
            "input_ids": torch.where(mask == 1, ids, pad_token_id),
            "attention_mask": mask,
            "token_type_ids": torch.randint(num_types, shape, generator=generator) * mask,
        }

    return make


@pytest.fixture(scope="session")
def one_line():
    """one_line(call, *arguments) -> the message of the InputError that it raises: one line."""

    def message_of(call, *arguments):
        with pytest.raises(InputError) as caught:
            call(*arguments)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return message_of
