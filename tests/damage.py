"""Damage by structure: strategies of Hypothesis that break a file where its format has joints."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

Damage = Callable[[Path], None]

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "../../outside", "/dev/zero", "a\nb", "\x1b[2J", "\ud800", "@x", "--hpo"]),
)
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**12, 10**30, 2**31, 2**63, -(10**18)]),
    st.floats(),
    st.sampled_from([1e-320, 1e300, 0.5]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, way: tuple = ()) -> list[tuple]:
    """Return the ways to every value in nested dicts and lists, the root's among them."""
    found = [way]
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list) and len(tree) < 200:  # not the 624 words of a generator
        items = enumerate(tree)
    else:
        return found
    for key, value in items:
        found += places(value, (*way, key))
    return found


def changed(draw: Any, tree: Any, replacements: st.SearchStrategy) -> Any:
    """Change one value of a tree: replace it, remove it, rename it, or wrap it in a list."""
    way = draw(st.sampled_from(places(tree)))
    if not way:
        return draw(replacements)
    parent = tree
    for key in way[:-1]:
        parent = parent[key]
    kind = draw(st.sampled_from(["replace", "replace", "remove", "rename", "wrap"]))
    value = parent[way[-1]]
    if kind == "replace":
        parent[way[-1]] = draw(replacements)
    elif kind == "wrap":
        parent[way[-1]] = [value]
    else:
        del parent[way[-1]]
        if kind == "rename" and isinstance(parent, dict):
            parent[draw(texts)] = value
    return tree


@st.composite
def json_damage(draw: Any, content: bytes) -> bytes:
    """Return JSON with some values changed, as our own writer might never write it."""
    tree = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        tree = changed(draw, tree, values)
    return json.dumps(tree, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def byte_damage(draw: Any, content: bytes) -> bytes:
    """Return bytes that are cut, flipped, repeated, in another encoding, or others entirely."""
    where = draw(st.integers(0, len(content)))
    extra = draw(st.binary(max_size=40))
    kind = draw(st.sampled_from(["cut", "insert", "overwrite", "empty", "utf-16", "deep", "other"]))
    if kind == "utf-16":
        return content.decode(errors="replace").encode("utf-16")
    return {
        "cut": content[:where],
        "insert": content[:where] + extra + content[where:],
        "overwrite": content[:where] + extra + content[where + len(extra) :],
        "empty": b"",
        "deep": b"[" * 20_000,
        "other": extra,
    }[kind]


@st.composite
def row_damage(draw: Any, content: bytes) -> bytes:
    """Return a data file with cells changed, added or dropped, or with other line ends."""
    rows = [line.split(b"\t") for line in content.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        cell = draw(
            st.one_of(texts, numbers.map(str), st.sampled_from(['"', '""', '"a', "\0", "\r"]))
        )
        kind = draw(st.sampled_from(["change", "add", "drop"]))
        where = draw(st.integers(0, max(len(row) - 1, 0)))
        if kind == "add" or not row:
            row.insert(where, cell.encode(errors="surrogatepass"))
        elif kind == "change":
            row[where] = cell.encode(errors="surrogatepass")
        else:
            del row[where]
    return draw(st.sampled_from([b"\n", b"\r\n", b"\r"])).join(b"\t".join(row) for row in rows)


tensors = st.sampled_from(
    [
        torch.full((2,), torch.nan),
        torch.zeros(0),
        torch.zeros(1).expand(10**6, 10**5),
        torch.eye(2).to_sparse(),
        torch.zeros(10**9, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.int8),
    ]
)


@st.composite
def checkpoint_damage(draw: Any, path: Path) -> Damage:
    """Return what changes some values of a checkpoint and saves it again."""
    state = torch.load(path, weights_only=True)
    for _ in range(draw(st.integers(1, 2))):
        way = draw(st.sampled_from(places(state)))
        value = state
        for key in way:
            value = value[key]
        if is_plain(value) and draw(st.booleans()):
            new = broken(draw, value)
            parent = state
            for key in way[:-1]:
                parent = parent[key]
            parent[way[-1]] = new
        else:
            state = changed(draw, state, st.one_of(values, tensors))
            if not isinstance(state, dict):
                break
    return lambda target: torch.save(state, target)


def is_plain(value: object) -> bool:
    """Tell whether a value is a small dense tensor, which a first change has not made otherwise."""
    if not isinstance(value, torch.Tensor) or value.is_meta or value.layout != torch.strided:
        return False
    return value.numel() < 10**6 and not value.is_quantized  # an expanded one has more


def broken(draw: Any, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with a value that is not finite, or of another shape, type or layout."""
    kind = draw(st.sampled_from(["nan", "shape", "dtype", "meta", "large", "other"]))
    if kind == "nan" and tensor.is_floating_point():
        return torch.full_like(tensor, draw(st.sampled_from([torch.nan, torch.inf, 1e30])))
    if kind == "shape":
        return torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from([torch.float64, torch.int32, torch.bfloat16])))
    if kind == "meta":
        return tensor.to("meta")
    if kind == "large":
        return torch.zeros(()).expand(10**7, *tensor.shape)
    return draw(tensors)


def written(content: bytes) -> Damage:
    """Return what overwrites a file."""
    return lambda path: path.write_bytes(content) and None


def other_kinds(outside: Path) -> st.SearchStrategy[Damage]:
    """Return what puts something of another kind in the place of a file or folder."""

    def replaced_by(make: Callable[[Path], object]) -> Damage:
        def damage(path: Path) -> None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            make(path)

        return damage

    return st.sampled_from(
        [
            replaced_by(os.mkfifo),
            replaced_by(Path.mkdir),
            replaced_by(lambda path: path.symlink_to("/dev/zero")),
            replaced_by(lambda path: path.symlink_to(outside)),
            replaced_by(lambda path: path.write_text("a file")),
            replaced_by(lambda path: path.symlink_to(outside / "victim")),
            replaced_by(lambda path: path.symlink_to(outside / "missing")),
            replaced_by(lambda path: path.symlink_to(path)),
            replaced_by(lambda path: None),
        ]
    )
