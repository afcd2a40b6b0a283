"""A task of every kind, for tests: three built-in ones, and more that have no files."""

from pathlib import Path

from datasets import SPLITS
from options.task_table import built_in_tasks
from tasks import Binary, Multilabel, Regression, Task

PLAIN = {"text_columns": ("text",), "label_column": "label", "prediction_column": "Predicted"}
SUBJECTS = ("sport", "food", "travel")
MULTILABEL = Multilabel(
    name="subjects",
    stem="subjects",
    metric_name="macro_f1",
    label_range=(0, 2),
    class_names=SUBJECTS,
    number=3,
    **PLAIN,
)
NAMED_BINARY = Binary(
    name="grammar",
    stem="grammar",
    metric_name="matthews",
    label_range=(0, 1),
    class_names=("wrong", "right"),
    number=4,
    **PLAIN,
)
DEGREES = Regression(
    name="degrees", stem="degrees", metric_name="spearman", label_range=(-40, 60.5), **PLAIN
)
TASKS: dict[str, Task] = built_in_tasks() | {"subjects": MULTILABEL}  # one of every kind


def write_files(task: Task, folder: Path, num_rows: int = 8) -> None:
    """Write the three files of a task, with generated rows."""
    for split, end in SPLITS.items():
        columns = ["id", *task.text_columns] + [task.label_column] * (split != "test")
        lines = ["\t".join(columns)]
        for row in range(num_rows):
            label = task.label_range[row % 2]
            cells = [f"{row}", *(f"text {row} of {column}" for column in task.text_columns)]
            lines.append("\t".join(cells + [f"{label}"] * (split != "test")))
        (folder / f"{task.stem}-{end}.csv").write_text("\n".join(lines) + "\n")
