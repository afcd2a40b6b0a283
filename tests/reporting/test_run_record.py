"""What a run records of the code that it ran with."""

import subprocess

from reporting import run_record


def test_the_revision_is_marked_if_other_files_than_results_differ(tmp_path, monkeypatch):
    code = tmp_path / "reporting" / "run_record.py"
    result = tmp_path / "experiments" / "results" / "joint.json"
    for path in (code, result):
        path.parent.mkdir(parents=True)
        path.write_text("one\n")
    monkeypatch.setattr(run_record, "__file__", str(code))
    assert run_record.git_revision() is None  # outside a checkout

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "Begin")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "new.txt").write_text("not tracked\n")
    result.unlink()
    assert run_record.git_revision() == commit
    code.write_text("two\n")
    assert run_record.git_revision() == f"{commit}-dirty"
