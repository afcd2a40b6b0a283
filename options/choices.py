"""The names that options offer, read from the source of the registries without importing them.

A registry stands next to what it names, and so in modules that import torch, which takes longer
than all else that `--help` or a mistyped flag needs. Here its names are read from its assignment,
so they are written once: there, as the keys of a dict or as a tuple.
"""

import ast
from functools import cache
from pathlib import Path

from runtime.startup import ROOT


@cache
def assignments(module: str) -> tuple[dict[str, ast.expr], dict[str, str]]:
    """Return what a module assigns at its top level, and which module each import comes from."""
    path = Path(ROOT, *module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    values: dict[str, ast.expr] = {}
    sources: dict[str, str] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            sources |= {alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            values[ast.unparse(node.target)] = node.value
        elif isinstance(node, ast.Assign):
            values[ast.unparse(node.targets[0])] = node.value
    return values, sources


def names_in(module: str, registry: str) -> tuple[str, ...]:
    """Return the names in a registry, in its order.

    Args:
        module: where it is assigned, or imported to.
        registry: its name: that of a dict or a tuple.

    Raises:
        AssertionError: it is written in a way that is not understood here.
    """
    values, sources = assignments(module)
    if registry in sources:
        return names_in(sources[registry], registry)
    assert registry in values, f"{module}: no {registry} is assigned at its top level"
    return names_of(values[registry], module)


def names_of(node: ast.expr, module: str) -> tuple[str, ...]:
    """Return the names in an expression: the keys of a dict, or the items of a tuple."""
    match node:
        case ast.Constant(value=str(name)):
            return (name,)
        case ast.Tuple(elts=parts):
            return sum((names_of(part, module) for part in parts), ())
        case ast.Dict(keys=keys, values=values):  # a key of None: the value is a dict, unpacked
            pairs = zip(keys, values)
            return sum((names_of(key or value, module) for key, value in pairs), ())
        case ast.DictComp(key=ast.Name(id=key), generators=[ast.comprehension(iter=source)]):
            assert ast.unparse(node.generators[0].target) == key, ast.unparse(node)
            return names_of(source, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return names_of(left, module) + names_of(right, module)
        case ast.Name(id=registry):
            return names_in(module, registry)
    raise AssertionError(f"{module}: no names can be read from {ast.unparse(node)}")


PAIR_ENCODINGS = names_in("inputs.batches", "PAIR_ENCODINGS")
TRAIN_MODES = names_in("models.features", "TRAIN_MODES")
FEATURES = names_in("models.features", "FEATURES")
POOLINGS = names_in("models.features", "POOLINGS")
[BUNDLED] = names_in("models.pretrained", "BUNDLED")
HUB_IDS = names_in("models.pretrained", "HUB_IDS")
OPTIMIZERS = names_in("optimizers", "OPTIMIZERS")
PROJECTIONS = names_in("optimizers", "PROJECTIONS")
LOSS_WEIGHTINGS = names_in("optimizers", "LOSS_WEIGHTINGS")
LR_SCHEDULES = names_in("optimizers", "LR_SCHEDULES")
TASK_SCHEDULERS = names_in("task_schedulers", "TASK_SCHEDULERS")
COMBINE_STRATEGIES = names_in("task_schedulers", "COMBINE_STRATEGIES")
