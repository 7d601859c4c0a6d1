"""The hierarchy of classes: who is below whom, and which nodes carry a logit."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from hace_kernels.layout import lay_out

from .clustering import Linkage, Method, cluster_classes
from .hierarchy_file import read_arrays, write_arrays
from .links import Links, checked_links, read_only
from .parsing import pack_names, parse_edges, parse_paths, read_csv_edges, unpack_names
from .tree_checks import (
    checked_classes,
    checked_edges,
    checked_names,
    checked_parents,
    describe,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    Int64 = NDArray[np.int64]

__all__ = ["Hierarchy", "check_hierarchy"]


class Hierarchy:
    """A tree, forest or DAG of N nodes, C of which are classes and carry a logit. Immutable.

    Build one with `from_paths`, `from_edges`, `from_csv`, `from_parents` or `from_embeddings`.
    Where a node has several parents it is a DAG, and `is_tree` is False: then a class counts once
    for every node that it is at or below, by however many paths, depths and heights are those of
    longest paths, and the queries that need a tree (`parents`, `path`, `lca`, `siblings`,
    `depth_first_classes`) raise ValueError.

    Pickling and `save` keep the links, names and classes, and nothing that is computed from them.

    Args:
        parent_ptr: N + 1 integers; node v's parents are `parent[parent_ptr[v]:parent_ptr[v + 1]]`.
        parent: E node ids.
        names: N distinct strings.
        classes: the nodes that carry a logit, in label order, by id (or by name where there are
            names). Left out, they are the leaves in ascending id.

    Raises:
        TypeError: links or classes that are not integers, names that are not strings.
        ValueError: no node, bounds that do not fit, a parent out of range or given twice, a
            self-loop or cycle, a duplicate name, no class, an unknown or a duplicate class.
    """

    def __init__(
        self,
        parent_ptr: Any,
        parent: Any,
        names: Iterable[str] | None = None,
        classes: Any = None,
    ) -> None:
        checked = None if names is None else checked_names(names)
        self._set(checked_links(parent_ptr, parent, checked), checked, classes)

    @classmethod
    def _of(cls, links: Links, names: tuple[str, ...] | None, classes: Any) -> Self:
        """From links and names that have been checked already."""
        hierarchy = cls.__new__(cls)
        hierarchy._set(links, names, classes)
        return hierarchy

    def _set(self, links: Links, names: tuple[str, ...] | None, classes: Any) -> None:
        links.refuse_cycles(names)
        if classes is None:
            classes = np.flatnonzero(links.is_leaf)
        else:
            classes = checked_classes(classes, links.num_nodes, names)
        self._links = links
        self._names = names
        self._classes = read_only(classes)
        self._num_classes = len(classes)
        # Where `hace.tables` keeps what it computes of this hierarchy; no part of it.
        self._tables: Any = None

    @classmethod
    def from_parents(
        cls, parents: Any, names: Iterable[str] | None = None, classes: Any = None
    ) -> Self:
        """A tree or forest from each node's parent; the node ids are kept.

        Args:
            parents: N integers (list, array or tensor), -1 for a root; in any order.
            names: N distinct strings.
            classes: the nodes that carry a logit, in label order, by id (or by name where there
                are names). Left out, they are the leaves in ascending id.

        Raises:
            TypeError: parents or classes that are not integers, names that are not strings.
            ValueError: no node, a parent out of range, a self-loop or cycle, a duplicate name,
                no class, an unknown or a duplicate class.
        """
        checked = None if names is None else checked_names(names)
        links = Links.of_parents(checked_parents(parents, checked))
        return cls._of(links, checked, classes)

    @classmethod
    def from_paths(cls, paths: Iterable[str], sep: str = "/") -> Self:
        """A hierarchy from the path of each class, root first: `"animal/dog/husky"`.

        The i-th path is class i and node i. The nodes above follow, by first appearance, root
        first within a path. `names` are full paths, so last parts may repeat. A path that is a
        prefix of another makes an inner node a class.

        Args:
            paths: C distinct strings.
            sep: what separates the parts of a path.

        Raises:
            TypeError: a path is not a string.
            ValueError: no path, a duplicate path, a path with an empty part.
        """
        names, parents, num_classes = parse_paths(paths, sep)
        return cls.from_parents(parents, names, np.arange(num_classes))

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        classes: Iterable[str] | None = None,
        *,
        allow_multiple_parents: bool = False,
    ) -> Self:
        """A hierarchy from (parent, child) names; nodes by first appearance, parent before child.

        Args:
            edges: pairs of strings.
            classes: the names that carry a logit, in label order. Left out, the leaves in
                ascending node id.
            allow_multiple_parents: allow a child several parents, which makes a DAG. Where no child
                has, it is a tree or forest all the same.

        Raises:
            TypeError: an edge is not a pair of strings.
            ValueError: no edge, the same edge twice, a child with two parents that is not allowed
                them, a self-loop or cycle, no class, an unknown or a duplicate class.
        """
        names, parents, more_edges = parse_edges(edges, allow_multiple_parents)
        class_names = None if classes is None else _checked_class_names(classes)
        if not more_edges:
            return cls.from_parents(parents, names, class_names)
        first_edges = [(parent, child) for child, parent in enumerate(parents) if parent >= 0]
        edges = checked_edges(first_edges + more_edges, names)
        return cls._of(Links.of_edges(edges, len(names)), tuple(names), class_names)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        classes: Iterable[str] | None = None,
        *,
        allow_multiple_parents: bool = False,
    ) -> Self:
        """`from_edges` from a file with one `parent,child` pair a line.

        A first line that reads `parent,child` is taken as a header. Blank lines are skipped, and
        fields may be quoted as in any CSV file (UTF-8).

        Raises:
            ValueError: a line without exactly two non-empty fields, and as `from_edges`.
        """
        return cls.from_edges(
            read_csv_edges(path), classes, allow_multiple_parents=allow_multiple_parents
        )

    @classmethod
    def from_embeddings(
        cls,
        vectors: Any,
        names: Iterable[str] | None = None,
        *,
        method: Method = "cover_tree",
        base: float = 1.3,
        linkage: Linkage = "average",
    ) -> Self:
        """A tree made from a vector for each class, for classes that come without a hierarchy.

        Classes with a small angle between their vectors are put together; lengths do not count.
        Class i is leaf and node i, the inner nodes follow.

        Args:
            vectors: (C, F) numbers (array, tensor or nested lists), the i-th row for class i.
            names: C distinct strings; inner nodes are then named "cluster 0", "cluster 1", ...
            method: "cover_tree", where a node has any number of children, also for 100,000
                classes; or "agglomerative", a binary tree, which needs SciPy and memory for C²
                distances. `hace.clustering` says what each promises.
            base: of a cover tree, the ratio of the radii of a level and the next, above 1.
            linkage: of an agglomerative tree, the distance of clusters: "average", "complete",
                "single" or "weighted".

        Raises:
            TypeError: vectors or a base that are not real numbers, names that are not strings.
            ValueError: vectors of another shape, a vector that is zero or not finite, a wrong
                number of names or a duplicate name, an option outside its range.
            ImportError: an agglomerative tree without SciPy.
            MemoryError: an agglomerative tree of too many classes.
        """
        parents, names = cluster_classes(vectors, names, method=method, base=base, linkage=linkage)
        return cls.from_parents(parents, names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the hierarchy to `path` as a NumPy .npz file, without pickle.

        The file appears whole or not at all: it is written beside `path` and then renamed.
        """
        arrays: dict[str, NDArray[Any]] = {
            "parent_ptr": self._links.parent_ptr,
            "parent": self._links.parent,
            "classes": self._classes,
        }
        if self._names is not None:
            arrays["name_bytes"], arrays["name_ptr"] = pack_names(self._names)
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a hierarchy that `save` wrote.

        Raises:
            ValueError: the file is damaged, or `save` did not write it.
            OSError: the file cannot be read.
        """
        arrays = read_arrays(path, ("parent_ptr", "parent", "classes"), ("name_bytes", "name_ptr"))
        try:
            names = None
            if "name_ptr" in arrays:
                names = unpack_names(arrays["name_bytes"], arrays["name_ptr"])
            return cls(arrays["parent_ptr"], arrays["parent"], names, arrays["classes"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} does not hold a hierarchy: {error}") from error

    @property
    def is_tree(self) -> bool:
        """Whether every node has at most one parent: a tree or forest."""
        return self._links.is_tree

    @property
    def num_nodes(self) -> int:
        """N."""
        return self._links.num_nodes

    @property
    def num_classes(self) -> int:
        """C."""
        return self._num_classes

    @property
    def num_leaves(self) -> int:
        """The number of nodes without children."""
        return int(np.count_nonzero(self._links.is_leaf))

    @cached_property
    def depth(self) -> int:
        """Edges on the longest path down from a root."""
        return int(self.depths.max())

    @property
    def parent_ptr(self) -> Int64:
        """Bounds of each node's parents in `parent`; int64 (N + 1), read-only."""
        return self._links.parent_ptr

    @property
    def parent(self) -> Int64:
        """The parents of node 0, those of node 1, …, ascending per node; int64 (E), read-only."""
        return self._links.parent

    @property
    def parents(self) -> Int64:
        """Each node's parent, -1 at a root; int64 (N), read-only. Needs a tree."""
        self.require_tree("parents")
        return self._links.parents

    @property
    def edges(self) -> Int64:
        """(parent, child) node ids, ascending by child, then parent; int64 (E, 2), read-only."""
        return read_only(np.stack([self._links.parent, self._links.child], 1))

    @property
    def classes(self) -> Int64:
        """The nodes that carry a logit, in label order; int64 (C), read-only."""
        return self._classes

    @property
    def roots(self) -> Int64:
        """The nodes without a parent, ascending; int64, read-only."""
        return read_only(np.flatnonzero(self._links.num_parents == 0))

    @property
    def depths(self) -> Int64:
        """Edges on the longest path from a root to each node; int64 (N), read-only."""
        return self._links.depths

    @property
    def heights(self) -> Int64:
        """Edges on the longest path from each node to a leaf; int64 (N), read-only."""
        return self._links.heights

    @property
    def levels(self) -> list[Int64]:
        """The nodes of each depth, the roots first, ascending; each int64, read-only."""
        by_depth = np.argsort(self.depths, kind="stable")
        ends = np.cumsum(np.bincount(self.depths))[:-1]
        return [read_only(nodes) for nodes in np.split(by_depth, ends)]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Each node's name, if the hierarchy has names."""
        return self._names

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Each class's name in label order, if the hierarchy has names."""
        if self._names is None:
            return None
        return tuple(self._names[node] for node in self._classes)

    @cached_property
    def depth_first_classes(self) -> Int64:
        """The labels in depth-first order, in which subtrees are neighbours; int64 (C), read-only.

        Needs a tree. Siblings are in the order of the smallest label at or below them.
        """
        self.require_tree("depth_first_classes")
        column = lay_out(self._links.parents, self._classes).column
        labels = np.arange(self.num_classes) if column is None else column.astype(np.int64)
        return read_only(labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the links, the names and the order of the classes, in hexadecimal."""
        digest = hashlib.sha256()
        arrays: list[NDArray[Any]] = [self._links.parent_ptr, self._links.parent, self._classes]
        if self._names is not None:
            arrays += pack_names(self._names)
        for array in arrays:
            digest.update(f"{array.dtype.str} {len(array)};".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def index(self, name: str) -> int:
        """The node of that name.

        Raises:
            ValueError: no node has it.
        """
        if name not in self._id_of_name:
            raise ValueError(f"no node is named {name!r}")
        return self._id_of_name[name]

    @cached_property
    def _id_of_name(self) -> dict[str, int]:
        return {name: node for node, name in enumerate(self._names or ())}

    def path(self, node: int) -> list[int]:
        """The node, its parent, ... up to its root. Needs a tree.

        Raises:
            ValueError: `node` is out of range, or this is not a tree.
            TypeError: `node` is not an integer.
        """
        self.require_tree("path")
        return self._links.above(self._checked_node(node))

    def ancestors(self, node: int) -> list[int]:
        """The node and all nodes above it, each once.

        They ascend by the fewest edges from `node`, then by id; on a tree this is its path.

        Raises:
            ValueError: `node` is out of range.
            TypeError: `node` is not an integer.
        """
        return self._links.above(self._checked_node(node))

    def siblings(self, node: int) -> list[int]:
        """The other children of the node's parent, or the other roots; ascending. Needs a tree.

        Raises:
            ValueError, TypeError: as `path`.
        """
        self.require_tree("siblings")
        node = self._checked_node(node)
        parents = self._links.parents
        alike = np.flatnonzero(parents == parents[node])
        return [int(other) for other in alike if other != node]

    @overload
    def lca(self, a: int, b: int) -> int: ...
    @overload
    def lca(self, a: Int64, b: Int64) -> Int64: ...
    def lca(self, a: int | Int64, b: int | Int64) -> int | Int64:
        """The lowest common ancestor of two nodes (which may be one of them), -1 across trees.

        Needs a tree.

        Args:
            a, b: node ids, or integer arrays of them that broadcast together.

        Returns:
            An int for two ids, else int64 of the shape that a and b broadcast to.

        Raises:
            ValueError: an id is out of range, the shapes do not broadcast, or this is not a tree.
            TypeError: a or b does not hold integers.
        """
        self.require_tree("lca")
        if not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray):
            return int(self._lca(np.array([self._checked_node(a)]), self._checked_node(b))[0])
        for argument, nodes in (("a", np.asarray(a)), ("b", np.asarray(b))):
            if nodes.dtype.kind not in "iu":
                raise TypeError(f"{argument} must be node ids, got dtype {nodes.dtype}")
            bad = nodes[(nodes < 0) | (nodes >= self.num_nodes)]
            if bad.size:
                self._checked_node(bad.flat[0])
        return self._lca(a, b)

    def _lca(self, a: int | Int64, b: int | Int64) -> Int64:
        parents, depths = self._links.parents, self.depths
        nodes_a, nodes_b = np.broadcast_arrays(a, b)
        x, y = nodes_a.ravel().astype(np.int64), nodes_b.ravel().astype(np.int64)
        apart = np.flatnonzero(x != y)
        while len(apart):
            # The deeper one goes up, or both where they are level; roots go to -1.
            dx, dy = depths[x[apart]], depths[y[apart]]
            up_x, up_y = apart[dx >= dy], apart[dy >= dx]
            x[up_x], y[up_y] = parents[x[up_x]], parents[y[up_y]]
            apart = apart[x[apart] != y[apart]]
        return x.reshape(nodes_a.shape)

    def require_tree(self, what: str, instead: str = "") -> None:
        """Raises ValueError on a DAG, with a node that has several parents.

        Args:
            what: what needs a tree.
            instead: what to do on a DAG.
        """
        if self.is_tree:
            return
        num_parents = self._links.num_parents
        node = int(np.argmax(num_parents > 1))
        raise ValueError(
            f"{what} needs a tree; {describe(node, self._names)} has {num_parents[node]} parents"
            + (f"; {instead}" if instead else "")
        )

    def _checked_node(self, node: Any) -> int:
        try:
            node = operator.index(node)
        except TypeError:
            raise TypeError(
                f"a node id is an integer, got {node!r} (index(name) gives the id of a name)"
            ) from None
        if not 0 <= node < self.num_nodes:
            raise ValueError(f"there is no node {node}; node ids are 0 to {self.num_nodes - 1}")
        return int(node)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({_counted(self.num_nodes, 'node')}, "
            f"{_counted(self.num_classes, 'class', 'classes')}, depth {self.depth}, "
            f"{_counted(len(self.roots), 'root')}{'' if self.is_tree else ', a DAG'})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return self is other or (
            np.array_equal(self.parent_ptr, other.parent_ptr)
            and np.array_equal(self.parent, other.parent)
            and np.array_equal(self._classes, other._classes)
            and self._names == other._names
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        arrays = (self.parent_ptr, self.parent, self._classes)
        return hash((*(array.tobytes() for array in arrays), self._names))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # immutable: copies of a model may share it, and its tables

    def __getstate__(self) -> dict[str, Any]:
        return {
            "parent_ptr": self.parent_ptr.tobytes(),
            "parent": self.parent.tobytes(),
            "classes": self._classes.tobytes(),
            "names": self._names,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        ptr, parent, classes = (
            np.frombuffer(state[name], np.int64).copy()
            for name in ("parent_ptr", "parent", "classes")
        )
        names = None if state["names"] is None else tuple(state["names"])
        self._set(Links(ptr, parent), names, classes)


def check_hierarchy(hierarchy: object) -> None:
    """Raises TypeError unless it is one."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a hace.Hierarchy, got {type(hierarchy).__name__}")


def _checked_class_names(classes: Iterable[str]) -> list[str]:
    names = [classes] if isinstance(classes, str) else list(classes)
    for label, name in enumerate(names):
        if not isinstance(name, str) or isinstance(classes, str):
            raise TypeError(f"classes must be a list of names; classes[{label}] is {name!r}")
    return names


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
