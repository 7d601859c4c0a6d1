"""Points: the places in a hierarchy at which an answer or a truth may stand.

A node id means the node's subtree, and a class label means that class alone, as if every class at
an inner node were one more leaf below it. So the points of a hierarchy of N nodes are these nodes,
by id, and after them one leaf for each class at an inner node, in label order. Depths, heights and
common ancestors are those of the hierarchy of points, in which every class is a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy, check_hierarchy
from ..label_tree import label_tree
from ..spaces import TargetSpace
from ..tables import Tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

__all__ = ["PointTables", "Points", "points_of"]


class PointTables(NamedTuple):
    """The points as tensors on one device. Point P, one more, is a virtual root above all roots.

    Attributes:
        depth: int64 (P+1), edges on the longest path from a root; −1 at the virtual root.
        height: int64 (P+1), edges on the longest path down.
        node: int64 (P+1), the node id that users see for a point; −1 for the virtual root.
        of_class: int64 (C), the point of each class label.
        own_label: int64 (P−N), the labels of the classes at inner nodes, points N … P−1.
    """

    depth: Tensor
    height: Tensor
    node: Tensor
    of_class: Tensor
    own_label: Tensor


@dataclass
class _Data:
    """What is computed once per hierarchy, and kept there, so that it must not refer to it."""

    own_label: Int64
    of_class: Int64
    leafy: Hierarchy | None  # the hierarchy of the points, if it is another one


@dataclass(frozen=True)
class Points:
    """The points of a hierarchy; `points_of` gives them."""

    hierarchy: Hierarchy
    _data: _Data

    @property
    def tree(self) -> Hierarchy:
        """The hierarchy of the points; the hierarchy itself where every class is a leaf."""
        return self._data.leafy or self.hierarchy

    @property
    def num_points(self) -> int:
        """P; the virtual root, which is not a node, is point P."""
        return self.tree.num_nodes

    @property
    def has_lone_root(self) -> bool:
        """Whether a single root is above all points, so that answering with it says nothing."""
        return len(self.tree.roots) == 1

    def on(self, device: torch.device) -> PointTables:
        """The tables on `device`, copied there once."""
        tables = Tables.of(self.hierarchy)
        return tables.derived(("points", device), lambda: self._tables(device))

    def of(self, index: Tensor, space: TargetSpace) -> Tensor:
        """The points of class labels or of node ids, where −1 stands for the virtual root."""
        if space == "classes":
            return self.on(index.device).of_class[index.long()]
        return torch.where(index < 0, self.num_points, index.long())

    def told(self, point: Tensor) -> Tensor:
        """The node ids that users see for points; for the virtual root a lone root, or −1."""
        node = self.on(point.device).node[point]
        if not self.has_lone_root:
            return node
        return torch.where(node < 0, int(self.tree.roots[0]), node)

    def _tables(self, device: torch.device) -> PointTables:
        tree, data = self.tree, self._data
        arrays = (
            np.append(tree.depths, -1),
            np.append(tree.heights, 1 + tree.heights.max()),
            np.concatenate(
                [
                    np.arange(self.hierarchy.num_nodes),
                    self.hierarchy.classes[data.own_label],
                    [-1],
                ]
            ),
            data.of_class,
            data.own_label,
        )
        return PointTables(*(torch.tensor(a, dtype=torch.int64, device=device) for a in arrays))


def points_of(hierarchy: Hierarchy) -> Points:
    """The points of a hierarchy, found once.

    Raises:
        TypeError: it is not a hierarchy.
    """
    check_hierarchy(hierarchy)
    data = Tables.of(hierarchy).derived("points", lambda: _find(hierarchy))
    return Points(hierarchy, data)


def _find(hierarchy: Hierarchy) -> _Data:
    labels = label_tree(hierarchy)
    own_label = np.flatnonzero(labels.classes >= labels.num_nodes)
    leafy = None
    if len(own_label):
        links = labels.links
        leafy = Hierarchy(links.parent_ptr, links.parent, classes=labels.classes)
    return _Data(own_label, labels.classes, leafy)
