"""Path tables: all that `path_log_loss` knows of a hierarchy and of a loss.

Entry i of a target's path is an interval of class positions with a weight, and the loss of a row
is `L = -Σ_i w_i · log P_i`, with `P_i` the softmax mass in the interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .layout import Layout, compact_paths, paths, sum_to_root
from .memory import memory_bytes
from .ring_words import RingWords, list_rings_that_pay
from .widest import moved

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number = TypeVar("Number", np.int32, np.int64, np.float64)

# The weights are computed in chunks of about this many entries, so that temporaries stay small.
_CHUNK_ENTRIES = 1 << 18

# start, stop (int32) and weight (float64); there are two copies of it while chunks are joined.
_BYTES_PER_ENTRY = 16
_PEAK_BYTES_PER_ENTRY = 24


class PathTable(NamedTuple):
    """The paths of T targets over C classes in CSR form; tensors on one device.

    Attributes:
        ptr: int64 (T+1), bounds of each target's entries.
        start, stop: int32 (E), intervals of class positions, nested, target to root. An entry with
            start = stop marks a target without a class below it: not a valid target.
        weight: float64 (E).
        order: int32 (C), position → column of the logits, or None where it is the identity.
        position: int32 (C), column → position, the inverse of `order`; None with it.
        num_classes: C.
        max_entries: entries of the longest path, known without a copy from the device.
        rings: the columns of every ring, for the CPU's kernels; None if they do not make these
            faster, and on other devices.
    """

    ptr: Tensor
    start: Tensor
    stop: Tensor
    weight: Tensor
    order: Tensor | None
    position: Tensor | None
    num_classes: int
    max_entries: int
    rings: RingWords | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that are not None, in the order in which the native ops take them."""
        tensors = [self.ptr, self.start, self.stop, self.weight]
        if self.order is not None:
            assert self.position is not None, "a path table with an order has its inverse, position"
            tensors += [self.order, self.position]
        return tensors if self.rings is None else [*tensors, *self.rings]

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor], num_classes: int, max_entries: int) -> PathTable:
        """The table from its `tensors`."""
        ptr, start, stop, weight, *others = tensors
        order, position = others[:2] if len(others) in (2, 5) else (None, None)
        rings = RingWords(*others[-3:]) if len(others) >= 3 else None
        return cls(ptr, start, stop, weight, order, position, num_classes, max_entries, rings)

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.ptr.device

    @property
    def num_targets(self) -> int:
        """T."""
        return self.ptr.shape[0] - 1

    def innermost(self) -> tuple[Tensor, Tensor]:
        """Bounds of each path's first interval, int32 (T); a path without one gets all classes."""
        at, is_empty = self.ptr[:-1], self.ptr[:-1] == self.ptr[1:]
        if not len(self.start):
            start = torch.zeros(self.num_targets, dtype=torch.int32, device=self.device)
            return start, start + self.num_classes
        at = torch.where(is_empty, 0, at)
        start = torch.where(is_empty, 0, self.start[at])
        return start, torch.where(is_empty, self.num_classes, self.stop[at])

    def to(self, device: torch.device | str) -> PathTable:
        """The same table on `device`."""
        table = self if torch.device(device).type == "cpu" else self._replace(rings=None)
        tensors = [moved(tensor, device) for tensor in table.tensors]
        return self.of_tensors(tensors, self.num_classes, self.max_entries)


@dataclass(frozen=True, eq=False)
class PathEntries:
    """What the weights of path entries may depend on; int64 arrays (E).

    Attributes:
        target: the target, as an index into the table's T targets.
        node: the node id.
        index: how far the node is from the target: 0 at the target itself.
        length: edges from the target to its root (D, which is the root's `index`).
        depth: edges from the node to its root.
        height: edges from the node to the deepest leaf below it.
    """

    target: NDArray[np.int64]
    node: NDArray[np.int64]
    index: NDArray[np.int64]
    length: NDArray[np.int64]
    depth: NDArray[np.int64]
    height: NDArray[np.int64]


class PathWeights(Protocol):
    """The weights that define a loss, one per path entry. Hashable, since tables are cached."""

    @property
    def max_entries(self) -> int | None:
        """How many entries of a path are looked at: later ones are dropped. None: all of them."""

    def __call__(self, entries: PathEntries, /) -> NDArray[np.float64]:
        """Weights, float64 (E)."""


def build_path_table(
    layout: Layout,
    parents: NDArray[np.int64],
    targets: NDArray[np.int64],
    num_classes: int,
    weights: PathWeights,
    keep_full: bool = False,
) -> PathTable:
    """Build the table of a loss over `targets`, on the CPU.

    Args:
        layout: the layout of the hierarchy, with the classes that are columns of the logits.
        parents: int64 (N), each node's parent, -1 at a root.
        targets: int64 (T), the node of each target.
        num_classes: C, the columns of the logits.
        weights: gives each path entry its weight.
        keep_full: keep entries that hold every class; see `compact_paths`.

    Raises:
        MemoryError: the table would not fit in memory.
        ValueError: `weights` gave a wrong shape, or a value that is not finite.
    """
    length = layout.depth[targets].astype(np.int64)
    count = length + 1
    if weights.max_entries is not None:
        count = np.minimum(count, weights.max_entries)
    _refuse_beyond_memory(layout, parents, targets, num_classes, weights, count, keep_full)

    ptr: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    start: list[NDArray[np.int32]] = []
    stop: list[NDArray[np.int32]] = []
    weight: list[NDArray[np.float64]] = []
    num_entries = max_entries = 0
    for first, last in _chunks(count):
        path_ptr, node = paths(parents, layout.depth, targets[first:last], weights.max_entries)
        chunk = compact_paths(
            path_ptr,
            layout.start[node],
            layout.stop[node],
            _weigh(weights, layout, path_ptr, node, first, length[first:last]),
            num_classes,
            keep_full,
        )
        ptr.append(chunk[0][1:] + num_entries)
        start.append(chunk[1])
        stop.append(chunk[2])
        weight.append(chunk[3])
        num_entries += len(chunk[1])
        max_entries = max(max_entries, int(np.diff(chunk[0]).max()))

    table = PathTable(
        ptr=_join(ptr, np.int64),
        start=_join(start, np.int32),
        stop=_join(stop, np.int32),
        weight=_join(weight, np.float64),
        order=None if layout.column is None else torch.from_numpy(layout.column.copy()),
        position=None if layout.column is None else torch.from_numpy(_inverse(layout.column)),
        num_classes=num_classes,
        max_entries=max_entries,
    )
    if keep_full:  # needed for eps, which the kernels that take lists of rings do not support
        return table
    rings = list_rings_that_pay(
        table.ptr.numpy(), table.start.numpy(), table.stop.numpy(), layout.column, num_classes
    )
    return table._replace(rings=rings)


def _weigh(
    weights: PathWeights,
    layout: Layout,
    ptr: NDArray[np.int64],
    node: NDArray[np.int32],
    first_target: int,
    length: NDArray[np.int64],
) -> NDArray[np.float64]:
    path = np.repeat(np.arange(len(length)), np.diff(ptr))
    weight = np.asarray(
        weights(
            PathEntries(
                target=path + first_target,
                node=node.astype(np.int64),
                index=np.arange(len(node)) - ptr[path],
                length=length[path],
                depth=layout.depth[node].astype(np.int64),
                height=layout.height[node].astype(np.int64),
            )
        ),
        np.float64,
    )
    if weight.shape != node.shape:
        raise ValueError(
            f"{weights} gave weights of shape {weight.shape} for {len(node)} path entries; "
            f"give one weight per entry, shape {node.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(weight))
    if len(bad):
        raise ValueError(
            f"{weights} gave weight {weight[bad[0]]} to node {node[bad[0]]} on the path of target "
            f"{path[bad[0]] + first_target}; weights must be finite"
        )
    return weight


def _chunks(count: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Bounds of chunks of paths with about `_CHUNK_ENTRIES` entries; a longer path is one chunk."""
    entries_up_to = np.cumsum(count)
    first = 0
    while first < len(count):
        done = int(entries_up_to[first - 1]) if first else 0
        last = int(np.searchsorted(entries_up_to, done + _CHUNK_ENTRIES, side="right"))
        last = max(last, first + 1)
        yield first, last
        first = last


def _refuse_beyond_memory(
    layout: Layout,
    parents: NDArray[np.int64],
    targets: NDArray[np.int64],
    num_classes: int,
    weights: PathWeights,
    count: NDArray[np.int64],
    keep_full: bool,
) -> None:
    memory = memory_bytes()
    if int(count.sum()) * _PEAK_BYTES_PER_ENTRY <= memory:
        return
    # Chains of single children, and entries that hold every class, will be dropped: not counted.
    is_own = parents < 0
    above = np.where(is_own, 0, parents)
    is_own |= (layout.start != layout.start[above]) | (layout.stop != layout.stop[above])
    if not keep_full:
        is_own &= (layout.start != 0) | (layout.stop != num_classes)
    distinct = sum_to_root(parents, is_own.astype(np.int64))[targets]
    num_entries = int(np.minimum(distinct, count).sum())
    if num_entries * _PEAK_BYTES_PER_ENTRY > memory:
        raise MemoryError(
            f"the path table of {weights} would take up to "
            f"{num_entries * _BYTES_PER_ENTRY / 1e9:,.1f} GB ({num_entries:,} entries for "
            f"{len(targets):,} targets), but this machine has {memory / 1e9:,.1f} GB; the tree is "
            f"too deep for weights that fall so slowly: use a larger dilution, or weights with a "
            f"smaller max_entries (now {weights.max_entries})"
        )


def _inverse(order: NDArray[np.int32]) -> NDArray[np.int32]:
    """The inverse of a permutation."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order), dtype=order.dtype)
    return inverse


def _join(parts: list[NDArray[Number]], dtype: type[Number]) -> Tensor:
    """All parts as one tensor; the list is emptied, which frees them."""
    joined = np.concatenate([np.empty(0, dtype), *parts])
    parts.clear()
    return torch.from_numpy(joined)
