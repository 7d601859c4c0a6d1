"""`Hierarchy.load` of damaged, foreign or hostile files raises a ValueError that names the file."""

from __future__ import annotations

import io
import pickle
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hace

some = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TREES = {
    "named": hace.Hierarchy.from_paths(["animal/dog/husky", "animal/cat/siamese", "vehicle/car"]),
    "plain": hace.Hierarchy.from_parents([-1, 0, 0, 1, 1, 2, -1], classes=[3, 1, 6]),
}


@cache
def content_of(kind: str) -> bytes:
    """The content of a good file."""
    with tempfile.TemporaryDirectory() as folder:
        return saved(TREES[kind], Path(folder)).read_bytes()


def saved(tree: hace.Hierarchy, folder: Path) -> Path:
    path = folder / "tree.npz"
    tree.save(path)
    return path


def loaded(path: Path) -> hace.Hierarchy | None:
    """The hierarchy in the file, or None if the file is refused in the right way."""
    try:
        return hace.Hierarchy.load(path)
    except ValueError as error:
        told = str(error)
    assert str(path) in told, "the message does not name the file"
    return None


def assert_usable(tree: hace.Hierarchy, folder: Path) -> None:
    """Asserts that nothing in the hierarchy points beyond its end."""
    assert ((tree.classes >= 0) & (tree.classes < tree.num_nodes)).all()
    assert ((tree.edges >= 0) & (tree.edges < tree.num_nodes)).all()
    assert tree.names is None or len(tree.names) == tree.num_nodes
    again = hace.Hierarchy.load(saved(tree, folder))
    np.testing.assert_array_equal(again.edges, tree.edges)
    np.testing.assert_array_equal(again.classes, tree.classes)


@some
@given(st.sampled_from(sorted(TREES)), st.data())
def test_changed_bytes(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Bytes are cut off, doubled, swapped or flipped anywhere in the file."""
    path, content = tmp_path / "tree.npz", bytearray(content_of(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(content)))
        last = data.draw(st.integers(first, min(len(content), first + 64)))
        change = data.draw(st.sampled_from(["cut", "end", "double", "overwrite"]))
        if change == "end":
            del content[first:]
        elif change == "cut":
            del content[first:last]
        elif change == "double":
            content[first:first] = content[first:last]
        else:
            content[first:last] = data.draw(st.binary(min_size=last - first, max_size=last - first))
    path.write_bytes(content)
    tree = loaded(path)
    if tree is not None:
        assert_usable(tree, tmp_path)


NUMBERS = st.sampled_from([-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 8, 2**31, 2**40, 2**63 - 1])


@some
@given(st.sampled_from(sorted(TREES)), st.data())
def test_changed_numbers(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Files with right checksums have ids out of range, cycles or wrong lengths."""
    path = tmp_path / "tree.npz"
    with np.load(io.BytesIO(content_of(kind))) as file:
        arrays = {name: file[name] for name in file.files}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(arrays)))
        values = arrays[name].astype(np.int64).tolist()
        at = data.draw(st.integers(0, len(values)))
        change = data.draw(st.sampled_from(["set", "insert", "cut", "drop"]))
        if change == "drop":
            del arrays[name]
            break
        values[at : at + (change != "insert")] = [] if change == "cut" else [data.draw(NUMBERS)]
        arrays[name] = np.array(values, dtype=np.int64)
    np.savez(path, **arrays)
    tree = loaded(path)
    if tree is not None:
        assert_usable(tree, tmp_path)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def declaring(length: int) -> bytes:
    """A file of a few bytes whose array claims to be long."""
    header = npy(np.zeros(7, dtype=np.int64)).replace(b"(7,), ", f"({length},), ".encode())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("parent_ptr", "parent", "classes"):
            archive.writestr(f"{name}.npy", header)
    return file.getvalue()


def packed() -> bytes:
    """A file of a few kilobytes that unpacks to gigabytes of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("parent_ptr.npy", b"\0" * 10**8)
    return file.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"animal,dog\nanimal,cat\n",
    "pickle": lambda: pickle.dumps([1, 2, 3]),
    "one array": lambda: npy(np.arange(3)),
    "no arrays": lambda: npz(),
    "other arrays": lambda: npz(weights=np.ones(3)),
    "objects": lambda: npz(parent_ptr=np.array([None]), parent=np.arange(2), classes=np.arange(1)),
    "fractions": lambda: npz(parent_ptr=np.ones(3), parent=np.ones(2), classes=np.ones(1)),
    "declares 8 TB": lambda: declaring(10**12),
    "declares more than 64 bits": lambda: declaring(10**30),
    "declares less than nothing": lambda: declaring(-5),
    "packed zeros": packed,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(FOREIGN[kind]())
    tracemalloc.start()
    assert loaded(path) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7, f"{peak} bytes were allocated for a file of {path.stat().st_size}"
