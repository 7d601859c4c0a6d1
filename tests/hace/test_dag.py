"""`hace.Hierarchy` as a DAG: how it is made, its queries, and the queries that need a tree."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dags
import numpy as np
import pytest
import torch
from dags import Dag
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hierarchy import ANIMALS, TAXONOMIES
from test_layout import forests
from trees import Tree

from hace import Hierarchy
from hace.tables import Tables

examples = settings(max_examples=100, deadline=None)
chains_may_be = pytest.mark.filterwarnings("ignore:no node of this hierarchy has two children")

# Two of the animals are also pets.
PETS = [
    ("animal", "dog"),
    ("animal", "cat"),
    ("pet", "dog"),
    ("pet", "cat"),
    ("animal", "cow"),
    ("pet", "stone"),
]


def pets() -> Hierarchy:
    return Hierarchy.from_edges(PETS, allow_multiple_parents=True)


def dag_of(
    edges: Sequence[tuple[int, int]], names: list[str] | None = None, classes: Any = None
) -> Hierarchy:
    num_nodes = 1 + max(map(max, edges)) if names is None else len(names)
    return Hierarchy(*Dag(edges, num_nodes, ()).csr(), names, classes)


# Edges to DAGs


def test_from_edges_numbers_by_appearance() -> None:
    dag = pets()
    assert dag.names == ("animal", "dog", "cat", "pet", "cow", "stone")
    assert dag.edges.tolist() == [[0, 1], [3, 1], [0, 2], [3, 2], [0, 4], [3, 5]]
    assert dag.classes.tolist() == [1, 2, 4, 5]
    assert dag.roots.tolist() == [0, 3]
    assert (dag.num_nodes, dag.num_classes, dag.num_leaves, dag.depth) == (6, 4, 4, 1)
    assert not dag.is_tree


def test_classes_in_label_order() -> None:
    dag = Hierarchy.from_edges(PETS, classes=["stone", "pet", "dog"], allow_multiple_parents=True)
    assert dag.classes.tolist() == [5, 3, 1]
    with pytest.raises(ValueError, match="label 0, 'cow pat', "):
        Hierarchy.from_edges(PETS, ["cow pat"], allow_multiple_parents=True)
    with pytest.raises(TypeError, match="list of names"):
        Hierarchy.from_edges(PETS, "dog", allow_multiple_parents=True)


@given(forests())
@examples
@chains_may_be
def test_a_forest_stays_one(tree: Tree) -> None:
    edges = [(str(u), str(v)) for v, u in enumerate(tree.parents) if u >= 0]
    if not edges:
        return
    plain = Hierarchy.from_edges(edges)
    found = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    assert found.is_tree
    assert found == plain


def test_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "pets.csv"
    file.write_text("parent,child\n" + "".join(f"{u},{v}\n" for u, v in PETS))
    assert Hierarchy.from_csv(file, allow_multiple_parents=True) == pets()
    found = Hierarchy.from_csv(file, ["cow"], allow_multiple_parents=True)
    assert found.classes.tolist() == [4]
    with pytest.raises(ValueError, match=r"two parents.*allow_multiple_parents=True"):
        Hierarchy.from_csv(file)


def test_a_second_parent_has_to_be_allowed() -> None:
    message = (
        r"'dog' has two parents, 'animal' and 'pet', the second one from edge \d \(so have 1 more "
        r"nodes\)\. Keep one of them, or give allow_multiple_parents=True for a DAG"
    )
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_edges(PETS)
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_edges(PETS, allow_multiple_parents=False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([("cow", "cow")], "edge 6 is from 'cow' to itself"),
        ([("dog", "dog")], "edge 6 is from 'dog' to itself"),
        ([("new", "new")], "edge 6 is from 'new' to itself"),
        ([("cat", "pet")], r"2 nodes form a cycle: node 3 \('pet'\) -> node 2 \('cat'\) -> node 3"),
        ([("dog", "a"), ("a", "b"), ("b", "animal")], "4 nodes form a cycle"),
    ],
)
def test_edges_refused(more: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy.from_edges(PETS + more, allow_multiple_parents=True)
    with pytest.raises(ValueError, match=r"to itself|form a cycle"):
        Hierarchy.from_edges(more + PETS, allow_multiple_parents=True)


def test_a_cycle_names_its_nodes_and_no_other() -> None:
    """A node behind the cycle, with a way up to the cycle and one to the root, is not named."""
    edges = [("root", "x"), ("c", "x"), ("root", "a"), ("c", "a"), ("a", "b"), ("b", "c")]
    edges += [("x", "below"), ("c", "end"), ("root", "below")]
    for order in (edges, edges[::-1]):  # the root has the smallest or the largest id
        with pytest.raises(ValueError, match="the parents of 3 nodes form a cycle") as caught:
            Hierarchy.from_edges(order, allow_multiple_parents=True)
        for name in "abc":
            assert f"'{name}'" in str(caught.value)
        for name in ("root", "x", "below", "end"):
            assert f"'{name}'" not in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=14))
@examples
@chains_may_be
def test_any_edges_are_a_hierarchy_or_refused(pairs: list[tuple[int, int]]) -> None:
    distinct = list(dict.fromkeys(pairs))
    parents: dict[int, set[int]] = {}
    for parent, child in distinct:
        parents.setdefault(child, set()).add(parent)
    above = {node: set(parents.get(node, ())) for node in range(7)}
    for _ in range(7):
        above = {v: us.union(*(above[u] for u in us)) for v, us in above.items()}
    has_cycle = any(node in us for node, us in above.items())
    edges = [(str(u), str(v)) for u, v in pairs]
    if has_cycle:
        with pytest.raises(ValueError, match=r"form a cycle|to itself"):
            Hierarchy.from_edges(edges, allow_multiple_parents=True)
        return
    found = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    assert found.is_tree == all(len(us) == 1 for us in parents.values())
    assert found.names is not None
    names = [int(name) for name in found.names]
    assert {(names[u], names[v]) for u, v in found.edges.tolist()} == set(distinct)


@pytest.mark.parametrize(
    ("links", "error", "message"),
    [
        (([0, 0, 2], [0]), ValueError, r"N \+ 1 bounds that ascend from 0 to the 1 .* \[0 0 2\]"),
        (([1, 1], [0]), ValueError, "N \\+ 1 bounds"),
        (([0, 2, 1, 2], [1, 2]), ValueError, "N \\+ 1 bounds"),
        (([0], []), ValueError, "N \\+ 1 bounds"),
        (([], []), ValueError, "parent_ptr is empty"),
        (([0.0, 0.0], []), TypeError, "parent_ptr must be integers, got dtype float64"),
        (([0, 0, 1], [0.0]), TypeError, "parent must be integers, got dtype float64"),
        (
            ([0, 0, 2], [0, -1]),
            ValueError,
            "node 1 has parent -1, which is out of range; .* 0 to 1",
        ),
        (([0, 0, 1], [2]), ValueError, "node 1 has parent 2, which is out of range"),
        ((torch.tensor([0, 0, 2]), [0, 1]), ValueError, "node 1 is its own parent"),
        ((np.array([0, 0, 3, 3]), [0, 2, 0]), ValueError, "node 1 has node 0 as a parent twice"),
        (([0, 0, 2, 3], [0, 2, 1]), ValueError, "node 1 -> node 2 -> node 1|node 2 -> node 1 ->"),
    ],
)
def test_links_refused(links: tuple[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy(*links)


def test_names_and_classes_refused() -> None:
    links = ([0, 0, 0, 2], [0, 1])
    with pytest.raises(ValueError, match="2 names for 3 nodes"):
        Hierarchy(*links, names=["a", "b"])
    with pytest.raises(ValueError, match="node 0 and node 2 have the same name 'a'"):
        Hierarchy(*links, names=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"classes\[1\] is 3, an unknown node"):
        Hierarchy(*links, classes=[2, 3])
    assert Hierarchy([0, 0, 0, 2, 2], [1, 0], names=list("abcd")).roots.tolist() == [0, 1, 3]


# Queries


@given(dags.dags())
@examples
def test_measures_of_any_dag(dag: Dag) -> None:
    found = dag_of(dag.edges, [str(node) for node in range(dag.num_nodes)], dag.classes)
    assert (found.num_nodes, found.num_classes) == (dag.num_nodes, dag.num_classes)
    assert found.edges.tolist() == [list(e) for e in sorted(dag.edges, key=lambda e: e[::-1])]
    assert found.classes.tolist() == list(dag.classes)
    assert found.roots.tolist() == dag.roots()
    assert found.num_leaves == len(dag.leaves())
    assert found.depths.tolist() == dag.depths()
    assert found.heights.tolist() == dag.heights()
    assert found.depth == max(dag.depths())
    assert dag_of(dag.edges).classes.tolist() == [
        v for v in dag.leaves() if v < dag_of(dag.edges).num_nodes
    ]


@given(dags.dags())
@examples
def test_ancestors_of_any_dag(dag: Dag) -> None:
    found = dag_of(dag.edges, [str(node) for node in range(dag.num_nodes)])
    for node in range(dag.num_nodes):
        distance, level = {}, {node}
        while level:
            distance.update({v: len(distance) for v in sorted(level)})
            level = {u for v in level for u in dag.parents[v]} - set(distance)
        assert found.ancestors(node) == list(distance)
        assert set(distance) == dag.ancestors(node)


@given(forests())
@examples
def test_edges_and_ancestors_of_any_tree(tree: Tree) -> None:
    found = Hierarchy.from_parents(tree.parents)
    expected = [[int(u), v] for v, u in enumerate(tree.parents) if u >= 0]
    assert found.edges.tolist() == expected
    assert found.edges.shape == (len(expected), 2)
    assert [found.ancestors(v) for v in range(tree.num_nodes)] == [
        tree.path(v) for v in range(tree.num_nodes)
    ]
    if expected:
        as_dag = dag_of(expected, [str(v) for v in range(tree.num_nodes)])
        assert as_dag.depths.tolist() == found.depths.tolist()
        assert as_dag.heights.tolist() == found.heights.tolist()
        assert [as_dag.ancestors(v) for v in range(tree.num_nodes)] == [
            found.path(v) for v in range(tree.num_nodes)
        ]


def test_a_shortcut_does_not_shorten_depth() -> None:
    dag = dags.shortcut()
    found = dag_of(dag.edges)
    assert found.depths.tolist() == [0, 1, 2, 3, 2]
    assert found.heights.tolist() == [3, 2, 1, 0, 0]
    assert found.ancestors(3) == [3, 0, 2, 1]


def test_nodes_are_checked() -> None:
    dag = pets()
    for either in (dag, Hierarchy.from_paths(ANIMALS)):
        with pytest.raises(ValueError, match="there is no node 9"):
            either.ancestors(9)
        with pytest.raises(TypeError, match="a node id is an integer"):
            either.ancestors("dog")  # type: ignore[arg-type]
    assert dag.ancestors(np.int32(dag.index("dog"))) == [1, 0, 3]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no node is named 'dogs'"):
        dag.index("dogs")


@pytest.mark.parametrize(
    "ask",
    [
        lambda dag: dag.parents,
        lambda dag: dag.path(0),
        lambda dag: dag.lca(0, 1),
        lambda dag: dag.lca(1, 1),
        lambda dag: dag.lca(np.array([0]), np.array([0])),
        lambda dag: dag.siblings(1),
        lambda dag: dag.depth_first_classes,
    ],
)
def test_what_only_trees_have(ask: Callable[[Hierarchy], object]) -> None:
    """The message names the query and a node with two parents."""
    with pytest.raises(ValueError, match=r"needs a tree; node 1 \('dog'\) has 2 parents"):
        ask(pets())


def test_a_tree_query_names_itself() -> None:
    edges = [("root", "a"), ("root", "b"), ("root", "x"), ("a", "x"), ("b", "x")]
    dag = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    for query in ("lca", "path", "siblings"):
        message = rf"^{query} needs a tree; node 3 \('x'\) has 3 parents$"
        with pytest.raises(ValueError, match=message):
            getattr(dag, query)(*[0] * (1 + (query == "lca")))


def test_arrays_are_read_only() -> None:
    for either in (pets(), pickle.loads(pickle.dumps(pets())), Hierarchy.from_paths(ANIMALS)):
        for name in ("parent_ptr", "parent_ids", "edges", "classes", "roots", "depths", "heights"):
            array = getattr(either, name)
            assert array.dtype == np.int64
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
            with pytest.raises(AttributeError):
                setattr(either, name, array)
    with pytest.raises(AttributeError):
        pets().is_tree = True  # type: ignore[misc]


def test_dag_does_not_share_what_it_was_given() -> None:
    ptr, parent, classes = np.array([0, 0, 0, 2]), np.array([0, 1]), np.array([2, 1])
    dag = Hierarchy(ptr, parent, classes=classes)
    ptr[:], parent[:], classes[:] = 7, 7, 7
    assert dag.edges.tolist() == [[0, 2], [1, 2]]
    assert dag.classes.tolist() == [2, 1]


def test_repr() -> None:
    assert repr(pets()) == "Hierarchy(6 nodes, 4 classes, depth 1, 2 roots, a DAG)"


def test_equality_and_hash() -> None:
    edges = [(0, 2), (1, 2), (1, 3)]
    dag, same = dag_of(edges, names=list("abcd")), dag_of(edges[::-1], names=list("abcd"))
    assert dag == same
    assert hash(dag) == hash(same)
    others = [
        dag_of([(0, 2), (1, 2), (0, 3)], names=list("abcd")),
        dag_of(edges, names=list("abcd"), classes=[3, 2]),
        dag_of(edges, names=list("abce")),
        dag_of(edges, names=list("abcde")),
        dag_of(edges),
        Hierarchy.from_parents([-1, -1, 0, 1], names=list("abcd"), classes=[2, 3]),
        Hierarchy.from_parents([-1, -1, 1, 1], names=list("abcd"), classes=[2, 3]),
    ]
    assert all(dag != other and other != dag for other in others)
    assert len({dag, same, *others}) == 8


# Copies


@given(dags.dags(), st.booleans())
@examples
def test_pickle_keeps_the_dag(dag: Dag, named: bool) -> None:
    names = [f"node {node}" for node in range(dag.num_nodes)]
    hierarchy = dag_of(dag.edges, names, dag.classes) if named else dag_of(dag.edges)
    again = pickle.loads(pickle.dumps(hierarchy))
    assert again == hierarchy
    assert hash(again) == hash(hierarchy)
    assert again.names == hierarchy.names
    assert repr(again) == repr(hierarchy)
    assert (again.num_nodes, again.num_leaves) == (hierarchy.num_nodes, hierarchy.num_leaves)
    assert again.heights.tolist() == hierarchy.heights.tolist()
    assert [again.ancestors(v) for v in range(again.num_nodes)] == [
        hierarchy.ancestors(v) for v in range(again.num_nodes)
    ]


def test_pickle_drops_what_can_be_computed() -> None:
    dag = dag_of(dags.chain_of_diamonds(50).edges)
    before = len(pickle.dumps(dag))
    Tables.of(dag).nodes()
    assert dag.heights[0] == 100
    hash(dag)
    assert len(pickle.dumps(dag)) == before
    model = torch.nn.Module()
    model.dag = dag
    assert copy.deepcopy(model).dag is dag


@pytest.mark.parametrize("names", [None, ["a", "\u00e4\U0001f415/x", "", "alone"]])
def test_save_and_load(tmp_path: Path, names: list[str] | None) -> None:
    dag = dag_of([(2, 0), (1, 0), (2, 1)], names=names, classes=[1, 0])
    file = tmp_path / "dag.hierarchy"
    dag.save(file)
    found = Hierarchy.load(file)
    assert found == dag
    assert found.num_nodes == (3 if names is None else 4)


# Sizes


def test_wordnet_with_further_parents() -> None:
    """A deep taxonomy gets as many additional parents as WordNet's nouns have."""
    file = TAXONOMIES / "wordnet_noun.npz"
    if not file.exists():
        pytest.skip("the taxonomy wordnet_noun.npz is not in ../shared/taxonomies")
    parents = np.load(file)["parent"].astype(np.int64)
    tree = Hierarchy.from_parents(parents)
    rng = np.random.default_rng(0)
    child = rng.choice(np.flatnonzero(parents >= 0), 4_000, replace=False)
    further = rng.choice(tree.edges[:, 0], len(child))
    more = (tree.depths[further] < tree.depths[child]) & (further != parents[child])
    edges = tree.edges.tolist() + np.stack([further, child], 1)[more].tolist()
    named = [(str(u), str(v)) for u, v in edges]

    started = time.process_time()
    dag = Hierarchy.from_edges(named, allow_multiple_parents=True)
    table = Tables.of(dag).nodes()
    assert time.process_time() - started < 20
    assert (dag.num_nodes, len(dag.edges)) == (len(parents), len(edges))
    assert dag.num_leaves == tree.num_leaves
    for label in (0, 1_000, dag.num_classes - 1):
        node = int(dag.classes[label])
        above = table.above.item[table.above.ptr[label] : table.above.ptr[label + 1]]
        assert above.tolist() == sorted(dag.ancestors(node))


def test_long_chain_of_diamonds() -> None:
    """2^7000 paths, 14,000 levels."""
    edges = dags.chain_of_diamonds(7_000).named_edges()
    started = time.process_time()
    dag = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    assert dag.depth == 14_000
    assert len(dag.ancestors(dag.num_nodes - 1)) == dag.num_nodes
    assert time.process_time() - started < 20
