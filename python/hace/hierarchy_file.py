"""Arrays in a NumPy .npz file: written whole or not at all, and read without trust."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to a file, which replaces an existing one.

    It is written beside its place and renamed, so that a crash never leaves half a file.
    """
    target = Path(path).resolve()
    written = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(written, "xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        if target.exists():
            shutil.copymode(target, written)
        written.replace(target)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def read_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """One-dimensional arrays of integers from a file of `write_arrays`.

    The sizes that the file declares are compared with its own before anything is allocated.

    Args:
        path: of the file.
        names: the arrays that must be there.

    Raises:
        ValueError: the file is damaged, or is another kind of file.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            return _read_all(file, names)
        except Exception as error:  # whatever zipfile and NumPy's parsers make of foreign bytes
            raise ValueError(
                f"{os.fspath(path)} was not written by Hierarchy.save, or is damaged: {error}"
            ) from error


def _read_all(file: IO[bytes], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    size = os.fstat(file.fileno()).st_size
    with ZipFile(file) as archive:
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(f"it has no array {missing[0]!r}")
        return {name: _read(archive, archive.getinfo(f"{name}.npy"), size) for name in names}


def _read(archive: ZipFile, member: ZipInfo, file_size: int) -> NDArray[Any]:
    if member.compress_type != ZIP_STORED or member.file_size > file_size:
        raise ValueError(f"{member.filename} is compressed, or larger than the file")
    with archive.open(member) as file:
        dtype, num_bytes = _header(file)
        rest = file.read()  # to the member's end, where zipfile compares its checksum
    if len(rest) != num_bytes:
        raise ValueError(f"{member.filename} declares {num_bytes} bytes and has {len(rest)}")
    return np.frombuffer(rest, dtype)


def _header(file: IO[bytes]) -> tuple[np.dtype[Any], int]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its arrays must be of version 1.0 of NumPy's format, not {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or dtype.kind not in "iu":
        raise ValueError(
            f"its arrays must hold integers in one dimension, not {dtype} of shape {shape}"
        )
    return dtype, int(shape[0]) * dtype.itemsize
