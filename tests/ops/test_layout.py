"""Tree layout, paths and path tables agree with definitions written down node by node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection import thoroughly
from trees import Tree, caterpillar, chain

from hace.weights import HACEWeights
from hace_kernels import layout as layout_module
from hace_kernels import path_table as path_table_module
from hace_kernels.layout import (
    compact_paths,
    cpu_capability,
    lay_out,
    numpy_compact_paths,
    numpy_lay_out,
    numpy_paths,
    numpy_topological_order,
    paths,
    topological_order,
)
from hace_kernels.path_table import PathEntries, build_path_table

needs_native = pytest.mark.skipif(
    layout_module._native is None, reason="the native module hace_kernels._layout is not built"
)


@pytest.fixture(params=["numpy", pytest.param("native", marks=needs_native)])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the public functions use each of the two implementations in turn."""
    if request.param == "numpy":
        monkeypatch.setattr(layout_module, "_native", None)
    return request.param


# The fixture sets a module attribute, the same for every example.
examples = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def forests(draw: st.DrawFn, max_nodes: int = 14) -> Tree:
    """Any forest, with ids in any order and any non-empty set of classes in any order."""
    num_nodes = draw(st.integers(1, max_nodes))
    above = [draw(st.integers(-1, node - 1)) for node in range(num_nodes)]
    ids = draw(st.permutations(range(num_nodes)))
    parents = np.full(num_nodes, -1)
    for node, parent in enumerate(above):
        parents[ids[node]] = -1 if parent < 0 else ids[parent]
    classes = draw(st.permutations(range(num_nodes)))[: draw(st.integers(1, num_nodes))]
    if draw(st.booleans()):
        classes = sorted(classes)
    return Tree(parents, np.array(classes))


def height(tree: Tree, node: int) -> int:
    below = [height(tree, child) + 1 for child in np.flatnonzero(tree.parents == node)]
    return max(below, default=0)


# topological_order


@given(
    st.integers(1, 12).flatmap(lambda n: st.lists(st.integers(-1, n - 1), min_size=n, max_size=n))
)
@examples
def test_topological_order_of_any_parents(implementation: str, parents: list[int]) -> None:
    depth = {}
    for node in range(len(parents)):
        steps, above = 0, node
        while above >= 0 and steps <= len(parents):
            above, steps = parents[above], steps + 1
        if above < 0:  # otherwise the node is on or below a cycle
            depth[node] = steps - 1
    expected = sorted(depth, key=lambda node: (depth[node], node))
    order, level_ptr = topological_order(np.array(parents))
    assert order.tolist() == expected
    levels = [order[begin:end].tolist() for begin, end in pairwise(level_ptr)]
    assert [{depth[node] for node in level} for level in levels] == [
        {level} for level in range(len(levels))
    ]
    assert np.concatenate([[], *levels]).tolist() == expected


def test_parent_out_of_range_is_named(implementation: str) -> None:
    with pytest.raises(ValueError, match=r"node 1 has parent 2; .* 0 to 1"):
        topological_order(np.array([-1, 2]))
    with pytest.raises(ValueError, match="node 0 has parent -2"):
        lay_out(np.array([-2, 0]), np.array([1]))


# lay_out


@given(forests())
@examples
def test_layout_of_any_forest(implementation: str, tree: Tree) -> None:
    layout = lay_out(tree.parents, tree.classes)
    nodes = range(tree.num_nodes)
    assert layout.depth.tolist() == [len(tree.path(node)) - 1 for node in nodes]
    assert layout.height.tolist() == [height(tree, node) for node in nodes]

    column = np.arange(tree.num_classes) if layout.column is None else layout.column
    assert sorted(column) == list(range(tree.num_classes))
    labels = [set(np.flatnonzero(row)) for row in tree.reach()]
    for node in nodes:
        assert set(column[layout.start[node] : layout.stop[node]]) == labels[node]
        assert layout.stop[node] - layout.start[node] == len(labels[node])
        above = tree.parents[node]
        if above >= 0:  # intervals are nested even if they are empty
            assert layout.start[above] <= layout.start[node] <= layout.stop[above]

        children = layout.child[layout.child_ptr[node] : layout.child_ptr[node + 1]]
        assert set(children) == set(np.flatnonzero(tree.parents == node))
        first_labels = [min(labels[child], default=math.inf) for child in children]
        assert first_labels == sorted(first_labels)
        # A node's own class is sorted by label among the node's children.
        groups = [labels[child] for child in children if labels[child]]
        own = labels[node].difference(*groups)
        in_order = sorted([*groups, own] if own else groups, key=min)
        inside = column[layout.start[node] : layout.stop[node]].tolist()
        assert [label in own for label in inside] == [
            group is own for group in in_order for _ in group
        ]


@given(forests())
@examples
def test_columns_in_some_depth_first_order_stay(implementation: str, tree: Tree) -> None:
    rows = [np.flatnonzero(row) for row in tree.reach()]
    in_order = all(len(row) == 0 or row[-1] - row[0] + 1 == len(row) for row in rows)
    assert (lay_out(tree.parents, tree.classes).column is None) == in_order


@needs_native
@given(forests(max_nodes=40))
@examples
def test_native_layout_equals_numpy(tree: Tree) -> None:
    native, reference = (
        lay_out(tree.parents, tree.classes),
        numpy_lay_out(tree.parents, tree.classes),
    )
    assert_same_layout(native, reference)


def assert_same_layout(native: layout_module.Layout, reference: layout_module.Layout) -> None:
    for field in fields(native):
        ours, theirs = getattr(native, field.name), getattr(reference, field.name)
        if theirs is None:
            assert ours is None, field.name
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name, strict=True)


def test_layout_is_read_only(implementation: str) -> None:
    layout = lay_out(np.array([-1, 0, 0, 1, 2]), np.array([3, 4, 1, 2]))
    assert layout.column is not None
    for field in fields(layout):
        array = getattr(layout, field.name)
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_layout_refuses_what_is_no_forest_with_classes(implementation: str) -> None:
    with pytest.raises(ValueError, match="cycle"):
        lay_out(np.array([1, 0, -1]), np.array([2]))
    with pytest.raises(ValueError, match="more than once"):
        lay_out(np.array([-1, 0]), np.array([1, 1]))
    with pytest.raises(ValueError, match=r"classes\[1\] is 2; node ids are 0 to 1"):
        lay_out(np.array([-1, 0]), np.array([1, 2]))


# paths


@given(forests(), st.none() | st.integers(1, 6), st.data())
@examples
def test_paths_of_any_nodes(
    implementation: str, tree: Tree, max_entries: int | None, data: st.DataObject
) -> None:
    nodes = data.draw(st.lists(st.integers(0, tree.num_nodes - 1)))
    depth = lay_out(tree.parents, tree.classes).depth
    ptr, node = paths(tree.parents, depth, np.array(nodes, np.int64), max_entries)
    found = [node[begin:end].tolist() for begin, end in pairwise(ptr)]
    assert found == [tree.path(target)[:max_entries] for target in nodes]
    assert (ptr.dtype, node.dtype) == (np.int64, np.int32)


def test_paths_refuse_unknown_nodes(implementation: str) -> None:
    depth = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"nodes\[0\] is 2"):
        paths(np.array([-1, -1]), depth, np.array([2]))
    with pytest.raises(ValueError, match="max_entries must be at least 1"):
        paths(np.array([-1, -1]), depth, np.array([1]), 0)


# compact_paths


Entry = tuple[int, int, float]


@st.composite
def nested_paths(draw: st.DrawFn) -> tuple[list[list[Entry]], int]:
    """Paths of nested intervals of C columns, some of them empty, with weights hard to merge."""
    num_classes = draw(st.integers(1, 6))
    weights = st.sampled_from([0.0, 1.0, -1.0, 0.3, 1e-30, 2.0**-60, 2.0**-61, 1e300])
    ragged = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, num_classes))
        stop = draw(st.integers(start, num_classes))
        path = []
        for _ in range(draw(st.integers(0, 6))):
            path.append((start, stop, draw(weights)))
            start, stop = draw(st.integers(0, start)), draw(st.integers(stop, num_classes))
        ragged.append(path)
    return ragged, num_classes


def flat(ragged: list[list[Entry]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    entries = np.array([entry for path in ragged for entry in path]).reshape(-1, 3)
    ptr = np.cumsum([0, *(len(path) for path in ragged)])
    start, stop = entries[:, 0].astype(np.int32), entries[:, 1].astype(np.int32)
    return ptr, start, stop, np.ascontiguousarray(entries[:, 2])


def compact(path: list[Entry], num_classes: int, keep_full: bool) -> list[Entry]:
    if path and path[0][0] == path[0][1]:
        return [(path[0][0], path[0][1], 1.0)]
    merged: dict[tuple[int, int], float] = {}
    for start, stop, weight in path:
        merged[start, stop] = merged.get((start, stop), 0.0) + weight
    if not keep_full:
        merged.pop((0, num_classes), None)
    total = sum(abs(weight) for weight in merged.values())
    return [
        (start, stop, weight)
        for (start, stop), weight in merged.items()
        if weight != 0 and abs(weight) >= 2.0**-60 * total
    ]


@given(nested_paths(), st.booleans())
@examples
def test_compaction_of_any_paths(
    implementation: str, case: tuple[list[list[Entry]], int], keep_full: bool
) -> None:
    ragged, num_classes = case
    expected = [compact(path, num_classes, keep_full) for path in ragged]
    result = compact_paths(*flat(ragged), num_classes, keep_full)
    for ours, theirs in zip(result, flat(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@needs_native
@given(forests(max_nodes=40), st.floats(1e-6, 1.0), st.booleans())
@examples
def test_native_table_equals_numpy(tree: Tree, dilution: float, keep_full: bool) -> None:
    layout = lay_out(tree.parents, tree.classes)
    targets = np.arange(tree.num_nodes)
    ptr, node = paths(tree.parents, layout.depth, targets)
    for ours, theirs in zip(
        (ptr, node), numpy_paths(tree.parents, layout.depth, targets), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    weight = np.random.default_rng(0).normal(size=len(node)) * dilution ** np.arange(len(node))
    arguments = ptr, layout.start[node], layout.stop[node], weight, tree.num_classes, keep_full
    for ours, theirs in zip(
        compact_paths(*arguments), numpy_compact_paths(*arguments), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@needs_native
def test_native_compaction_refuses_bounds_of_other_entries() -> None:
    one = np.zeros(1, np.int32), np.ones(1, np.int32), np.ones(1)
    for ptr in ([0, 2], [1, 1], [0, 2, 1], []):
        with pytest.raises(ValueError, match="ptr does not bound"):
            layout_module._native.compact_paths(np.array(ptr, np.int64), *one, 2, False)


# build_path_table


def entries_of(table: path_table_module.PathTable, target: int) -> list[Entry]:
    begin, end = table.ptr[target], table.ptr[target + 1]
    columns = (table.start, table.stop, table.weight)
    return list(zip(*(column[begin:end].tolist() for column in columns), strict=True))


def hace_table(
    tree: Tree, dilution: float, targets: np.ndarray | None = None, keep_full: bool = False
) -> path_table_module.PathTable:
    layout = lay_out(tree.parents, tree.classes)
    targets = tree.classes if targets is None else targets
    weights = HACEWeights(dilution)
    return build_path_table(layout, tree.parents, targets, tree.num_classes, weights, keep_full)


# Two pairs of leaves under a root: the worked example (0.7, 0.21, 0.09).
TWO_PAIRS = Tree(np.array([-1, 0, 0, 1, 1, 2, 2]), np.array([3, 4, 5, 6]))


def path_entries(length: int) -> PathEntries:
    """The entries of one path from a node to its root, `length` edges above."""
    index = np.arange(length + 1)
    target = np.zeros_like(index)
    return PathEntries(
        target, node=index, index=index, length=target + length, depth=length - index, height=index
    )


def test_worked_example(implementation: str) -> None:
    assert HACEWeights(0.7)(path_entries(2)).tolist() == pytest.approx([0.7, 0.21, 0.09])

    # The root contains every class, so its 0.09 is left out unless it is to be kept.
    table = hace_table(TWO_PAIRS, 0.7)
    assert entries_of(table, 0) == [(0, 1, pytest.approx(0.7)), (0, 2, pytest.approx(0.21))]
    assert entries_of(table, 3) == [(3, 4, pytest.approx(0.7)), (2, 4, pytest.approx(0.21))]
    assert table.order is None
    assert (table.num_targets, table.num_classes, table.max_entries) == (4, 4, 2)
    kept = hace_table(TWO_PAIRS, 0.7, keep_full=True)
    assert entries_of(kept, 0)[2:] == [(0, 4, pytest.approx(0.09))]


def test_forest_gives_the_rest_to_the_topmost_node(implementation: str) -> None:
    forest = Tree(np.array([-1, -1, 0, 0, 1]), np.array([2, 3, 4]))
    table = hace_table(forest, 0.7)
    assert entries_of(table, 0) == [(0, 1, pytest.approx(0.7)), (0, 2, pytest.approx(0.3))]
    assert entries_of(table, 2) == [(2, 3, pytest.approx(1.0))]  # a single child: merged


def test_chain_below_a_fork_merges(implementation: str) -> None:
    # root - a - b - leaf, root - other leaf: weights are given by the depths before merging.
    tree = Tree(np.array([-1, 0, 1, 2, 0]), np.array([3, 4]))
    table = hace_table(tree, 0.5)
    assert entries_of(table, 0) == [(0, 1, pytest.approx(0.5 + 0.25 + 0.125))]
    assert entries_of(table, 1) == [(1, 2, pytest.approx(0.5))]


def test_all_classes_below_every_node_leaves_no_entry(implementation: str) -> None:
    table = hace_table(chain(5), 0.3)
    assert table.ptr.tolist() == [0, 0]
    assert table.max_entries == 0


def test_target_without_a_class_below_is_marked(implementation: str) -> None:
    tree = Tree(np.array([-1, 0, 0, 2]), np.array([1]))
    table = hace_table(tree, 0.7, targets=np.arange(4))
    for target in (2, 3):
        ((start, stop, weight),) = entries_of(table, target)
        assert start == stop
        assert weight == 1
    assert entries_of(table, 0) == entries_of(table, 1) == []  # everything


def test_inner_class_counts_for_itself_and_above(implementation: str) -> None:
    # Node 1 is class 1 and the parent of class 0; as a target it means both.
    tree = Tree(np.array([-1, 0, 1, 0]), np.array([2, 1, 3]))
    table = hace_table(tree, 0.7)
    assert entries_of(table, 1) == [(0, 2, pytest.approx(0.7))]
    assert entries_of(table, 0) == [(0, 1, pytest.approx(0.7)), (0, 2, pytest.approx(0.21))]


def test_columns_in_another_order_give_the_order(implementation: str) -> None:
    table = hace_table(Tree(TWO_PAIRS.parents, np.array([3, 5, 4, 6])), 0.7)
    assert table.order is not None
    assert table.order.tolist() == [0, 2, 1, 3]
    assert entries_of(table, 1) == [(2, 3, pytest.approx(0.7)), (2, 4, pytest.approx(0.21))]


@given(forests(), st.floats(0.01, 1.0), st.booleans())
@examples
def test_table_of_any_forest(
    implementation: str, tree: Tree, dilution: float, keep_full: bool
) -> None:
    layout = lay_out(tree.parents, tree.classes)
    table = hace_table(tree, dilution, np.arange(tree.num_nodes), keep_full)
    longest = 0
    for target in range(tree.num_nodes):
        path = tree.path(target)
        top = len(path) - 1
        weight = [dilution * (1 - dilution) ** i for i in range(top)] + [(1 - dilution) ** top]
        ragged = [
            (int(layout.start[node]), int(layout.stop[node]), w)
            for node, w in zip(path, weight, strict=True)
        ]
        # The weights that max_entries leaves out are below the threshold.
        seen = [entry for entry in ragged if entry[2] >= 2.0**-60]
        expected = compact(seen, tree.num_classes, keep_full)
        found = entries_of(table, target)
        assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
        assert [w for *_, w in found] == pytest.approx([w for *_, w in expected], rel=1e-12)
        longest = max(longest, len(found))
    assert table.max_entries == longest


def test_chunks_join_to_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = caterpillar(50)
    whole = hace_table(tree, 0.4)
    for entries in (1, 7, 100):
        monkeypatch.setattr(path_table_module, "_CHUNK_ENTRIES", entries)
        chunked = hace_table(tree, 0.4)
        for ours, theirs in zip(chunked[:4], whole[:4], strict=True):
            assert ours.equal(theirs)
        assert chunked.max_entries == whole.max_entries


@dataclass(frozen=True)
class Recorded:
    """Weights that record their arguments."""

    seen: list[PathEntries]
    max_entries: int | None = None

    def __hash__(self) -> int:
        return id(self)

    def __call__(self, entries: PathEntries) -> np.ndarray:
        self.seen.append(entries)
        return np.ones(len(entries.node))


def test_weights_see_every_entry_of_every_path(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_table_module, "_CHUNK_ENTRIES", 4)
    weights = Recorded([])
    targets = np.array([6, 1, 3, 2])
    layout = lay_out(TWO_PAIRS.parents, TWO_PAIRS.classes)
    build_path_table(layout, TWO_PAIRS.parents, targets, 4, weights)
    seen = {
        name: np.concatenate([getattr(entries, name) for entries in weights.seen]).tolist()
        for name in ("target", "node", "index", "length", "depth", "height")
    }
    assert len(weights.seen) > 1
    assert seen == {
        "target": [0, 0, 0, 1, 1, 2, 2, 2, 3, 3],
        "node": [6, 2, 0, 1, 0, 3, 1, 0, 2, 0],
        "index": [0, 1, 2, 0, 1, 0, 1, 2, 0, 1],
        "length": [2, 2, 2, 1, 1, 2, 2, 2, 1, 1],
        "depth": [2, 1, 0, 1, 0, 2, 1, 0, 1, 0],
        "height": [0, 1, 2, 1, 2, 0, 1, 2, 1, 2],
    }


def test_weights_must_be_finite_and_one_an_entry() -> None:
    layout = lay_out(TWO_PAIRS.parents, TWO_PAIRS.classes)

    class Bad(Recorded):
        def __call__(self, entries: PathEntries) -> np.ndarray:
            return np.where(entries.node == 1, np.nan, 1.0)

    with pytest.raises(ValueError, match="gave weight nan to node 1 on the path of target 0"):
        build_path_table(layout, TWO_PAIRS.parents, np.array([3]), 4, Bad([]))

    class Short(Recorded):
        def __call__(self, entries: PathEntries) -> np.ndarray:
            return np.ones(2)

    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 path entries"):
        build_path_table(layout, TWO_PAIRS.parents, np.array([3]), 4, Short([]))


def test_table_beyond_memory_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_table_module, "memory_bytes", lambda: 1_000_000)
    started = time.process_time()
    with pytest.raises(MemoryError, match=r"up to 80\.0 GB \(5,000,150,000 entries"):
        hace_table(caterpillar(100_000), 1e-6)
    assert time.process_time() - started < 5
    # On a chain, the same paths are merged, so the table fits.
    assert hace_table(chain(1_000), 1e-6, np.arange(1_000)).max_entries == 0
    assert hace_table(caterpillar(100), 0.5).max_entries == 60


@pytest.mark.parametrize("keep_full", [False, True])
def test_memory_is_counted_to_the_entry(monkeypatch: pytest.MonkeyPatch, keep_full: bool) -> None:
    # Two trees: a root with two leaves, and a chain with one leaf, whose entries merge.
    tree = Tree(np.array([-1, 0, 0, -1, 3, 4]), np.array([1, 2, 5]))
    entries = len(hace_table(tree, 1e-3, keep_full=keep_full).weight)
    assert entries == 5
    needed = entries * path_table_module._PEAK_BYTES_PER_ENTRY
    monkeypatch.setattr(path_table_module, "memory_bytes", lambda: needed)
    assert len(hace_table(tree, 1e-3, keep_full=keep_full).weight) == entries
    monkeypatch.setattr(path_table_module, "memory_bytes", lambda: needed - 1)
    with pytest.raises(MemoryError, match=r"\(5 entries for 3 targets\)"):
        hace_table(tree, 1e-3, keep_full=keep_full)


# HACE's weights


@pytest.mark.parametrize("dilution", [1.0, 1 - 1e-20, 1 - 2.0**-50, 0.999, 0.7, 0.5, 0.3, 0.01])
def test_max_entries_is_the_smallest_that_loses_nothing(dilution: float) -> None:
    entries = HACEWeights(dilution).max_entries
    assert entries is not None
    # The largest weight that is left out is that of a root right after the last entry.
    assert (1 - dilution) ** entries < 2.0**-60
    assert entries == 1 or (1 - dilution) ** (entries - 1) >= 2.0**-60


@pytest.mark.parametrize("dilution", [1e-10, 1e-17, 5e-324])
def test_max_entries_beyond_any_tree_is_none(dilution: float) -> None:
    assert HACEWeights(dilution).max_entries is None


@pytest.mark.parametrize("dilution", [1.0, 0.7, 0.02, 1e-9])
@pytest.mark.parametrize("length", [0, 1, 2, 40])
def test_hace_weights_sum_to_one(dilution: float, length: int) -> None:
    weight = HACEWeights(dilution)(path_entries(length))
    expected = [dilution * (1 - dilution) ** i for i in range(length)] + [(1 - dilution) ** length]
    assert weight.tolist() == pytest.approx(expected, rel=1e-12, abs=0)
    assert weight.sum() == pytest.approx(1)


@pytest.mark.parametrize("dilution", [0, 0.0, -0.1, 1.1, math.nan, math.inf])
def test_dilution_out_of_range(dilution: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and at most 1 .* got {dilution}"):
        HACEWeights(dilution)


def test_dilution_of_another_type() -> None:
    with pytest.raises(TypeError, match="must be a number, not str"):
        HACEWeights("0.7")  # type: ignore[arg-type]
    assert HACEWeights(1) == HACEWeights(1.0)
    assert HACEWeights(np.float32(0.5)) == HACEWeights(0.5)  # type: ignore[arg-type]


# Sizes


def big_random_tree(num_nodes: int) -> Tree:
    rng = np.random.default_rng(0)
    parents = (np.arange(num_nodes) * rng.random(num_nodes) ** 0.3).astype(np.int64)
    parents[0] = -1
    names = rng.permutation(num_nodes)
    renamed = np.empty_like(parents)
    renamed[names] = np.where(parents < 0, -1, names[parents])
    leaves = np.setdiff1d(np.arange(num_nodes), renamed)
    return Tree(renamed, rng.permutation(leaves))


@pytest.mark.thorough
@needs_native
def test_millions_of_nodes() -> None:
    tree = big_random_tree(2_500_000)
    started = time.process_time()
    native = lay_out(tree.parents, tree.classes)
    natively = time.process_time()
    reference = numpy_lay_out(tree.parents, tree.classes)
    in_numpy = time.process_time()
    assert natively - started < 5
    assert in_numpy - natively < 20
    assert_same_layout(native, reference)
    for ours, theirs in zip(
        topological_order(tree.parents), numpy_topological_order(tree.parents), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("levels", [20_000, *thoroughly(100_000)])
@pytest.mark.parametrize("shape", [chain, caterpillar])
def test_depth(implementation: str, shape: Callable[[int], Tree], levels: int) -> None:
    tree = shape(levels)
    started = time.process_time()
    layout = lay_out(tree.parents, tree.classes)
    deepest = tree.num_nodes - len(tree.classes)
    assert layout.depth.max() == layout.height[0] == max(deepest, levels - 1)
    table = hace_table(tree, 0.7)
    # Beyond 34 levels, weights are below 2^-60, so the table's size is linear, not quadratic.
    assert table.weight.shape[0] <= 35 * tree.num_classes
    assert table.max_entries == (0 if shape is chain else 35)
    assert time.process_time() - started < 20


# The native module itself


@needs_native
def test_capability() -> None:
    assert cpu_capability() in ("avx512", "avx2", "generic")


def test_without_the_native_module_there_is_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout_module, "_native", None)
    assert cpu_capability() is None
