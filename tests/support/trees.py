"""Trees for tests: a plain description of a tree, shapes that break things, and path tables.

Nothing here shares code with the library: a `Tree` consists of two integer arrays, everything else
is found by walking parents, and the path tables that the low-level op takes come from that walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hace_kernels.path_table import PathTable


@dataclass(frozen=True)
class Tree:
    """A tree or forest: `parents[v]` is -1 at roots, and class `c` is at the node `classes[c]`."""

    parents: np.ndarray
    classes: np.ndarray

    @property
    def num_nodes(self) -> int:
        return len(self.parents)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def path(self, node: int) -> list[int]:
        """The node, its parent, and so on up to its root."""
        path = [int(node)]
        while self.parents[path[-1]] >= 0:
            path.append(int(self.parents[path[-1]]))
        return path

    @cached_property
    def paths(self) -> list[list[int]]:
        """The path of every node."""
        return [self.path(node) for node in range(self.num_nodes)]

    def reach(self) -> np.ndarray:
        """The reachability matrix: `reach[v, c]` says whether class `c` is at or below node `v`."""
        reach = np.zeros((self.num_nodes, self.num_classes), dtype=bool)
        for label, node in enumerate(self.classes):
            reach[self.path(node), label] = True
        return reach

    def leaves(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.num_nodes), self.parents)

    def leaf_labels(self) -> np.ndarray:
        """The labels of the classes that are at leaves."""
        return np.flatnonzero(np.isin(self.classes, self.leaves()))

    def in_node_mode(self) -> Tree:
        """The same tree with every node as a class, whose label is the node's id."""
        return Tree(self.parents, np.arange(self.num_nodes))

    def labels(self) -> LabelTree:
        """The tree of what labels mean: a class at an inner node is a leaf under it."""
        return self._labels

    @cached_property
    def _labels(self) -> LabelTree:
        inner = np.flatnonzero(np.isin(self.classes, self.parents))
        classes = self.classes.copy()
        classes[inner] = self.num_nodes + np.arange(len(inner))
        parents = np.concatenate([self.parents, self.classes[inner]])
        return LabelTree(parents, classes, self.num_nodes)

    def depth_first(self) -> list[int]:
        """The nodes in an order where every subtree is contiguous and parents come first."""
        children: dict[int, list[int]] = {}
        first = np.full(self.num_nodes, self.num_classes)
        for label in reversed(range(self.num_classes)):
            first[self.path(self.classes[label])] = label
        for node in sorted(range(self.num_nodes), key=lambda node: -first[node]):
            children.setdefault(int(self.parents[node]), []).append(node)
        order, stack = [], list(children[-1])
        while stack:
            order.append(stack.pop())
            stack.extend(children.get(order[-1], []))
        return order


@dataclass(frozen=True)
class LabelTree(Tree):
    """A tree of `num_own` nodes, plus an added leaf for each class at an inner node."""

    num_own: int

    @property
    def node(self) -> np.ndarray:
        """The tree's node that each node here stands for; for an added leaf, its parent."""
        nodes = np.arange(self.num_nodes)
        return np.where(nodes < self.num_own, nodes, self.parents)

    @property
    def own_leaf(self) -> np.ndarray:
        """The leaf that was added under each node of the tree, or the node itself."""
        leaf = np.arange(self.num_own)
        leaf[self.parents[self.num_own :]] = np.arange(self.num_own, self.num_nodes)
        return leaf

    def columns(self, logit_space: str) -> np.ndarray:
        """The node of each column, for logits of the classes or of the tree's nodes."""
        return self.own_leaf if logit_space == "nodes" else self.classes

    def targets(self, target_space: str) -> np.ndarray:
        """The node of each target, for targets that are class labels or node ids."""
        return np.arange(self.num_own) if target_space == "nodes" else self.classes


def flat(classes: int, rooted: bool = True) -> Tree:
    """Leaves under one root, or leaves without a root."""
    if not rooted:
        return Tree(np.full(classes, -1), np.arange(classes))
    return Tree(np.array([-1] + [0] * classes), np.arange(1, classes + 1))


def chain(length: int) -> Tree:
    """A path of `length` nodes with one class at its lower end."""
    return Tree(np.arange(-1, length - 1), np.array([length - 1]))


def caterpillar(levels: int) -> Tree:
    """A path of `levels` inner nodes, each with one leaf, and the last one with two."""
    spine = np.arange(-1, levels - 1)
    leaves = np.append(np.arange(levels), levels - 1)
    return Tree(np.concatenate([spine, leaves]), np.arange(levels, 2 * levels + 1))


def balanced(branching: Sequence[int], rooted: bool = False) -> Tree:
    """`branching[0]` top nodes (under a root if `rooted`), each with `branching[1]` children, …"""
    parents, level = ([-1], [0]) if rooted else ([], [-1])
    for width in branching:
        first = len(parents)
        parents.extend(node for node in level for _ in range(width))
        level = list(range(first, len(parents)))
    return Tree(np.array(parents), np.array(level))


def random_tree(
    rng: np.random.Generator,
    leaves: int,
    roots: int = 1,
    inner: float = 0.0,
    shuffle: bool = False,
) -> Tree:
    """A tree of random shape with single-child chains and node ids in any order.

    Neighbouring nodes are joined under a new parent until `roots` of them are left, so the columns
    are in depth-first order unless `shuffle`. `inner` is the share of inner nodes that are classes.
    """
    parents = [-1] * leaves
    active = list(range(leaves))
    spare_chains = leaves
    while len(active) > roots:
        width = int(rng.integers(1, 5))
        if width == 1:
            spare_chains -= 1
        if spare_chains <= 0:
            width = max(width, 2)
        width = min(width, len(active) - roots + 1)
        first = int(rng.integers(0, len(active) - width + 1))
        for node in active[first : first + width]:
            parents[node] = len(parents)
        active[first : first + width] = [len(parents)]
        parents.append(-1)
    ids = rng.permutation(len(parents))
    renamed = np.full(len(parents), -1)
    for node, parent in enumerate(parents):
        renamed[ids[node]] = -1 if parent < 0 else ids[parent]
    chosen = set(ids[:leaves].tolist())
    chosen.update(int(node) for node in ids[leaves:] if rng.random() < inner)
    ordered = Tree(renamed, ids[:leaves]).depth_first()
    classes = np.array([node for node in ordered if node in chosen])
    if shuffle:
        classes = rng.permutation(classes)
    return Tree(renamed, classes)


def positions(tree: Tree) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """The columns in depth-first order, and each node's interval of positions in that order."""
    label = {int(node): c for c, node in enumerate(tree.classes)}
    order: list[int] = []
    start: dict[int, int] = {}
    stop: dict[int, int] = {}
    for node in tree.depth_first():
        start[node] = len(order)
        if node in label:
            order.append(label[node])
            for ancestor in tree.path(node):
                stop[ancestor] = len(order)
    return np.array(order), {v: (start[v], stop.get(v, start[v])) for v in start}


def path_table(
    tree: Tree, weights: np.ndarray, targets: Sequence[int] | np.ndarray, keep_full: bool = False
) -> PathTable:
    """The table of the paths of `targets` (nodes); `weights[t, v]` is node v's weight on path t.

    As the op requires, entries of weight 0 are left out and equal intervals are merged. An interval
    of all classes is left out too (log P = 0), unless `keep_full`: an eps inside the logarithm
    needs it.
    """
    order, interval = positions(tree)
    rows = []
    for row, target in enumerate(targets):
        path: dict[tuple[int, int], float] = {}
        for node in tree.path(target):
            path[interval[node]] = path.get(interval[node], 0.0) + float(weights[row, node])
        if not keep_full:
            path.pop((0, tree.num_classes), None)
        rows.append([(*ends, weight) for ends, weight in path.items() if weight != 0])
    ordered = bool(np.all(order == np.arange(tree.num_classes)))
    return interval_table(rows, tree.num_classes, None if ordered else order)


def interval_table(
    paths: Sequence[Sequence[tuple[int, int, float]]],
    num_classes: int,
    order: np.ndarray | None = None,
) -> PathTable:
    """The table of arbitrary nested intervals (start, stop, weight), innermost first."""
    lengths = [len(path) for path in paths]
    entries = np.array([entry for path in paths for entry in path]).reshape(-1, 3)
    return PathTable(
        ptr=torch.tensor(np.cumsum([0, *lengths])),
        start=torch.tensor(entries[:, 0], dtype=torch.int32),
        stop=torch.tensor(entries[:, 1], dtype=torch.int32),
        weight=torch.tensor(entries[:, 2], dtype=torch.float64),
        order=None if order is None else torch.tensor(order, dtype=torch.int32),
        position=None if order is None else torch.tensor(np.argsort(order), dtype=torch.int32),
        num_classes=num_classes,
        max_entries=max(lengths, default=0),
    )
