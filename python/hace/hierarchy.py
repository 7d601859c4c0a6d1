"""The hierarchy of classes: who is below whom, and which nodes carry a logit."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from hace_kernels import lay_out

from .clustering import Linkage, Method, cluster_classes
from .describe import describe as describe_hierarchy
from .drawing import summary_text, to_html, to_text
from .hierarchy_file import read_arrays, write_arrays
from .label_nodes import nodes_of_labels
from .links import Links, checked_links, read_only
from .name_index import NameIndex
from .packed_names import pack_names, unpack_names
from .path_names import path_names
from .readers import (
    NamedLinks,
    in_label_order,
    label_list,
    mapping_items,
    read_codes,
    read_csv,
    read_edges,
    read_nested,
    read_outline,
    read_parents,
    read_paths,
)
from .readers.rows import RowFormat
from .readers.tables import Columns
from .subset import cut
from .tree_checks import (
    checked_classes,
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
    Where a node has several parents the hierarchy is a DAG, and `is_tree` is False. Then a class
    counts once for each node above it, however many paths lead there, depths and heights are those
    of the longest paths, and the queries that need a tree (`parents`, `parent`, `path`, `lca`,
    `siblings`, `depth_first_classes`) raise ValueError.

    Pickling and `save` keep the links, names and classes, and nothing that is computed from them.

    Args:
        parent_ptr: N + 1 integers; node v's parents are `parent[parent_ptr[v]:parent_ptr[v + 1]]`.
        parent: E node ids.
        names: N distinct strings.
        classes: the nodes that carry a logit, in label order, by id (or by name where there are
            names), or a mapping between them and their labels. Left out, they are the leaves in
            ascending id.

    Raises:
        TypeError: links or classes that are not integers, names that are not strings.
        ValueError: no node, bounds that do not fit, a parent out of range or given twice, a
            self-loop or cycle, a duplicate name, no class, an unknown or a duplicate class.

    Examples:
        >>> import hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> tree
        Hierarchy(5 nodes, 3 classes, depth 1, 2 roots)
        >>> tree.class_names  # class i is logit i
        ('animal/cat', 'animal/dog', 'vehicle/car')
        >>> [tree.names[node] for node in tree.path(tree.index("animal/dog"))]
        ['animal/dog', 'animal']
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
            if isinstance(classes, Mapping):  # in the order of its labels, not its own
                classes = in_label_order(classes)
            classes = checked_classes(classes, links.num_nodes, names)
        self._links = links
        self._names = names
        self._classes = read_only(classes)
        self._num_classes = len(classes)
        # `hace.tables` keeps here what it computes from this hierarchy; it is not part of its
        # value.
        self._tables: Any = None

    @classmethod
    def from_parents(
        cls,
        parents: Any,
        names: Iterable[str] | None = None,
        classes: Any = None,
        *,
        missing: Collection[str] | None = None,
    ) -> Self:
        """A tree or forest from each node's parent: an array of ids, or a mapping of names.

        Args:
            parents: N integers (list, array or tensor), -1 for a root, in any order; the node ids
                are kept. Or a mapping from each node to its parent (a pandas Series counts as one
                unless its index is 0, 1, …), text or numbers: node i is the i-th key, and
                None, NaN, "", -1 or the node itself is the parent of a root.
            names: N distinct strings; a mapping has them already.
            classes: the nodes that carry a logit, in label order, by id (or by name where there
                are names; of a mapping by name, in any form that `subset` takes). Left out, they
                are the leaves in ascending id.
            missing: for a mapping, further words that mean "no parent".

        Raises:
            TypeError: parents or classes that are not integers, names that are not strings.
            ValueError: no node, a parent that is out of range or, in a mapping, not a key, a
                self-loop or cycle, a duplicate name, two names that look the same, no class, an
                unknown or a duplicate class.
        """
        items = mapping_items(parents)
        if items is not None:
            if names is not None:
                raise TypeError("the names of a mapping's nodes are its keys; leave names out")
            return cls._of_named(read_parents(items, missing), classes)
        if missing is not None:
            raise TypeError("missing is for a mapping of names; in an array a root's parent is -1")
        checked = None if names is None else checked_names(names)
        links = Links.of_parents(checked_parents(parents, checked))
        return cls._of(links, checked, classes)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[str | Iterable[Any]] | Mapping[Any, Any],
        sep: str = "/",
        *,
        missing: Collection[str] | None = None,
    ) -> Self:
        """A hierarchy from the path of each class, root first: `"animal/dog/husky"`.

        The i-th path is class i and node i. The nodes above follow, by first appearance, root
        first within a path. `names` are full paths, so last parts may repeat. A path that is a
        prefix of another makes an inner node a class.

        Args:
            paths: C distinct paths, each a string or a sequence of parts (a row of a data frame's
                level columns, say), in which None, NaN and "" are left out. Or a mapping from or to
                labels, as `subset` takes it, with paths as names.
            sep: what separates the parts of a path, and of the names.
            missing: parts that mean "no value" too and are left out; [] if words such as "NA" are
                names.

        Raises:
            TypeError: a path is neither a string nor a sequence of text and numbers.
            ValueError: no path, a duplicate path, an empty part, a part that holds `sep` or has a
                blank at its end, a part that reads like "no value", a `sep` that is in none of
                several paths, two names that look the same.
        """
        return cls._of_named(read_paths(paths, sep, missing))

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[Any],
        classes: Any = None,
        *,
        child_first: bool = False,
        allow_multiple_parents: bool = False,
        missing: Collection[str] | None = None,
    ) -> Self:
        """A hierarchy from (parent, child) names; nodes by first appearance, parent before child.

        The order of the edges is seldom the order of a data set's labels: give `classes`, and look
        at the labels with `describe`.

        Args:
            edges: pairs of text or whole numbers (lists, an array, a data frame of two columns). An
                edge that is repeated counts once. A parent that is None, NaN or "" makes its child
                a root, which is how a class that stands alone is given.
            classes: the names that carry a logit, in label order, in any form that `subset` takes.
                Left out, the leaves in ascending node id: by first appearance.
            child_first: the pairs are (child, parent).
            allow_multiple_parents: allow a child several parents, which makes a DAG. Where no child
                has, it is a tree or forest all the same.
            missing: further words that mean "no parent"; [] if words such as "NA" are names.

        Raises:
            TypeError: an edge is not a pair, or a name neither text nor a number.
            ValueError: no edge, a child with two parents that is not allowed them, a self-loop or
                cycle, a name that reads like "no value", two names that look the same, no class, an
                unknown or a duplicate class.

        Warns:
            UserWarning: no node has two children, as in a file whose columns are reversed.
        """
        named = read_edges(
            edges,
            child_first=child_first,
            allow_multiple_parents=allow_multiple_parents,
            missing=missing,
        )
        return cls._of_named(named, classes)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        classes: Any = None,
        *,
        parent: str | int = "parent",
        child: str | int = "child",
        name: str | int | None = None,
        levels: Sequence[str | int] | str | int | None = None,
        sep: str | None = None,
        delimiter: str | None = None,
        quote: str | None = '"',
        skip: int = 0,
        comment: str | None = "#",
        encoding: str | None = None,
        missing: Collection[str] | None = None,
        allow_multiple_parents: bool = False,
    ) -> Self:
        """A hierarchy from a table in a text file, whose rows are read as edges or as paths.

        Nothing is guessed: a file that does not hold what the arguments say is an error that shows
        what it holds. Blanks around fields are cut off, and blank lines are left out.

        Args:
            path: of the file.
            classes: the names that carry a logit, in label order, in any form that `subset` takes.
                Left out, the leaves by first appearance; with `levels`, every row.
            parent, child: columns, by their names in the first row or, in a file without such a
                row, by position from 0. An empty parent makes a root. Where every node has a row
                of its own, a root may be its own parent (NCBI's taxonomy).
            name: the column of the nodes' names, where parent and child are ids: as `with_names`.
            levels: in place of parent and child, the columns of the levels from the top down, of
                which a row may leave some empty; or one column that holds whole paths. A row that
                is repeated counts once.
            sep: with `levels` or `name`, what separates the parts of a path and of the nodes'
                names; "/" by default.
            delimiter: between fields, one character or several; by default a tab in a file called
                .tsv or .tab and a comma in all others.
            quote: the character around fields that hold the delimiter; None for files that have
                none.
            skip: lines to leave out before the first row.
            comment: what a line that is a comment begins with; None if the file has no comments.
            encoding: UTF-8 by default, or what the byte order mark at the file's start says.
            missing: words that mean "no value", as an empty field does; [] if words such as "NA"
                are names.
            allow_multiple_parents: allow a child several parents, which makes a DAG.

        Raises:
            TypeError: a column is neither a name nor a position.
            ValueError: a column that is not there, a row with another number of fields than the
                first, a row that names no node, a first row that reads like a header, a delimiter,
                quote or encoding that does not fit, and as `from_edges` or `from_paths`.
            OSError: the file cannot be read.

        Warns:
            UserWarning: as `from_edges`.
        """
        named = read_csv(
            path,
            Columns(parent, child, name, levels, sep),
            RowFormat(delimiter, quote, skip, comment, encoding),
            allow_multiple_parents=allow_multiple_parents,
            missing=missing,
        )
        if named.own_names is None:
            return cls._of_named(named, classes)
        ids = cls._of_named(named)
        tree = ids.with_names(dict(zip(named.names, named.own_names, strict=True)), sep or "/")
        return tree if classes is None else tree._with_classes(classes)

    @classmethod
    def from_nested(
        cls,
        tree: Any,
        *,
        name: str = "name",
        children: str = "children",
        sep: str = "/",
        missing: Collection[str] | None = None,
    ) -> Self:
        """A hierarchy from nested records or mappings, as JSON and YAML have them.

        The classes are the leaves in the order of the data, and node i is class i. `names` are full
        paths.

        Args:
            tree: a record `{"name": …, "children": [records]}` (d3) or a list of them; or a
                mapping from a name to a mapping, a list of names, or None, to any depth.
            name, children: the keys of a record (Open Images: "LabelName", "Subcategory").
            sep: between the parts of a name.
            missing: as `from_paths`.

        Raises:
            TypeError, ValueError: something else stands where a name or children should, no record
                of the first level has children, a node is given twice; and as `from_paths`.
        """
        named = read_nested(tree, name=name, children=children, sep=sep, missing=missing)
        return cls._of_named(named)

    @classmethod
    def from_outline(
        cls,
        lines: Iterable[str],
        *,
        indent: str | None = None,
        sep: str = "/",
        missing: Collection[str] | None = None,
    ) -> Self:
        """A hierarchy from indented lines; each is below the last less indented line before it.

        The classes are the leaves in the order of the lines, and node i is class i. `names` are
        full paths.

        Args:
            lines: of an open file, a list, or one text of several lines. Blank lines are left out.
            indent: what stands for one level at the start of a line ("--"). Left out, lines are
                indented by any number of blanks, or by tabs.
            sep: between the parts of a name.
            missing: as `from_paths`.

        Raises:
            TypeError: a line is not a string.
            ValueError: a line is at no level that is open, tabs and blanks are mixed, a node is
                given twice, lines begin with marks that `indent` does not name; and as
                `from_paths`.
        """
        return cls._of_named(read_outline(lines, indent=indent, sep=sep, missing=missing))

    @classmethod
    def from_codes(
        cls,
        codes: Iterable[Any],
        classes: Any = None,
        *,
        sep: str | None = None,
        ranges: bool = False,
    ) -> Self:
        """A hierarchy from codes that begin with their parent's: ICD, ATC, NAICS, MeSH, ISCO.

        A code's parent is the longest shorter one that it begins with. Node i is the i-th code.

        Args:
            codes: N distinct codes, text or whole numbers; inner codes among them.
            classes: the codes that carry a logit, in label order, in any form that `subset` takes.
                Left out, the leaves in the order of the codes.
            sep: what separates the parts of a code, of which the parent's are the first ones. Left
                out, it begins with the parent's characters ("S72.0" is above "S72.01").
            ranges: a code such as "31-33" (NAICS) or "A00-A09" (ICD) is above all codes that begin
                with anything from its first to its last part, and above the ranges within it.

        Raises:
            TypeError: a code is neither text nor a number.
            ValueError: no code, a duplicate one, no code that begins with another, codes of
                several parts without `sep`, ranges that hold codes without `ranges`.
        """
        return cls._of_named(read_codes(codes, sep=sep, ranges=ranges), classes)

    @classmethod
    def _of_named(cls, named: NamedLinks, classes: Any = None) -> Self:
        """From what a reader found, and the class names if they were given."""
        names = tuple(named.names)
        links = Links.of_parents(np.array(named.parents, np.int64))
        if named.more_edges:
            edges = np.concatenate([links.edges, np.array(named.more_edges, np.int64)])
            links = Links.of_edges(edges, len(names))
        tree = cls._of(links, names, named.classes)
        return tree if classes is None else tree._with_classes(classes)

    def _with_classes(self, labels: Any) -> Self:
        """The same nodes with other classes, given by name in any form that `subset` takes."""
        nodes = nodes_of_labels(label_list(labels), self._name_index, self._links, self._classes)
        return self._of(self._links, self._names, nodes)

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

        Classes whose vectors have a small angle between them are put together; lengths do not
        count. Class i is node i and a leaf; the inner nodes follow.

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
        # Written even without names (then empty), so that a file that has lost them is noticed.
        arrays["name_bytes"], arrays["name_ptr"] = pack_names(self._names or ())
        if self._names is None:
            arrays["name_ptr"] = arrays["name_ptr"][:0]
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a hierarchy that `save` wrote.

        Raises:
            ValueError: the file is damaged, or `save` did not write it.
            OSError: the file cannot be read.
        """
        arrays = read_arrays(path, ("parent_ptr", "parent", "classes", "name_bytes", "name_ptr"))
        try:
            names = None
            if len(arrays["name_ptr"]):
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
        """Bounds of each node's parents in `parent_ids`; int64 (N + 1), read-only."""
        return self._links.parent_ptr

    @property
    def parent_ids(self) -> Int64:
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
    def digests(self) -> tuple[bytes, bytes, bytes]:
        """SHA-256 of the links, of the names, and of the order of the classes."""
        links = _digest(self._links.parent_ptr, self._links.parent)
        names = _digest() if self._names is None else _digest(*pack_names(self._names))
        return links, names, _digest(self._classes)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole hierarchy, in hexadecimal; equal for equal hierarchies."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    def index(self, name: str) -> int:
        """The node of that name; of a path, the last part is enough if only one node has it.

        Raises:
            ValueError: no node has it, or several have it as their last part.
        """
        if self._names is None:
            raise ValueError(
                f"no node is named {name!r}: the nodes of this hierarchy have no names"
            )
        if not isinstance(name, str):
            raise TypeError(f"index takes a name, got {name!r}")
        return self._name_index.find(name)

    def short_name(self, node: int) -> str:
        """The last part of a node's name where names are paths, else its name; its id without one.

        Raises:
            ValueError, TypeError: as `ancestors`.
        """
        node = self._checked_node(node)
        return str(node) if self._names is None else self._name_index.last_parts[node]

    @cached_property
    def _name_index(self) -> NameIndex:
        return NameIndex(self._names or (), self._links)

    def with_names(self, names: Any, sep: str = "/") -> Self:
        """The same hierarchy with new names, for data that has ids and names in different places.

        The names of a tree's nodes become full paths of the given names, so that a name may repeat
        in different places, and `index` and `subset` take last parts. The names of a DAG's nodes
        are taken as they are, and must differ.

        Args:
            names: a mapping from each node's present name (its id, where it has none) to a name;
                or N names in the order of the node ids.
            sep: what separates the parts of a path.

        Raises:
            TypeError: names that are neither text nor whole numbers.
            ValueError: a node without a name, a wrong number of names, a name that holds `sep`, two
                nodes of the same name below one parent (in a DAG, anywhere).
        """
        named = path_names(self._links, self._names, names, sep)
        return self._of(self._links, named, self._classes)

    def subset(self, labels: Any, *, single_parent: bool = False) -> Self:
        """The part of the hierarchy at and above a data set's labels, which become its classes.

        Class i and node i is label i. The nodes above follow by first appearance, root first within
        a path, so the order of the file that the hierarchy came from leaves no trace. Nodes without
        a label at or below them are cut off: they would count for heights, and so for severity.

        Args:
            labels: names in label order; or a mapping from name to label (`class_to_idx`,
                `label2id`) or from label to name (`id2label`, its keys as numbers or text). Each
                is a node's full name, or the last part of a path that only one node has. Where the
                nodes have no names, node ids.
            single_parent: make a tree of a DAG: each node keeps its deepest parent (by the longest
                path from a root); where several are equally deep, the first by name.

        Raises:
            TypeError: labels that are neither a list nor a mapping of these forms.
            ValueError: labels that match no node (the message shows similar names) or several, two
                labels for one node, labels that are not 0, 1, …, C-1.
        """
        if self._names is None:
            ids = in_label_order(labels) if isinstance(labels, Mapping) else labels
            nodes = checked_classes(ids, self.num_nodes, None).tolist()
        else:
            nodes = nodes_of_labels(
                label_list(labels), self._name_index, self._links, self._classes
            )
        kept, links = cut(self._links, self._names, nodes, single_parent=single_parent)
        names = None if self._names is None else tuple(self._names[node] for node in kept)
        return self._of(links, names, np.arange(len(nodes)))

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

        They are in the order of the fewest edges from `node`, then of their ids; in a tree this is
        its path.

        Raises:
            ValueError: `node` is out of range.
            TypeError: `node` is not an integer.
        """
        return self._links.above(self._checked_node(node))

    def parent(self, node: int) -> int:
        """The node's parent, -1 for a root. Needs a tree.

        Raises:
            ValueError, TypeError: as `path`.
        """
        self.require_tree("parent")
        return int(self._links.parents[self._checked_node(node)])

    def children(self, node: int) -> list[int]:
        """The node's children, ascending.

        Raises:
            ValueError, TypeError: as `ancestors`.
        """
        children: list[int] = self._links.children_of(self._checked_node(node)).tolist()
        return children

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
        """Raises ValueError on a DAG; the message names a node that has several parents.

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

    def describe(self) -> str:
        """A summary in a few lines: counts, what is unusual, and the first labels."""
        return describe_hierarchy(self)

    def to_text(self, depth: int | None = None, max_children: int | None = None) -> str:
        """The hierarchy drawn as text, with the label of each class in brackets.

        Args:
            depth: how many levels to draw below the roots; all by default.
            max_children: how many children of a node to draw; all by default.

        Raises:
            TypeError, ValueError: a limit that is not a whole number, or is too small.
        """
        return to_text(self, depth, max_children)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph` with edges from parent to child.

        Its nodes are the node ids, with the attributes `name` (if there are names) and `label` (of
        classes).

        Raises:
            ImportError: networkx is not installed.
        """
        import networkx

        graph = networkx.DiGraph()
        names = self._names or ()
        graph.add_nodes_from(range(self.num_nodes))
        networkx.set_node_attributes(graph, dict(enumerate(names)), "name")
        labels = {int(node): label for label, node in enumerate(self._classes)}
        networkx.set_node_attributes(graph, labels, "label")
        graph.add_edges_from(self.edges.tolist())
        return graph

    def __str__(self) -> str:
        return summary_text(self)

    def _repr_html_(self) -> str:
        return to_html(self)

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
            and np.array_equal(self.parent_ids, other.parent_ids)
            and np.array_equal(self._classes, other._classes)
            and self._names == other._names
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        arrays = (self.parent_ptr, self.parent_ids, self._classes)
        return hash((*(array.tobytes() for array in arrays), self._names))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # immutable, so that copies of a model may share it and its tables

    def __getstate__(self) -> dict[str, Any]:
        return {
            "parent_ptr": self.parent_ptr.tobytes(),
            "parent": self.parent_ids.tobytes(),
            "classes": self._classes.tobytes(),
            "names": self._names,
        }

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"a Hierarchy is immutable: its {name} cannot be set")
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        ptr, parent, classes = (
            np.frombuffer(state[name], np.int64).copy()
            for name in ("parent_ptr", "parent", "classes")
        )
        # Checked like any other input: torch.load may take a state from anywhere.
        names = None if state["names"] is None else checked_names(state["names"])
        self._set(checked_links(ptr, parent, names), names, classes)


def check_hierarchy(hierarchy: object) -> None:
    """Raises TypeError unless `hierarchy` is a `Hierarchy`."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a hace.Hierarchy, got {type(hierarchy).__name__}")


def _digest(*arrays: NDArray[Any]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {len(array)};".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
