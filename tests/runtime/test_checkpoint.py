"""Atomic writes, safe reads, exact states."""

import pickle
import random
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn

from runtime import checkpoint
from runtime.errors import InputError


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
    checkpoint.save(path, {"model": nn.Linear(2, 3).state_dict()})
    with pytest.raises(InputError, match=r"2 weights do not fit.*\(3, 2\) in the file, \(4, 2\)"):
        checkpoint.load_weights(path, nn.Linear(2, 4))
    with pytest.raises(InputError, match="'0.weight' the first"):
        checkpoint.load_weights(path, nn.Sequential(nn.Linear(2, 3)))
    twin = nn.Linear(2, 3)
    checkpoint.load_weights(path, twin)
    assert torch.equal(twin.weight, checkpoint.load(path)["model"]["weight"])


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
