"""Names as bytes, for files and digests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pack_names(names: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All names as UTF-8 bytes, one after the other, and where each begins and ends (N+1)."""
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    ptr = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=ptr[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), ptr


def unpack_names(data: NDArray[Any], ptr: NDArray[Any]) -> list[str]:
    """The names that `pack_names` packed."""
    text, bounds = data.tobytes(), ptr.tolist()
    return [text[begin:end].decode("utf-8", "surrogatepass") for begin, end in pairwise(bounds)]
