"""Class trees from vectors, for classes that come without one; see `Hierarchy.from_embeddings`.

Only directions count. The distance of two classes is the Euclidean distance of their normalised
vectors, `|u - v| = sqrt(2 (1 - cos))`, between 0 and 2: it puts pairs in the same order as the
cosine distance `1 - cos` and, unlike that, is a metric, which nets and cover trees ask for.

Both methods give the parents of N nodes, of which nodes 0 to C-1 are the classes, in the order of
their vectors, and are exactly the leaves. Every inner node has two children or more.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from hace_kernels import memory_bytes

from .tree_checks import checked_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    Float64 = NDArray[np.float64]

Method = Literal["cover_tree", "agglomerative"]
Linkage = Literal["average", "complete", "single", "weighted"]

_LINKAGES = ("average", "complete", "single", "weighted")

# Directions as close as this count as equal. Embeddings are mostly float32, whose rounding moves a
# direction by about 1e-7; a tree of such differences would be deep and mean nothing.
_RESOLUTION = 1e-5

# Distances are computed for this many rows and new centres at a time, 16 MB of them. In
# smaller blocks the threads of the BLAS mostly wait for each other, above all on a busy machine.
_BLOCK_ROWS = 2048
_BATCH_CENTRES = 1024

# SciPy clusters a copy of the C(C-1)/2 distances, each a float64.
_BYTES_PER_PAIR = 16


def cluster_classes(
    vectors: Any, names: Iterable[str] | None, *, method: Method, base: float, linkage: Linkage
) -> tuple[Int64, tuple[str, ...] | None]:
    """Parents and, where the classes have names, a name for each node.

    See `Hierarchy.from_embeddings`.
    """
    if names is not None:
        names = checked_names(names)
        if len(names) != len(vectors):  # checked before the work, which may take a while
            raise ValueError(
                f"{len(names)} names for {len(vectors)} vectors; give every class exactly one name "
                f"(inner nodes are named 'cluster 0', 'cluster 1', ...)"
            )
    if method == "cover_tree":
        parents = cover_tree(vectors, base)
    elif method == "agglomerative":
        parents = agglomerative(vectors, linkage)
    else:
        raise ValueError(f"method must be 'cover_tree' or 'agglomerative', got {method!r}")
    if names is not None:
        num_inner = len(parents) - len(names)
        names = (*names, *(f"cluster {place}" for place in range(num_inner)))
    return parents, names


def cover_tree(vectors: Any, base: float = 1.3) -> Int64:
    """The parents of a cover tree: nested nets of classes, finer from level to level.

    The net C_l of level l is a set of classes, its centres; its radius is base^l, a distance of
    normalised vectors (as a cosine distance, base^(2l) / 2). A class of C_(l-1) that is not in C_l
    is a child of the nearest class of C_l. Up to rounding in float64:

    - Nesting: C_l is a subset of C_(l-1).
    - Covering: a centre of level l-1 lies within base^l of its parent, and every class below a
      centre of level l, at any depth, within base^(l+1) / (base - 1) of it.
    - Separation: the centres of C_l are further than base^l apart, any two of them, also below
      different parents.
    - Clusters stay whole: classes at most x apart, with every other class further than base * x
      (and than 1e-5) from each of them, are the leaves of a subtree of their own.

    An inner node is a centre at a level where it gains children. Its own leaf, or the node of its
    next such level, is a child of it too. Nets end once they cover every class within 1e-5: closer
    directions count as equal, and hang from their centre as siblings. So no leaf is deeper than
    log_base(2e5) + 3, which is 49 for a base of 1.3.

    Class 0 is the topmost centre and nets are filled in class order: the same vectors give the same
    tree, the same vectors in another order may give another.

    Computes about C^2 / 2 distances at most, never more than 24 MB of them at a time.

    Args:
        vectors: (C, F) numbers, one row per class; array, tensor or nested lists.
        base: the ratio of the radii of one level and the next, above 1. A smaller ratio gives more
            levels and fewer children per node.

    Source: Beygelzimer, Kakade, Langford, *Cover Trees for Nearest Neighbor*, ICML 2006, built from
    the top in batches. For losses: Wang, Izbicki, *The Tree Loss*, AISTATS 2022.

    Raises:
        TypeError: vectors or a base that are not real numbers.
        ValueError: vectors of another shape, with values that are not finite or only zeros; a base
            that is not above 1.
    """
    if not isinstance(base, Real):
        raise TypeError(f"base must be a number, not {type(base).__name__}")
    if not 1 < base < math.inf:
        raise ValueError(f"base must be above 1 and finite, got {base}")
    return _tree_of_nets(nested_nets(directions(vectors), float(base)))


def agglomerative(vectors: Any, linkage: Linkage = "average") -> Int64:
    """The parents of a binary tree: the two closest clusters are merged until one is left.

    Nodes C to 2C-2 are the merges, in their order. The distance of two clusters is computed from
    the cosine distances 1 - cos of their classes, as `linkage` says. Needs SciPy, and time and
    memory for C^2 distances.

    Args:
        vectors: as for `cover_tree`.
        linkage: "average", "complete", "single" or "weighted", as in
            `scipy.cluster.hierarchy.linkage`. SciPy's other methods are for Euclidean distances.

    Raises:
        TypeError: vectors that are not real numbers.
        ValueError: vectors as for `cover_tree`, an unknown linkage.
        MemoryError: the distances would not fit in memory.
        ImportError: SciPy is not installed.
    """
    if linkage not in _LINKAGES:
        raise ValueError(f"linkage must be one of {str(_LINKAGES)[1:-1]}, got {linkage!r}")
    unit = directions(vectors)
    num_classes = len(unit)
    if num_classes == 1:
        return np.array([-1])
    needed, memory = num_classes * (num_classes - 1) // 2 * _BYTES_PER_PAIR, memory_bytes()
    if needed > memory:
        raise MemoryError(
            f"the distances between {num_classes:,} classes would take {needed / 1e9:,.1f} GB, and "
            f"this machine has {memory / 1e9:,.1f} GB; use method='cover_tree'"
        )
    try:
        hierarchy = importlib.import_module("scipy.cluster.hierarchy")
        distance = importlib.import_module("scipy.spatial.distance")
    except ImportError as error:
        raise ImportError(
            f"method='agglomerative' needs SciPy ({error}): `pip install scipy`, or use "
            f"method='cover_tree'"
        ) from error
    # Twice the cosine distance, and exactly 0 for equal directions; the factor changes no merge.
    merges = hierarchy.linkage(distance.pdist(unit, "sqeuclidean"), linkage)
    parents = np.full(2 * num_classes - 1, -1)
    parents[merges[:, :2].astype(np.int64)] = np.arange(num_classes, len(parents))[:, None]
    return parents


def directions(vectors: Any) -> Float64:
    """The vectors (C, F) as float64 of length 1.

    Raises:
        TypeError: they are not real numbers.
        ValueError: another shape, a value that is not finite, or a vector of zeros.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
        # NumPy has no bfloat16.
        vectors = (vectors.double() if vectors.is_floating_point() else vectors).numpy()
    try:
        array = np.asarray(vectors)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"vectors must be rows of equal length, one per class: {error}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"vectors must be real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"vectors must have shape (C, F), one row per class and at least one class, got "
            f"{array.shape}"
        )
    unit = array.astype(np.float64)
    largest = np.maximum(unit.max(axis=1), -unit.min(axis=1))
    bad = np.flatnonzero(~np.isfinite(largest))
    if len(bad):
        row = unit[bad[0]]
        raise ValueError(
            f"vector {bad[0]} has the value {row[~np.isfinite(row)][0]} in it, so {len(bad)} of "
            f"{len(unit)} vectors have no direction; all values must be finite"
        )
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        raise ValueError(
            f"vector {zero[0]} is zero, so {len(zero)} of {len(unit)} vectors have no direction; "
            f"leave such classes out, or give them a vector"
        )
    unit /= largest[:, None]  # squares of the values themselves might overflow
    unit /= np.sqrt(np.einsum("cf,cf->c", unit, unit))[:, None]
    return unit


class Nets(NamedTuple):
    """Nested nets of C classes: the centres of level l are the classes with `level >= l`.

    Attributes:
        level: int64 (C), the coarsest level at which a class is a centre; class 0 has the topmost.
        parent: int64 (C), the nearest centre of the level above that one; -1 at class 0.
        finest: the lowest level that is a net. The level of the classes that are not a centre
            there, all within `_RESOLUTION` of their parents, is lower.
    """

    level: Int64
    parent: Int64
    finest: int


def nested_nets(unit: Float64, base: float) -> Nets:
    """The nets of a cover tree, from the coarsest to the finest; see `cover_tree`.

    Each class keeps its nearest centre so far. At every level, the classes further than the radius
    from their nearest centre are taken in order, and each becomes a centre unless one that became a
    centre before it is close.
    """
    num_classes = len(unit)
    level = np.zeros(num_classes, np.int64)
    parent = np.full(num_classes, -1)
    nearest = np.zeros(num_classes, np.int64)
    cosine = np.full(num_classes, -np.inf)  # with the nearest
    waiting = np.arange(1, num_classes)  # no centres yet
    _draw_near(unit, waiting, np.zeros(1, np.int64), nearest, cosine)

    at = level[0] = _level_that_covers(_farthest(cosine[waiting]), base)
    while True:
        farthest = _farthest(cosine[waiting])
        # Levels in between that would add no centre are skipped.
        finest, at = at, min(at, _level_that_covers(farthest, base)) - 1
        if farthest <= _RESOLUTION:
            level[waiting], parent[waiting] = at, nearest[waiting]
            return Nets(level, parent, finest)
        coarser = nearest.copy()
        close = 1 - base ** (2 * at) / 2  # the cosine at this level's radius
        while len(uncovered := waiting[cosine[waiting] < close]):
            centres = _greedy_net(unit, uncovered[:_BATCH_CENTRES], close)
            level[centres], parent[centres] = at, coarser[centres]
            waiting = np.setdiff1d(waiting, centres, assume_unique=True)
            _draw_near(unit, waiting, centres, nearest, cosine)


def _farthest(cosine: Float64) -> float:
    return math.sqrt(max(0.0, 2 - 2 * float(cosine.min(initial=1.0))))


def _level_that_covers(distance: float, base: float) -> int:
    """The lowest level whose radius is at least `distance`, and at least the resolution."""
    return math.ceil(math.log(max(distance, _RESOLUTION)) / math.log(base))


def _greedy_net(unit: Float64, candidates: Int64, close: float) -> Int64:
    """The candidates, in order, that are not close to one taken before."""
    rows = unit[candidates]
    is_close = rows @ rows.T >= close
    covered = np.zeros(len(candidates), np.bool_)
    taken = []
    for place in range(len(candidates)):
        if not covered[place]:
            taken.append(place)
            covered |= is_close[place]
    return candidates[taken]


def _draw_near(
    unit: Float64, waiting: Int64, centres: Int64, nearest: Int64, cosine: Float64
) -> None:
    """Update the nearest centre of the waiting classes, and the cosine with it, for new centres."""
    columns = unit[centres].T
    block = np.empty((min(_BLOCK_ROWS, len(waiting)), len(centres)))
    for start in range(0, len(waiting), _BLOCK_ROWS):
        rows = waiting[start : start + _BLOCK_ROWS]
        cosines = np.matmul(unit[rows], columns, out=block[: len(rows)])
        best = cosines.argmax(axis=1)
        best_cosine = np.take_along_axis(cosines, best[:, None], axis=1)[:, 0]
        closer = best_cosine > cosine[rows]
        cosine[rows[closer]] = best_cosine[closer]
        nearest[rows[closer]] = centres[best[closer]]


def _tree_of_nets(nets: Nets) -> Int64:
    """The parents of the tree of nets, in which levels that add nothing to a node are left out.

    Inner nodes are numbered from the coarsest level to the finest, within a level by centre.
    """
    num_classes = len(nets.level)
    if num_classes == 1:
        return np.array([-1])
    # An inner node for each centre and level at which it has children besides itself.
    gains = np.stack([-nets.level[1:], nets.parent[1:]])
    inner, entry = np.unique(gains, axis=1, return_inverse=True)
    centre = inner[1]
    nodes = np.arange(num_classes, num_classes + len(centre))

    # Where a class enters the tree: below its parent, at the level where it becomes a centre.
    above = np.concatenate([[-1], nodes[entry.reshape(-1)]])
    leaf_parent = above.copy()
    leaf_parent[centre] = nodes  # the last assignment, to a centre's finest node, stays
    inner_parent = above[centre]
    by_centre = np.argsort(centre, kind="stable")
    coarser, finer = by_centre[:-1], by_centre[1:]
    same = centre[coarser] == centre[finer]
    inner_parent[finer[same]] = nodes[coarser[same]]
    return np.concatenate([leaf_parent, inner_parent])
