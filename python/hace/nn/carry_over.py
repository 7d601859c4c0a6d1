"""Carries a trained layer over from one edition of a taxonomy to the next."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from .classifier import HierarchicalClassifier
from .tree_linear import TreeLinear

__all__ = ["CarriedOver", "carry_over"]

_Pairs: TypeAlias = list[tuple[Tensor | None, Tensor | None]]


class CarriedOver(NamedTuple):
    """What became of the classes (of a classifier) or nodes (of a `TreeLinear`), by name.

    Attributes:
        kept: those in both hierarchies with a parent of the same name.
        moved: those in both under different parents.
        added: those only in the new one.
        dropped: those only in the old one.
    """

    kept: tuple[str, ...]
    moved: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"{len(names)} {what}" for what, names in self._asdict().items())


def carry_over(
    old: HierarchicalClassifier | TreeLinear,
    new: HierarchicalClassifier | TreeLinear,
    *,
    sep: str | None = None,
) -> CarriedOver:
    """Copies the rows of the old layer to the new one, matched by name.

    A class of both hierarchies gives the same logit before and after. A new class starts with the
    mean of the rows of its nearest ancestor's old classes; in a `TreeLinear`, where a class is the
    sum of its path, it starts with its parent's. A class without any such ancestor keeps its random
    initial row.

    Args:
        old: the layer that was trained.
        new: the same kind of layer over the next hierarchy, with as many features; it is changed.
        sep: where names are paths, what separates their parts. A class whose full name is not found
            is then also matched by its last part, if it is the only one with that part on either
            side.

    Returns:
        What was kept, moved, added and dropped.

    Raises:
        TypeError: the layers are not of one kind.
        ValueError: a hierarchy has no names, the layers differ in features or in having a bias, or
            their rows are spread over processes.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> revised = hace.Hierarchy.from_paths(["animal/cat", "animal/owl", "vehicle/car"])
        >>> old, new = (hace.nn.HierarchicalClassifier(8, t) for t in (tree, revised))
        >>> hace.nn.carry_over(old, new).added
        ('animal/owl',)
    """
    if isinstance(old, HierarchicalClassifier) and isinstance(new, HierarchicalClassifier):
        pairs: _Pairs = [
            (old.linear.weight, new.linear.weight),
            (old.linear.bias, new.linear.bias),
        ]
    elif isinstance(old, TreeLinear) and isinstance(new, TreeLinear):
        pairs = [(old.weight, new.weight), (old.bias, new.bias)]
    else:
        raise TypeError(
            "carry_over takes two HierarchicalClassifiers or two TreeLinears, got "
            f"{type(old).__name__} and {type(new).__name__}"
        )
    if old._shard is not None or new._shard is not None:
        raise ValueError(
            "the rows of a layer with a device_mesh are spread over processes: carry over between "
            "layers of one process, before they are distributed"
        )
    _check(pairs, old.hierarchy, new.hierarchy)
    of_classes = isinstance(new, HierarchicalClassifier)
    source = _sources(old.hierarchy, new.hierarchy, of_classes, sep)
    with torch.no_grad():
        for before, after in pairs:
            if before is None or after is None:
                continue
            if isinstance(new, HierarchicalClassifier):
                _carry_classes(before, after, old.hierarchy, new.hierarchy, source)
            else:
                _carry_nodes(before, after, old.hierarchy, new.hierarchy, source)
    return _told(old.hierarchy, new.hierarchy, of_classes, source)


def _check(pairs: _Pairs, old: Hierarchy, new: Hierarchy) -> None:
    if old.names is None or new.names is None:
        raise ValueError("rows are matched by name, and a hierarchy without names was given")
    for before, after in pairs:
        shapes = [None if rows is None else rows.shape[1:] for rows in (before, after)]
        if shapes[0] != shapes[1]:
            raise ValueError("the layers must have as many features, and both or neither a bias")


def _sources(old: Hierarchy, new: Hierarchy, of_classes: bool, sep: str | None) -> dict[int, int]:
    """For the new nodes (or only the classes) that have one, the old node of the same name."""
    assert old.names is not None
    assert new.names is not None
    nodes_old = {old.names[node]: node for node in _nodes(old, of_classes)}
    nodes_new = {new.names[node]: node for node in _nodes(new, of_classes)}
    found = {node: nodes_old[name] for name, node in nodes_new.items() if name in nodes_old}
    if sep is not None:
        left_old = _by_last_part({n: v for n, v in nodes_old.items() if n not in nodes_new}, sep)
        left_new = _by_last_part({n: v for n, v in nodes_new.items() if n not in nodes_old}, sep)
        found |= {left_new[part]: left_old[part] for part in left_new.keys() & left_old.keys()}
    return found


def _nodes(hierarchy: Hierarchy, of_classes: bool) -> list[int]:
    nodes: list[int] = hierarchy.classes.tolist()
    return nodes if of_classes else list(range(hierarchy.num_nodes))


def _by_last_part(nodes: dict[str, int], sep: str) -> dict[str, int]:
    """Nodes by the last part of their name, without the parts that several nodes share."""
    parts = [name.rpartition(sep)[2] for name in nodes]
    count = Counter(parts)
    return {
        part: node for part, node in zip(parts, nodes.values(), strict=True) if count[part] == 1
    }


def _carry_classes(
    before: Tensor, after: Tensor, old: Hierarchy, new: Hierarchy, source: dict[int, int]
) -> None:
    """Copies rows in depth-first order, one per class."""
    assert old.names is not None
    assert new.names is not None
    row_of_old = {int(old.classes[c]): row for row, c in enumerate(old.depth_first_classes)}
    below: dict[str, list[int]] = {}
    for node, row in row_of_old.items():
        for above in old.ancestors(node):
            below.setdefault(old.names[above], []).append(row)
    for row, label in enumerate(new.depth_first_classes):
        node = int(new.classes[label])
        if node in source:
            after[row] = before[row_of_old[source[node]]]
            continue
        known = (below[new.names[v]] for v in new.ancestors(node) if new.names[v] in below)
        rows = next(known, None)
        if rows is not None:
            after[row] = before[rows].mean(0)


def _carry_nodes(
    before: Tensor, after: Tensor, old: Hierarchy, new: Hierarchy, source: dict[int, int]
) -> None:
    """Copies rows by node id such that the sums over paths are kept."""
    for node in np.argsort(new.depths, kind="stable").tolist():
        above = [v for v in new.ancestors(node) if v != node]
        if node in source:
            whole = before[old.ancestors(source[node])].sum(0)
            after[node] = whole - after[above].sum(0)
        elif above:
            after[node] = 0


def _told(old: Hierarchy, new: Hierarchy, of_classes: bool, source: dict[int, int]) -> CarriedOver:
    assert old.names is not None
    assert new.names is not None
    kept, moved, added = [], [], []
    for node in _nodes(new, of_classes):
        if node not in source:
            added.append(new.names[node])
        elif _parents(new, node) == _parents(old, source[node]):
            kept.append(new.names[node])
        else:
            moved.append(new.names[node])
    used = set(source.values())
    dropped = [old.names[node] for node in _nodes(old, of_classes) if node not in used]
    return CarriedOver(tuple(kept), tuple(moved), tuple(added), tuple(dropped))


def _parents(hierarchy: Hierarchy, node: int) -> list[str]:
    assert hierarchy.names is not None
    first, last = hierarchy.parent_ptr[node : node + 2]
    return sorted(hierarchy.names[parent] for parent in hierarchy.parent_ids[first:last])
