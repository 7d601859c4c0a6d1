"""Points, common ancestors and distances by their definitions: sets of ancestors, pair by pair.

A class at an inner node is one more leaf below it, and above the roots of a tree, forest or DAG is
the virtual root `TOP`. Nothing here shares code with the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import dags
import numpy as np
from dags import Dag
from trees import Tree

import hace

TOP = "top"
Point = int | str | tuple[str, int]


class Picture:
    """The points of a tree or DAG: node ids, `("own", label)` for added leaves, and `TOP`."""

    def __init__(self, shape: Tree | Dag) -> None:
        self.shape = shape
        if isinstance(shape, Tree):
            self.parents: dict[Point, list[Point]] = {
                v: [int(u)] if u >= 0 else [] for v, u in enumerate(shape.parents)
            }
        else:
            self.parents = {v: [int(u) for u in above] for v, above in enumerate(shape.parents)}
        self.nodes = list(self.parents)
        self.roots = [v for v in self.nodes if not self.parents[v]]
        for root in self.roots:
            self.parents[root] = [TOP]
        self.parents[TOP] = []
        inner = {u for parents in self.parents.values() for u in parents}
        self.of_class: list[Point] = []
        for label, node in enumerate(int(v) for v in shape.classes):
            point: Point = node
            if node in inner:
                point = ("own", label)
                self.parents[point] = [node]
            self.of_class.append(point)
        self.children: dict[Point, list[Point]] = {point: [] for point in self.parents}
        for point, parents in self.parents.items():
            for parent in parents:
                self.children[parent].append(point)
        self.points = [point for point in self.parents if point != TOP]
        self.leaves = [point for point in self.points if not self.children[point]]
        self.heights = {point: self._height(point) for point in self.parents}
        self.depths = {point: self._depth(point) for point in self.parents}
        self.depth = max(self.depths.values())
        #: The points above everything, which say nothing about a class.
        self.void = {TOP, self.roots[0]} if len(self.roots) == 1 else {TOP}

    def _height(self, point: Point) -> int:
        return max((1 + self._height(child) for child in self.children[point]), default=0)

    def _depth(self, point: Point) -> int:
        return max((1 + self._depth(parent) for parent in self.parents[point]), default=-1)

    def of(self, index: int, space: str) -> Point:
        if space == "classes":
            return self.of_class[index]
        return TOP if index < 0 else index

    @cache  # noqa: B019  # pictures live as long as a test
    def above(self, point: Point) -> frozenset[Point]:
        """The point and everything above it."""
        return frozenset({point}).union(*(self.above(parent) for parent in self.parents[point]))

    def below(self, point: Point) -> list[int]:
        """The labels of the classes at or below a point."""
        return [c for c, own in enumerate(self.of_class) if point in self.above(own)]

    def counted(self, point: Point) -> frozenset[Point]:
        """`above`, without the points that say nothing about a class."""
        return self.above(point) - self.void

    def lca(self, a: Point, b: Point) -> Point:
        """The lowest common ancestor: the one of least height, and of these the deepest."""
        return min(self.above(a) & self.above(b), key=lambda u: (self.heights[u], -self.depths[u]))

    def edges_up(self, point: Point, ancestor: Point) -> float:
        """The number of edges on the shortest way up."""
        if point == ancestor:
            return 0
        ways = (self.edges_up(parent, ancestor) for parent in self.parents[point])
        return 1 + min(ways, default=np.inf)

    def hops(self, a: Point, b: Point) -> float:
        return min(self.edges_up(a, u) + self.edges_up(b, u) for u in self.above(a) & self.above(b))

    def distance(self, a: Point, b: Point, kind: str) -> float:
        if kind == "hops":
            return self.hops(a, b)
        if a == b:
            return 0
        lca = self.lca(a, b)
        return self.heights[lca] if kind == "height" else self.depth - self.depths[lca]

    def at_level(self, point: Point, level: int) -> Point:
        """The ancestor at depth `level`, or the point itself if it is less deep; trees only."""
        while self.depths[point] > level:
            (point,) = self.parents[point]
        return point

    def level(self, level: int) -> list[Point]:
        """The possible answers at a level: its points, and the leaves that are less deep."""
        return [
            point
            for point in self.points
            if self.depths[point] == level
            or (self.depths[point] < level and not self.children[point])
        ]

    def node(self, point: Point) -> int:
        """The node id that the library returns for a point."""
        if isinstance(point, tuple):
            return int(self.shape.classes[point[1]])
        return -1 if point == TOP else int(point)

    def probabilities(self, of_classes: Sequence[float]) -> dict[Point, float]:
        """The probability of every point, from the probabilities of the classes."""
        return {
            point: float(sum(of_classes[c] for c in self.below(point))) for point in self.parents
        }


def hierarchy_of(shape: Tree | Dag) -> hace.Hierarchy:
    if isinstance(shape, Tree):
        return hace.Hierarchy.from_parents(shape.parents, classes=shape.classes)
    return dags.hierarchy_of(shape)


def softmax(row: Sequence[float]) -> np.ndarray:
    exp = np.exp(np.asarray(row, dtype=np.longdouble) - max(row))
    return exp / exp.sum()
