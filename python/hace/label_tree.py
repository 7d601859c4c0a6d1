"""The tree of labels: the hierarchy in which every class is a leaf.

A class label means that class alone, and a node id its subtree. The two differ where a class sits
at an inner node v: its label stands for its own logit, and v for all logits below it. So each such
class gets a leaf of its own under its node here, and all tables are compiled from this tree, in
which the path of a label starts at what the label means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .hierarchy import Hierarchy
from .links import Links

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

__all__ = ["LabelTree", "label_tree"]


class LabelTree(NamedTuple):
    """A hierarchy with a leaf added for each inner class; a DAG if the hierarchy is one.

    Attributes:
        links: of the N nodes, and from N on of the added leaves, in label order.
        classes: int64 (C), the leaf or node of each label.
        own_leaf: int64 (N), the leaf that was added under each node, or the node itself.
        node: int64, the hierarchy's node of each node here: an added leaf's parent.
    """

    links: Links
    classes: Int64
    own_leaf: Int64
    node: Int64

    @property
    def num_nodes(self) -> int:
        """N, without the added leaves."""
        return len(self.own_leaf)


def label_tree(hierarchy: Hierarchy) -> LabelTree:
    """The hierarchy with a leaf under each inner node that is a class."""
    classes, num_nodes = hierarchy.classes, hierarchy.num_nodes
    inner = classes[hierarchy.heights[classes] > 0]
    added = num_nodes + np.arange(len(inner))
    own_leaf = np.arange(num_nodes)
    own_leaf[inner] = added
    first = hierarchy.parent_ptr[-1] + 1
    return LabelTree(
        links=Links(
            np.append(hierarchy.parent_ptr, np.arange(first, first + len(inner))),
            np.append(hierarchy.parent_ids, inner),
        ),
        classes=own_leaf[classes],
        own_leaf=own_leaf,
        node=np.append(np.arange(num_nodes), inner),
    )
