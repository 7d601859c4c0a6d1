"""The columns of every ring of a path table, as words, for the kernels of the CPU.

A *ring* is what an interval of a path adds to the one inside it. Its columns may lie anywhere in a
row. A *word* is 16 neighbouring columns, with a mask of those in the ring. Given the list of a
ring's words, a kernel adds the ring up, and writes its gradient, with a few masked vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import list_ring_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]

_WORD_COLUMNS = 16

# The exponentials of longer rows do not stay in the caches between the passes over a row.
_MOST_CLASSES = 1 << 16

# 256 bytes per class. A node with thousands of children would need more.
_MOST_WORDS_PER_CLASS = 64

# The costs of the kernels without lists (csrc/cpu/path_plan.cpp), in units of what one listed word
# costs: that of a ring, and that of 16 columns of a row whose columns are in depth-first order or
# not. Measured on an Intel Xeon with AVX-512, and with HACE_CPU_CAPABILITY=avx2.
_WORDS_PER_RING = 12
_WORDS_PER_WORD, _WORDS_PER_SHUFFLED_WORD = 0.5, 1.5


class RingWords(NamedTuple):
    """The words of the R distinct rings that the paths of T targets have; on one device.

    Attributes:
        ring: int32 (E+T), the rings of each target, innermost first. With the path table's `ptr`,
            those of target t are `ptr[t] + t` to `ptr[t + 1] + t`, both included; the last is what
            lies outside of all intervals.
        ptr: int32 (R+1), bounds of each ring's words, multiples of 4.
        words: int32 (W), number of the word · 2¹⁶ + mask, whose lowest bit is the word's first
            column; ascending in each ring, which is filled up with words of mask 0.
    """

    ring: Tensor
    ptr: Tensor
    words: Tensor


def list_rings(
    ptr: Int64, start: Int32, stop: Int32, order: Int32 | None, num_classes: int
) -> RingWords | None:
    """The words of a path table's rings, or None if there would be too many.

    Args:
        ptr: int64 (T+1), bounds of each target's entries.
        start, stop: int32 (E), intervals of class positions, nested, target to root.
        order: int32 (C), position → column, or None where it is the identity.
        num_classes: C.
    """
    if num_classes > _MOST_CLASSES:
        return None
    most_words = _MOST_WORDS_PER_CLASS * num_classes
    listed = list_ring_words(ptr, start, stop, order, num_classes, most_words)
    if listed is None:
        return None
    ring, ring_ptr, words = listed
    return RingWords(
        torch.from_numpy(ring),
        torch.from_numpy(ring_ptr),
        torch.from_numpy(words.view(np.int32)),
    )


def list_rings_that_pay(
    ptr: Int64, start: Int32, stop: Int32, order: Int32 | None, num_classes: int
) -> RingWords | None:
    """`list_rings`, or None if the kernels are faster without it."""
    num_targets = len(ptr) - 1
    row_words = num_targets * num_classes / _WORD_COLUMNS
    per_word = _WORDS_PER_WORD if order is None else _WORDS_PER_SHUFFLED_WORD
    most_words = _WORDS_PER_RING * (len(start) + num_targets) + per_word * row_words
    if row_words > most_words:  # no list has fewer: the rings of a target cover the whole row
        return None
    rings = list_rings(ptr, start, stop, order, num_classes)
    if rings is None:
        return None
    ring, ring_ptr = rings.ring.numpy(), rings.ptr.numpy()
    return rings if np.diff(ring_ptr)[ring].sum() <= most_words else None
