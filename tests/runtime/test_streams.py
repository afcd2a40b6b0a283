"""Standard streams: a reader that goes away, a full disk, a closed stream, control characters."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runtime import startup
from runtime.errors import InputError, exit_status
from runtime.streams import SteadyStream, one_line, printable

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def broken_pipe():
    """A text stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", buffering=1)
    yield stream
    stream.close()


def test_a_command_outlives_the_reader_of_its_output(broken_pipe):
    stream = SteadyStream(broken_pipe)
    for _ in range(3):
        print("progress", file=stream)
    stream.flush()
    assert isinstance(stream.error, BrokenPipeError)


def test_a_command_whose_output_is_its_result_ends_with_the_reader(broken_pipe):
    with pytest.raises(BrokenPipeError):
        print("result", file=SteadyStream(broken_pipe, is_needed=True))


@pytest.mark.parametrize("is_needed", [False, True])
def test_a_full_disk_behind_stdout_is_one_line(is_needed, capsys, monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = []
        status = exit_status(lambda: (print("a"), print("b"), done.append(1)), is_needed)
        monkeypatch.undo()
    [line] = capsys.readouterr().err.splitlines()
    expected = "error: " if is_needed else "warning: "
    assert line.startswith(f"{expected}standard output cannot be written: No space left on device")
    assert (status, done) == ((1, []) if is_needed else (0, [1]))


def test_what_stdout_buffers_until_the_end_is_not_lost_silently(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status = exit_status(lambda: print("a"), is_output_needed=True)
        monkeypatch.undo()
    assert status == 1 and "No space left on device" in capsys.readouterr().err


def test_progress_reaches_a_log_file_line_by_line(tmp_path, monkeypatch):
    path = tmp_path / "job.log"
    seen = []
    with open(path, "w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        exit_status(lambda: (print("epoch 1/2"), seen.append(path.read_text())))
        monkeypatch.undo()
    assert seen == ["epoch 1/2\n"]


def test_control_characters_are_escaped_and_messages_stay_on_one_line(capsys):
    assert printable("a\tb\n\x1b[2J\x9b\u202e") == "a\tb\n\\x1b[2J\\x9b\\u202e"
    assert one_line("a\n\rb") == "a \\x0db"

    def fail():
        raise InputError("name\nerror: forged \x1b[31m")

    assert exit_status(fail) == 1
    assert capsys.readouterr().err == "error: name error: forged \\x1b[31m\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    ],
)
def test_a_lack_of_memory_is_one_line(error, capsys):
    def fail():
        raise error

    assert exit_status(fail) == 1
    assert "out of memory; give a smaller --micro_batch_size" in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    def fail():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        exit_status(fail)


SCRIPT = """
import sys
from runtime.errors import exit_status
def command():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    with open(sys.argv[1], "w") as file:  # whose number is not that of a closed stream
        assert file.fileno() > 2
        print("still to stdout", flush=True)
        file.write("content" + sys.stdin.read())
sys.exit(exit_status(command))
"""


def test_closed_streams_do_no_harm(tmp_path):
    """Without a stdout, the next file that is opened would get its number, and its text."""
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "file")]
    shell = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *words]
    assert subprocess.run(shell, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize(
    "words, is_own",
    [
        (f"python {ROOT}/train_multitask.py --seed 1", True),
        (f"python -u -OO {ROOT}/evaluation.py", True),
        ("python -m benchmarks.throughput --rows 2", True),
        ("python -m pytest tests", False),
        (f"python {ROOT}/.venv/bin/pytest", False),
        ("python -c pass", False),
        ("python", False),
    ],
)
def test_only_our_own_scripts_change_what_an_interrupt_does(words, is_own):
    assert startup.is_own_script(words.split()) == is_own


def test_an_interrupt_while_the_libraries_are_imported_ends_quietly(tmp_path):
    """A script imports tokenizers once its options are read; a stand-in for it interrupts it."""
    (tmp_path / "tokenizers.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    words = [sys.executable, str(ROOT / "train_multitask.py"), "--smoketest"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_handlers_change_only_from_and_to_pythons_own():
    try:
        startup.end_quietly_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        startup.raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        startup.end_quietly_on_interrupt()
        startup.raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
