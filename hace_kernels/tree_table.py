"""Tree tables: all that the ops over a whole tree know of a hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TreeTable", "build_tree_table"]


class TreeTable(NamedTuple):
    """A forest over the C columns of the logits as flat arrays; tensors on one device.

    Values are kept at P = C + I *places*. Place j < C is column j of the logits. The I others are
    inner places, deepest level first, so that children come before their parents; the last one is a
    virtual root above all roots, which makes any forest one tree.

    The place of a leaf that is a class is its column. Every other node with a class below it has an
    inner place; if it is a class too, its own column is one more child of this place. Nodes without
    a class at or below them have no place.

    Attributes:
        place: int32 (N), node id → place, or −1.
        parent: int32 (P), the place above each place; −1 at the virtual root.
        child_ptr: int32 (I + 1), bounds in `child` of the children of each inner place.
        child: int32 (P − 1), places.
        num_columns: int32 (P), columns at or below each place.
        level_ptr: level l is the inner places C + level_ptr[l] … C + level_ptr[l + 1] − 1; their
            children are columns or inner places of level l − 1.
    """

    place: Tensor
    parent: Tensor
    child_ptr: Tensor
    child: Tensor
    num_columns: Tensor
    level_ptr: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.place.device

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.place.shape[0]

    @property
    def num_places(self) -> int:
        """P."""
        return self.parent.shape[0]

    @property
    def num_inner(self) -> int:
        """I."""
        return self.child_ptr.shape[0] - 1

    @property
    def num_classes(self) -> int:
        """C."""
        return self.num_places - self.num_inner

    def to(self, device: torch.device | str) -> TreeTable:
        """The same table on `device`."""
        return self.of_tensors([tensor.to(device) for tensor in self.tensors], self.level_ptr)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which the native ops take them."""
        return [self.place, self.parent, self.child_ptr, self.child, self.num_columns]

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor], level_ptr: Sequence[int]) -> TreeTable:
        """The table from its `tensors`."""
        place, parent, child_ptr, child, num_columns = tensors
        return cls(place, parent, child_ptr, child, num_columns, tuple(level_ptr))


def build_tree_table(
    layout: Layout, parents: NDArray[np.int64], classes: NDArray[np.int64]
) -> TreeTable:
    """The table of a laid-out hierarchy, on the CPU.

    Args:
        layout: the layout of `parents` and `classes`.
        parents: int64 (N), −1 at a root.
        classes: int64 (C), the nodes that the logits have as columns.
    """
    num_nodes, num_classes = len(parents), len(classes)
    has_children = np.diff(layout.child_ptr) > 0
    has_place = layout.start < layout.stop
    # A node stays an inner place even if none of its children has a class, and so a place.
    inner = np.flatnonzero(has_place & has_children)
    inner = inner[np.lexsort((layout.start[inner], -layout.depth[inner]))]
    num_inner = len(inner) + 1
    root = num_classes + num_inner - 1

    place = np.full(num_nodes, -1, np.int32)
    place[inner] = num_classes + np.arange(len(inner), dtype=np.int32)
    is_leaf = ~has_children[classes]
    place[classes[is_leaf]] = np.flatnonzero(is_leaf)

    # The node right above each place. The column of an inner node has this node itself above it.
    above = np.concatenate([np.where(is_leaf, parents[classes], classes), parents[inner]])
    parent = np.append(np.where(above < 0, root, place[above]), -1).astype(np.int32)
    child = np.argsort(parent[:-1], kind="stable").astype(np.int32)
    child_ptr = np.zeros(num_inner + 1, np.int32)
    np.cumsum(np.bincount(parent[:-1] - num_classes, minlength=num_inner), out=child_ptr[1:])

    num_columns = np.ones(num_classes + num_inner, np.int32)
    num_columns[num_classes:-1] = (layout.stop - layout.start)[inner]
    num_columns[-1] = num_classes
    is_first = np.diff(layout.depth[inner], prepend=-1) != 0
    level_ptr = [*np.flatnonzero(is_first).tolist(), len(inner), num_inner]
    return TreeTable(
        place=torch.from_numpy(place),
        parent=torch.from_numpy(parent),
        child_ptr=torch.from_numpy(child_ptr),
        child=torch.from_numpy(child),
        num_columns=torch.from_numpy(num_columns),
        level_ptr=tuple(level_ptr),
    )
