"""`hace.Hierarchy`: what it accepts, keeps, answers and refuses."""

from __future__ import annotations

import copy
import pickle
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layout import forests
from trees import Tree, caterpillar, chain

from hace import Hierarchy
from hace.weights import HACEWeights

TAXONOMIES = Path(__file__).parents[2] / "shared" / "taxonomies"

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
    # "a" appears in path 0, though the class "a/b" that is known already stands between.
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
    with pytest.raises(ValueError, match="at least one node"):
        Hierarchy.from_paths([])
    with pytest.raises(TypeError, match="path 1 must be a string, got 3"):
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
        match=r"node 1 \('dog'\) has two parents, node 0 \('animal'\) and node 2 \('pet'\); keep",
    ):
        Hierarchy.from_edges([("animal", "dog"), ("pet", "dog")])
    with pytest.raises(ValueError, match=r"from node 0 \('a'\) to node 1 \('b'\) is given twice"):
        Hierarchy.from_edges([("a", "b"), ("a", "b")])
    with pytest.raises(ValueError, match=r"node 1 \('b'\) is its own parent"):
        Hierarchy.from_edges(
            [("a", "c"), ("b", "b")][::-1] + [("a", "b")][:0] + [("x", "y")]
            if False
            else [("a", "c"), ("b", "b")][:0] + [("a", "x"), ("b", "b")]
            if False
            else [("a", "b"), ("c", "c")]
            if False
            else [("b0", "x"), ("b", "b")]
            if False
            else [("a", "a")]
            if False
            else _self_loop()
        )
    with pytest.raises(ValueError, match="at least one node"):
        Hierarchy.from_edges([])
    with pytest.raises(ValueError, match=r"classes\[1\] is 'cow', .* no node has this name"):
        Hierarchy.from_edges([("animal", "dog")], classes=["dog", "cow"])
    with pytest.raises(
        ValueError, match=r"node 1 \('dog'\) is given as class 0 and as class 2; list every"
    ):
        Hierarchy.from_edges([("animal", "dog")], classes=["dog", "animal", "dog"])
    with pytest.raises(ValueError, match="classes is empty"):
        Hierarchy.from_edges([("animal", "dog")], classes=[])
    with pytest.raises(TypeError, match=r"classes\[0\] is 1"):
        Hierarchy.from_edges([("animal", "dog")], classes=[1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="list of names"):
        Hierarchy.from_edges([("animal", "dog")], classes="dog")
    with pytest.raises(TypeError, match="edge 0 must hold two strings"):
        Hierarchy.from_edges([(1, 2)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="edge 1 must be a pair"):
        Hierarchy.from_edges([("a", "b"), "cd"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="edge 0 must be a pair"):
        Hierarchy.from_edges([("a", "b", "c")])  # type: ignore[list-item]
