"""No module imports a higher row of the layout, also not lazily or for type checking."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground floor up. A module may import its own row's package and every lower row.
ROWS = (
    ("runtime",),
    ("tasks",),
    ("models",),
    ("optimizers",),
    ("inputs",),
    ("task_schedulers", "datasets"),
    ("options",),
    ("reporting",),
    ("engine", "training", "restoring"),
    ("predicting",),
    ("search",),
    ("exporting",),
    ("evaluation", "comparing", "compare", "export"),
    ("train_multitask", "train_multitask_pal"),
    ("benchmarks", "experiments", "scripts"),
)
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
MODULES = sorted(
    path.relative_to(ROOT)
    for name in ROW_OF
    for path in [ROOT / f"{name}.py", *(ROOT / name).rglob("*.py")]
    if path.is_file()
)


def imported(path: Path) -> Iterator[str]:
    """Yield every module of ours that a file imports, wherever in it, with its parent packages."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ROW_OF)


def module_file(name: str) -> Path | None:
    """Return the file of a module, or of the module that a name is imported from."""
    for parts in (name.split("."), name.split(".")[:-1]):
        for path in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
            if parts and (ROOT / path).is_file():
                return path
    return None


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_only_lower_rows(path):
    own = ROW_OF[path.parts[0].removesuffix(".py")]
    for name in imported(path):
        assert ROW_OF[name.split(".")[0]] <= own, f"{path} imports {name}, a higher row"


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        path: {file for name in imported(path) if (file := module_file(name)) and file != path}
        for path in MODULES
    }
    finished: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(map(str, (*trail, path)))
        if path not in finished:
            for other in graph.get(path, ()):
                visit(other, (*trail, path))
            finished.add(path)

    for path in graph:
        visit(path, ())


def test_every_module_has_a_row():
    ours = {path.stem for path in ROOT.glob("*.py")}
    ours |= {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert ours <= ROW_OF.keys()
