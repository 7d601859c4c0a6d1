"""DAGs for tests: a plain description of a DAG, and shapes that tend to break things.

A `Dag` is a list of edges and an array of classes, which `hierarchy_of` hands to the library.
Everything else is found by walking the edges, and shares no code with the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from hypothesis import strategies as st
from trees import Tree

import hace

Edge = tuple[int, int]


@dataclass(frozen=True)
class Dag:
    """Edges (parent, child) between the nodes 0 … num_nodes - 1; class c is at `classes[c]`."""

    edges: Sequence[Edge]
    num_nodes: int
    classes: Sequence[int]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def parents(self) -> list[list[int]]:
        return [[u for u, v in self.edges if v == node] for node in range(self.num_nodes)]

    @cached_property
    def children(self) -> list[list[int]]:
        return [[v for u, v in self.edges if u == node] for node in range(self.num_nodes)]

    @cached_property
    def downwards(self) -> list[int]:
        """All nodes in an order where each comes after its parents."""
        order: list[int] = []
        while len(order) < self.num_nodes:
            order += [
                node
                for node in range(self.num_nodes)
                if node not in order and all(parent in order for parent in self.parents[node])
            ]
        return order

    def ancestors(self, node: int) -> set[int]:
        """The node and all nodes above it."""
        found, reached = {node}, [node]
        while reached:
            reached = [u for v in reached for u in self.parents[v] if u not in found]
            found.update(reached)
        return found

    def depths(self) -> list[int]:
        depths = [0] * self.num_nodes
        for node in self.downwards:
            depths[node] = max((depths[u] + 1 for u in self.parents[node]), default=0)
        return depths

    def heights(self) -> list[int]:
        heights = [0] * self.num_nodes
        for node in reversed(self.downwards):
            heights[node] = max((heights[v] + 1 for v in self.children[node]), default=0)
        return heights

    def leaves(self) -> list[int]:
        return [node for node in range(self.num_nodes) if not self.children[node]]

    def roots(self) -> list[int]:
        return [node for node in range(self.num_nodes) if not self.parents[node]]

    def reach(self) -> np.ndarray:
        """The reachability matrix: `reach[v, c]` says whether class `c` is at or below node `v`."""
        reach = np.zeros((self.num_nodes, self.num_classes), dtype=bool)
        for label, node in enumerate(self.classes):
            reach[list(self.ancestors(int(node))), label] = True
        return reach

    def kept_mass(self, mass: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """The mass (B, N) that each node keeps while mass rises, in extended precision."""
        arrived = mass.astype(np.longdouble)
        keep = keep.astype(np.longdouble)
        for node in reversed(self.downwards):
            for parent in self.parents[node]:
                passed = (1 - keep[node]) * arrived[:, node]
                arrived[:, parent] += passed / len(self.parents[node])
        return keep * arrived

    def dilution(self, dilution: float) -> np.ndarray:
        """HACE's share to keep: `dilution` at nodes that have a parent and 1 at roots."""
        return np.array([dilution if parents else 1.0 for parents in self.parents])

    def edge_array(self) -> np.ndarray:
        return np.array(self.edges, dtype=np.int64).reshape(-1, 2)

    def in_node_mode(self) -> Dag:
        """The same DAG with every node as a class, whose label is the node's id."""
        return Dag(self.edges, self.num_nodes, range(self.num_nodes))

    def csr(self) -> tuple[list[int], list[int]]:
        """The parents in CSR form: the bounds of each node's parents, and the parents."""
        ptr = np.cumsum([0, *map(len, self.parents)]).tolist()
        return ptr, [parent for parents in self.parents for parent in parents]

    def named_edges(self) -> list[tuple[str, str]]:
        return [(str(u), str(v)) for u, v in self.edges]


def hierarchy_of(dag: Dag) -> hace.Hierarchy:
    return hace.Hierarchy(*dag.csr(), classes=dag.classes)


def from_tree(tree: Tree) -> Dag:
    """A tree as a DAG."""
    edges = [(int(u), v) for v, u in enumerate(tree.parents) if u >= 0]
    return Dag(edges, tree.num_nodes, tree.classes.tolist())


def diamond() -> Dag:
    """Two paths lead from the root 0 to the leaf 3, and one to the leaf 4."""
    return Dag([(0, 1), (0, 2), (1, 3), (2, 3), (2, 4)], 5, [3, 4])


def shared_leaf() -> Dag:
    """Two roots, 0 and 1, with a leaf each and one leaf that they share."""
    return Dag([(0, 2), (0, 3), (1, 3), (1, 4)], 5, [4, 3, 2])


def shortcut() -> Dag:
    """Node 3 is below node 0 both directly and by way of 1 and 2; each node is a class."""
    return Dag([(0, 1), (1, 2), (2, 3), (0, 3), (1, 4)], 5, [0, 3, 2, 4, 1])


def chain_of_diamonds(length: int) -> Dag:
    """2^length paths lead from the root to the only leaf; each diamond's left side is a class."""
    edges, tip = [], 0
    for _ in range(length):
        edges += [(tip, tip + 1), (tip, tip + 2), (tip + 1, tip + 3), (tip + 2, tip + 3)]
        tip += 3
    return Dag(edges, tip + 1, [*range(1, tip, 3), tip])


def empty_nodes() -> Dag:
    """Node 1 and the root 5 have no class at or below them; leaf 4 is not a class."""
    return Dag([(0, 1), (0, 2), (1, 4), (2, 3), (2, 4), (5, 4)], 6, [3, 2])


def random_dag(rng: np.random.Generator, num_nodes: int, extra: float = 0.3, roots: int = 1) -> Dag:
    """A random DAG whose leaves and a fifth of whose inner nodes are classes; ids are shuffled.

    Every node but the first `roots` has a random parent among the nodes before it, and with
    probability `extra` another one (and another).
    """
    ids = rng.permutation(num_nodes)
    edges = set()
    for place in range(roots, num_nodes):
        edges.add((int(ids[rng.integers(place)]), int(ids[place])))
        while rng.random() < extra:
            edges.add((int(ids[rng.integers(place)]), int(ids[place])))
    inner = {u for u, _ in edges}
    classes = [v for v in range(num_nodes) if v not in inner or rng.random() < 0.2]
    return Dag([*map(tuple, rng.permutation(sorted(edges)))], num_nodes, rng.permutation(classes))


@st.composite
def dags(draw: st.DrawFn, max_nodes: int = 10) -> Dag:
    """Any DAG with at least one edge; ids, edges and classes come in any order."""
    num_nodes = draw(st.integers(2, max_nodes))
    ids = draw(st.permutations(range(num_nodes)))
    pairs = [(ids[u], ids[v]) for v in range(num_nodes) for u in range(v)]
    edges = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=20, unique=True))
    classes = draw(st.permutations(range(num_nodes)))[: draw(st.integers(1, num_nodes))]
    return Dag(edges, num_nodes, classes)


SHAPES = {
    "diamond": diamond(),
    "shared leaf": shared_leaf(),
    "shortcut": shortcut(),
    "diamonds": chain_of_diamonds(6),
    "empty nodes": empty_nodes(),
    "random": random_dag(np.random.default_rng(1), 40),
    "two roots": random_dag(np.random.default_rng(2), 40, extra=0.5, roots=2),
    "nodes": random_dag(np.random.default_rng(3), 25).in_node_mode(),
}
