"""Damaged, foreign and hostile hierarchy files all raise one kind of error that names the file."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selection import thoroughly

from hace import Hierarchy

TREE = Hierarchy.from_paths(["animal/dog", "animal/cat", "vehicle/car", "animal"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tree.npz"
    TREE.save(path)
    return path


def refused(path: Path, message: str | None = None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Hierarchy.load(path)
    assert str(path) in str(caught.value)


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)


def array_bytes(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def members_of(**changes: Any) -> dict[str, bytes]:
    """The members of a file of a tree of two nodes, some of them replaced."""
    arrays: dict[str, Any] = {
        "parent_ptr": np.array([0, 0, 1]),
        "parent": np.array([0]),
        "classes": np.array([1]),
        "name_bytes": np.array([], np.uint8),
        "name_ptr": np.array([], np.int64),
    }
    return {
        f"{name}.npy": value if isinstance(value, bytes) else array_bytes(value)
        for name, value in {**arrays, **changes}.items()
        if value is not None
    }


# Damaged


@pytest.mark.parametrize("step", [5, *thoroughly(1)])
def test_truncations_are_refused(file: Path, step: int) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), step):
        file.write_bytes(whole[:length])
        refused(file)


@pytest.mark.parametrize("step", [5, *thoroughly(1)])
def test_changed_bytes_are_refused_or_harmless(file: Path, step: int) -> None:
    """Changing a byte in two ways gives the same tree or an error that names the file."""
    whole = file.read_bytes()
    num_refused = 0
    places = range(0, len(whole), step)
    for place in places:
        for change in (0x01, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= change
            file.write_bytes(bytes(damaged))
            message = ""
            try:
                assert Hierarchy.load(file) == TREE
            except ValueError as error:
                message = str(error)
            num_refused += bool(message)
            assert not message or str(file) in message
    assert num_refused > len(places)


def test_random_bytes_are_refused(file: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 10, 100, 1_000, 10_000):
        file.write_bytes(rng.bytes(size))
        refused(file)
        file.write_bytes(b"PK\x03\x04" + rng.bytes(size))
        refused(file)


# Foreign and hostile


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parent": np.array([5])}, "node 1 has parent 5, which is out of range"),
        ({"parent": np.array([1])}, "own parent"),
        ({"classes": np.array([7])}, "unknown node"),
        ({"classes": np.array([], np.int64)}, "classes is empty"),
        ({"parent_ptr": np.array([0, 1, 1])}, "own parent"),
        ({"parent_ptr": np.array([0, 9])}, r"N \+ 1 bounds"),
        ({"parent_ptr": np.array([0, -1, 1])}, r"N \+ 1 bounds"),
        ({"classes": np.array([1.0])}, "integers"),
        ({"classes": np.array([[1]])}, "one dimension"),
        ({"classes": np.array([None])}, "integers"),
        ({"classes": np.array(["x"])}, "integers"),
        ({"classes": b"text"}, "magic"),
        ({"classes": b""}, "magic|EOF|read"),
        ({"classes": b"\x93NUMPY\x09\x00v\x00"}, "version"),
        ({"classes": b"\x93NUMPY\x01\x00\x08\x00(((((((("}, None),
        ({"name_ptr": None}, "no array 'name_ptr'"),
        ({"name_bytes": None}, "no array 'name_bytes'"),
        ({"classes": None}, "no array 'classes'"),
        ({"name_ptr": np.array([0, 1])}, "0 names|1 names"),
        ({"name_bytes": np.array([255, 254], np.uint8), "name_ptr": np.array([0, 1, 2])}, "decode"),
        ({"name_bytes": np.zeros(2, np.uint8), "name_ptr": np.array([0, 1, 2])}, "the same name"),
    ],
)
def test_other_arrays(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    path = tmp_path / "other.npz"
    archive(path, members_of(**changes))
    refused(path, message)


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """No memory is allocated for the size that a header claims."""
    path = tmp_path / "claims.npz"
    honest = array_bytes(np.array([1]))
    for claim in ("(300000000000,)", "(-1,)", "(2,)", "(0,)"):
        header = honest.replace(b"(1,)", claim.encode())
        header = header.replace(b" " * (len(claim) - 4), b"", 1) if len(claim) > 4 else header
        archive(path, members_of(classes=header))
        started = time.process_time()
        tracemalloc.start()
        refused(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10 * 2**20
        assert time.process_time() - started < 2


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """`save` never writes 200 MB of zeros in 200 kB, so `load` refuses to unpack them."""
    path = tmp_path / "bomb.npz"
    zeros = members_of(parent=np.zeros(25_000_000, np.int64))
    archive(path, zeros, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    refused(path, "compressed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pickle.npz"
    touched = tmp_path / "touched"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(touched),)

    file = io.BytesIO()
    np.save(file, np.array([Hostile()], dtype=object), allow_pickle=True)
    archive(path, members_of(classes=file.getvalue()))
    refused(path, "integers")
    assert not touched.exists()


# Written whole or not at all


def test_a_failed_save_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(stream: Any, **arrays: Any) -> None:
        stream.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        Hierarchy.from_parents([-1]).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name], "a file was left"


def test_a_save_keeps_the_mode_and_follows_links(file: Path) -> None:
    file.chmod(0o640)
    link = file.with_name("link.npz")
    link.symlink_to(file.name)
    other = Hierarchy.from_parents([-1, 0])
    other.save(link)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert Hierarchy.load(file) == other


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Hierarchy.load(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError):
        Hierarchy.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        TREE.save(tmp_path / "no folder" / "tree.npz")
