"""The hierarchy of classes: a rooted tree or forest, and which of its nodes carry a logit."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from hace_kernels.layout import Layout, lay_out
from hace_kernels.path_table import PathTable, PathWeights, build_path_table
from hace_kernels.target_table import TargetTable
from hace_kernels.tree_table import TreeTable, build_tree_table

from .clustering import Linkage, Method, cluster_classes
from .parsing import pack_names, parse_edges, parse_paths, read_csv_edges, unpack_names
from .table_cache import TableCache
from .targets import build_target_table
from .tree_checks import checked_classes, checked_names, checked_parents, num_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hace_kernels.closure_table import ClosureTable

    from .options import LossOptions
    from .weights import HACEWeights

    Int64 = NDArray[np.int64]

Space = Literal["classes", "nodes"]
"""What a target is indexed by: the C classes or all N nodes."""

Columns = Literal["classes", "nodes", "depth_first"]
"""What the columns of the logits are: the classes in label order, all nodes by id, or the classes
in depth-first order (`Hierarchy.depth_first_classes`), which the kernels read fastest."""


class Hierarchy:
    """A rooted tree or forest of N nodes, C of which are classes and carry a logit. Immutable.

    Build one with `from_paths`, `from_edges`, `from_csv` or `from_parents`. Pickling and `save`
    keep the tree and drop what can be computed from it.
    """

    _FILE_KEY: ClassVar[str] = "parents"

    def __init__(self, parents: Any, names: Iterable[str] | None = None, classes: Any = None):
        """See `from_parents`."""
        names = None if names is None else checked_names(names)
        parents = checked_parents(parents, names)
        depth = num_levels(parents, names) - 1
        leaves = _leaves(parents)
        classes = leaves if classes is None else checked_classes(classes, len(parents), names)
        self._set(parents, classes, names, depth, len(leaves))

    def _set(
        self,
        links: Int64,
        classes: Int64,
        names: tuple[str, ...] | None,
        depth: int,
        num_leaves: int,
    ) -> None:
        self._links = _read_only(links)  # a tree's parents, a DAG's edges
        self._classes = _read_only(classes)
        self._names = names
        self._depth = depth
        self._num_leaves = num_leaves
        self._layouts: dict[Columns, Layout] = {}
        self._path_tables = TableCache[PathTable]()
        self._tree_tables = TableCache[TreeTable]()
        self._target_tables = TableCache[TargetTable]()
        self._target_nodes = TableCache[Tensor]()
        self._depths_and_heights: tuple[Int64, Int64] | None = None
        self._id_of_name: dict[str, int] | None = None
        self._hash: int | None = None

    @classmethod
    def from_parents(
        cls, parents: Any, names: Iterable[str] | None = None, classes: Any = None
    ) -> Hierarchy:
        """A hierarchy from each node's parent; the node ids are kept.

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
        return cls(parents, names, classes)

    @classmethod
    def from_paths(cls, paths: Iterable[str], sep: str = "/") -> Hierarchy:
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
        return cls(parents, names, np.arange(num_classes))

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        classes: Iterable[str] | None = None,
        *,
        allow_multiple_parents: bool = False,
    ) -> Hierarchy:
        """A hierarchy from (parent, child) names; nodes by first appearance, parent before child.

        Args:
            edges: pairs of strings.
            classes: the names that carry a logit, in label order. Left out, the leaves in
                ascending node id.
            allow_multiple_parents: give a `hace.dag.DAG` where some child has several parents.
                Without such a child it is a tree or forest all the same.

        Raises:
            TypeError: an edge is not a pair of strings.
            ValueError: no edge, the same edge twice, a child with two parents that is not allowed
                them, a self-loop or cycle, no class, an unknown or a duplicate class.
        """
        names, parents, more_edges = parse_edges(edges, allow_multiple_parents)
        class_names = None if classes is None else _checked_class_names(classes)
        if not more_edges:
            return cls(parents, names, class_names)
        from .dag import DAG  # a kind of Hierarchy, so it imports this module

        first_edges = [(parent, child) for child, parent in enumerate(parents) if parent >= 0]
        return DAG(first_edges + more_edges, names, class_names)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        classes: Iterable[str] | None = None,
        *,
        allow_multiple_parents: bool = False,
    ) -> Hierarchy:
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
    ) -> Hierarchy:
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
        return cls(parents, names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the hierarchy to `path` as a NumPy .npz file, without pickle."""
        arrays: dict[str, Any] = {self._FILE_KEY: self._links, "classes": self._classes}
        if self._names is not None:
            arrays["name_bytes"], arrays["name_ptr"] = pack_names(self._names)
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Hierarchy:
        """Read a hierarchy that `save` wrote.

        Raises:
            ValueError: the file is no such file.
        """
        from .dag import DAG  # a kind of Hierarchy, so it imports this module

        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = None
                if "name_ptr" in arrays:
                    names = unpack_names(arrays["name_bytes"], arrays["name_ptr"])
                kind = DAG if DAG._FILE_KEY in arrays else cls
                links, classes = arrays[kind._FILE_KEY], arrays["classes"]
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"{os.fspath(path)} was not written by Hierarchy.save: {error}"
            ) from error
        return kind(links, names, classes)

    @property
    def is_tree(self) -> bool:
        """Whether each node has one parent at most: False for a `hace.dag.DAG`."""
        return True

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self._parents)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self._classes)

    @property
    def num_leaves(self) -> int:
        """Nodes without children."""
        return self._num_leaves

    @property
    def depth(self) -> int:
        """Edges on the longest path down from a root."""
        return self._depth

    @property
    def parents(self) -> Int64:
        """Each node's parent, -1 at a root; int64 (N), read-only."""
        return self._parents

    @property
    def _parents(self) -> Int64:
        return self._links

    @property
    def edges(self) -> Int64:
        """(parent, child) node ids, ascending by child, then parent; int64 (E, 2), read-only."""
        child = np.flatnonzero(self._parents >= 0)
        return _read_only(np.stack([self._parents[child], child], 1))

    @property
    def classes(self) -> Int64:
        """The nodes that carry a logit, in label order; int64 (C), read-only."""
        return self._classes

    @property
    def roots(self) -> Int64:
        """Nodes without a parent, ascending; int64, read-only."""
        return _read_only(np.flatnonzero(self._parents < 0))

    @property
    def depths(self) -> Int64:
        """Edges on the longest path from a root to each node; int64 (N), read-only."""
        return self._measures()[0]

    @property
    def heights(self) -> Int64:
        """Edges on the longest path from each node to a leaf; int64 (N), read-only."""
        return self._measures()[1]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Each node's name, where the hierarchy has names."""
        return self._names

    def index(self, name: str) -> int:
        """The node of that name.

        Raises:
            ValueError: no node has it.
        """
        if self._id_of_name is None:
            self._id_of_name = {name: node for node, name in enumerate(self._names or ())}
        if name not in self._id_of_name:
            raise ValueError(f"no node is named {name!r}")
        return self._id_of_name[name]

    def path(self, node: int) -> list[int]:
        """The node, its parent, ... up to its root.

        Raises:
            ValueError: `node` is out of range.
            TypeError: `node` is not an integer.
        """
        node, parents = self._checked_node(node), self._parents
        path = []
        while node >= 0:
            path.append(node)
            node = int(parents[node])
        return path

    def ancestors(self, node: int) -> list[int]:
        """The node and all nodes above it, each once.

        They ascend by the fewest edges from `node`, then by id; on a tree this is its path.

        Raises:
            ValueError, TypeError: as `path`.
        """
        return self.path(node)

    @overload
    def lca(self, a: int, b: int) -> int: ...
    @overload
    def lca(self, a: Int64, b: Int64) -> Int64: ...
    def lca(self, a: int | Int64, b: int | Int64) -> int | Int64:
        """The lowest common ancestor of two nodes (which may be one of them), -1 across trees.

        Args:
            a, b: node ids, or integer arrays of them that broadcast together.

        Returns:
            An int for two ids, else int64 of the shape that a and b broadcast to.

        Raises:
            ValueError: an id is out of range, or the shapes do not broadcast.
            TypeError: a or b does not hold integers.
        """
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
        parents, depths = self._parents, self.depths
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

    def num_targets(self, targets: Space) -> int:
        """T, the size of a target space: the C classes or the N nodes; ValueError for no space."""
        return self.num_nodes if _checked_space(targets) == "nodes" else self.num_classes

    def num_columns(self, logits: Columns) -> int:
        """The width of the logits: the C classes or the N nodes; ValueError for no such logits."""
        return self.num_nodes if _checked_columns(logits) == "nodes" else self.num_classes

    @property
    def depth_first_classes(self) -> Int64:
        """The classes' labels in depth-first order: subtrees are neighbours; int64 (C)."""
        column = self.layout().column
        labels = np.arange(self.num_classes) if column is None else column.astype(np.int64)
        return _read_only(labels)

    def depth_first_labels(self, *, device: torch.device | str = "cpu") -> Tensor:
        """`depth_first_classes` as a tensor, int64 (C); cached for each device."""
        return self._target_nodes.get(
            "depth_first", device, lambda: torch.from_numpy(self.depth_first_classes.copy())
        )

    def layout(self, logits: Columns = "classes") -> Layout:
        """The hierarchy as flat arrays, with the classes or all nodes as columns; cached."""
        if logits not in self._layouts:
            self._layouts[logits] = lay_out(self._parents, self._nodes_of_columns(logits))
        return self._layouts[logits]

    def path_table(
        self,
        weights: PathWeights,
        *,
        logits: Columns = "classes",
        targets: Space = "classes",
        keep_full: bool = False,
        device: torch.device | str = "cpu",
    ) -> PathTable:
        """The table of a loss, for `hace_kernels.path_log_loss`; cached for each device.

        Args:
            weights: gives each entry of a path its weight; hashable, for the cache.
            logits: what the columns of the logits are.
            targets: what integer targets index.
            keep_full: keep entries that hold every class (with `eps` they add a constant).
            device: where the table is to lie.

        Raises:
            MemoryError: the table would not fit in memory.
        """
        return self._path_tables.get(
            (weights, logits, targets, keep_full),
            device,
            lambda: self._build_path_table(weights, logits, targets, keep_full),
        )

    def tree_table(
        self, logits: Columns = "classes", *, device: torch.device | str = "cpu"
    ) -> TreeTable:
        """The table of the ops over all nodes; cached for each device.

        Args:
            logits: what the columns of the logits are.
            device: where the table is to lie.
        """
        return self._tree_tables.get(logits, device, lambda: self._build_tree_table(logits))

    def node_table(
        self, logits: Columns = "classes", *, device: torch.device | str = "cpu"
    ) -> TreeTable | ClosureTable:
        """What the ops over all nodes take: a tree's `tree_table`, a DAG's `closure_table`."""
        return self.tree_table(logits, device=device)

    def target_table(
        self, weights: HACEWeights, options: LossOptions, *, device: torch.device | str = "cpu"
    ) -> TargetTable:
        """How a loss's targets go up the tree, without class weights; cached for each device.

        Args:
            weights: gives each node's share of the mass that reaches it; hashable, for the cache.
            options: of the loss.
            device: where the table is to lie.
        """
        key = (
            weights,
            options.logits,
            options.targets,
            options.label_smoothing,
            options.smoothing,
            options.soft_labels,
            options.soft_label_distance,
        )
        return self._target_tables.get(
            key, device, lambda: build_target_table(self, weights.keep(self._has_parent()), options)
        )

    def target_nodes(
        self, targets: Space = "classes", *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The node of each index of a target space, int64 (T); cached for each device."""
        return self._target_nodes.get(
            targets, device, lambda: torch.from_numpy(self._nodes_of_targets(targets).copy())
        )

    def _build_path_table(
        self, weights: PathWeights, logits: Columns, targets: Space, keep_full: bool
    ) -> PathTable:
        return build_path_table(
            self.layout(logits),
            self._parents,
            self._nodes_of_targets(targets),
            self.num_columns(logits),
            weights,
            keep_full,
        )

    def _build_tree_table(self, logits: Columns) -> TreeTable:
        columns = self._nodes_of_columns(logits)
        return build_tree_table(self.layout(logits), self._parents, columns)

    def _has_parent(self) -> NDArray[np.bool_]:
        return self._parents >= 0

    def _nodes_of_columns(self, logits: Columns) -> Int64:
        """The node of each column of the logits."""
        if _checked_columns(logits) == "depth_first":
            return self._classes[self.depth_first_classes]
        return np.arange(self.num_nodes) if logits == "nodes" else self._classes

    def _nodes_of_targets(self, targets: Space) -> Int64:
        """The node of each index of a target space."""
        return np.arange(self.num_nodes) if _checked_space(targets) == "nodes" else self._classes

    def _measures(self) -> tuple[Int64, Int64]:
        if self._depths_and_heights is None:
            layout = self.layout()
            self._depths_and_heights = (
                _read_only(layout.depth.astype(np.int64)),
                _read_only(layout.height.astype(np.int64)),
            )
        return self._depths_and_heights

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
            f"{_counted(len(self.roots), 'root')})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hierarchy):
            return NotImplemented
        return self is other or (
            np.array_equal(self._links, other._links)
            and np.array_equal(self._classes, other._classes)
            and self._names == other._names
        )

    def __hash__(self) -> int:
        if self._hash is None:
            content = (self._links.tobytes(), self._classes.tobytes(), self._names)
            self._hash = hash(content)
        return self._hash

    def __copy__(self) -> Hierarchy:
        return self

    def __deepcopy__(self, memo: object) -> Hierarchy:
        return self  # immutable: copies of a model may share it, and its tables

    def __getstate__(self) -> tuple[Int64, Int64, tuple[str, ...] | None, int, int]:
        return self._links, self._classes, self._names, self._depth, self._num_leaves

    def __setstate__(self, state: tuple[Int64, Int64, tuple[str, ...] | None, int, int]) -> None:
        self._set(*state)


def _leaves(parents: Int64) -> Int64:
    is_leaf = np.ones(len(parents), np.bool_)
    is_leaf[parents[parents >= 0]] = False
    return np.flatnonzero(is_leaf)


def _read_only(array: Int64) -> Int64:
    array.setflags(write=False)
    return array


def check_hierarchy(hierarchy: object) -> None:
    """Raises TypeError unless it is one."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a hace.Hierarchy, got {type(hierarchy).__name__}")


def check_tree(hierarchy: object, what: str) -> None:
    """Raises TypeError unless it is a hierarchy, ValueError where it is a DAG."""
    check_hierarchy(hierarchy)
    assert isinstance(hierarchy, Hierarchy)
    if not hierarchy.is_tree:
        raise ValueError(
            f"{what} weighs the one path from a target to its root, and in {hierarchy!r} there may "
            "be several; on a DAG use HACELoss, CrossEntropyLoss or HierarchicalCrossEntropyLoss"
        )


def _checked_space(space: Space) -> Space:
    if space not in ("classes", "nodes"):
        raise ValueError(f"targets must be 'classes' or 'nodes', got {space!r}")
    return space


def _checked_columns(columns: Columns) -> Columns:
    if columns not in ("classes", "nodes", "depth_first"):
        raise ValueError(f"logits must be 'classes', 'nodes' or 'depth_first', got {columns!r}")
    return columns


def _checked_class_names(classes: Iterable[str]) -> list[str]:
    names = [classes] if isinstance(classes, str) else list(classes)
    for label, name in enumerate(names):
        if not isinstance(name, str) or isinstance(classes, str):
            raise TypeError(f"classes must be a list of names; classes[{label}] is {name!r}")
    return names


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
