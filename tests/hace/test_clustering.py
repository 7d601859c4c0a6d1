"""`Hierarchy.from_embeddings` and `hace.clustering`, compared with brute force on small sets."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hace import Hierarchy, clustering
from hace.clustering import Method, agglomerative, cover_tree, directions, nested_nets
from hace.tables import Tables

METHODS = ["cover_tree", "agglomerative"]
RESOLUTION = 1e-5

# Squared distances are computed as 2 - 2 cos in float64.
ROUNDING = 1e-14

examples = settings(max_examples=300, deadline=None)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    if request.param == "agglomerative":
        pytest.importorskip("scipy")
    return request.param


@st.composite
def point_sets(draw: st.DrawFn) -> np.ndarray:
    """Vectors that are spread out, in nested groups, on a line, or partly equal."""
    num, dim = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    points = rng.normal(size=(num, dim))
    for scale in draw(st.lists(st.sampled_from([1e-1, 1e-3, 1e-4, 1e-6, 0.0]), max_size=3)):
        points = points[rng.integers(0, num, num)] + scale * rng.normal(size=(num, dim))
    return points[np.abs(points).max(axis=1) > 0]


def squared_distances(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return np.stack([((unit - row) ** 2).sum(axis=1) for row in unit])


def leaf_sets(parents: np.ndarray, num_classes: int) -> list[frozenset[int]]:
    """The classes below each inner node."""
    below: list[set[int]] = [set() for _ in parents]
    for leaf in range(num_classes):
        node = leaf
        while node >= 0:
            below[node].add(leaf)
            node = int(parents[node])
    return [frozenset(classes) for classes in below[num_classes:]]


def assert_is_tree_of_classes(parents: np.ndarray, num_classes: int) -> None:
    """Asserts one root, the classes as leaves with the first ids, and inner nodes that branch."""
    tree = Hierarchy.from_parents(parents)
    assert tree.classes.tolist() == list(range(num_classes))
    assert len(tree.roots) == 1
    children = np.bincount(parents[parents >= 0], minlength=len(parents))
    assert children[:num_classes].max() == 0
    assert children[num_classes:].min(initial=2) >= 2


# The invariants of a cover tree


def assert_nets_hold(nets: clustering.Nets, square: np.ndarray, base: float) -> None:
    level, parent, finest = nets
    assert parent[0] == -1
    assert level[0] == level.max()
    assert np.count_nonzero(level == level[0]) == 1
    for at in range(finest, int(level[0]) + 1):
        radius_squared = base ** (2 * at)
        centres = np.flatnonzero(level >= at)
        others = np.flatnonzero(level < at)
        apart = square[np.ix_(centres, centres)][np.triu_indices(len(centres), 1)]
        assert (apart > radius_squared - ROUNDING).all()
        # Nets are filled in class order: every other class is close to a centre of the net above
        # or to an earlier one.
        before = (centres[None] < others[:, None]) | (level[centres] > at)
        close = square[np.ix_(others, centres)] <= radius_squared + ROUNDING
        assert (close & before).any(axis=1).all()
    for own in range(1, len(level)):
        above = np.flatnonzero(level > level[own])
        assert parent[own] in above
        to_parent = square[own, parent[own]]
        assert to_parent <= square[own, above].min() + ROUNDING
        assert to_parent <= base ** (2 * (int(level[own]) + 1)) + ROUNDING
        assert level[own] >= finest or to_parent <= RESOLUTION**2 + ROUNDING


@given(point_sets(), st.sampled_from([1.05, 1.3, 2.0, 50.0]), st.sampled_from([1, 3, 1024]))
@examples
def test_nets_are_nested_cover_and_are_separate(
    points: np.ndarray, base: float, batch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "_BATCH_CENTRES", batch)
        patch.setattr(clustering, "_BLOCK_ROWS", 2 * batch)
        nets = nested_nets(directions(points), base)
    assert_nets_hold(nets, squared_distances(points), base)


def test_nets_of_more_than_a_batch(rng: np.random.Generator) -> None:
    points = rng.normal(size=(1_800, 24))
    nets = nested_nets(directions(points), 1.3)
    assert np.unique(nets.level, return_counts=True)[1].max() > clustering._BATCH_CENTRES
    assert_nets_hold(nets, squared_distances(points), 1.3)


def test_check_of_the_nets_can_fail() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3))
    square = squared_distances(points)
    nets = nested_nets(directions(points), 1.3)
    assert_nets_hold(nets, square, 1.3)
    own = int(np.flatnonzero(nets.level == nets.level[0] - 2)[-1])
    coarser, farther = nets.level.copy(), nets.parent.copy()
    coarser[own] += 1
    above = np.flatnonzero(nets.level > nets.level[own])
    farther[own] = above[square[own, above].argmax()]
    for broken in (nets._replace(level=coarser), nets._replace(parent=farther)):
        with pytest.raises(AssertionError):
            assert_nets_hold(broken, square, 1.3)


@given(point_sets(), st.sampled_from([1.05, 1.3, 2.0, 50.0]))
@examples
def test_tree_has_a_node_for_every_set_below_a_centre(points: np.ndarray, base: float) -> None:
    num_classes = len(points)
    parents = cover_tree(points, base)
    assert_is_tree_of_classes(parents, num_classes)

    level, parent, finest = nested_nets(directions(points), base)
    square = squared_distances(points)
    expected: dict[frozenset[int], tuple[int, int]] = {}
    for at in range(int(level[0]), finest - 1, -1):
        centre = np.arange(num_classes)
        while (lower := level[centre] < at).any():
            centre[lower] = parent[centre[lower]]
        for own in np.unique(centre):
            below = np.flatnonzero(centre == own)
            assert (square[own, below] <= (base ** (at + 1) / (base - 1)) ** 2 + ROUNDING).all()
            if len(below) > 1:
                # The node gets its children at the finest level that has these classes below it.
                expected[frozenset(below.tolist())] = (-at, int(own))
    assert leaf_sets(parents, num_classes) == sorted(expected, key=lambda key: expected[key])


def test_a_tree_written_out() -> None:
    # Angles on a circle, base 2. Level 1 (radius 2) has class 0, level 0 (radius 1) adds class 1,
    # level -1 (1/2) adds class 3, level -2 (1/4) class 2, and level -4 (1/16) class 4.
    angles = np.array([0.0, 2.0, 0.3, 2.6, 2.1])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    parents = cover_tree(points, base=2)
    assert leaf_sets(parents, 5) == [
        frozenset({0, 1, 2, 3, 4}),
        frozenset({1, 3, 4}),
        frozenset({0, 2}),
        frozenset({1, 4}),
    ]
    assert parents.tolist() == [7, 8, 7, 6, 8, -1, 5, 5, 6]


def test_depth_is_bounded_by_the_resolution() -> None:
    # Each vector adds its own direction to the first vector, 1.3 times smaller than the previous
    # one. So the first gets one more child at every level, until directions count as equal.
    added = 1.3 ** -np.arange(80.0)
    vectors = np.vstack([np.zeros(80), np.diag(added)])
    parents = cover_tree(np.hstack([np.ones((81, 1)), vectors]))
    bound = math.log(2e5, 1.3) + 3
    assert bound - 6 < Hierarchy.from_parents(parents).depth <= bound
    equal = np.flatnonzero(added < RESOLUTION / 2) + 1
    assert len(equal) > 20
    assert len(set(parents[equal].tolist())) == 1


# Clusters


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 12), min_size=1, max_size=8))
@examples
@pytest.mark.parametrize("name", METHODS)
def test_clusters_that_are_far_apart_stay_whole(name: Method, seed: int, sizes: list[int]) -> None:
    if name == "agglomerative":
        pytest.importorskip("scipy")
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    # Each group has two halves; the distances are about 1, 0.02 and 0.0004.
    half = rng.integers(0, 2, len(group))
    points = rng.normal(size=(len(sizes), 12))[group]
    points += 0.01 * rng.normal(size=(len(sizes), 2, 12))[group, half]
    points += 0.0002 * rng.normal(size=points.shape)

    distances = np.sqrt(squared_distances(points))
    tree = Hierarchy.from_embeddings(points, method=name)
    found = leaf_sets(tree.parents, len(points))
    num_whole = 0
    planted = [group == g for g in range(len(sizes))]
    planted += [(group == g) & (half == h) for g in range(len(sizes)) for h in range(2)]
    for inside in planted:
        diameter = distances[np.ix_(inside, inside)].max(initial=0)
        gap = distances[np.ix_(inside, ~inside)].min(initial=2)
        if inside.sum() > 1 and gap > 1.3 * diameter:
            num_whole += 1
            assert frozenset(np.flatnonzero(inside).tolist()) in found
    assert num_whole >= sum(size > 1 for size in sizes)


def test_equal_directions_are_siblings() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10, 4))[rng.integers(0, 10, 200)]
    lengths = rng.uniform(0.1, 10, size=(200, 1))
    parents = cover_tree(points * lengths)
    for first, second in combinations(range(200), 2):
        equal = (points[first] == points[second]).all()
        assert (parents[first] == parents[second]) == equal


def test_all_equal(method: Method) -> None:
    tree = Hierarchy.from_embeddings(np.ones((50, 3)), method=method)
    assert_is_tree_of_classes(tree.parents, 50)
    if method == "cover_tree":
        assert tree.parents.tolist() == [50] * 50 + [-1]


# Agglomerative clustering


def merged_sets(points: np.ndarray, of_pairs: Callable[[np.ndarray], float]) -> set[frozenset[int]]:
    """The clusters that arise if the two with the smallest distance are merged each time."""
    cosine_distances = squared_distances(points) / 2
    clusters = [frozenset([label]) for label in range(len(points))]
    merged = set()
    while len(clusters) > 1:
        first, second = min(
            combinations(clusters, 2),
            key=lambda pair: of_pairs(cosine_distances[np.ix_(list(pair[0]), list(pair[1]))]),
        )
        clusters = [*(c for c in clusters if c not in (first, second)), first | second]
        merged.add(clusters[-1])
    return merged


@pytest.mark.parametrize(
    ("linkage", "of_pairs"), [("average", np.mean), ("complete", np.max), ("single", np.min)]
)
def test_agglomerative_merges_the_closest(
    linkage: clustering.Linkage, of_pairs: Callable[[np.ndarray], float], rng: np.random.Generator
) -> None:
    pytest.importorskip("scipy")
    points = rng.normal(size=(50, 3))
    parents = agglomerative(points, linkage)
    assert_is_tree_of_classes(parents, 50)
    assert len(parents) == 99
    assert set(leaf_sets(parents, 50)) == merged_sets(points, of_pairs)
    assert Hierarchy.from_embeddings(points, method="agglomerative", linkage=linkage) == (
        Hierarchy.from_parents(parents)
    )


def test_agglomerative_beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    pairs = 1_000 * 999 // 2
    vectors = np.random.default_rng(0).normal(size=(1_000, 2))
    monkeypatch.setattr(clustering, "memory_bytes", lambda: pairs * 16)
    assert len(agglomerative(vectors)) == 1_999
    monkeypatch.setattr(clustering, "memory_bytes", lambda: pairs * 16 - 1)
    with pytest.raises(
        MemoryError,
        match=r"between 1,000 classes would take 0\.0 GB, .* use method='cover_tree'",
    ):
        agglomerative(vectors)
    monkeypatch.undo()
    started = time.process_time()
    with pytest.raises(MemoryError, match=r"between 3,000,000 classes would take 72,000\.0 GB"):
        agglomerative(np.ones((3_000_000, 1), np.float32))
    assert time.process_time() - started < 5


def test_agglomerative_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.cluster.hierarchy", None)
    with pytest.raises(ImportError, match=r"needs SciPy .*`pip install scipy`.*'cover_tree'"):
        Hierarchy.from_embeddings([[1.0, 0.0], [0.0, 1.0]], method="agglomerative")
    assert Hierarchy.from_embeddings([[1.0, 0.0], [0.0, 1.0]]).num_nodes == 3


# What is accepted


def test_one_and_two_vectors(method: Method) -> None:
    one = Hierarchy.from_embeddings([[0.5, 2.0]], method=method)
    assert (one.parents.tolist(), one.classes.tolist()) == ([-1], [0])
    for second in ([1.0, 0.0], [-0.5, -2.0], [0.5, 2.0]):
        two = Hierarchy.from_embeddings([[0.5, 2.0], second], method=method)
        assert (two.parents.tolist(), two.classes.tolist()) == ([2, 2, -1], [0, 1])


def test_vectors_of_one_value(method: Method) -> None:
    tree = Hierarchy.from_embeddings([[2.0], [-1.0], [7.0], [-3.0]], method=method)
    assert set(leaf_sets(tree.parents, 4)) >= {frozenset({0, 2}), frozenset({1, 3})}


SMALL = [[1, 0, 2], [1, 0, 3], [0, 5, 1], [0, 4, 1], [-3, 1, 0]]


@pytest.mark.parametrize(
    "vectors",
    [
        [tuple(row) for row in SMALL],
        *(np.array(SMALL, dtype) for dtype in (np.int8, np.int64, np.float16, np.float32)),
        np.array(SMALL, order="F"),
        np.array(SMALL)[::-1][::-1],
        *(
            torch.tensor(SMALL, dtype=dtype)
            for dtype in (torch.int16, torch.float16, torch.bfloat16, torch.float64)
        ),
        torch.tensor(SMALL, dtype=torch.float32, requires_grad=True),
        torch.nn.Parameter(torch.tensor(SMALL, dtype=torch.bfloat16)),
        torch.tensor(SMALL, dtype=torch.float32).t().contiguous().t(),
    ],
)
def test_vectors_of_any_real_type(vectors: object, method: Method) -> None:
    tree = Hierarchy.from_embeddings(vectors, method=method)
    assert tree == Hierarchy.from_embeddings(np.array(SMALL, np.float64), method=method)
    assert {frozenset({0, 1}), frozenset({2, 3})} < set(leaf_sets(tree.parents, 5))


def test_attributes_that_are_there_or_not() -> None:
    tree = Hierarchy.from_embeddings(torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 0]]) > 0)
    assert frozenset({0, 2}) in leaf_sets(tree.parents, 3)


@pytest.mark.parametrize("scale", [2.0**-1060, 1e-300, 1e-30, 1e30, 1e300])
def test_lengths_do_not_count(scale: float, rng: np.random.Generator) -> None:
    points = np.exp2(rng.integers(-3, 3, size=(30, 3))) * rng.choice([-1, 1], size=(30, 3))
    scaled = points.copy()
    scaled[::2] *= scale
    assert directions(scaled) == pytest.approx(directions(points), abs=1e-15)
    assert directions(points) == pytest.approx(
        points / np.linalg.norm(points, axis=1, keepdims=True), abs=1e-15
    )


def test_vectors_are_left_alone(method: Method) -> None:
    vectors = np.array(SMALL, np.float64)
    Hierarchy.from_embeddings(vectors, method=method)
    assert vectors.tolist() == SMALL


@pytest.mark.parametrize("base", [1 + 2**-52, 1.0001, 1e300, np.float32(1.5), 3])
def test_any_base_above_one(base: float, rng: np.random.Generator) -> None:
    assert_is_tree_of_classes(cover_tree(rng.normal(size=(60, 3)), base), 60)


def test_smaller_base_gives_more_levels(rng: np.random.Generator) -> None:
    points = rng.normal(size=(500, 3))
    nodes = [Hierarchy.from_embeddings(points, base=base).num_nodes for base in (1.1, 1.3, 2, 8)]
    assert nodes == sorted(nodes, reverse=True)
    assert len(set(nodes)) == 4
    assert Hierarchy.from_embeddings(points).num_nodes == nodes[1]


def test_names(method: Method) -> None:
    names = ["husky", "malamute", "car", "truck", "rose"]
    tree = Hierarchy.from_embeddings(SMALL, names, method=method)
    inner = tree.num_nodes - 5
    assert tree.names == (*names, *(f"cluster {place}" for place in range(inner)))
    assert tree.lca(tree.index("husky"), tree.index("malamute")) != tree.lca(0, 2)
    assert tree.parents.tolist() == Hierarchy.from_embeddings(SMALL, method=method).parents.tolist()


# What is refused


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ([[1.0, 0.0], [0.0, 0.0], [0, 0]], ValueError, "vector 1 is zero, so 2 of 3 vectors"),
        ([[1.0, 0.0], [0.0, np.nan]], ValueError, "vector 1 has the value nan in it, so 1 of 2"),
        (torch.tensor([[1.0, -np.inf]]), ValueError, "vector 0 has the value -inf"),
        ([1.0, 2.0], ValueError, r"shape \(C, F\), .* got \(2,\)"),
        (np.ones((2, 3, 4)), ValueError, r"got \(2, 3, 4\)"),
        (np.ones((0, 4)), ValueError, r"at least one class, got \(0, 4\)"),
        (np.ones((4, 0)), ValueError, r"got \(4, 0\)"),
        ([], ValueError, r"got \(0,\)"),
        (1.0, ValueError, r"got \(\)"),
        ([[1.0, 2.0], [3.0]], ValueError, "vectors must be rows of equal length"),
        ([[1j, 2.0]], TypeError, "vectors must be real numbers, got dtype complex128"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "got dtype complex64"),
        (["husky", "car"], TypeError, "vectors must be real numbers, got dtype <U5"),
        (None, TypeError, "got dtype object"),
    ],
)
def test_vectors_refused(
    vectors: object, error: type[Exception], message: str, method: Method
) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_embeddings(vectors, method=method)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base": 1.0}, ValueError, "base must be above 1 and finite, got 1.0"),
        ({"base": 0.5}, ValueError, "base must be above 1"),
        ({"base": np.inf}, ValueError, "base must be above 1 and finite, got inf"),
        ({"base": np.nan}, ValueError, "got nan"),
        ({"base": "1.3"}, TypeError, "base must be a number, not str"),
        ({"method": "kmeans"}, ValueError, "'cover_tree' or 'agglomerative', got 'kmeans'"),
        (
            {"method": "agglomerative", "linkage": "ward"},
            ValueError,
            "linkage must be one of 'average', 'complete', 'single', 'weighted', got 'ward'",
        ),
        ({"names": ["a", "b"]}, ValueError, "2 names for 5 vectors; give every class"),
        ({"names": "abcde"}, TypeError, "names must be a list of strings"),
        ({"names": ["a", "b", "c", "b", "d"]}, ValueError, "node 1 and node 3 have the same name"),
        ({"names": ["a", "b", "c", "d", "cluster 0"]}, ValueError, "the same name 'cluster 0'"),
    ],
)
def test_options_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_embeddings(SMALL, **options)  # type: ignore[arg-type]


# Sizes


def test_same_vectors_give_the_same_tree(method: Method, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(1_500, 16)).astype(np.float32)
    tree = Hierarchy.from_embeddings(vectors, method=method)
    for same in (vectors, torch.from_numpy(vectors), vectors.astype(np.float64)):
        assert Hierarchy.from_embeddings(same, method=method) == tree


def test_twenty_thousand_vectors(rng: np.random.Generator) -> None:
    # Groups of 20 in groups of 50, where outer groups are as far apart as random directions.
    group = rng.permutation(20_000) // 20
    points = rng.normal(size=(20, 64))[group // 50] + 0.4 * rng.normal(size=(1_000, 64))[group]
    points += 0.01 * rng.normal(size=points.shape)
    vectors = torch.from_numpy(points.astype(np.float32))
    started = time.process_time()
    tree = Hierarchy.from_embeddings(vectors)
    assert time.process_time() - started < 15
    assert_is_tree_of_classes(tree.parents, 20_000)
    assert tree.depth < 20

    # Each group of 20 is a subtree: the common ancestor of its classes has 20 classes below it.
    by_group = np.argsort(group, kind="stable").reshape(1_000, 20)
    top = by_group[:, 0]
    for column in by_group.T[1:]:
        top = tree.lca(top, column)
    layout = Tables.of(tree).layout()
    size = layout.stop - layout.start
    assert (size[top] == 20).all()
