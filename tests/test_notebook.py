"""docs/quickstart.ipynb: small, with outputs, and it runs."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
MAX_BYTES = 200_000


def test_it_holds_the_outputs_of_every_cell_and_is_small():
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    first, *code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(cells) <= 12 and not first["outputs"] and all(cell["outputs"] for cell in code)
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"stream", "execute_result"}
    assert len(text) < MAX_BYTES and "/tmp" not in text and "/home" not in text


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """Every cell, in a kernel of its own, on the bundled encoder and the sample."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("QUICKSTART_RUNS", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": ROOT / "docs"}}).execute()
    shape = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
    assert shape.startswith("torch.Size([1, ") and shape.endswith(", 384])")
    assert (tmp_path / "joint" / "conflicts.png").is_file()
