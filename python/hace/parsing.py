"""Hierarchies as text: paths of classes, edges between names, and names packed into bytes."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .tree_checks import describe, refuse_repeated_edge

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROOT = -1
_UNRESOLVED = -2  # a class whose path has not been walked yet


def parse_paths(paths: Iterable[str], sep: str) -> tuple[list[str], list[int], int]:
    """Names (full paths), parents and the number of classes; see `Hierarchy.from_paths`."""
    if not isinstance(sep, str):
        raise TypeError(f"sep must be a string, got {sep!r}")
    if not sep:
        raise ValueError("sep is empty; give the text between the parts of a path, e.g. '/'")
    if isinstance(paths, (str, bytes)):
        raise TypeError(f"paths must be a list of strings, one a class, got the string {paths!r}")

    ids: dict[str, int] = {}
    for label, path in enumerate(paths):
        if not isinstance(path, str):
            raise TypeError(f"path {label} must be a string, got {path!r}")
        if not path:
            _refuse_empty_part(label, path, sep)
        first = ids.setdefault(path, label)
        if first != label:
            raise ValueError(
                f"path {label} and path {first} are both {path!r}; list every class once"
            )

    if not ids:
        raise ValueError("paths is empty; a hierarchy needs at least one")
    class_paths = list(ids)
    parents = [_UNRESOLVED] * len(class_paths)
    for label, path in enumerate(class_paths):
        # Up to the first node that has its parent already, so that every node is walked once.
        node, parent, walk = path, _ROOT, []
        while node:
            known = ids.get(node)
            if known is not None and parents[known] != _UNRESOLVED:
                parent = known
                break
            walk.append(node)
            above, found, last_part = node.rpartition(sep)
            if not last_part or (found and not above):
                _refuse_empty_part(label, path, sep)
            node = above
        for node in reversed(walk):
            new = ids.setdefault(node, len(ids))
            if new == len(parents):
                parents.append(parent)
            else:
                parents[new] = parent
            parent = new
    return list(ids), parents, len(class_paths)


def _refuse_empty_part(label: int, path: str, sep: str) -> NoReturn:
    raise ValueError(
        f"path {label}, {path!r}, has an empty part; give every part a name, with one {sep!r} "
        f"between parts"
    )


def parse_edges(
    edges: Iterable[tuple[str, str]], allow_multiple_parents: bool
) -> tuple[list[str], list[int], list[tuple[int, int]]]:
    """Names by first appearance, each node's first parent, and the edges from further parents.

    See `Hierarchy.from_edges`.
    """
    ids: dict[str, int] = {}
    parents: list[int] = []
    more_edges: list[tuple[int, int]] = []
    for place, edge in enumerate(edges):
        if isinstance(edge, (str, bytes)) or not isinstance(edge, Iterable):
            raise TypeError(f"edge {place} must be a pair (parent, child), got {edge!r}")
        pair = tuple(edge)
        if len(pair) != 2:
            raise ValueError(f"edge {place} must be a pair (parent, child), got {pair!r}")
        for name in pair:
            if not isinstance(name, str):
                raise TypeError(f"edge {place} must hold two strings, got {pair!r}")
            if name not in ids:
                ids[name] = len(ids)
                parents.append(_ROOT)
        parent, child = (ids[name] for name in pair)
        if parents[child] == _ROOT:
            parents[child] = parent
        elif parents[child] == parent:
            refuse_repeated_edge(parent, child, list(ids))
        elif allow_multiple_parents:
            more_edges.append((parent, child))
        else:
            _refuse_second_parent(list(ids), child, parents[child], parent)
    if not ids:
        raise ValueError("edges is empty; a hierarchy needs at least one (from_parents needs none)")
    return list(ids), parents, more_edges


def _refuse_second_parent(names: list[str], child: int, first: int, second: int) -> NoReturn:
    raise ValueError(
        f"{describe(child, names)} has two parents, {describe(first, names)} and "
        f"{describe(second, names)}; keep one of these edges, or give allow_multiple_parents=True "
        f"for a DAG"
    )


def read_csv_edges(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The (parent, child) pairs of a file; see `Hierarchy.from_csv`."""
    edges = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        for row in reader:
            if not row:
                continue
            if len(row) != 2 or not all(row):
                raise ValueError(
                    f"{os.fspath(path)}, line {reader.line_num}: {row} is not a pair of names "
                    f"'parent,child'"
                )
            edges.append((row[0], row[1]))
    if edges and [name.strip().lower() for name in edges[0]] == ["parent", "child"]:
        del edges[0]
    return edges


def pack_names(names: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All names as UTF-8 bytes, one after the other, and where each begins and ends (N+1)."""
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    ptr = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=ptr[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), ptr


def unpack_names(data: NDArray[Any], ptr: NDArray[Any]) -> list[str]:
    """The names that `pack_names` packed."""
    text, bounds = data.tobytes(), ptr.tolist()
    return [text[begin:end].decode("utf-8", "surrogatepass") for begin, end in pairwise(bounds)]
