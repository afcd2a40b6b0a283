"""A task of every kind, for tests: three built-in ones, and more that have no files."""

from task_table import built_in_tasks
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
