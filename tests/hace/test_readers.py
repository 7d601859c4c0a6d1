"""Files as users have them: each is read right, or refused with a hint at what would help."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hace import Hierarchy

CSV = dict[str, Any]


def from_text(folder: Path, text: str | bytes, options: CSV, name: str = "tree.csv") -> Hierarchy:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Hierarchy.from_csv(file, **options)


def shape(tree: Hierarchy) -> dict[str, list[str]]:
    """A small tree as text: the children of each inner node by name, and the classes."""
    names = tree.names
    assert names is not None
    found = {
        names[node]: [names[child] for child in tree.children(node)]
        for node in range(tree.num_nodes)
        if tree.children(node)
    }
    return {**found, "classes": list(tree.class_names or ())}


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """Turns warnings into errors for inputs that must be read without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


A_OF_B_AND_C = {"a": ["b", "c"], "classes": ["b", "c"]}

READ: list[tuple[str, CSV]] = [
    ("parent,child\na,b\na,c\n", {}),
    ("Parent, Child\r\na,b\r\na,c\r\n", {}),
    ("parent,child\ra,b\ra,c\r", {}),
    ("a,b\na,c\n", {"parent": 0, "child": 1}),
    ("parent,child\na,b\na,b\na,c\n", {}),
    ("parent,child\na ,b\n a,\u00a0c \n", {}),
    ('parent,child\na, "b"\n"a",c\n', {}),
    ("# by me, in 2020\nparent,child\na,b\n# x,y\n\na,c\n,,\n", {}),
    ("made by me\nparent,child\na,b\na,c\n", {"skip": 1}),
    ("parent;child\na;b\na;c\n", {"delimiter": ";"}),
    ("child parent\nb   a\nc a\n", {"delimiter": " "}),
    ("parent::child\na::b\na::c\n", {"delimiter": "::"}),
    ("id,up,note\na,,x\nb,a,\nc,a,y\n", {"child": "id", "parent": "up"}),
    ("id,up\na,a\nb,a\nc,a\n", {"child": "id", "parent": "up"}),
    ("id,up\na,NA\nb,a\nc,a\n", {"child": "id", "parent": "up", "missing": ["NA"]}),
    ("parent,child\n% a,b\na,b\na,c\n", {"comment": "%"}),
    ("up,up,id\nx,a,b\ny,a,c\n", {"parent": 1, "child": "id"}),
]


@pytest.mark.parametrize(("text", "options"), READ)
def test_csv_of_one_tree(tmp_path: Path, text: str, options: CSV) -> None:
    assert shape(from_text(tmp_path, text, options)) == A_OF_B_AND_C


def test_tables_of_other_kinds(tmp_path: Path) -> None:
    tree = from_text(tmp_path, "parent\tchild\na, b\tc\na, b\td\n", {}, "tree.tsv")
    assert shape(tree) == {"a, b": ["c", "d"], "classes": ["c", "d"]}
    tree = from_text(tmp_path, 'parent,child\na,"Al" B\na,5" c\n', {"quote": None})
    assert shape(tree) == {"a": ['"Al" B', '5" c'], "classes": ['"Al" B', '5" c']}
    tree = from_text(
        tmp_path, "parent,child\na,b\u00e4r\na,c\n".encode("latin-1"), {"encoding": "latin-1"}
    )
    assert tree.class_names == ("b\u00e4r", "c")
    # NA is a name (Namibia, North America) if the file shows it or the user says so.
    assert from_text(tmp_path, "parent,child\n,NA\nNA,US\nNA,CA\n", {}).names == ("NA", "US", "CA")
    tree = from_text(tmp_path, "parent,child\nNA,US\nNA,CA\n", {"missing": []})
    assert tree.names == ("NA", "US", "CA")
    assert from_text(tmp_path, "parent,child\nAfrica,NA\nAfrica,ZA\n", {}).num_classes == 2


def test_levels(tmp_path: Path) -> None:
    text = "kind,sort,file\nbird,owl,1.jpg\nbird,owl,2.jpg\nbird,,3.jpg\nfish,eel\n"
    tree = from_text(tmp_path, text, {"levels": ["kind", "sort"]})
    assert tree.names == ("bird/owl", "bird", "fish/eel", "fish")
    assert tree.class_names == ("bird/owl", "bird", "fish/eel")
    text = "what\nbird > owl\nbird >eel\n"
    tree = from_text(tmp_path, text, {"levels": "what", "sep": ">", "classes": ["eel", "owl"]})
    assert tree.class_names == ("bird>eel", "bird>owl")
    with pytest.raises(ValueError, match=r"line 2: .* has an empty part"):
        from_text(tmp_path, "what\nbird//owl\n", {"levels": "what"})
    with pytest.raises(ValueError, match=r"line 3: the row names no node"):
        from_text(tmp_path, "a,b,c\nx,y,1\n,,2\n", {"levels": ["a", "b"]})
    with pytest.raises(ValueError, match=r"'Lake/Pond', which holds sep '/'.* sep=' > '"):
        from_text(tmp_path, "a,b\nwater,Lake/Pond\n", {"levels": ["a", "b"]})
    with pytest.raises(ValueError, match="sep separates the parts of paths; give levels"):
        from_text(tmp_path, "parent,child\na,b\n", {"sep": ">"})


def test_names_beside_ids(tmp_path: Path) -> None:
    text = "id,up,name\n1,,animal\n2,1,dog\n3,1,toy\n4,2,pug\n5,3,pug\n"
    columns = {"parent": "up", "child": "id", "name": "name"}
    tree = from_text(tmp_path, text, columns)
    assert tree.names == ("animal", "animal/dog", "animal/toy", "animal/dog/pug", "animal/toy/pug")
    ordered = from_text(tmp_path, text, {**columns, "classes": ["animal/toy/pug", "dog"]})
    assert ordered.class_names == ("animal/toy/pug", "animal/dog")
    assert from_text(tmp_path, text, {**columns, "sep": " > "}).index("dog") == 1
    positions = from_text(tmp_path, "1,,a\n2,1,b\n3,1,c\n", {"parent": 1, "child": 0, "name": 2})
    assert positions.class_names == ("a/b", "a/c")
    dag = text + "6,2,cat\n6,3,cat\n"
    with pytest.raises(ValueError, match=r"'4' and '5' are both named 'pug', in a DAG"):
        from_text(tmp_path, dag, {**columns, "allow_multiple_parents": True})
    for more, message in [
        ("7,2,pug\n", "'4' and '7' are both named 'animal/dog/pug', below one parent"),
        ("2,1,cat\n", "line 7: '2' is named 'cat', and 'dog' in a row before"),
        ("7,8,cat\n", "1 of 7 nodes have no name: '8'"),
        ("7,2,\n", "1 of 6 nodes have no name: '7'"),
        ("7,2,a/c\n", "the name 'a/c' holds sep '/'"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_text(tmp_path, text + more, columns)
    with pytest.raises(ValueError, match="levels hold names themselves"):
        from_text(tmp_path, text, {"levels": ["up"], "name": "name"})
    header = {"parent": 1, "child": 0, "name": 2}
    with pytest.raises(ValueError, match="looks like a header"):
        from_text(tmp_path, text, header)


def test_with_names() -> None:
    tree = Hierarchy.from_edges([(0, 1), (0, 2)], [2, 1])
    named = tree.with_names({0: "a", "1": "b", 2.0: "c"}, " > ")
    assert named.names == ("a", "a > b", "a > c")
    assert named.class_names == ("a > c", "a > b")
    assert tree.with_names(["a", "b", "c"]).names == ("a", "a/b", "a/c")
    nameless = Hierarchy.from_parents([2, 2, -1])
    assert nameless.with_names({0: "b", 1: "c", 2: "a"}).names == ("a/b", "a/c", "a")
    dag = Hierarchy.from_edges([(0, 2), (1, 2), (0, 3)], allow_multiple_parents=True)
    assert dag.with_names({0: "a", 1: "b", 2: "c", 3: "d"}).names == ("a", "c", "b", "d")
    with pytest.raises(ValueError, match="2 names for 3 nodes"):
        tree.with_names(["a", "b"])
    with pytest.raises(ValueError, match="2 of 3 nodes have no name: '1', '2'"):
        tree.with_names({0: "a", 2: None})
    with pytest.raises(TypeError, match="got the string 'abc'"):
        tree.with_names("abc")


REFUSED: list[tuple[str | bytes, CSV, str]] = [
    (
        "source,target\na,b\n",
        {},
        r"no column is called 'parent', .* \['source', 'target'\]",
    ),
    ("source,target\na,b\na,c\n", {"parent": 0, "child": 1}, "looks like a header. Give parent='s"),
    ("parent_id,id\n1,2\n1,3\n", {}, r"is it 'parent_id'\?"),
    ("parent_id,id\n1,2\n1,3\n", {"parent": 0, "child": 1}, "looks like a header"),
    ("foo,bar\n1,2\n1,3\n", {"parent": 0, "child": 1}, "looks like a header"),
    ("family,genus\nowls,tyto\nowls,bubo\n", {"levels": [0, 1]}, "a header. Give levels="),
    ("#parent,child\na,b\n", {}, r"the comment above it '#parent,child' \(comment=None"),
    ("a,b\na,c\n", {}, r"positions \(parent=0, child=1\) if the file has no header"),
    ("parent,child\nb,a\nc,a\nd,e\n", {}, "the other way round: parent='child', child='parent'"),
    ("parent,child\na,b\nd,b\na,c\n", {}, "'b' has two parents, 'a' and 'd', .* line 3.*multiple"),
    ("parent,child\nNA,a\na,b\na,c\n", {}, r"'NA' would be a node .* missing=\['NA'\]"),
    ("parent,child\nnan,a\na,b\na,c\n", {}, r"'nan' .* a value is missing. Give missing=\['nan'\]"),
    ("parent,child\na,nan\na,c\n", {}, "'nan' would be the name of a node"),
    ("parent,child\n1.0,2\n1.0,3\n,1\n", {}, "'1.0' and '1' would be two nodes"),
    ("parent,child\na\u200b,b\na,c\n", {}, r"'a\\u200b' and 'a' would be two nodes"),
    ("parent,child\nbe\u0301,b\nb\u00e9,c\n", {}, r"'be\\u0301' and 'b\\xe9' would be two nodes"),
    ("parent,child\nred  fox,b\nred fox,c\n", {}, "'red  fox' and 'red fox' would be two nodes"),
    ("parent\tchild\na, b\tc\na, b\td\n", {}, r"delimiter='\\t' would give 2 fields"),
    ("a, b\tc\na, b\td\n", {"parent": 0, "child": 1}, r"give delimiter='\\t' or delimiter=','"),
    ("a, b\tc\na, b\td\n", {"parent": 0, "child": 1, "delimiter": ","}, "holds a tab"),
    ("parent;child\na;b\na;c\n", {}, "delimiter=';' would give 2 fields"),
    ('parent,child\na,"b\na,c\na,d\n', {}, "line 2: unexpected end of data. A quote '\"'"),
    ('parent,child\na,"b\na,c\na,d"\n', {}, "holds a tab or a line break"),
    ('parent,child\na,"b" c\na,d\n', {}, "line 2: ',' expected after '\"'.* quote=None"),
    ("parent,child\nDogs, small,pug\n", {}, "line 2: .* has 3 fields, .* put quotes"),
    ("parent,child\na,b\na\n", {}, "line 3: .* has 1 fields"),
    (
        "parent,child\na,b\nstone,\n",
        {},
        "line 3 has no child, only the parent 'stone'",
    ),
    (
        "parent,child\nperson,person\nthing,car\n",
        {},
        r"one name on two levels.* levels=\['parent",
    ),
    ("parent,child\n,a\nb,a\n", {}, "'a' is a root in one place, and below 'b'"),
    ("id,up\na,a\nb,a\na,b\n", {"parent": "up", "child": "id"}, "'a' is its own parent in one"),
    ("parent,child\na,b\nb,c\nc,a\na,d\n", {}, "3 nodes form a cycle"),
    ("parent,child,child\na,b,c\n", {}, "2 columns are called 'child'; .* 1 or 2"),
    ("a,b\n", {"parent": 0, "child": 2}, "there is no column 2, a row has 2 fields"),
    ("", {}, "tree.csv is empty"),
    ("\n\n# x\n", {}, "has no row"),
    ("parent,child\n", {}, "has no row but the first"),
    ("parent,child\na,b\n".encode("utf-16-le"), {}, "NUL character"),
    ("parent,child\na,b\u00e4r\n".encode("latin-1"), {}, "byte 0xe4 where .*'latin-1'"),
    (b"PK\x03\x04...", {}, "a zip archive"),
    (b"\x1f\x8b...", {}, "compressed by gzip"),
    ('{"a": []}', {}, r"JSON: use from_nested\("),
    ("<owl/>", {}, "XML"),
    ("parent,child\na,b\n", {"skip": -1}, "skip must be a number of lines"),
    ("parent,child\na,b\n", {"delimiter": ""}, "delimiter must be the text"),
    ("parent,child\na,b\n", {"comment": ""}, "comment must be a string or None"),
    ("parent,child\na,b\n", {"quote": "''"}, "quote must be one character"),
    ("parent,child\na,b\n", {"parent": -1}, "counts from 0, got -1"),
    ("parent,child\na,b\n", {"child": "parent"}, "are not different ones"),
    ("parent,child\na,b\n", {"levels": []}, "levels is empty"),
    ("parent,child\na,b\na,c\n", {"classes": ["C", "b"]}, r"label 0, 'C', is near 'c'"),
]


@pytest.mark.parametrize(("text", "options", "message"), REFUSED)
def test_csv_refused(tmp_path: Path, text: str | bytes, options: CSV, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_text(tmp_path, text, options)


def test_csv_of_wrong_types(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a column is a name or a position"):
        from_text(tmp_path, "parent,child\na,b\n", {"parent": True})
    with pytest.raises(TypeError, match="missing must be a list of strings, got 'NA'"):
        from_text(tmp_path, "parent,child\na,b\n", {"missing": "NA"})
    with pytest.raises(FileNotFoundError):
        Hierarchy.from_csv(tmp_path / "absent.csv")


@pytest.mark.parametrize("several", [False, True])
def test_a_reversed_file_is_suspected_aloud(tmp_path: Path, several: bool) -> None:
    # If every node has one child, both directions are forests of the same shape.
    text = "parent,child\ndog,animal\ncar,vehicle\n"
    with pytest.warns(UserWarning, match="no node of this hierarchy has two children") as caught:
        from_text(tmp_path, text, {"allow_multiple_parents": several})
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="child_first=True reads them so"):
        Hierarchy.from_edges([("dog", "animal"), ("car", "vehicle")])
    with pytest.raises(ValueError, match="the other way round: child_first=True reads them so"):
        Hierarchy.from_edges([("dog", "animal"), ("cat", "animal")])


def test_a_comment_that_may_be_a_row_gives_a_warning(tmp_path: Path) -> None:
    text = "parent,child\n#1,dog\nx,y\nx,z\n"
    with pytest.warns(UserWarning, match=r"line 2, '#1,dog', is left out as a comment"):
        assert from_text(tmp_path, text, {}).num_nodes == 3
    assert from_text(tmp_path, text, {"comment": None}).num_nodes == 5


def test_names_that_differ_in_case_alone_give_a_warning() -> None:
    with pytest.warns(UserWarning, match="'Animal' and 'animal' differ in case alone"):
        tree = Hierarchy.from_edges([("Animal", "a"), ("Animal", "b"), ("animal", "c")])
    assert tree.num_nodes == 5


# from_edges


@pytest.mark.parametrize(
    "edges",
    [
        [("1", "2"), ("1", "3")],
        [(1, 2), (1.0, 3)],
        [[1, 2], [1, "3"]],
        np.array([[1, 2], [1, 3]]),
        np.array([[1.0, 2.0], [1.0, 3.0]]),
        np.array([["1", "2"], ["1", "3"]]),
        torch.tensor([[1, 2], [1, 3]]),
        [(np.int32(1), 2), (1, torch.tensor(3))],
        [(None, 1), (1, 2), (1, 3), (1, 2)],
        [(float("nan"), 1), (1, 2), (1, 3)],
        [("", 1), (1, 2), (1, 3)],
        (edge for edge in [(1, 2), (1, 3)]),
    ],
)
def test_edges_of_any_kind(edges: Any) -> None:
    assert shape(Hierarchy.from_edges(edges)) == {"1": ["2", "3"], "classes": ["2", "3"]}


def test_edges_with_the_child_first() -> None:
    tree = Hierarchy.from_edges([("b", "a"), ("c", "a")], child_first=True)
    assert shape(tree) == A_OF_B_AND_C
    assert tree.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        ([("person", "person")], ValueError, r"edge 0 .* two levels.*from_paths\(\[\('person'"),
        ([(1.5, 2)], ValueError, "edge 0: 1.5 is not the name of a node"),
        ([(2.0**60, 2)], ValueError, "floats of that size"),
        ([(True, 2)], TypeError, "edge 0: True is not the name of a node"),
        ([(b"a", 2)], TypeError, "edge 0: b'a' is bytes"),
        ([(("a",), 2)], TypeError, r"edge 0: \('a',\) is not the name"),
        ([("a", "b", 1)], ValueError, "edge 0 must be a pair"),
        (["ab"], TypeError, "edge 0 must be a pair"),
        ([3], TypeError, "edge 0 must be a pair"),
        ({"b": "a"}, TypeError, "from_parents takes"),
        ({("a", "b")}, TypeError, "a set has no order"),
        ([(float("inf"), 2)], ValueError, "not the name of a node"),
        ([("a", None)], ValueError, "edge 0 has no child"),
        ([("NA", "b"), ("NA", "c")], ValueError, "'NA' would be a node with others below"),
        (3, TypeError, "cannot be read row by row"),
    ],
)
def test_edges_refused(edges: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_edges(edges)


def test_a_repeated_edge_of_a_dag_counts_once() -> None:
    edges = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "x"), ("a", "x"), ("b", "z")]
    dag = Hierarchy.from_edges(edges, allow_multiple_parents=True)
    names = dag.names
    assert names is not None
    found = sorted((names[parent], names[child]) for parent, child in dag.edges.tolist())
    assert found == sorted(set(edges))


# from_parents


@pytest.mark.parametrize(
    "parents",
    [
        {"a": None, "b": "a", "c": "a"},
        {"a": "", "b": "a", "c": "a"},
        {"a": float("nan"), "b": "a", "c": "a"},
        {"a": "a", "b": "a", "c": "a"},
        {"a": -1, "b": "a", "c": "a"},
    ],
)
def test_mapping_of_parents(parents: dict[str, Any]) -> None:
    assert shape(Hierarchy.from_parents(parents)) == A_OF_B_AND_C


def test_mapping_of_numbers() -> None:
    tree = Hierarchy.from_parents({10: np.nan, 20: 10.0, 7: 10.0}, classes={7: 0, "20": 1}.keys())
    assert tree.names == ("10", "20", "7")
    assert tree.class_names == ("7", "20")
    assert Hierarchy.from_parents({"x": 0, "y": "x"}, missing=["0"]).names == ("x", "y")


@pytest.mark.parametrize(
    ("parents", "error", "message"),
    [
        (
            {"b": "a", "c": "a", "d": "x"},
            ValueError,
            "3 of 3 .* not keys: 'a', 'x'",
        ),
        ({1: 0, 2: 1}, ValueError, r"missing=\['0'\] if that says that there is no parent"),
        ({}, ValueError, "parents is empty"),
        ({"": None}, ValueError, "'' is a key of parents"),
        ({1: None, "1": 1}, ValueError, "'1' is given twice"),
        ({"a": True}, TypeError, r"parents\['a'\]: True is not"),
        ({"a": "b", "b": "a"}, ValueError, "form a cycle"),
        ({"nan": None, "a": "nan"}, ValueError, r"Give missing=\['nan'\]"),
    ],
)
def test_mapping_refused(parents: dict[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_parents(parents)


def test_arguments_that_do_not_go_with_parents() -> None:
    with pytest.raises(TypeError, match="leave names out"):
        Hierarchy.from_parents({"a": None}, ["a"])
    with pytest.raises(TypeError, match="in an array a root's parent is -1"):
        Hierarchy.from_parents([-1, 0], missing=["0"])


# from_paths


@pytest.mark.parametrize(
    "paths",
    [
        [("a", "b"), ("a", "c")],
        [["a", None, "b"], ["a", "", "c"]],
        np.array([["a", "b", ""], ["a", "c", ""]]),
        np.array([["a", "b"], ["a", "c"]], dtype=object),
        [("a", float("nan"), "b"), ("a", "c")],
        ["a/b", "a/c"],
        {"a/c": 1, "a/b": 0},
        {"1": "a/c", "0": "a/b"},
        dict.fromkeys(["a/b", "a/c", "a/b"]),
        (path for path in ["a/b", "a/c"]),
    ],
)
def test_paths_of_any_kind(paths: Any) -> None:
    tree = Hierarchy.from_paths(paths)
    assert shape(tree) == {"a": ["a/b", "a/c"], "classes": ["a/b", "a/c"]}
    assert tree.names == ("a/b", "a/c", "a")


def test_parts_that_say_nothing() -> None:
    paths = ["k__B/p__P/c__", "k__B/p__Q/c__C"]
    tree = Hierarchy.from_paths(paths, missing=["c__"])
    assert tree.names == ("k__B/p__P", "k__B/p__Q/c__C", "k__B", "k__B/p__Q")
    assert Hierarchy.from_paths([("NA", "US"), ("NA", "CA")], missing=[]).num_nodes == 3
    # A class may be called None; names that occur below only one node are accepted.
    assert Hierarchy.from_paths(["illness/flu", "illness/None"]).num_classes == 2


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (
            ["a > b", "a > c", "d > e", "d"],
            ValueError,
            "plain cross-entropy. Give sep=' > ' if that",
        ),
        (["a|b", "a|c", "d|e", "d|f"], ValueError, r"Give sep='\|' if that"),
        (["cat", "dog", "cow", "pig"], ValueError, r"say so by from_parents\(\[-1\] \* 4, names\)"),
        ([("a", "b/c")], ValueError, "'b/c', which holds sep '/'.* for instance sep=' > '"),
        (["a / b"], ValueError, "'b', which begins|' b', which begins .* give sep=' / '"),
        ([("a ", "b")], ValueError, r"'a ', which begins or ends with a blank; cut it off"),
        ([(None, "")], ValueError, "path 0, .* has no part"),
        ([("a", True)], TypeError, "path 0: True is not"),
        ([("a", b"c")], TypeError, "path 0: b'c' is bytes"),
        ([{"a": 1}], TypeError, "path 0 must be a string or a sequence of parts"),
        ({"a/b"}, TypeError, "a set has no order"),
        ({"a/b": 0, "a/c": 2}, ValueError, "label 1 is absent, and there is a label 2"),
        ([("a", "nan"), ("a", "b")], ValueError, "'nan' would be the name"),
        ([("a", "None"), ("b", "None")], ValueError, r"'None' .* missing=\['None'\]"),
        ([("NA", "US"), ("NA", "CA")], ValueError, "'NA' would be a node"),
    ],
)
def test_paths_refused(paths: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_paths(paths)


def test_a_separator_of_few_paths_gives_a_warning() -> None:
    with pytest.warns(UserWarning, match="sep '/' is in 1 of 4 paths, ' > ' in most of them"):
        Hierarchy.from_paths(["a > b/x", "a > c", "d > e", "d > f"])


# from_nested


@pytest.mark.parametrize(
    ("tree", "options"),
    [
        ({"name": "a", "children": [{"name": "b"}, {"name": "c", "children": []}]}, {}),
        ([{"name": "a", "children": [{"name": "b"}, {"name": "c", "children": None}]}], {}),
        ({"id": "a", "sub": [{"id": "b"}, {"id": "c"}]}, {"name": "id", "children": "sub"}),
        ({"a": {"b": None, "c": {}}}, {}),
        ({"a": ["b", "c"]}, {}),
        ([{"a": ["b", {"c": []}]}], {}),
        ({"a": [{"b": None}, {"c": None}]}, {}),
    ],
)
def test_nested(tree: Any, options: dict[str, str]) -> None:
    found = Hierarchy.from_nested(tree, **options)  # type: ignore[arg-type]
    assert found.names == ("a/b", "a/c", "a")
    assert shape(found) == {"a": ["a/b", "a/c"], "classes": ["a/b", "a/c"]}


def test_nested_is_not_bounded_by_pythons_calls() -> None:
    tree: dict[str, Any] = {"leaf": None}
    for level in range(5_000):
        tree = {f"{level}": tree}
    assert Hierarchy.from_nested(tree).depth == 5_000


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": {"b": 3}}, ValueError, "'a > b' holds 3, which is neither children nor None"),
        ({"n01": "tench"}, ValueError, r"give a list, \['tench'\]"),
        ({"id": "a", "children": [{"id": "b"}]}, ValueError, "give name= the key"),
        (
            {"name": "a", "subs": [{"name": "b"}]},
            ValueError,
            r"\(it has lists under 'subs'",
        ),
        ([{"name": "a"}, {"name": "b"}], ValueError, "no record of the first level has the key"),
        ({"a": ["x", "x"]}, ValueError, "'a > x' is given twice"),
        ({"a": {"x", "y"}}, TypeError, "a set, which has no order"),
        ({"a": [["x"]]}, TypeError, "a list within a list"),
        ({"a": [False]}, TypeError, "below 'a': False is not"),
        ({"a": [None]}, ValueError, "a node below 'a' has the name None"),
        ('{"a": []}', TypeError, "read a file by json.load"),
        ({}, ValueError, "paths is empty"),
        ({"a": ["b/c"]}, ValueError, "'b/c', which holds sep"),
    ],
)
def test_nested_refused(tree: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_nested(tree)


# from_outline


@pytest.mark.parametrize(
    ("lines", "indent"),
    [
        ("a\n  b\n  c\n", None),
        ("\n   a\n\n      b\n      c\n", None),
        ("a\n\tb\n\tc", None),
        (["a\n", "-- b\n", "--c\r\n"], "--"),
        (["# a", "## b", "## c"], "#"),
        (["a", "  b", "  c"], "  "),
        (iter(["\ufeffa", " b", " c"]), None),
    ],
)
def test_outline(lines: Any, indent: str | None) -> None:
    found = Hierarchy.from_outline(lines, indent=indent)
    assert shape(found) == {"a": ["a/b", "a/c"], "classes": ["a/b", "a/c"]}


@pytest.mark.parametrize(
    ("lines", "indent", "error", "message"),
    [
        ("a\n\tb\n    c\n", None, ValueError, "line 3, 'c', .* by tabs and by blanks"),
        ("a\n    b\n  c\n", None, ValueError, "line 3, 'c', is indented by 2"),
        ("a\n-- b\n---- c\n-- d\n", None, ValueError, "give indent='--' if that stands"),
        ("- a\n  - b\n  - c\n", None, ValueError, "every line begins with '- '"),
        ("a\n---- b\n", "--", ValueError, "line 2, 'b', is at level 2, .* level 0"),
        ("a\n   b\n", "  ", ValueError, "not indented by whole '  '"),
        ("a\n--\n", "--", ValueError, "line 2 has 1 times '--' and no text"),
        ("a\n b\n b\n", None, ValueError, "line 3: 'a > b' is given twice"),
        ("tree.txt", None, TypeError, "read a file by open"),
        ("\n\n", None, ValueError, "lines has no text"),
        ([b"a"], None, TypeError, "line 1 must be a string"),
        ("a\n b\n", "", ValueError, "indent must be the text"),
    ],
)
def test_outline_refused(
    lines: Any, indent: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_outline(lines, indent=indent)


# from_codes


def test_codes() -> None:
    icd = Hierarchy.from_codes(["A00", "A00.0", "A00.01", "A00.1", "B"])
    assert shape(icd) == {
        "A00": ["A00.0", "A00.1"],
        "A00.0": ["A00.01"],
        "classes": ["A00.01", "A00.1", "B"],
    }
    assert icd.names == ("A00", "A00.0", "A00.01", "A00.1", "B")
    atc = Hierarchy.from_codes(["A10BA02", "A10B", "A", "A10", "A10BA"], ["A10BA02", "A10"])
    assert atc.path(0) == [0, 4, 1, 3, 2]
    assert atc.class_names == ("A10BA02", "A10")
    isco = Hierarchy.from_codes([1, 11, 111, 112, 2])
    assert shape(isco)["11"] == ["111", "112"]
    mesh = Hierarchy.from_codes(["C04", "C04.557", "C04.557.337", "C04.588"])
    assert shape(mesh)["C04"] == ["C04.557", "C04.588"]
    assert str(mesh).splitlines()[2] == "├── C04.557"


def test_codes_of_parts() -> None:
    codes = ["1", "1.1", "1.10", "1.1.1", "1.10.2.1"]
    with pytest.raises(ValueError, match=r"'1.1' would be the parent of '1.10'.* sep='.'"):
        Hierarchy.from_codes(codes)
    tree = Hierarchy.from_codes(codes, sep=".")
    assert shape(tree) == {
        "1": ["1.1", "1.10"],
        "1.1": ["1.1.1"],
        "1.10": ["1.10.2.1"],
        "classes": ["1.1.1", "1.10.2.1"],
    }


def test_ranges_of_codes() -> None:
    codes = ["A00-B99", "A00-A09", "A00", "A00.0", "A50-A64", "A51", "B01", "C00"]
    with pytest.raises(ValueError, match=r"'A00-B99' is a range .* and 'A00', .* ranges=True"):
        Hierarchy.from_codes(codes)
    assert shape(Hierarchy.from_codes(codes, ranges=True)) == {
        "A00-B99": ["A00-A09", "A50-A64", "B01"],
        "A00-A09": ["A00"],
        "A00": ["A00.0"],
        "A50-A64": ["A51"],
        "classes": ["A00.0", "A51", "B01", "C00"],
    }
    naics = Hierarchy.from_codes([11, 111, "31-33", 311, 3111, 332, 34], ranges=True)
    assert shape(naics) == {
        "11": ["111"],
        "31-33": ["311", "332"],
        "311": ["3111"],
        "classes": ["111", "3111", "332", "34"],
    }


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (["x", "y", "z"], ValueError, "none of the 3 codes begins with another"),
        (["x", "xy", "x"], ValueError, "code 0 and code 2 are both 'x'"),
        (["x", ""], ValueError, "code 1 is ''"),
        (["x", None], ValueError, "code 1 is None"),
        (["x", True], TypeError, "code 1: True is not"),
        ([], ValueError, "codes is empty"),
        ("abc", TypeError, "got the string 'abc'"),
    ],
)
def test_codes_refused(codes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hierarchy.from_codes(codes)


# Frames


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"up": [None, 1, 1], "id": [1, 2, 3]})  # pandas makes `up` floats
    assert shape(Hierarchy.from_edges(frame)) == {"1": ["2", "3"], "classes": ["2", "3"]}
    turned = frame.rename(columns={"up": "parent", "id": "child"})[["child", "parent"]]
    with pytest.raises(ValueError, match=r"\(child, parent\); give child_first=True"):
        Hierarchy.from_edges(turned)
    assert Hierarchy.from_edges(turned, child_first=True).num_nodes == 3
    with pytest.raises(ValueError, match=r"'1\.0' and '1' would be two nodes"):
        Hierarchy.from_edges(frame.astype(str), missing=["nan"])
    levels = pandas.DataFrame({"order": ["a", "a", "b"], "sort": ["x", "y", None]})
    assert Hierarchy.from_paths(levels).class_names == ("a/x", "a/y", "b")
    series = pandas.Series([None, 10, 10], index=[10, 11, 12])
    assert Hierarchy.from_parents(series).names == ("10", "11", "12")
    assert Hierarchy.from_parents(pandas.Series([-1, 0, 0])).names is None
    nullable = pandas.Series([pandas.NA, "a"], index=["a", "b"], dtype="string")
    assert Hierarchy.from_parents(nullable).parents.tolist() == [-1, 0]


# Size


@pytest.mark.parametrize("form", ["csv", "edges", "parents", "paths"])
def test_many_nodes_in_little_time(tmp_path: Path, form: str) -> None:
    number = 200_000
    parents = [-1, *((np.arange(1, number) - 1) // 7).tolist()]
    named = [(f"taxon {parent}", f"taxon {node}") for node, parent in enumerate(parents)][1:]
    read: Callable[[], Hierarchy]
    if form == "csv":
        file = tmp_path / "many.csv"
        file.write_text("parent,child\n" + "".join(f"{a},{b}\n" for a, b in named))
        read = lambda: Hierarchy.from_csv(file)  # noqa: E731
    elif form == "edges":
        read = lambda: Hierarchy.from_edges(named)  # noqa: E731
    elif form == "parents":
        mapping = {child: parent for parent, child in named} | {"taxon 0": None}
        read = lambda: Hierarchy.from_parents(mapping)  # noqa: E731
    else:
        rows = [(f"{n % 7}", f"{n % 49}", f"{n}") for n in range(number)]
        read = lambda: Hierarchy.from_paths(rows)  # noqa: E731
    started = time.process_time()
    tree = read()
    assert time.process_time() - started < 8  # 0.7 s on an idle core
    assert tree.num_nodes >= number
