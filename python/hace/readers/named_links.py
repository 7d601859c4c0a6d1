"""The result of a reader."""

from __future__ import annotations

from typing import NamedTuple

ROOT = -1


class NamedLinks(NamedTuple):
    """N nodes with their names, and who is below whom."""

    names: list[str]
    """Each node's name; all differ."""
    parents: list[int]
    """Each node's parent, the first one where there are several; -1 at a root."""
    more_edges: list[tuple[int, int]]
    """(parent, child) for each further parent of a node; empty for a tree or forest."""
    classes: list[int] | range | None = None
    """The nodes that are classes, in label order; None for the leaves in ascending id."""
    own_names: list[str] | None = None
    """Each node's name from a column of names, where `names` are ids; "" where it has none."""
