"""The directory of an export appears as a whole or not at all."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import export
import exporting.encoder
from options.export_options import get_args_parser, parse_args
from runtime.errors import InputError
from runtime.interrupts import Interrupted
from runtime.locks import reserved
from runtime.new_folder import new_directory


def export_to(run: Path, target: Path, *flags: object) -> None:
    words = ["--run", run, "--to", target, "--format", "transformers", *flags]
    export.main(parse_args(get_args_parser(), [str(word) for word in words]))


def test_it_takes_the_name_of_nothing_or_of_an_empty_folder(finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "new" / "deep"):
        export_to(finished_run, target)
        files = {path.name for path in target.iterdir()}
        assert files == {
            "README.md",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert len({path.stat().st_mode for path in target.iterdir()}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


@pytest.mark.parametrize("kind", ["full", "file", "link", "dangling"])
def test_what_is_there_is_never_replaced(tmp_path, kind, one_line):
    """This is noticed before the run is looked for."""
    target = tmp_path / "target"
    (tmp_path / "empty").mkdir()
    if kind == "full":
        target.mkdir()
        (target / "kept").write_text("x")
    elif kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(tmp_path / ("empty" if kind == "link" else "nowhere"))
    message = one_line(export_to, tmp_path / "no run", target)
    expected = "is not empty, and no file is replaced" if kind == "full" else "is no folder"
    assert f"--to {target}: {expected}; name a new" in message
    assert not list((tmp_path / "empty").iterdir())


def test_what_takes_the_name_in_the_meantime_stays(tmp_path, one_line):
    def write():
        with new_directory(tmp_path / "target") as folder:
            (folder / "ours").write_text("x")
            (tmp_path / "target").mkdir()
            (tmp_path / "target" / "theirs").write_text("x")

    assert "target: is not empty any more; name a new folder" in one_line(write)
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "theirs"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        with new_directory(tmp_path / "new" / "target") as folder:
            (folder / "part").write_text("x")
            raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_a_kill_has_left_is_removed(tmp_path):
    left = tmp_path / f".target.{'0' * 16}.partial"
    other = tmp_path / f".other.{'0' * 16}.partial"
    for folder in (left, other):
        (folder / "part").mkdir(parents=True)
    with new_directory(tmp_path / "target"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"target", other.name}


def test_two_exports_do_not_share_a_target(tmp_path, one_line):
    def write():
        with new_directory(tmp_path / "target"):
            pass

    with reserved(tmp_path / ".target.lock") as is_free:
        assert is_free
        assert "target: another process is writing it" in one_line(write)
    assert not list(tmp_path.iterdir())
    write()


def test_a_folder_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file/target: cannot be made: .*"):
        with new_directory(tmp_path / "file" / "target"):
            pass


def test_a_signal_stops_it_and_leaves_nothing(finished_run, tmp_path, monkeypatch):
    def write(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return write_weights(*args)

    write_weights = exporting.encoder.write_weights
    monkeypatch.setattr(exporting.encoder, "write_weights", write)
    with pytest.raises(Interrupted, match="stopped by SIGTERM; nothing was written"):
        export_to(finished_run, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(run_copy, small_disk, tmp_path):
    (small_disk / "filling").write_bytes(bytes(100 * 1024))
    with pytest.raises(OSError, match="cannot be written: .*No space left on device"):
        export_to(run_copy, small_disk / "target")
    assert [path.name for path in small_disk.iterdir()] == ["filling"]


def test_a_read_only_disk_is_one_line(run_copy, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="target: cannot be made: Read-only file system"):
        export_to(run_copy, small_disk / "target")


def test_checkpoints_elsewhere_need_their_folder(run_copy, tmp_path):
    (run_copy / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="best.pt: no such checkpoint"):
        export_to(run_copy, tmp_path / "target")
    export_to(run_copy, tmp_path / "target", "--filepath", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "target")
