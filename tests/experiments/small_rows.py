"""The runner on a few rows and tiny trainings."""

import io
import json
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from experiments import run
from experiments.row_files import SCRIPTS, read_rows
from runtime.errors import InputError

ROOT = Path(__file__).parents[2]
EVERY_ROW = read_rows(ROOT / "experiments" / "rows")
ROWS = {name: row for name, row in EVERY_ROW.items() if not row.average_of}
AVERAGES = {name: row for name, row in EVERY_ROW.items() if row.average_of}
SIZES = "--batch_size 2 --no_tensorboard --no_test_predictions"
CONTROLS, TURNS = "# family: controls\n", "--task_scheduler round_robin"
ROW_TEXTS = {
    "broken": f"# Broken on purpose\n{CONTROLS}--pooling nothing\n",
    "joint": f"# Joint sum\n{CONTROLS}",
    "turns": f"# Taking turns\n{CONTROLS}# script: {SCRIPTS[1]}\n# lr: 1e-3\n{TURNS}\n",
    "single_sts": f"# Single task\n{CONTROLS}# part of: single_task\n--task sts\n",
    "mean": f"# Mean\n{CONTROLS}# average of: joint\n--ensemble\n",
    "soup": f"# Greedy soup\n{CONTROLS}# average of: joint\n--soup --greedy\n",
    "far": f"# Far away\n{CONTROLS}# not run by default: needs a dream\n",
}


def write_rows(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        (directory / f"{name}.txt").write_text(ROW_TEXTS[name], encoding="utf-8")
    return directory


def words(place: Path, model: Path, data: Path, flags: str) -> list[str]:
    folders = f"--rows_dir {place}/rows --results_dir {place}/results --work_dir {place}/work"
    return shlex.split(f"{flags} {folders} --model_name {model} --data_dir {data} {SIZES}")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Children compute on one thread, as the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def invoke(tiny_model, few_rows):
    """Call the runner in this process; its output, and its failure or None."""

    def run_in(place: Path, flags: str) -> tuple[str, str | None]:
        output, error = io.StringIO(), None
        with redirect_stdout(output):
            try:
                run.main(*run.parse(words(place, tiny_model, few_rows, flags)))
            except InputError as failure:
                error = str(failure)
        return output.getvalue(), error

    return run_in


@pytest.fixture(scope="session")
def place(tmp_path_factory, invoke):
    """A finished invocation: three rows with one seed, of which one fails."""
    directory = tmp_path_factory.mktemp("experiments")
    write_rows(directory / "rows", "broken", "joint", "turns", "far")
    flags = "--seeds 3 --num_batches_per_epoch 1 --epochs 1"
    output, error = invoke(directory, flags)
    (directory / "output").write_text(output)
    (directory / "error").write_text(error)
    return directory


def read_result(place: Path, row: str) -> dict:
    (path,) = (place / "results").glob(f"{row}-seed3-*.json")
    return json.loads(path.read_text())
