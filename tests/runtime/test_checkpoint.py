"""Atomic writes, safe reads, exact states."""

import errno
import math
import os
import pickle
import random
import re
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn

from runtime import checkpoint
from runtime.errors import InputError

BEST = {"epoch": 1, "score": 0.5}


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 64 KiB: a write fails as on a full disk."""
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, previous)


def test_a_full_disk_names_the_file_and_keeps_the_last_checkpoint(tmp_path, full_disk):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(3)}})
    with pytest.raises(OSError, match=r"last\.pt: cannot be written: "):
        checkpoint.save(path, {"model": {"w": torch.zeros(300_000)}})
    assert checkpoint.load(path)["model"]["w"].shape == (3,)
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_without_write_permission_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="last.pt: cannot be written: Not a directory"):
        checkpoint.save(tmp_path / "file" / "last.pt", {"model": {}})


class Malicious:
    def __reduce__(self):
        return print, ("code from a pickle was run",)


def foreign_files(directory):
    """name -> content of files that are no checkpoints of ours."""
    checkpoint.save(directory / "whole.pt", {"model": {"w": torch.zeros(1000)}})
    whole = (directory / "whole.pt").read_bytes()
    torch.save({"model": {}}, directory / "other.pt")
    torch.save({"format": checkpoint.FORMAT, "model": Malicious()}, directory / "evil.pt")
    return {
        "empty": b"",
        "text": b"not a checkpoint",
        "truncated": whole[: len(whole) // 2],
        "cut by one byte": whole[:-1],
        "pickle": pickle.dumps(Malicious()),
        "of another program": (directory / "other.pt").read_bytes(),
        "code inside": (directory / "evil.pt").read_bytes(),
    }


def test_foreign_and_truncated_files_give_one_line_and_run_no_code(tmp_path, capsys):
    for name, content in foreign_files(tmp_path).items():
        path = tmp_path / "bad.pt"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            checkpoint.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), name
    assert "code from a pickle" not in capsys.readouterr().out
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, BEST | {"model": nn.Linear(2, 3).state_dict()})
    with pytest.raises(InputError, match=r"2 weights do not fit.*\(3, 2\) in the file, \(4, 2\)"):
        checkpoint.load_weights(path, nn.Linear(2, 4))
    with pytest.raises(InputError, match="'0.weight' the first"):
        checkpoint.load_weights(path, nn.Sequential(nn.Linear(2, 3)))
    twin = nn.Linear(2, 3)
    checkpoint.load_weights(path, twin)
    assert torch.equal(twin.weight, checkpoint.load(path)["model"]["weight"])


@pytest.mark.parametrize(
    "name, state, message",
    [
        ("best.pt", {"model": {}, "progress": {}}, "is a last.pt of a run, expected a best.pt"),
        ("best.pt", {"model": {}}, "holds neither a best.pt nor a last.pt"),
        ("a.pt", {"score": 0.5, "epoch": 1}, "holds neither a best.pt nor a last.pt"),
        ("a.pt", {"score": 0.5, "model": {}}, "best.pt: 'epoch' is missing"),
        ("a.pt", BEST | {"score": math.nan, "model": {}}, r"score is nan, expected float in \["),
        ("a.pt", BEST | {"epoch": "1", "model": {}}, "epoch is '1', expected int"),
        ("a.pt", BEST | {"model": [1]}, "model: expected a dict of weights, got a list"),
        (
            "a.pt",
            BEST | {"model": {"weight": 1}},
            "'weight' the first: shape none \\(int\\) in the file",
        ),
        (
            "a.pt",
            BEST | {"model": {"weight": torch.ones(3, 2).half(), "bias": torch.ones(3)}},
            "1 weights do not fit .* float16 in the file",
        ),
        (
            "a.pt",
            BEST | {"model": {"weight": torch.full((3, 2), math.inf), "bias": torch.ones(3)}},
            "holds non-finite weights, 'weight' the first",
        ),
        ("a.pt", BEST | {"model": {"w": torch.ones(1).expand(9)}}, "truncated or not a checkpoint"),
        ("a.pt", BEST | {"model": {"w": nn.Parameter(torch.ones(1))}}, "_rebuild_parameter"),
        ("a.pt", BEST | {"model": {"w": torch.eye(2).to_sparse()}}, "it holds 'torch"),
        ("a.pt", BEST | {"model": {"w": torch.ones(2, device="meta")}}, "it holds 'torch"),
        ("a.pt", BEST | {"model": {"w": torch.ones(2, dtype=torch.cfloat)}}, "ComplexFloatStorage"),
        ("a.pt", BEST | {"model": {"w": bytearray(9)}}, "__builtin__ bytearray"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_are_none_are_refused(tmp_path, one_line, name, state, message):
    checkpoint.save(tmp_path / name, state)
    found = one_line(checkpoint.load_weights, tmp_path / name, nn.Linear(2, 3))
    assert found.startswith(f"{tmp_path / name}: ") and re.search(message, found), found


def test_weights_of_a_last_checkpoint_are_taken_under_another_name(tmp_path):
    model = nn.Linear(2, 3)
    checkpoint.save(tmp_path / "last.pt", {"model": model.state_dict(), "progress": {}})
    twin = nn.Linear(2, 3)
    checkpoint.load_weights(tmp_path / "last.pt", twin)
    assert torch.equal(twin.weight, model.weight)


def test_two_tensors_never_share_their_numbers(tmp_path, one_line):
    """An update in place of one of them would change the other."""
    whole = torch.zeros(4)
    checkpoint.save(tmp_path / "a.pt", {"one": whole, "other": whole[:2]})
    assert "truncated or not a checkpoint" in one_line(checkpoint.load, tmp_path / "a.pt")


@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
        (MemoryError(), "not enough memory to read it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory to read"),
        (EOFError(), "truncated or not a checkpoint"),
    ],
    ids=repr,
)
def test_only_a_damaged_file_is_called_truncated(tmp_path, monkeypatch, one_line, error, message):
    def fail(*_, **__):
        raise error

    checkpoint.save(tmp_path / "a.pt", {})
    monkeypatch.setattr(torch, "load", fail)
    assert message in one_line(checkpoint.load, tmp_path / "a.pt")


def test_only_a_regular_file_is_opened(tmp_path, one_line):
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is a pipe, expected a regular file" in one_line(checkpoint.load, tmp_path / "pipe.pt")
    assert "is a folder, expected a regular file" in one_line(checkpoint.load, tmp_path)


@pytest.mark.parametrize(
    "part, index, value, message",
    [
        ("python", 0, 9, "state with version 9"),
        ("python", 1, [1, 2], "python.1 has 2 entries, expected 625"),
        ("python", 2, "x", "python.2 is 'x', expected a finite number"),
        ("numpy", 0, 0, "numpy.0 is 0, expected a str"),
        ("numpy", 1, ["x"] * 624, "numpy.1.0 is 'x', expected a int"),
        ("numpy", 2, 10**6, r"numpy.2 is 1000000, expected int in \[0, 624\]"),
        ("numpy", 3, 7, "numpy.3 is 7"),
        ("numpy", 4, math.nan, "numpy.4 is nan"),
        ("torch", slice(None), torch.zeros(5), r"torch is \(5,\) torch.float32, expected"),
        ("cuda", slice(None), 5, "cuda is no list of tensors"),
    ],
)
def test_random_states_are_checked_word_by_word(part, index, value, message):
    state = checkpoint.random_state()
    if index == slice(None):
        state[part] = value
    else:
        state[part][index] = value
    with pytest.raises(ValueError, match=message):
        checkpoint.check_random_states([state])
        checkpoint.set_random_state(state)
    with pytest.raises(ValueError, match="state of every worker"):
        checkpoint.check_random_states([])
    checkpoint.check_random_states([checkpoint.random_state()])


def test_random_states_come_back_through_a_file(tmp_path):
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()

    checkpoint.seed_everything(3)
    np.random.randn()  # leaves a cached second Gaussian, which is part of the state
    checkpoint.save(tmp_path / "a.pt", {"random": checkpoint.random_state()})
    expected = draw()
    checkpoint.seed_everything(4)
    assert draw() != expected
    checkpoint.set_random_state(checkpoint.load(tmp_path / "a.pt")["random"])
    assert draw() == expected


@pytest.mark.parametrize("saved, visible", [(2, 1), (1, 4)])
def test_another_number_of_visible_gpus_is_said_where_the_run_uses_one(
    monkeypatch, recwarn, saved, visible
):
    """Counted without a GPU: `torch.cuda.device_count` is a stand-in."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    state = checkpoint.random_state() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * saved}
    checkpoint.set_random_states([state], torch.device("cpu"))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=rf"saved with {saved} visible GPUs, now {visible}"):
        checkpoint.set_random_states([state], torch.device("cuda"))


def test_a_run_that_comes_from_a_machine_without_gpus_is_told_that_once(monkeypatch, recwarn):
    """By `run_directory.resumed_options`, which knows what it ran on."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checkpoint.set_random_states([checkpoint.random_state() | {"cuda": []}], torch.device("cuda"))
    assert not recwarn.list


def test_as_many_visible_gpus_as_then_get_their_states_back_silently(monkeypatch, recwarn):
    restored = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(2)]
    state = checkpoint.random_state() | {"cuda": states}
    checkpoint.set_random_states([state], torch.device("cuda"))
    assert restored == [states] and not recwarn.list
