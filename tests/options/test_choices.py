"""The names that are read from the sources are those of the registries."""

import ast

import pytest

import exporting
import inputs.batches
import models.features
import models.pretrained
import optimizers
import task_schedulers
from options import choices

REGISTRIES = {
    "PAIR_ENCODINGS": inputs.batches,
    "TRAIN_MODES": models.features,
    "FEATURES": models.features,
    "FORMATS": exporting,
    "POOLINGS": models.features,
    "HUB_IDS": models.pretrained,
    "OPTIMIZERS": optimizers,
    "PROJECTIONS": optimizers,
    "LR_SCHEDULES": optimizers,
    "LOSS_WEIGHTINGS": optimizers,
    "TASK_SCHEDULERS": task_schedulers,
    "COMBINE_STRATEGIES": task_schedulers,
}


@pytest.mark.parametrize("name", [name for name in vars(choices) if name.isupper()])
def test_names_are_those_of_the_registry(name):
    if name in ("ROOT", "BUNDLED"):
        assert choices.BUNDLED == models.pretrained.BUNDLED
    else:
        assert getattr(choices, name) == tuple(getattr(REGISTRIES[name], name))


@pytest.mark.parametrize("text", ["dict(a=1)", "{f(): 1}", "{n.x: 1 for n in TASKS}", "[*names]"])
def test_an_expression_without_plain_names_is_refused(text):
    with pytest.raises(AssertionError):
        choices.names_of(ast.parse(text, mode="eval").body, "tasks")
