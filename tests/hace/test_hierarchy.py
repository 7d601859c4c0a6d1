"""`hace.Hierarchy`: valid and invalid inputs, queries, and copies."""

from __future__ import annotations

import copy
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from selection import thoroughly
from test_layout import forests
from trees import Tree, caterpillar, chain

from hace import Hierarchy
from hace.tables import Tables
from hace.weights import HACEWeights

TAXONOMIES = Path(__file__).parents[3] / "shared" / "taxonomies"

ANIMALS = ["animal/dog/husky", "animal/cat/siamese", "vehicle/car"]

examples = settings(max_examples=150, deadline=None)


# from_paths


def test_from_paths_numbers_classes_first_then_others_by_appearance() -> None:
    tree = Hierarchy.from_paths(ANIMALS)
    assert tree.names == (*ANIMALS, "animal", "animal/dog", "animal/cat", "vehicle")
    assert tree.parents.tolist() == [4, 5, 6, -1, 3, 3, -1]
    assert tree.classes.tolist() == [0, 1, 2]
    assert tree.roots.tolist() == [3, 6]
    assert (tree.num_nodes, tree.num_classes, tree.num_leaves, tree.depth) == (7, 3, 3, 2)


def test_prefix_path_makes_an_inner_class_and_appearance_counts_through_it() -> None:
    # "a" appears first in path 0, although the known class "a/b" is between it and the leaf.
    tree = Hierarchy.from_paths(["a/b/c", "x/y", "a/b"])
    assert tree.names == ("a/b/c", "x/y", "a/b", "a", "x")
    assert tree.parents.tolist() == [2, 4, 3, -1, -1]
    assert tree.classes.tolist() == [0, 1, 2]
    assert tree.num_leaves == 2


def test_last_parts_may_repeat() -> None:
    tree = Hierarchy.from_paths(["cat/other", "dog/other", "other"])
    assert tree.num_nodes == 5
    assert tree.parents.tolist() == [3, 4, -1, -1, -1]


def test_from_paths_with_another_separator() -> None:
    tree = Hierarchy.from_paths(["a::b/c", "a::d"], sep="::")
    assert tree.names == ("a::b/c", "a::d", "a")
    assert tree.parents.tolist() == [2, 2, -1]


@given(
    st.lists(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join),
        min_size=1,
        unique=True,
    )
)
@examples
def test_from_any_paths(paths: list[str]) -> None:
    prefixes = ["/".join(p.split("/")[:i]) for p in paths for i in range(1, p.count("/") + 2)]
    names = list(dict.fromkeys([*paths, *prefixes]))
    tree = Hierarchy.from_paths(paths)
    assert tree.names == tuple(names)
    assert tree.classes.tolist() == list(range(len(paths)))
    for node, name in enumerate(names):
        above = name.rpartition("/")[0]
        assert tree.parents[node] == (names.index(above) if above else -1)


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", "a//"])
def test_empty_path_component(path: str) -> None:
    with pytest.raises(ValueError, match=rf"path 1, {path!r}, has an empty part"):
        Hierarchy.from_paths(["x/y", path])


def test_from_paths_refusals() -> None:
    with pytest.raises(ValueError, match="path 2 and path 0 are both 'a/b'"):
        Hierarchy.from_paths(["a/b", "a/c", "a/b"])
    with pytest.raises(ValueError, match="paths is empty"):
        Hierarchy.from_paths([])
    with pytest.raises(TypeError, match="path 1 must be a string or a sequence of parts, got 3"):
        Hierarchy.from_paths(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="list of strings"):
        Hierarchy.from_paths("a/b")
    with pytest.raises(ValueError, match="sep is empty"):
        Hierarchy.from_paths(["a"], sep="")


# from_edges, from_csv


def test_from_edges_numbers_by_appearance() -> None:
    tree = Hierarchy.from_edges([("dog", "husky"), ("animal", "dog"), ("animal", "cat")])
    assert tree.names == ("dog", "husky", "animal", "cat")
    assert tree.parents.tolist() == [2, 0, -1, 2]
    assert tree.classes.tolist() == [1, 3]


def test_from_edges_with_classes_in_label_order() -> None:
    edges = [("animal", "dog"), ("animal", "cat"), ("dog", "husky")]
    tree = Hierarchy.from_edges(edges, classes=["cat", "dog", "husky"])
    assert tree.classes.tolist() == [2, 1, 3]


def test_from_edges_refusals() -> None:
    with pytest.raises(
        ValueError,
        match=r"'dog' has two parents, 'animal' and 'pet', the second one from edge 2\. Keep",
    ):
        Hierarchy.from_edges([("animal", "dog"), ("animal", "cat"), ("pet", "dog")])
    with pytest.raises(ValueError, match="edge 1 is from 'b' to itself: one name on two levels"):
        Hierarchy.from_edges([("a", "c"), ("b", "b")])
    with pytest.raises(ValueError, match="edges is empty"):
        Hierarchy.from_edges([])
    with pytest.raises(ValueError, match=r"1 of 2 labels .*\n  label 1, 'cow', matches nothing"):
        Hierarchy.from_edges([("animal", "dog")], classes=["dog", "cow"])
    with pytest.raises(ValueError, match=r"label 0 \('dog'\) and label 2 \('dog'\) are both 'dog'"):
        Hierarchy.from_edges([("animal", "dog")], classes=["dog", "animal", "dog"])
    with pytest.raises(ValueError, match="labels is empty"):
        Hierarchy.from_edges([("animal", "dog")], classes=[])
    with pytest.raises(ValueError, match="label 0, '1', matches nothing"):
        Hierarchy.from_edges([("animal", "dog")], classes=[1])
    with pytest.raises(TypeError, match="list of names"):
        Hierarchy.from_edges([("animal", "dog")], classes="dog")
    with pytest.raises(TypeError, match="edge 1 must be a pair"):
        Hierarchy.from_edges([("a", "b"), "cd"])
    with pytest.raises(ValueError, match="edge 0 must be a pair"):
        Hierarchy.from_edges([("a", "b", "c")])


@pytest.mark.parametrize("header", ["parent,child\n", "Parent, Child\r\n", "\ufeffparent,child\n"])
def test_from_csv(tmp_path: Path, header: str) -> None:
    file = tmp_path / "tree.csv"
    file.write_text(header + 'animal,"dog, small"\n\nanimal,c\u00e4t\n', encoding="utf-8")
    tree = Hierarchy.from_csv(file)
    assert tree.names == ("animal", "dog, small", "c\u00e4t")
    assert tree.parents.tolist() == [-1, 0, 0]
    assert Hierarchy.from_csv(str(file), classes=["c\u00e4t"]).classes.tolist() == [2]


# from_parents


@given(forests())
@examples
def test_from_parents_of_any_forest(tree: Tree) -> None:
    hierarchy = Hierarchy.from_parents(tree.parents, classes=tree.classes)
    nodes = range(tree.num_nodes)
    paths = [tree.path(node) for node in nodes]
    assert hierarchy.parents.tolist() == tree.parents.tolist()
    assert hierarchy.classes.tolist() == tree.classes.tolist()
    assert hierarchy.roots.tolist() == [node for node in nodes if len(paths[node]) == 1]
    assert hierarchy.num_leaves == len(tree.leaves())
    assert hierarchy.depth == max(len(path) for path in paths) - 1
    assert hierarchy.depths.tolist() == [len(path) - 1 for path in paths]
    assert hierarchy.heights.tolist() == [
        max(path.index(node) for path in paths if node in path) for node in nodes
    ]
    assert [hierarchy.path(node) for node in nodes] == paths
    assert Hierarchy.from_parents(tree.parents).classes.tolist() == tree.leaves().tolist()

    lca = [
        [next((node for node in paths[a] if node in paths[b]), -1) for b in nodes] for a in nodes
    ]
    assert [[hierarchy.lca(a, b) for b in nodes] for a in nodes] == lca
    every = np.arange(tree.num_nodes)
    assert hierarchy.lca(every[:, None], every[None]).tolist() == lca


@pytest.mark.parametrize(
    "parents",
    [
        (-1, 0, 0),
        np.array([-1, 0, 0], np.int8),
        np.array([-1, 0, 0], np.int32),
        np.array([-1, 7, 0, 7, 0])[::2],
        torch.tensor([-1, 0, 0]),
        torch.tensor([-1, 0, 0], dtype=torch.int16),
        [np.int32(-1), False, torch.tensor(0)],
        iter([-1, 0, 0]),
    ],
)
def test_parents_of_any_integer_type(parents: object) -> None:
    tree = Hierarchy.from_parents(parents)
    assert tree.parents.tolist() == [-1, 0, 0]
    assert tree.parents.dtype == tree.classes.dtype == np.int64


def test_hierarchy_does_not_share_what_it_was_given() -> None:
    parents, classes = np.array([-1, 0, 0]), np.array([2, 1])
    tree = Hierarchy.from_parents(parents, classes=classes)
    parents[0], classes[0] = 7, 7
    assert tree.parents.tolist() == [-1, 0, 0]
    assert tree.classes.tolist() == [2, 1]


@pytest.mark.parametrize(
    "classes", [[2, 0], np.array([2, 0], np.int32), torch.tensor([2, 0]), ("c", "a")]
)
def test_classes_by_id_or_name(classes: object) -> None:
    tree = Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "c"], classes=classes)
    assert tree.classes.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("parents", "error", "message"),
    [
        ([], ValueError, "parents is empty"),
        ([-1, 0, 5], ValueError, "node 2 has parent 5, .* 0 to 2, or -1 for a root"),
        ([-1, -2], ValueError, "node 1 has parent -2"),
        (np.array([2**64 - 1, 0], np.uint64), ValueError, "parent 18446744073709551615"),
        ([-1, 1], ValueError, "node 1 is its own parent"),
        ([True, False], ValueError, "nodes form a cycle"),
        ([-1, 0.0], TypeError, "parents must be integers, got dtype float64"),
        (torch.zeros(2), TypeError, "got dtype float32"),
        (["a", "b"], TypeError, "parents must be integers"),
        ([None, 0], TypeError, "parents must be integers"),
        ("01", TypeError, "not str"),
        (3, TypeError, "not int"),
        ([[-1, 0]], ValueError, r"one-dimensional, got shape \(1, 2\)"),
        ([[-1], [0, 1]], ValueError, "one-dimensional"),
        (np.array(-1), ValueError, "one-dimensional"),
    ],
)
def test_parents_refused(parents: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_parents(parents)


def test_cycle_is_shown_with_names_and_ids() -> None:
    # Node 4 is below the cycle and not part of it.
    with pytest.raises(ValueError, match="the parents of 3 nodes form a cycle") as caught:
        Hierarchy.from_parents([-1, 2, 3, 1, 1], names=["r", "a", "b", "c", "d"])
    cycle = "node 1 ('a') -> node 2 ('b') -> node 3 ('c') -> node 1 ('a')"
    assert cycle in str(caught.value)
    assert "'d'" not in str(caught.value)
    with pytest.raises(ValueError, match="node 1 -> node 2 -> node 3 -> node 1; remove"):
        Hierarchy.from_parents([1, 2, 3, 1])


def test_long_cycle_is_shortened() -> None:
    with pytest.raises(ValueError, match="100000 nodes form a cycle") as caught:
        Hierarchy.from_parents(np.roll(np.arange(100_000), 1))
    assert "node 0 -> node 99999 -> " in str(caught.value)
    assert "... 99992 more ..." in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a", "b"], ValueError, "2 names for 3 nodes"),
        (["a", "b", "a"], ValueError, "node 0 and node 2 have the same name 'a'"),
        (["a", 1, "b"], TypeError, "name of node 1 must be a string, got 1"),
        ("abc", TypeError, "list of strings"),
    ],
)
def test_names_refused(names: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_parents([-1, 0, 0], names=names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([], ValueError, "classes is empty"),
        ([1, 3], ValueError, r"classes\[1\] is 3, an unknown node; node ids are 0 to 2"),
        ([-1], ValueError, r"classes\[0\] is -1"),
        ([1, 2, 1], ValueError, r"node 1 \('b'\) is given as class 0 and as class 2"),
        (["c", "x"], ValueError, r"classes\[1\] is 'x'"),
        (["c", 1], TypeError, r"classes\[1\] is 1; give either only names or only ids"),
        ([1, "c"], TypeError, "classes must be integers"),
        ([1.0], TypeError, "classes must be integers"),
        (np.array([True, False, True]), TypeError, "not a mask"),
        ("c", TypeError, "list of nodes"),
        ([[1]], ValueError, "one-dimensional"),
    ],
)
def test_classes_refused(classes: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "c"], classes=classes)


def test_class_names_without_names() -> None:
    with pytest.raises(ValueError, match="the nodes have no names; give node ids"):
        Hierarchy.from_parents([-1, 0], classes=["a"])


# Queries


def test_nodes_are_checked() -> None:
    tree = Hierarchy.from_paths(ANIMALS)
    assert tree.path(np.int32(0)) == [0, 4, 3]  # type: ignore[arg-type]
    for node in (7, -1):
        with pytest.raises(ValueError, match=rf"there is no node {node}; node ids are 0 to 6"):
            tree.path(node)
        with pytest.raises(ValueError, match=rf"there is no node {node}"):
            tree.lca(0, node)
        with pytest.raises(ValueError, match=rf"there is no node {node}"):
            tree.lca(np.array([0, node]), np.array([0, 0]))
    for wrong in (1.0, "animal", None):
        with pytest.raises(TypeError, match="a node id is an integer"):
            tree.path(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="b must be node ids, got dtype float64"):
        tree.lca(np.array([0]), np.array([0.0]))  # type: ignore[arg-type]


def test_index_of_a_name() -> None:
    tree = Hierarchy.from_paths(ANIMALS)
    assert tree.index("animal/cat") == 5
    with pytest.raises(ValueError, match="no node is named 'cow'"):
        tree.index("cow")
    with pytest.raises(ValueError, match="no node is named"):
        Hierarchy.from_parents([-1]).index("a")


def test_arrays_are_read_only() -> None:
    tree = Hierarchy.from_paths(ANIMALS)
    for either in (tree, pickle.loads(pickle.dumps(tree))):
        for name in ("parents", "classes", "roots", "depths", "heights"):
            array = getattr(either, name)
            assert array.dtype == np.int64
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
            with pytest.raises(AttributeError):
                setattr(either, name, array)


def test_repr() -> None:
    assert repr(Hierarchy.from_paths(ANIMALS)) == "Hierarchy(7 nodes, 3 classes, depth 2, 2 roots)"
    assert repr(Hierarchy.from_parents([-1])) == "Hierarchy(1 node, 1 class, depth 0, 1 root)"


def test_equality_and_hash() -> None:
    tree = Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "c"])
    same = Hierarchy.from_edges([("a", "b"), ("a", "c")])
    assert tree == same
    assert hash(tree) == hash(same)
    others = [
        Hierarchy.from_parents([-1, 0, 1], names=["a", "b", "c"], classes=[1, 2]),
        Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "c"], classes=[2, 1]),
        Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "d"]),
        Hierarchy.from_parents([-1, 0, 0]),
    ]
    assert all(tree != other for other in others)
    assert len({tree, same, *others}) == 5
    assert tree != "tree"


# Copies


@given(forests(), st.none() | st.lists(st.text(max_size=4), min_size=14, unique=True))
@examples
def test_pickle_keeps_the_tree(tree: Tree, names: list[str] | None) -> None:
    names = None if names is None else names[: tree.num_nodes]
    hierarchy = Hierarchy.from_parents(tree.parents, names, tree.classes)
    again = pickle.loads(pickle.dumps(hierarchy))
    assert again == hierarchy
    assert hash(again) == hash(hierarchy)
    assert again.names == (None if names is None else tuple(names))
    assert repr(again) == repr(hierarchy)
    assert again.num_leaves == hierarchy.num_leaves
    assert again.heights.tolist() == hierarchy.heights.tolist()


def test_pickle_drops_what_can_be_computed() -> None:
    tree = Hierarchy.from_parents(caterpillar(1_000).parents)
    before = len(pickle.dumps(tree))
    Tables.of(tree).paths(HACEWeights(0.1))
    assert tree.heights[0] == 1_000
    hash(tree)
    assert len(pickle.dumps(tree)) == before


def test_deepcopy_of_a_model() -> None:
    tree = Hierarchy.from_paths(ANIMALS)
    model = torch.nn.Module()
    model.tree = tree
    copied = copy.deepcopy(model).tree
    assert copied == tree
    assert Tables.of(copied) is Tables.of(tree)
    assert copy.copy(tree) == tree


@pytest.mark.parametrize("names", [None, ["a", "\u00e4\U0001f415/x", ""], ["\ud800", "b", "c\0"]])
def test_save_and_load(tmp_path: Path, names: list[str] | None) -> None:
    tree = Hierarchy.from_parents([2, 2, -1], names=names, classes=[1, 0])
    file = tmp_path / "tree.hierarchy"
    tree.save(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree.hierarchy"]
    assert Hierarchy.load(file) == tree
    assert Hierarchy.load(str(file)).names == (None if names is None else tuple(names))


def test_names_are_stored_compactly(tmp_path: Path) -> None:
    names = ["x" * 10_000, *(str(node) for node in range(1_000))]
    tree = Hierarchy.from_parents([-1] + [0] * 1_000, names=names)
    tree.save(tmp_path / "tree.npz")
    assert (tmp_path / "tree.npz").stat().st_size < 50_000


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_load_refuses_other_bytes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="was not written by Hierarchy"):
        Hierarchy.load(file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"parent_ptr": np.array([0, 0]), "parent": np.array([0])}, "no array 'classes'"),
        ({"classes": np.array([0])}, "no array 'parent_ptr'"),
        (
            dict.fromkeys(
                ("parent_ptr", "parent", "classes", "name_bytes", "name_ptr"), np.array([None])
            ),
            "[Oo]bject",
        ),
    ],
)
def test_load_refuses_other_arrays(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    file = tmp_path / "other.npz"
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=f"was not written by Hierarchy.save.*{message}"):
        Hierarchy.load(file)


def test_load_of_a_single_array_and_of_no_file(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="was not written by Hierarchy"):
        Hierarchy.load(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        Hierarchy.load(tmp_path / "absent")


# Sizes


@pytest.mark.thorough
def test_million_paths(tmp_path: Path) -> None:
    numbers = list(range(1_000_000))
    random.Random(0).shuffle(numbers)
    paths = [f"{n % 7}/{n % 49}/{n % 343}/{n % 2401}/{n % 16807}/leaf {n}" for n in numbers]
    started = time.process_time()
    tree = Hierarchy.from_paths(paths)
    assert time.process_time() - started < 20
    inner = sum(7**level for level in range(1, 6))
    assert (tree.num_nodes, tree.num_classes, tree.depth) == (1_000_000 + inner, 1_000_000, 5)
    started = time.process_time()
    tree.save(tmp_path / "tree")
    assert Hierarchy.load(tmp_path / "tree") == tree
    assert time.process_time() - started < 20


@pytest.mark.parametrize("shape", [chain, caterpillar])
@pytest.mark.filterwarnings("ignore:no node of this hierarchy has two children")
def test_depth_of_a_hundred_thousand(shape: Callable[[int], Tree]) -> None:
    tree = shape(100_000)
    deepest, first = int(tree.classes[-1]), int(tree.classes[0])
    started = time.process_time()
    hierarchy = Hierarchy.from_parents(tree.parents, classes=tree.classes)
    assert hierarchy.depth == (99_999 if shape is chain else 100_000)
    assert len(hierarchy.path(deepest)) == hierarchy.depth + 1
    assert hierarchy.lca(deepest, first) == (deepest if shape is chain else 0)
    assert pickle.loads(pickle.dumps(hierarchy)) == hierarchy
    edges = [(str(p), str(v)) for v, p in enumerate(tree.parents.tolist()) if p >= 0]
    assert Hierarchy.from_edges(edges).depth == hierarchy.depth
    assert time.process_time() - started < 20


def test_deep_paths_share_their_prefixes() -> None:
    # Each prefix is made once, so 2,000 classes at depth 2,000 do not need 4,000,000 nodes.
    spine = "/".join(["s"] * 2_000)
    started = time.process_time()
    tree = Hierarchy.from_paths([f"{spine}/{leaf}" for leaf in range(2_000)])
    assert time.process_time() - started < 5
    assert (tree.num_nodes, tree.depth) == (4_000, 2_000)


# Real taxonomies, if they are in a folder beside the checkout


def taxonomy(name: str) -> Path:
    file = TAXONOMIES / name
    if not file.exists():
        pytest.skip(f"the taxonomy {name} is not in ../shared/taxonomies")
    return file


@pytest.mark.parametrize(
    ("name", "nodes", "leaves", "depth"),
    [
        ("inat21.csv", 16_344, 10_000, 7),
        ("imagenet21k.csv", 11_925, 8_152, 18),
        ("tiered_imagenet.csv", 643, 608, 2),
    ],
)
def test_csv_taxonomy(name: str, nodes: int, leaves: int, depth: int) -> None:
    tree = Hierarchy.from_csv(taxonomy(name), parent=0, child=1)
    assert (tree.num_nodes, tree.num_classes, tree.num_leaves) == (nodes, leaves, leaves)
    assert tree.depth == depth
    assert len(tree.roots) == 1


@pytest.mark.parametrize(
    ("name", "nodes", "classes", "inner_classes"),
    [
        ("icd10cm_3char.npz", 2_226, 1_918, 0),
        ("imagenet_synsets.npz", 1_808, 1_000, 0),
        ("imagenet22k_synsets.npz", 23_460, 21_841, 4_546),
        ("udhr_glottolog.npz", 1_388, 442, 0),
        ("wordnet_noun.npz", 82_115, None, 0),
        *thoroughly(("inat.npz", 1_374_184, None, 0)),
    ],
)
def test_npz_taxonomy(name: str, nodes: int, classes: int | None, inner_classes: int) -> None:
    arrays = np.load(taxonomy(name))
    tree = Hierarchy.from_parents(arrays["parent"], classes=arrays.get("classes"))
    assert tree.num_nodes == nodes
    assert tree.num_classes == (classes or tree.num_leaves)
    assert np.count_nonzero(tree.heights[tree.classes]) == inner_classes

    # Every class is inside its path's intervals, each interval is inside the next one, and the
    # weights sum to at most 1.
    table = Tables.of(tree).paths(HACEWeights(0.7))
    length = table.ptr.diff()
    assert int(length.max()) == table.max_entries <= tree.depth + 1
    row = torch.repeat_interleave(torch.arange(table.num_targets), length)
    position = torch.arange(table.num_classes)
    if table.order is not None:
        position = torch.empty_like(position).scatter_(0, table.order.long(), position)
    assert bool(((table.start <= position[row]) & (position[row] < table.stop)).all())
    goes_on = row[1:] == row[:-1]
    assert bool((table.start[1:] <= table.start[:-1])[goes_on].all())
    assert bool((table.stop[1:] >= table.stop[:-1])[goes_on].all())
    total = torch.zeros(table.num_targets, dtype=torch.float64).index_add_(0, row, table.weight)
    assert bool((total <= 1 + 1e-12).all())


@pytest.mark.parametrize("name", ["depth", "names", "num_nodes", "note"])
def test_nothing_of_a_hierarchy_can_be_set(name: str) -> None:
    tree = Hierarchy.from_paths(["a/x", "a/y", "b"])
    assert tree.depth == 1
    with pytest.raises(AttributeError, match=f"immutable: its {name} cannot be set"):
        setattr(tree, name, 3)
    assert tree.depth == 1
