"""A file of torch.save is looked into before torch reads it."""

import io
import pickle
import zipfile

import pytest
import torch

from runtime import archives
from runtime.archives import check_archive, check_entries


def entries_of(state: object) -> dict[str, bytes]:
    """Return the entries of a file of torch.save."""
    file = io.BytesIO()
    torch.save(state, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pt"


def test_what_torch_writes_is_accepted(path):
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]
        tensors = [torch.ones(3, dtype=dtype, device=device) for dtype in dtypes]
        torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "rest": tensors, "x": 1.5}, path)
        check_archive(path)


def test_a_bomb_is_refused_before_it_unpacks(path, one_line):
    write(path, entries_of({"w": torch.zeros(5_000_000)}), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert "unpacks to 19 MiB from 0" in one_line(check_archive, path)


def test_entries_that_overlap_are_refused(path, one_line):
    """Not compressed, but more bytes than the file has: several entries name the same ones."""
    path.write_bytes(bytes(1000))
    entries = [zipfile.ZipInfo(name) for name in ("a/data.pkl", "a/data/0", "a/data/1")]
    for entry in entries:
        entry.file_size = 400
    assert "expected entries that are not compressed" in one_line(check_entries, path, entries)


def test_a_flipped_bit_is_found(path, one_line):
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = one_line(check_archive, path)
    assert "the checksum of its entry 'a/data/0' is wrong" in message


@pytest.mark.parametrize("names", [[], ["a/data.pkl", "a/DATA.pkl"], ["a/data.pkl", "b/data.pkl"]])
def test_there_is_one_pickle(path, one_line, names):
    write(path, dict.fromkeys(names, b"."))
    assert "expected one data.pkl in it" in one_line(check_archive, path)


def test_a_large_pickle_is_refused(path, monkeypatch, one_line):
    monkeypatch.setattr(archives, "MAX_PICKLE_BYTES", 2**20)
    torch.save({"text": "x" * 2**21}, path)
    assert "its data.pkl has 2 MiB, expected at most 1" in one_line(check_archive, path)


@pytest.mark.parametrize("protocol, named", [(2, "__builtin__ bytearray"), (4, "STACK_GLOBAL")])
def test_only_what_we_write_is_built(path, one_line, protocol, named):
    """The weights-only unpickler would build it: as many bytes as the file asks for."""
    write(path, entries_of({}) | {"archive/data.pkl": pickle.dumps(bytearray, protocol)})
    assert repr(named) in one_line(check_archive, path)


def test_an_old_file_of_torch_with_an_archive_behind_is_refused(path, one_line):
    """The zip reader finds the archive at the end, torch the old pickle at the start."""
    torch.save({"harmless": 1}, path)
    archive = path.read_bytes()
    torch.save({"other": 2}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + archive)
    assert "not a checkpoint of this program: no zip archive" in one_line(check_archive, path)


def test_more_values_than_any_checkpoint_has_are_refused(path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_OPCODES", 1000)
    torch.save({"few": [1] * 100}, path)
    check_archive(path)
    torch.save({"many": [{} for _ in range(2000)]}, path)
    with pytest.raises(ValueError, match="more than 1,000 values"):
        check_archive(path)
