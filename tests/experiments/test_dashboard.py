"""Pictures of TensorBoard: what a user sees where there is no browser, no run, or no picture."""

import pytest

from experiments import dashboard
from runtime.errors import InputError


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


def test_without_a_browser_nothing_starts(args, monkeypatch):
    monkeypatch.setattr(dashboard, "BROWSERS", ("no-such-browser",))
    with pytest.raises(InputError, match="no browser here, expected one of no-such-browser"):
        dashboard.main(args)


def test_without_runs_there_is_no_picture(args, browser, monkeypatch):
    browser("exit 1")
    monkeypatch.setattr(dashboard, "TIMEOUT", 1)
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
