"""Hierarchies in which a node may have several parents: WordNet, the Gene and Cell Ontologies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from hace_kernels.closure_table import ClosureTable, build_closure_table, longest_paths

from .hierarchy import Columns, Hierarchy, _read_only
from .table_cache import TableCache
from .tree_checks import checked_classes, checked_edges, checked_names, refuse_cycle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]


class DAG(Hierarchy):
    """A directed acyclic graph of N nodes, C of which are classes and carry a logit. Immutable.

    Build one with `Hierarchy.from_edges` or `from_csv` and `allow_multiple_parents=True`.

    A class counts once for every node that it is at or below, by however many paths. `depth`,
    `depths` and `heights` are those of longest paths. What takes a single parent raises TypeError:
    `parents`, `path`, `lca`, and the layout and the tables of trees; `edges`, `ancestors` and
    `closure_table` are there instead.
    """

    _FILE_KEY: ClassVar[str] = "edges"

    def __init__(self, edges: Any, names: Iterable[str] | None = None, classes: Any = None):
        """A DAG from its edges between node ids.

        Args:
            edges: E distinct pairs (parent, child) of node ids, in any order.
            names: N distinct strings. Left out, the largest id in `edges` is the last node.
            classes: the nodes that carry a logit, in label order, by id (or by name where there
                are names). Left out, they are the leaves in ascending id.

        Raises:
            TypeError: edges or classes that are not integers, names that are not strings.
            ValueError: no edge, a node out of range, an edge given twice, a self-loop or cycle, a
                duplicate name, no class, an unknown or a duplicate class.
        """
        names = None if names is None else checked_names(names)
        edges = checked_edges(edges, names)
        num_nodes = int(edges.max()) + 1 if names is None else len(names)
        depths = _checked_depths(edges, num_nodes, names)
        leaves = np.setdiff1d(np.arange(num_nodes), edges[:, 0])
        classes = leaves if classes is None else checked_classes(classes, num_nodes, names)
        self._set(edges, classes, names, int(depths.max()), len(leaves))

    def _set(
        self,
        links: Int64,
        classes: Int64,
        names: tuple[str, ...] | None,
        depth: int,
        num_leaves: int,
    ) -> None:
        super()._set(links, classes, names, depth, num_leaves)
        num_nodes = int(links.max()) + 1 if names is None else len(names)
        # The edges are sorted by child: node v has those from _parent_ptr[v] to _parent_ptr[v + 1].
        self._parent_ptr = np.searchsorted(links[:, 1], np.arange(num_nodes + 1))
        self._closure_tables = TableCache[ClosureTable]()

    @property
    def is_tree(self) -> bool:
        """False."""
        return False

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self._parent_ptr) - 1

    @property
    def roots(self) -> Int64:
        """Nodes without a parent, ascending; int64, read-only."""
        return _read_only(np.flatnonzero(np.diff(self._parent_ptr) == 0))

    @property
    def edges(self) -> Int64:
        """(parent, child) node ids, ascending by child, then parent; int64 (E, 2), read-only."""
        return self._links

    @property
    def _parents(self) -> Int64:
        # Everything that only a tree has comes by here.
        raise TypeError(
            "this hierarchy is a DAG, whose nodes have no single parents: it has edges, "
            "ancestors(node) and closure_table(), but no parents, path, lca, layout, path_table or "
            "tree_table, and nothing that is computed from these"
        )

    def ancestors(self, node: int) -> list[int]:
        """The node and all nodes above it, each once.

        They ascend by the fewest edges from `node`, then by id.

        Raises:
            ValueError: `node` is out of range.
            TypeError: `node` is not an integer.
        """
        level = [self._checked_node(node)]
        found = dict.fromkeys(level)
        while level:
            above = {parent for node in level for parent in self._parents_of(node)}
            level = sorted(above.difference(found))
            found.update(dict.fromkeys(level))
        return list(found)

    def closure_table(
        self, logits: Columns = "classes", *, device: torch.device | str = "cpu"
    ) -> ClosureTable:
        """The table of the ops over a DAG, `hace_kernels.closure`; cached for each device.

        Args:
            logits: what the columns of the logits are.
            device: where the table is to lie.

        Raises:
            MemoryError: the table would not fit in memory.
        """
        return self._closure_tables.get(
            logits,
            device,
            lambda: build_closure_table(
                self._links, self.num_nodes, self._nodes_of_columns(logits)
            ),
        )

    def node_table(
        self, logits: Columns = "classes", *, device: torch.device | str = "cpu"
    ) -> ClosureTable:
        """The `closure_table`."""
        return self.closure_table(logits, device=device)

    def _has_parent(self) -> NDArray[np.bool_]:
        return np.diff(self._parent_ptr) > 0

    def _parents_of(self, node: int) -> list[int]:
        edges = self._links[self._parent_ptr[node] : self._parent_ptr[node + 1]]
        parents: list[int] = edges[:, 0].tolist()
        return parents

    def _measures(self) -> tuple[Int64, Int64]:
        if self._depths_and_heights is None:
            parent, child = self._links.T
            self._depths_and_heights = (
                _read_only(longest_paths(parent, child, self.num_nodes)),
                _read_only(longest_paths(child, parent, self.num_nodes)),
            )
        return self._depths_and_heights


def _checked_depths(edges: Int64, num_nodes: int, names: tuple[str, ...] | None) -> Int64:
    depths = longest_paths(edges[:, 0], edges[:, 1], num_nodes)
    behind_cycle = depths < 0
    if behind_cycle.any():
        # One parent each is enough to find a cycle, if it is one that is behind the cycle too.
        within = edges[behind_cycle[edges].all(1)]
        parents = np.full(num_nodes, -1)
        parents[within[:, 1]] = within[:, 0]
        refuse_cycle(parents, behind_cycle, names)
    return depths
