"""A summary that shows a person whether a hierarchy was read as it was meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tree_view import TreeView

_LABELS = 5
_WIDTH = 40


def describe(tree: TreeView) -> str:
    """A few lines: counts, what is unusual, and the first labels with their paths."""
    rows = summary(tree)
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {found}" for what, found in rows)


def summary(tree: TreeView) -> list[tuple[str, str]]:
    """The lines of `describe`, as pairs of a heading and a text."""
    is_class = np.zeros(tree.num_nodes, np.bool_)
    is_class[tree.classes] = True
    num_children = np.bincount(tree.parent_ids, minlength=tree.num_nodes)
    is_leaf = num_children == 0
    several = int(np.count_nonzero(np.diff(tree.parent_ptr) > 1))
    depths = tree.depths[tree.classes]
    inner = int(np.count_nonzero(is_class & ~is_leaf))
    idle = int(np.count_nonzero(is_leaf & ~is_class))
    kind = "DAG" if several else "tree" if len(tree.roots) == 1 else "forest"
    rows = [
        ("kind", kind),
        ("nodes", f"{tree.num_nodes:,}, {tree.num_leaves:,} of them leaves"),
        ("classes", f"{tree.num_classes:,}{_remarks(inner, idle)}"),
        ("depth", f"{tree.depth}; of the classes {_span(depths)}"),
        ("roots", _listed([_name(tree, int(node)) for node in tree.roots[:4]], len(tree.roots))),
        ("single-child nodes", f"{int(np.count_nonzero(num_children == 1)):,}"),
    ]
    if several:
        rows.append(("nodes with several parents", f"{several:,}"))
    first = [
        f"{label} = {_path(tree, node)}"
        for label, node in enumerate(tree.classes[:_LABELS].tolist())
    ]
    rows += [("labels" if not place else "", text) for place, text in enumerate(first)]
    if tree.num_classes > _LABELS:
        last = tree.num_classes - 1
        if last > _LABELS:
            rows.append(("", "…"))
        rows.append(("", f"{last} = {_path(tree, int(tree.classes[last]))}"))
    if tree.is_tree:
        rows.append(("label order", _order(tree)))
    return rows


def _remarks(inner: int, idle: int) -> str:
    remarks = []
    if inner:
        remarks.append(f"{inner:,} at inner nodes")
    if idle:
        leaves = "leaf" if idle == 1 else "leaves"
        remarks.append(f"{idle:,} {leaves} without a label, which subset(labels) cuts off")
    return f" ({'; '.join(remarks)})" if remarks else ""


def _order(tree: TreeView) -> str:
    order = tree.depth_first_classes
    if len(order) < 2:
        return "one class"
    neighbours = np.count_nonzero(np.diff(order) == 1) / (len(order) - 1)
    if neighbours == 1:
        return "depth-first: every subtree is a run of columns, which the kernels read fastest"
    return (
        f"not depth-first: {neighbours:.0%} of the columns stand beside their neighbour in the "
        f"tree, so the kernels gather them"
    )


def _span(depths: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    low, high = int(depths.min()), int(depths.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _listed(names: Sequence[str], number: int) -> str:
    shown = ", ".join(names)
    return f"{number:,} ({shown}{', …' if number > len(names) else ''})"


def _name(tree: TreeView, node: int) -> str:
    name = str(node) if tree.names is None else tree.names[node]
    return name if len(name) <= _WIDTH else f"{name[:_WIDTH]}…"


def _path(tree: TreeView, node: int) -> str:
    """A class and what is above it; in a DAG, the class alone."""
    if not tree.is_tree:
        return tree.short_name(node)
    return " > ".join(tree.short_name(above) for above in reversed(tree.path(node)))
