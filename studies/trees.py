"""Wrong trees, and how much of the true tree is left in each.

A name says how a tree is made from the true one:

    true          the tree itself
    swap P        P % of the classes trade places at random; 100 is a random tree of the same shape
    rewire P      P % of the nodes get a random parent of the same depth as their own
    drop L        the nodes of depth L are removed, and their children go to their parents
    cover         `Hierarchy.from_embeddings` of class vectors, by the cover tree
    agglomerative the same, by average linkage
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

import hace

PAIRS = 20_000


def wrong_tree(
    tree: hace.Hierarchy, name: str, seed: int, vectors: npt.NDArray[np.float32] | None = None
) -> hace.Hierarchy:
    """The tree that the name describes; class i of the true tree stays class i."""
    kind, _, number = name.partition(" ")
    rng = np.random.default_rng(seed)
    if kind == "true":
        return tree
    if kind == "swap":
        return _swap(tree, int(number) / 100, rng)
    if kind == "rewire":
        return _rewire(tree, int(number) / 100, rng)
    if kind == "drop":
        return _drop(tree, int(number))
    if kind == "cover":
        return hace.Hierarchy.from_embeddings(vectors)
    if kind == "agglomerative":
        return hace.Hierarchy.from_embeddings(vectors, method="agglomerative")
    raise ValueError(f"there is no tree {name!r}")


def likeness(tree: hace.Hierarchy, other: hace.Hierarchy) -> float:
    """Spearman's correlation of the depths at which random pairs of classes meet in both trees."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(tree.num_classes, size=(2, PAIRS))
    a, b = a[a != b], b[a != b]
    return float(spearmanr(_meeting_depth(tree, a, b), _meeting_depth(other, a, b)).statistic)


def _meeting_depth(
    tree: hace.Hierarchy, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    meeting = tree.lca(tree.classes[a], tree.classes[b])
    return np.where(meeting < 0, -1, tree.depths[meeting])


def _swap(tree: hace.Hierarchy, share: float, rng: np.random.Generator) -> hace.Hierarchy:
    classes = tree.classes.copy()
    picked = rng.permutation(len(classes))[: round(share * len(classes))]
    classes[picked] = classes[rng.permutation(picked)]
    return hace.Hierarchy.from_parents(tree.parents, classes=classes)


def _rewire(tree: hace.Hierarchy, share: float, rng: np.random.Generator) -> hace.Hierarchy:
    parents = tree.parents.copy()
    movable = np.flatnonzero(parents >= 0)
    for node in rng.permutation(movable)[: round(share * len(movable))]:
        # All candidates have the same depth, so no cycle can arise. A node may draw its own parent
        # again. Leaves are no candidates, so that no leaf class becomes an inner node.
        depth = tree.depths[parents[node]]
        places = np.flatnonzero((tree.depths == depth) & (tree.heights > 0))
        parents[node] = rng.choice(places)
    return hace.Hierarchy.from_parents(parents, classes=tree.classes)


def _drop(tree: hace.Hierarchy, level: int) -> hace.Hierarchy:
    is_class = np.zeros(tree.num_nodes, dtype=bool)
    is_class[tree.classes] = True
    gone = (tree.depths == level) & ~is_class
    parents = tree.parents.copy()
    child_of_gone = (parents >= 0) & gone[parents]
    parents[child_of_gone] = parents[parents[child_of_gone]]
    new_id = np.cumsum(~gone) - 1
    kept = parents[~gone]
    return hace.Hierarchy.from_parents(
        np.where(kept < 0, -1, new_id[kept]), classes=new_id[tree.classes]
    )
