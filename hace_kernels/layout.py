"""Tree layout: from a parent array to the flat integer arrays that the kernels read.

Each function runs in C++ (`hace_kernels._layout`) if that module is built, and otherwise in its
NumPy reference, the `numpy_*` function of the same name, which gives the same bits.
(`list_ring_words` does not have one.) The time of each is proportional to its output, up to a
logarithm, and nothing recurses: trees with millions of nodes and chains 100,000 deep are laid out
in about a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]
    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]
    CompactPaths = tuple[Int64, Int32, Int32, Float64]

try:
    import hace_kernels._layout as _native
except ModuleNotFoundError:
    _native = None  # type: ignore[assignment]

# A weight smaller than this fraction of the sum of its path's weights changes neither the loss nor
# the gradient in float64.
WEIGHT_CUT = 2.0**-60

_NO_LABEL = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Layout:
    """A hierarchy as flat read-only arrays.

    The C classes are numbered 0 … C-1 by their label (their column in the logits), and laid out in
    depth-first order at *positions* 0 … C-1, so that the classes at or below a node are an
    interval of positions. A class at an inner node has a position of its own in that node's
    interval. Siblings, and a node's own class among its children, are ordered by the smallest
    label at or below them: columns that already are in some depth-first order stay where they are.

    Attributes:
        depth: int32 (N), edges to the root.
        height: int32 (N), edges to the deepest leaf below.
        order: int64 (N), nodes by level, roots first, ascending id in a level.
        level_ptr: int64 (levels+1), bounds of the levels in `order`.
        child_ptr: int64 (N+1), bounds of each node's children in `child`.
        child: int64 (N - roots), the children of each node.
        start, stop: int32 (N), a node's interval of positions; empty without a class below.
        column: int32 (C), position → label, or None where it is the identity.
    """

    depth: Int32
    height: Int32
    order: Int64
    level_ptr: Int64
    child_ptr: Int64
    child: Int64
    start: Int32
    stop: Int32
    column: Int32 | None

    def __post_init__(self) -> None:
        for array in vars(self).values():
            if array is not None:
                array.setflags(write=False)


def topological_order(parents: Int64) -> tuple[Int64, Int64]:
    """Nodes level by level from the roots, ascending id in a level.

    Args:
        parents: int64 (N), each node's parent, -1 at a root.

    Returns:
        order: int64 (M), the nodes; those on or below a cycle are missing (M < N).
        level_ptr: int64 (levels+1), bounds of the levels in `order`.

    Raises:
        ValueError: a parent outside -1 … N-1.
    """
    parents = _checked_parents(parents)
    if _native is not None:
        return _native.topological_order(parents)
    return numpy_topological_order(parents)


def lay_out(parents: Int64, classes: Int64) -> Layout:
    """Lay a forest out in depth-first order of its classes; see `Layout`.

    Args:
        parents: int64 (N), each node's parent, -1 at a root.
        classes: int64 (C), the distinct nodes that carry a logit, in label order.

    Raises:
        ValueError: a parent or class out of range, a class given twice, a cycle.
    """
    parents = _checked_parents(parents)
    classes = _checked_nodes(classes, len(parents), "classes")
    is_class = np.zeros(len(parents), np.bool_)
    is_class[classes] = True
    if np.count_nonzero(is_class) < len(classes):
        raise ValueError("classes contains a node more than once; list every node at most once")
    if _native is not None:
        return Layout(*_native.lay_out(parents, classes))
    return numpy_lay_out(parents, classes)


def paths(
    parents: Int64, depth: Int32, nodes: Int64, max_entries: int | None = None
) -> tuple[Int64, Int32]:
    """The path of each node, from the node itself to its root, in CSR form.

    Args:
        parents: int64 (N), each node's parent, -1 at a root.
        depth: int32 (N), as in `Layout`.
        nodes: int64 (T), the nodes whose paths are wanted.
        max_entries: cut every path after this many nodes.

    Returns:
        ptr: int64 (T+1), bounds of each path in `node`.
        node: int32 (E), the nodes of the paths.

    Raises:
        ValueError: a node out of range, max_entries below 1.
    """
    nodes = _checked_nodes(nodes, len(parents), "nodes")
    if max_entries is not None and max_entries < 1:
        raise ValueError(f"max_entries must be at least 1, or None for whole paths: {max_entries}")
    if _native is not None:
        return _native.paths(parents, depth, nodes, -1 if max_entries is None else max_entries)
    return numpy_paths(parents, depth, nodes, max_entries)


def compact_paths(
    ptr: Int64,
    start: Int32,
    stop: Int32,
    weight: Float64,
    num_classes: int,
    keep_full: bool = False,
) -> CompactPaths:
    """Drop the path entries that cannot change `-Σ_i w_i · log P_i`.

    Within a path, entries with the same interval are merged and their weights added. Then three
    kinds of entries are dropped: those that hold every class (log P = 0), those of weight 0, and
    those whose |weight| is below 2^-60 of the sum of those left. A path whose first interval is
    empty belongs to a target without a class below it: one entry (start = stop, weight 1) stays,
    which the kernels refuse.

    Args:
        ptr: int64 (T+1), bounds of each path.
        start, stop: int32 (E), nested intervals of class positions, target to root.
        weight: float64 (E).
        num_classes: C.
        keep_full: keep entries that hold every class (with `eps` they add a constant).

    Returns:
        The same four arrays, compacted.
    """
    if _native is not None:
        return _native.compact_paths(ptr, start, stop, weight, num_classes, keep_full)
    return numpy_compact_paths(ptr, start, stop, weight, num_classes, keep_full)


def list_ring_words(
    ptr: Int64, start: Int32, stop: Int32, order: Int32 | None, num_classes: int, most_words: int
) -> tuple[Int32, Int32, NDArray[np.uint32]] | None:
    """The arrays of a `hace_kernels.ring_words.RingWords`, in which each distinct ring occurs once.

    None if there would be more than `most_words` words, or if the native module is not built: only
    native kernels take them.
    """
    if _native is None:
        return None
    return _native.ring_words(ptr, start, stop, order, num_classes, most_words)


def cpu_capability() -> str | None:
    """'avx512', 'avx2' or 'generic', or None if the native layout module is not built."""
    return None if _native is None else _native.cpu_capability()


def sum_to_root(parents: Int64, value: Int64) -> Int64:
    """Sum of `value` over each node's path, by pointer doubling: O(N · log depth)."""
    total, _ = _sum_to_root(parents, value)
    return total


def numpy_topological_order(parents: Int64) -> tuple[Int64, Int64]:
    """NumPy reference of `topological_order`."""
    nodes_above, finished = _sum_to_root(parents, np.ones_like(parents))
    reached = np.flatnonzero(finished)
    depth = nodes_above[reached] - 1
    order = reached[np.argsort(depth, kind="stable")]
    return order, _bounds(np.bincount(depth))


def numpy_lay_out(parents: Int64, classes: Int64) -> Layout:
    """NumPy reference of `lay_out`."""
    num_nodes, num_classes = len(parents), len(classes)
    order, level_ptr = numpy_topological_order(parents)
    if len(order) < num_nodes:
        raise ValueError("parents contains a cycle; topological_order leaves its nodes out")
    depth = np.empty(num_nodes, np.int32)
    depth[order] = np.repeat(np.arange(len(level_ptr) - 1), np.diff(level_ptr))

    labels = np.arange(num_classes)
    smallest_label = np.full(num_nodes, _NO_LABEL, np.int64)
    smallest_label[classes] = labels
    size = np.zeros(num_nodes, np.int64)
    size[classes] = 1
    height = np.zeros(num_nodes, np.int32)
    for level in range(len(level_ptr) - 2, 0, -1):
        node = order[level_ptr[level] : level_ptr[level + 1]]
        np.minimum.at(smallest_label, parents[node], smallest_label[node])
        np.add.at(size, parents[node], size[node])
        np.maximum.at(height, parents[node], height[node] + np.int32(1))

    # What lies directly below each node (N is the forest itself): its children and its own class.
    under = np.concatenate((np.where(parents < 0, num_nodes, parents), classes))
    key = np.concatenate((smallest_label, labels))
    width = np.concatenate((size, np.ones(num_classes, np.int64)))
    by_label = np.lexsort((key, under))
    offset = _sum_before_in_group(width[by_label], under[by_label])
    offset[by_label] = offset.copy()

    start = sum_to_root(parents, offset[:num_nodes])
    position = start[classes] + offset[num_nodes:]
    column = np.empty(num_classes, np.int32)
    column[position] = labels

    is_child = (by_label < num_nodes) & (under[by_label] < num_nodes)
    return Layout(
        depth=depth,
        height=height,
        order=order,
        level_ptr=level_ptr,
        child_ptr=_bounds(np.bincount(parents[parents >= 0], minlength=num_nodes)),
        child=by_label[is_child],
        start=start.astype(np.int32),
        stop=(start + size).astype(np.int32),
        column=None if np.array_equal(column, labels) else column,
    )


def numpy_paths(
    parents: Int64, depth: Int32, nodes: Int64, max_entries: int | None = None
) -> tuple[Int64, Int32]:
    """NumPy reference of `paths`."""
    length = depth[nodes].astype(np.int64) + 1
    if max_entries is not None:
        length = np.minimum(length, max_entries)
    ptr = _bounds(length)
    node = np.empty(ptr[-1], np.int32)
    walking, current = np.arange(len(nodes)), nodes
    step = 0
    while len(walking):
        node[ptr[walking] + step] = current
        step += 1
        goes_on = length[walking] > step
        walking, current = walking[goes_on], parents[current[goes_on]]
    return ptr, node


def numpy_compact_paths(
    ptr: Int64,
    start: Int32,
    stop: Int32,
    weight: Float64,
    num_classes: int,
    keep_full: bool = False,
) -> CompactPaths:
    """NumPy reference of `compact_paths`."""
    num_paths = len(ptr) - 1
    path = np.repeat(np.arange(num_paths), np.diff(ptr))

    # Nested intervals that are equal are neighbours.
    is_new = np.ones(len(path), np.bool_)
    is_new[1:] = (np.diff(path) != 0) | (np.diff(start) != 0) | (np.diff(stop) != 0)
    weight = _sum_by_group(np.cumsum(is_new) - 1, weight, int(is_new.sum()))
    path, start, stop = path[is_new], start[is_new], stop[is_new]

    is_first = np.ones(len(path), np.bool_)
    is_first[1:] = np.diff(path) != 0
    refused = is_first & (start == stop)
    path_is_refused = np.zeros(num_paths, np.bool_)
    path_is_refused[path[refused]] = True

    counts = ~path_is_refused[path] & (weight != 0)
    if not keep_full:
        counts &= (start != 0) | (stop != num_classes)
    magnitude = np.where(counts, np.abs(weight), 0.0)
    total = _sum_by_group(path, magnitude, num_paths)
    kept = refused | (counts & (magnitude >= WEIGHT_CUT * total[path]))
    weight = np.where(refused, 1.0, weight)
    length = np.bincount(path[kept], minlength=num_paths)
    return _bounds(length), start[kept], stop[kept], weight[kept]


def _sum_to_root(parents: Int64, value: Int64) -> tuple[Int64, NDArray[np.bool_]]:
    """`sum_to_root`, and which nodes have a root; those on or below a cycle do not have one."""
    num_nodes = len(parents)
    top = num_nodes  # stands above every root and is its own parent
    above = np.append(np.where(parents < 0, top, parents), top)
    total = np.append(value, 0)
    for _ in range(num_nodes.bit_length()):
        if (above == top).all():
            break
        total += total[above]
        above = above[above]
    return total[:num_nodes], above[:num_nodes] == top


def _sum_before_in_group(value: Int64, group: Int64) -> Int64:
    """Exclusive running sum of `value` that starts again wherever the sorted `group` changes."""
    before = np.cumsum(value) - value
    is_new = np.ones(len(group), np.bool_)
    is_new[1:] = np.diff(group) != 0
    first = np.flatnonzero(is_new)
    return before - np.repeat(before[first], np.diff(np.append(first, len(group))))


def _sum_by_group(group: Int64, value: Float64, num_groups: int) -> Float64:
    """Sum of `value` in each group, one after the other in the order of the native code."""
    return np.bincount(group, weights=value, minlength=num_groups).astype(np.float64, copy=False)


def _bounds(count: NDArray[Any]) -> Int64:
    """CSR bounds of groups of `count` elements: 0, then the running sum."""
    bounds = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=bounds[1:])
    return bounds


def _checked_parents(parents: Int64) -> Int64:
    if len(parents) >= _NO_LABEL:
        raise ValueError(f"{len(parents)} nodes: positions are 32-bit, at most 2**31 - 2 nodes")
    bad = np.flatnonzero((parents < -1) | (parents >= len(parents)))
    if len(bad):
        raise ValueError(
            f"node {bad[0]} has parent {parents[bad[0]]}; parents are -1 (a root) or node ids "
            f"0 to {len(parents) - 1}"
        )
    return np.ascontiguousarray(parents, np.int64)


def _checked_nodes(nodes: Int64, num_nodes: int, argument: str) -> Int64:
    bad = np.flatnonzero((nodes < 0) | (nodes >= num_nodes))
    if len(bad):
        raise ValueError(
            f"{argument}[{bad[0]}] is {nodes[bad[0]]}; node ids are 0 to {num_nodes - 1}"
        )
    return np.ascontiguousarray(nodes, np.int64)
