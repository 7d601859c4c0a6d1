"""A data set's labels: the node that each label names, and the hierarchy cut down to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hace import Hierarchy
from hace.weights import HACEWeights

ANIMALS = ["animal/dog/husky", "animal/cat/siamese"]
PATHS = [*ANIMALS, "vehicle/car", "vehicle/bus", "toy/dog", "toy/car"]

examples = settings(max_examples=100, deadline=None)


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_paths(PATHS)


HUSKY_BUS = ("animal/dog/husky", "vehicle/bus")


@pytest.mark.parametrize(
    "labels",
    [
        ["husky", "bus"],
        ["animal/dog/husky", "bus"],
        ("husky", "vehicle/bus"),
        {"bus": 1, "husky": 0},
        {"bus": "1", "husky": "0"},
        {1: "bus", 0: "husky"},
        {"1": "bus", "0": "husky"},
        {np.int64(1): "bus", np.int64(0): "husky"},
        np.array(["husky", "bus"]),
        {"husky": 0, "bus": 1}.keys(),
        dict.fromkeys(["husky", "bus"]),
    ],
)
def test_labels_of_any_form(tree: Hierarchy, labels: Any) -> None:
    found = tree.subset(labels)
    assert found.class_names == HUSKY_BUS
    assert found.classes.tolist() == [0, 1]
    assert found.names == (*HUSKY_BUS, "animal", "animal/dog", "vehicle")
    assert found.parents.tolist() == [3, 4, -1, 2, -1]


def test_ten_labels_of_text_are_in_the_order_of_numbers() -> None:
    tree = Hierarchy.from_paths([f"digit/{name}" for name in "abcdefghijkl"])
    id2label = {str(label): name for label, name in enumerate("lkjihgfedcba")}
    assert list(id2label)[10] == "10"
    shuffled = dict(sorted(id2label.items()))  # "10" before "2", as JSON tools sort them
    assert list(shuffled)[2] == "10"
    found = tree.subset(shuffled).class_names
    assert found == tuple(f"digit/{name}" for name in "lkjihgfedcba")


def test_a_subset_by_its_own_class_names_is_itself(tree: Hierarchy) -> None:
    again = tree.subset(tree.class_names)
    assert again == tree
    assert again.digest == tree.digest
    # Full names win over last parts: "other" is a class, and the last part of two more.
    others = Hierarchy.from_paths(["cat/other", "dog/other", "other"])
    assert others.subset(others.class_names) == others


def test_numbers_as_names() -> None:
    tree = Hierarchy.from_edges([(100, 1), (100, 2), (100, 3)])
    assert tree.subset([3, 1]).class_names == ("3", "1")
    assert tree.subset([3.0, "1"]).class_names == ("3", "1")
    # Text that looks like a number is a name if the other side has real numbers.
    assert tree.subset({"1": 1, "3": 0}).class_names == ("3", "1")
    assert tree.subset({0: "3", 1: "1"}).class_names == ("3", "1")


def test_ids_where_nodes_have_no_names() -> None:
    tree = Hierarchy.from_parents([-1, 0, 0, 1, 1])
    found = tree.subset([4, 2])
    assert found.names is None
    assert found.parents.tolist() == [3, 2, -1, 2]
    for wrong in ({0: 4, 1: 2}, ["a"], [1, 7], [1, 1]):
        with pytest.raises((ValueError, TypeError)):
            tree.subset(wrong)


def test_a_name_above_itself_is_the_class() -> None:
    tree = Hierarchy.from_paths([("person", "person"), ("vehicle", "car"), ("vehicle", "bus")])
    assert tree.subset(["person", "bus"]).class_names == ("person/person", "vehicle/bus")
    assert tree.names is not None
    assert tree.names[tree.index("person")] == "person"  # a full name comes first here


def test_what_no_label_is_below_is_cut() -> None:
    edges = [("all", "owl"), ("owl", "tyto"), ("owl", "bubo"), ("bubo", "b. bubo"), ("all", "eel")]
    tree = Hierarchy.from_edges(edges)
    found = tree.subset(["owl", "eel"])
    assert found.names == ("owl", "eel", "all")
    assert (tree.heights[tree.index("owl")], found.heights[found.index("owl")]) == (2, 0)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["car", "husky"], ValueError, r"label 0, 'car', is 2 nodes, 'vehicle/car', 'toy/car'"),
        (["husky", "dog"], ValueError, r"label 1, 'dog', is 2 nodes"),
        (["Husky", "bus"], ValueError, r"1 of 2 labels.*\n  label 0, 'Husky', is near 'husky'"),
        (["hsuky", "bus"], ValueError, r"'hsuky', is near 'husky'"),
        (["husky", "lorry"], ValueError, r"label 1, 'lorry', matches nothing"),
        (
            ["n01", "n02"],
            ValueError,
            r"No label matches; .* 'animal/dog/husky', 'animal/cat/siamese'",
        ),
        (["husky", "animal/dog/husky"], ValueError, r"label 0 .* and label 1 .* are both"),
        (["husky", "husky"], ValueError, r"are both 'animal/dog/husky'"),
        ([], ValueError, "labels is empty"),
        ({}, ValueError, "labels is empty"),
        (["husky", None], ValueError, "label 1 is None, which is not a name"),
        (["husky", True], TypeError, "label 1: True"),
        ("husky", TypeError, "got the string 'husky'"),
        (7, TypeError, "labels must be a list of names or a mapping, got int; .*class_to_idx"),
        ({"husky", "bus"}, TypeError, "a set has no order"),
        ({"husky": 0, "bus": 2}, ValueError, "label 1 is absent, and there is a label 2"),
        ({"husky": -1, "bus": 0}, ValueError, "there is a label -1"),
        ({"husky": 0, "bus": 0}, ValueError, "label 0 is both 'husky' and 'bus'"),
        ({"0": "husky", "255": "bus"}, ValueError, r"a label 255 \('bus'\)"),
        ({"husky": "bus"}, TypeError, "neither as keys nor as values"),
        ({0: 1, 1: 0}, ValueError, "may be read both ways"),
        ({"0": "1", "1": "0"}, ValueError, "may be read both ways"),
    ],
)
def test_labels_refused(tree: Hierarchy, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tree.subset(labels)


@pytest.mark.parametrize(
    ("spell", "code"),
    [
        (lambda name: name.replace("_", " "), "replace(' ', '_')"),
        (str.upper, "name.lower()"),
        (lambda name: name.title().replace("_", " "), "lower().replace(' ', '_')"),
        (lambda name: f"{name}, Avis {name}", "split(',')[0]"),
    ],
)
def test_another_spelling_of_all_labels_is_named(spell: Callable[[str], str], code: str) -> None:
    names = ["blue_bird", "red_bird"]
    tree = Hierarchy.from_paths([f"bird/{name}" for name in names])
    with pytest.raises(ValueError, match="2 of 2 labels") as caught:
        tree.subset([spell(name) for name in names])
    assert "All of them match as [" in str(caught.value)
    assert code in str(caught.value)


def test_every_label_that_matches_nothing_is_told() -> None:
    tree = Hierarchy.from_edges([(f"c{n % 9}", f"leaf {n}") for n in range(300)])
    wrong = [f"laef {n}" for n in range(40)]
    with pytest.raises(ValueError, match="40 of 41 labels") as caught:
        tree.subset(["leaf 0", *wrong])
    assert all(repr(name) in str(caught.value) for name in wrong)


# DAGs


PETS = [("animal", "dog"), ("pet", "dog"), ("animal", "cow"), ("dog", "husky"), ("thing", "pet")]


def test_subset_of_a_dag() -> None:
    dag = Hierarchy.from_edges(PETS, allow_multiple_parents=True)
    found = dag.subset(["husky", "cow"])
    assert found.names == ("husky", "cow", "animal", "thing", "pet", "dog")
    assert not found.is_tree
    assert dag.subset(["cow"]).names == ("cow", "animal")


def test_single_parent_keeps_the_deepest() -> None:
    dag = Hierarchy.from_edges(PETS, allow_multiple_parents=True)
    found = dag.subset(["husky", "cow"], single_parent=True)
    assert found.is_tree
    assert [found.short_name(node) for node in found.path(0)] == ["husky", "dog", "pet", "thing"]
    # Of two parents at the same depth, the first by name is kept.
    diamond = [("b", "x"), ("a", "x"), ("r", "b"), ("r", "a"), ("b", "y"), ("a", "z")]
    tree = Hierarchy.from_edges(diamond, allow_multiple_parents=True)
    found = tree.subset(["x", "y", "z"], single_parent=True)
    assert [found.short_name(node) for node in found.path(0)] == ["x", "a", "r"]
    ids = Hierarchy([0, 0, 0, 2], [0, 1]).subset([2], single_parent=True)
    assert ids.parents.tolist() == [1, -1]


@given(st.integers(0, 2**32 - 1), st.booleans())
@examples
@pytest.mark.filterwarnings("ignore:no node of this hierarchy has two")
def test_a_subset_is_what_is_above_its_labels(seed: int, single_parent: bool) -> None:
    """It agrees with sets of names, and has the same bits whatever the order of the edges."""
    rng = random.Random(seed)
    number = rng.randrange(2, 14)
    edges = [
        (f"n{rng.randrange(child)}", f"n{child}")
        for child in range(1, number)
        for _ in range(rng.choice([1, 1, 2]))
    ]
    edges = [*dict.fromkeys(edges), (None, "n0")]
    names = [f"n{node}" for node in range(number)]
    labels = rng.sample(names, rng.randrange(1, number + 1))
    read = Hierarchy.from_edges

    def one() -> Hierarchy:
        rng.shuffle(edges)
        dag = read(edges, allow_multiple_parents=True)  # type: ignore[arg-type]
        return dag.subset(labels, single_parent=single_parent)

    found, again = one(), one()
    assert found.digest == again.digest
    assert found.names is not None
    assert found.class_names == tuple(labels)
    assert found.classes.tolist() == list(range(len(labels)))
    links = {(found.names[up], found.names[below]) for up, below in found.edges.tolist()}
    above: set[str] = set(labels)
    while True:
        more = {up for up, below in edges if up is not None and below in above} - above
        if not more:
            break
        above |= more
    if not single_parent:
        assert set(found.names) == above
        assert links == {(up, below) for up, below in edges if up is not None and below in above}
    else:
        assert found.is_tree
        assert set(found.names) <= above
        assert links <= set(edges)


def test_the_same_tree_gives_the_same_tables_whatever_the_order_of_its_file() -> None:
    from hace.tables import Tables

    edges = [("animal", "dog"), ("animal", "cat"), ("dog", "husky"), ("dog", "pug"), ("car", "bus")]
    labels = ["bus", "pug", "cat", "husky"]
    subsets, by_classes = [], []
    for order in itertools.permutations(edges):
        subsets.append(Hierarchy.from_edges(order).subset(labels))
        by_classes.append(Hierarchy.from_edges(order, labels))
    assert len({tree.digest for tree in subsets}) == 1
    first = Tables.of(subsets[0]).paths(HACEWeights(0.7))
    for tree in subsets + by_classes:
        assert tree.depth_first_classes.tolist() == [0, 1, 3, 2]
        table = Tables.of(tree).paths(HACEWeights(0.7))
        for name in ("ptr", "start", "stop", "weight"):
            assert getattr(table, name).equal(getattr(first, name))
