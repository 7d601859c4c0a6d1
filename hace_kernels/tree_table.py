"""Tree tables: what the ops over all nodes know of a hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TreeTable(NamedTuple):
    """A forest of N nodes, C of them classes, listed level by level from the roots down.

    A node's *place* is its index in that list; the nodes of one level are neighbours there, and
    parents come before their children.

    Attributes:
        node: int64 (N), place → node id.
        place: int64 (N), node id → place.
        parent: int64 (N), the place of the parent of the node at each place; −1 at a root.
        class_place: int64 (C), column of the logits → place of the class's node.
        empty: bool (N), by place: the node has no class at or below it.
        level_ptr: places level_ptr[l] … level_ptr[l + 1] are the nodes at depth l.
    """

    node: Tensor
    place: Tensor
    parent: Tensor
    class_place: Tensor
    empty: Tensor
    level_ptr: tuple[int, ...]

    @property
    def num_nodes(self) -> int:
        return self.node.shape[0]

    @property
    def num_classes(self) -> int:
        return self.class_place.shape[0]

    def to(self, device: torch.device | str) -> TreeTable:
        """The same table on `device`."""
        return TreeTable(
            self.node.to(device),
            self.place.to(device),
            self.parent.to(device),
            self.class_place.to(device),
            self.empty.to(device),
            self.level_ptr,
        )


def build_tree_table(
    layout: Layout, parents: NDArray[np.int64], classes: NDArray[np.int64]
) -> TreeTable:
    """The table of a laid-out hierarchy, on the CPU.

    Args:
        layout: the layout of `parents` and `classes`.
        parents: int64 (N), −1 at a root.
        classes: int64 (C), the nodes that the logits have as columns.
    """
    order = layout.order
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    above = parents[order]
    return TreeTable(
        node=torch.from_numpy(order.copy()),
        place=torch.from_numpy(place),
        parent=torch.from_numpy(np.where(above < 0, -1, place[above])),
        class_place=torch.from_numpy(place[classes]),
        empty=torch.from_numpy((layout.start == layout.stop)[order]),
        level_ptr=tuple(layout.level_ptr.tolist()),
    )
