"""Queries of a hierarchy: names, neighbours, a summary, drawings, a graph."""

from __future__ import annotations

import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import hace
from hace import Hierarchy

PATHS = ["animal/dog/husky", "animal/dog/beagle", "animal/cat/siamese", "vehicle/car"]


@pytest.fixture
def tree() -> Hierarchy:
    return Hierarchy.from_paths(PATHS)


def test_neighbours(tree: Hierarchy) -> None:
    dog, animal = tree.index("animal/dog"), tree.index("animal")
    assert tree.children(dog) == [0, 1]
    assert tree.children(0) == []
    assert tree.children(animal) == [dog, tree.index("cat")]
    assert (tree.parent(0), tree.parent(dog), tree.parent(animal)) == (dog, animal, -1)
    assert tree.siblings(0) == [1]
    assert [len(level) for level in tree.levels] == [2, 3, 3]
    assert tree.levels[0].tolist() == tree.roots.tolist()
    for node in range(tree.num_nodes):
        assert all(tree.parent(child) == node for child in tree.children(node))
    for ask in (tree.children, tree.parent, tree.short_name):
        with pytest.raises(ValueError, match="there is no node 99"):
            ask(99)
        with pytest.raises(TypeError, match="a node id is an integer"):
            ask("dog")  # type: ignore[arg-type]


def test_neighbours_in_a_dag() -> None:
    dag = Hierarchy.from_edges([("a", "x"), ("b", "x"), ("b", "y")], allow_multiple_parents=True)
    assert [dag.children(node) for node in range(4)] == [[1], [], [1, 3], []]
    with pytest.raises(ValueError, match=r"parent needs a tree; node 1 \('x'\) has 2 parents"):
        dag.parent(1)


def test_index_by_name_or_unique_last_part() -> None:
    tree = Hierarchy.from_paths([*PATHS, "toy/car"])
    assert tree.index("husky") == tree.index("animal/dog/husky") == 0
    assert tree.index("dog") == tree.index("animal/dog")
    with pytest.raises(ValueError, match="'car' is the last part of 2 names, 'vehicle/car', 'toy/"):
        tree.index("car")
    with pytest.raises(ValueError, match=r"no node is named 'huskey'; did you mean 'husky'\?"):
        tree.index("huskey")
    with pytest.raises(ValueError, match=r"no node is named 'zzz'$"):
        tree.index("zzz")
    with pytest.raises(TypeError, match="index takes a name, got 3"):
        tree.index(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no node is named 'a': the nodes of this hierarchy"):
        Hierarchy.from_parents([-1, 0]).index("a")


@pytest.mark.parametrize("sep", ["/", " > ", ">", "; ", "|", "::", ".", " / ", "->", "\\", "#"])
def test_last_parts_whatever_separates_them(sep: str) -> None:
    tree = Hierarchy.from_paths([path.replace("/", sep) for path in PATHS], sep)
    assert [tree.short_name(node) for node in range(4)] == ["husky", "beagle", "siamese", "car"]
    assert tree.index("cat") == tree.parent(2)


def test_names_that_are_no_paths() -> None:
    tree = Hierarchy.from_edges([("dog", "dog food"), ("dog", "cat/dog"), ("dog", "pug")])
    assert [tree.short_name(node) for node in range(4)] == list(tree.names or ())
    with pytest.raises(ValueError, match="no node is named 'food'"):
        tree.index("food")
    nameless = Hierarchy.from_parents([-1, 0])
    assert nameless.short_name(1) == "1"


def test_class_nodes_as_a_tensor(tree: Hierarchy) -> None:
    log_prob = torch.randn(2, tree.num_nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nodes = hace.functional.class_nodes(tree)
        found = log_prob[:, nodes]
    assert nodes.tolist() == tree.classes.tolist()
    assert nodes.dtype == torch.int64
    assert found.shape == (2, 4)


# describe


def test_describe() -> None:
    paths = ["a/x/1", "a/y", "b", "a/x", "c/z/2", "c/z/3"]
    tree = Hierarchy.from_paths(paths)
    rows = dict(line.split("  ", 1) for line in tree.describe().splitlines())
    found = {what: text.strip() for what, text in rows.items()}
    assert found["kind"] == "forest"
    assert found["nodes"] == "9, 5 of them leaves"
    assert found["classes"] == "6 (1 at inner nodes)"
    assert found["depth"] == "2; of the classes 0 to 2"
    assert found["roots"] == "3 (b, a, c)"
    assert found["single-child nodes"] == "2"
    assert found["labels"] == "0 = a > x > 1"
    assert "5 = c > z > 3" in tree.describe()
    assert found["label order"].startswith("not depth-first: ")
    ordered = tree.subset([paths[label] for label in tree.depth_first_classes])
    assert "depth-first: every subtree is a run of columns" in ordered.describe()


def test_describe_tells_what_is_unusual() -> None:
    tree = Hierarchy.from_edges([("a", "b"), ("a", "c")], ["b"])
    assert "1 (1 leaf without a label, which subset(labels) cuts off)" in tree.describe()
    dag = Hierarchy.from_edges([("a", "x"), ("b", "x"), ("b", "y")], allow_multiple_parents=True)
    assert "kind                        DAG" in dag.describe()
    assert "nodes with several parents  1" in dag.describe()
    assert "roots" in Hierarchy.from_parents([-1]).describe()


# Drawings

DRAWN = """\
animal
├── dog
│   ├── husky  [0]
│   └── beagle  [1]
└── cat
    └── siamese  [2]
vehicle
└── car  [3]"""


def test_to_text(tree: Hierarchy) -> None:
    assert tree.to_text() == DRAWN
    assert tree.to_text(0) == "animal  … 2 children\nvehicle  … 1 child"
    assert tree.to_text(1, 1) == "animal\n├── dog  … 2 children\n└── … 1 more\n… 1 more"
    assert str(tree) == f"{tree!r}\n{DRAWN}"
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"):
        tree.to_text(-1)
    with pytest.raises(TypeError, match="max_children must be a whole number or None"):
        tree.to_text(max_children=1.5)  # type: ignore[arg-type]


def test_to_text_of_a_dag_draws_a_subtree_once() -> None:
    edges = [("a", "x"), ("b", "x"), ("x", "1"), ("x", "2")]
    dag = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    assert dag.to_text() == ("a\n└── x\n    ├── 1  [0]\n    └── 2  [1]\nb\n└── x  (drawn above)")


def test_a_large_tree_is_a_screen_of_text() -> None:
    wide = Hierarchy.from_parents([-1] + [0] * 100_000)
    assert len(str(wide).splitlines()) == 11
    deep = Hierarchy.from_parents(range(-1, 100_000))
    assert len(str(deep).splitlines()) < 45
    full = Hierarchy.from_parents([-1, *((np.arange(1, 50_000) - 1) // 3).tolist()])
    assert 20 < len(str(full).splitlines()) < 45
    assert len(full._repr_html_()) < 500_000


class Balanced(HTMLParser):
    """Checks that tags are closed, and collects the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html(tree: Hierarchy) -> None:
    found = Balanced(tree._repr_html_())
    assert not found.open
    assert "husky  [0]" in found.text
    names = ["<b>&amp;</b>", "x"]
    strange = Balanced(Hierarchy.from_parents([-1, 0], names)._repr_html_())
    assert not strange.open
    assert "<b>&amp;</b>" in strange.text
    long = Hierarchy.from_parents([-1, *((np.arange(1, 50_000) - 1) // 3).tolist()])
    assert not Balanced(long._repr_html_()).open


def test_to_networkx(tree: Hierarchy) -> None:
    networkx = pytest.importorskip("networkx", reason="networkx is not installed")
    graph = tree.to_networkx()
    assert sorted(graph.edges) == sorted(map(tuple, tree.edges.tolist()))
    assert [graph.nodes[node]["name"] for node in range(tree.num_nodes)] == list(tree.names or ())
    labels = {label: node for node, label in graph.nodes.data("label") if label is not None}
    assert labels == dict(enumerate(tree.classes.tolist()))
    assert networkx.is_forest(graph)
    again = Hierarchy.from_edges(graph.edges, [0, 1, 2, 3])
    assert again.num_nodes == tree.num_nodes
