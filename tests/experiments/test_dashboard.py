"""Pictures of TensorBoard, and what a user sees without a browser, a run, or a picture."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import dashboard
from runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def args(tmp_path):
    """Of a log directory without runs."""
    (tmp_path / "runs").mkdir()
    flags = ["--logdir", str(tmp_path / "runs"), "--out_dir", str(tmp_path / "out")]
    return dashboard.get_args_parser().parse_args([*flags, "--pages", "images"])


@pytest.fixture
def browser(tmp_path, monkeypatch):
    """A browser that does what a line of Bash says; $picture is the file it should write."""

    def install(line):
        path = tmp_path / "chromium"
        head = '#!/bin/bash\nfor word in "$@"; do picture=${word#--screenshot=}\n'
        path.write_text(head + '[[ $picture == "$word" ]] || break; done\n' + line)
        path.chmod(0o755)
        monkeypatch.setattr(dashboard, "BROWSERS", (str(path),))

    return install


@pytest.fixture
def events(args):
    """A run of the log directory, as training leaves it."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(f"{args.logdir}/one/tensorboard") as writer:
        writer.add_scalar("dev/mean", 0.5, 1)


def picture(args, pages, path=""):
    """Run the command in a process of its own, which TensorBoard's threads end with."""
    flags = ["--logdir", args.logdir, "--out_dir", args.out_dir, "--pages", *pages]
    return subprocess.run(
        [sys.executable, "-m", "experiments.dashboard", *flags],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_tensorboard_serves_the_run_to_the_browser(args, events, browser, tmp_path):
    fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read())"
    browser(f'{sys.executable} -c "{fetch}" "${{!#}}" > "$picture"')
    pages = ["scalars", "hparams"]
    done = picture(args, pages, tmp_path)
    assert done.returncode == 0, done.stderr
    paths = [tmp_path / "out" / f"{page}.png" for page in pages]
    assert done.stdout.splitlines() == [str(path) for path in paths]
    assert all("<title>TensorBoard</title>" in path.read_text() for path in paths)


@pytest.mark.skipif(not any(map(shutil.which, dashboard.BROWSERS)), reason="needs Chromium")
def test_chromium_takes_a_picture(args, events, tmp_path):
    assert picture(args, ["scalars"]).returncode == 0
    assert (tmp_path / "out" / "scalars.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_browser_nothing_starts(args, monkeypatch):
    monkeypatch.setattr(dashboard, "BROWSERS", ("no-such-browser",))
    with pytest.raises(InputError, match="no browser here, expected one of no-such-browser"):
        dashboard.main(args)


def test_without_runs_there_is_no_picture(args, browser, monkeypatch):
    browser("exit 1")
    monkeypatch.setattr(dashboard, "TIMEOUT", 1)
    monkeypatch.setattr(dashboard, "start_tensorboard", lambda logdir: "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="TensorBoard shows no runs"):
        dashboard.main(args)


def test_a_picture_is_new_or_an_error(args, browser, tmp_path, capsys):
    path = tmp_path / "images.png"
    path.write_text("old")
    browser("exit 0")
    with pytest.raises(InputError, match="has taken no picture"):
        dashboard.take_picture(dashboard.BROWSERS[0], "http://x", path, args)
    assert path.read_text() == "old"
    browser('echo "$*" > "$picture"')
    dashboard.take_picture(dashboard.BROWSERS[0], "http://x", path, args)
    assert "http://x" in path.read_text() and capsys.readouterr().out == f"{path}\n"
