"""Real hierarchy files from a folder beside the checkout, and made-up files of the same formats.

The real files are not part of the repository. If they are in ../shared/formats, each is compared
with counts and class paths that were worked out by hand (expected.json).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hace import Hierarchy

FORMATS = Path(__file__).parents[3] / "shared" / "formats"
GREENGENES_RANKS = [f"{rank}__" for rank in "kpcofgs"]


def nabirds(folder: Path) -> Hierarchy:
    tree = Hierarchy.from_csv(folder / "nabirds_hierarchy.txt", parent=1, child=0, delimiter=" ")
    return tree.subset(sorted(tree.class_names or (), key=int))


def iab_parent_column(folder: Path) -> Hierarchy:
    file = folder / "iab_content_taxonomy_3.1.tsv"
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines, delimiter="\t"))[2:]
    return Hierarchy.from_csv(
        file, [row[0] for row in rows], parent="Parent", child="Unique ID", skip=1
    )


def iab_tier_columns(folder: Path) -> Hierarchy:
    tiers = ["Tier 1", "Tier 2", "Tier 3", "Tier 4"]
    return Hierarchy.from_csv(
        folder / "iab_content_taxonomy_3.1.tsv", levels=tiers, sep=" > ", skip=1
    )


def ncbi(folder: Path) -> Hierarchy:
    return Hierarchy.from_csv(folder / "ncbi_nodes.dmp", parent=1, child=0, delimiter="\t|\t")


def greengenes_dropped(folder: Path) -> Hierarchy:
    file = folder / "greengenes_600.tsv"
    return Hierarchy.from_csv(file, levels="Taxon", sep="; ", missing=GREENGENES_RANKS)


def greengenes_kept(folder: Path) -> Hierarchy:
    return Hierarchy.from_csv(folder / "greengenes_600.tsv", levels="Taxon", sep="; ")


def inat(folder: Path) -> Hierarchy:
    file = folder / "inat_vision_taxonomy.csv"
    with open(file, newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["leaf_class_id"]]
    rows.sort(key=lambda row: int(row["leaf_class_id"]))
    classes = [row["taxon_id"] for row in rows]
    return Hierarchy.from_csv(file, classes, parent="parent_taxon_id", child="taxon_id")


def d3(folder: Path) -> Hierarchy:
    return Hierarchy.from_nested(json.loads((folder / "d3_flare.json").read_text()))


def rcv1(folder: Path) -> Hierarchy:
    lines = (folder / "rcv1.taxonomy").read_text().splitlines()
    edges = [(parent, child) for parent, *children in map(str.split, lines) for child in children]
    return Hierarchy.from_edges(edges, [child for _, child in edges])


def coco(folder: Path) -> Hierarchy:
    categories = json.loads((folder / "panoptic_coco_categories.json").read_text())
    return Hierarchy.from_paths([(c["supercategory"], c["name"]) for c in categories])


def cifar100_coarse(folder: Path) -> Hierarchy:
    found = json.loads((folder / "cifar100_fine_to_coarse.json").read_text())
    labels = json.loads((folder / "cifar100_config.json").read_text())["id2label"]
    tree = Hierarchy.from_paths(
        zip(found["fine_to_coarse"], found["fine_label_names"], strict=True)
    )
    assert tree.subset(labels).class_names == tree.class_names
    return tree


def cifar100_ids(folder: Path) -> Hierarchy:
    file = folder / "cifar.parent-child.txt"
    return Hierarchy.from_csv(file, range(100), parent=0, child=1, delimiter=" ")


def cifar100_outline(folder: Path) -> Hierarchy:
    with open(folder / "cifar100_hierarchy.txt", encoding="utf-8") as lines:
        return Hierarchy.from_outline(lines, indent="--")


def go_slim(folder: Path) -> Hierarchy:
    edges: list[tuple[str | None, str]] = []
    for stanza in (folder / "goslim_generic.obo").read_text().split("\n\n"):
        lines = stanza.strip().splitlines()
        if lines[:1] == ["[Term]"]:
            term = lines[1].removeprefix("id: ")
            is_a = [line[6:16] for line in lines if line.startswith("is_a: ")]
            edges += [(parent, term) for parent in is_a or [None]]
    return Hierarchy.from_edges(edges, allow_multiple_parents=True)


CASES: dict[str, tuple[Callable[[Path], Hierarchy], str]] = {
    "nabirds": (nabirds, ""),
    "iab_content_3.1.parent_column": (iab_parent_column, ""),
    "iab_content_3.1.tier_columns": (iab_tier_columns, " > "),
    "ncbi_taxdump_mini": (ncbi, ""),
    "greengenes_600.unresolved_ranks_dropped": (greengenes_dropped, "; "),
    "greengenes_600.unresolved_ranks_kept": (greengenes_kept, "; "),
    "inat_vision_taxonomy": (inat, ""),
    "d3_flare": (d3, "/"),
    "rcv1_taxonomy": (rcv1, ""),
    "coco_panoptic_categories": (coco, "/"),
    "cifar100_fine_to_coarse": (cifar100_coarse, "/"),
    "cifar100_parent_child": (cifar100_ids, ""),
    "cifar100_outline": (cifar100_outline, "/"),
    "go_slim_generic_obo": (go_slim, ""),
}


def parts_of(tree: Hierarchy, node: int, sep: str) -> list[str]:
    """A node's path by name, root first, without `Hierarchy.short_name`."""
    assert tree.names is not None
    names = [tree.names[above] for above in reversed(tree.path(node))]
    if not sep:
        return names
    assert all(below.startswith(above + sep) for above, below in pairwise(names))
    return names[-1].split(sep)


def told_of_a_class(tree: Hierarchy, node: int, sep: str) -> Any:
    if tree.is_tree:
        return parts_of(tree, node, sep)
    assert tree.names is not None
    parents = [tree.names[parent] for parent, child in tree.edges.tolist() if child == node]
    return {
        "class": tree.names[node],
        "parents": parents,
        "num_ancestors_and_itself": len(tree.ancestors(node)),
    }


def measures(tree: Hierarchy) -> dict[str, int]:
    num_children = [len(tree.children(node)) for node in range(tree.num_nodes)]
    return {
        "is_tree": tree.is_tree,
        "num_nodes": tree.num_nodes,
        "num_classes": tree.num_classes,
        "depth": tree.depth,
        "num_roots": len(tree.roots),
        "num_leaves": tree.num_leaves,
        "classes_at_inner_nodes": sum(num_children[node] > 0 for node in tree.classes),
        "single_child_nodes": num_children.count(1),
    }


@pytest.mark.parametrize("name", CASES)
def test_real_file(name: str) -> None:
    if not FORMATS.is_dir():
        pytest.skip("the real files are not in ../shared/formats")
    expected = json.loads((FORMATS / "expected.json").read_text())
    assert set(expected) == set(CASES)
    read, sep = CASES[name]
    tree, told = read(FORMATS), expected[name]
    found = measures(tree)
    assert found == {what: told[what] for what in found}
    first, last = told["first_class_paths"], told["last_class_path"]
    if tree.is_tree:
        first, last = [[str(part) for part in path] for path in first], [str(p) for p in last]
    classes = tree.classes.tolist()
    assert [told_of_a_class(tree, node, sep) for node in classes[: len(first)]] == first
    assert told_of_a_class(tree, classes[-1], sep) == last


@pytest.mark.parametrize("name", ["nabirds", "ncbi_taxdump_mini"])
def test_names_in_a_second_file(name: str) -> None:
    if not FORMATS.is_dir():
        pytest.skip("the real files are not in ../shared/formats")
    if name == "nabirds":
        lines = (FORMATS / "nabirds_classes.txt").read_text().splitlines()
        names = dict(line.split(" ", 1) for line in lines)
    else:
        rows = [line.split("\t|\t") for line in (FORMATS / "ncbi_names.dmp").open()]
        names = {row[0]: row[1] for row in rows if row[3].startswith("scientific name")}
    told = json.loads((FORMATS / "expected.json").read_text())[name]
    tree = CASES[name][0](FORMATS).with_names(names, " > ")
    first = [tree.short_name(node) for node in reversed(tree.path(int(tree.classes[0])))]
    assert first == told["names_of_first_class_path"]


# The same formats with made-up rows, so that they are tested without the real files, too.


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


def invented(folder: Path) -> Iterator[tuple[Hierarchy, list[list[str]], str]]:
    """Each tree with the path of each of its classes, root first, and the separator."""
    file = write(folder, "child_first.txt", "2 1\n3 1\n10 2\n9 2\n11 3\n")
    tree = Hierarchy.from_csv(file, parent=1, child=0, delimiter=" ")
    by_number = tree.subset(sorted(tree.class_names or (), key=int))
    yield by_number, [["1", "2", "9"], ["1", "2", "10"], ["1", "3", "11"]], ""

    text = "Made up\t\t\t\t\t\r\nID\tUp\tName\tTier 1\tTier 2\t\r\n"
    text += "A1\t\tWater\tWater\t\t\r\nA2\tA1\tLake/Pond\tWater\tLake/Pond\t\r\n"
    text += "7\t\tSky\tSky\t\t\r\n"
    file = write(folder, "two_headers.tsv", text)
    yield (
        Hierarchy.from_csv(file, ["A1", "A2", "7"], parent="up", child="ID", skip=1),
        [["A1"], ["A1", "A2"], ["7"]],
        "",
    )
    yield (
        Hierarchy.from_csv(file, levels=["Tier 1", "Tier 2"], sep=" > ", skip=1),
        [["Water"], ["Water", "Lake/Pond"], ["Sky"]],
        " > ",
    )

    text = "1\t|\t1\t|\tno rank\t|\n20\t|\t1\t|\t\t|\n30\t|\t20\t|\tx\t|\n31\t|\t20\t|\tx\t|\n"
    file = write(folder, "dump.dmp", text)
    tree = Hierarchy.from_csv(file, parent=1, child=0, delimiter="\t|\t")
    yield tree, [["1", "20", "30"], ["1", "20", "31"]], ""

    text = "Id\tLineage\n1\tk__B; p__P; c__\n2\tk__B; p__Q; c__C\n3\tk__B; p__P; c__\n"
    file = write(folder, "lineages.tsv", text)
    yield (
        Hierarchy.from_csv(file, levels="Lineage", sep="; "),
        [["k__B", "p__P", "c__"], ["k__B", "p__Q", "c__C"]],
        "; ",
    )
    yield (
        Hierarchy.from_csv(file, levels="Lineage", sep="; ", missing=["c__"]),
        [["k__B", "p__P"], ["k__B", "p__Q", "c__C"]],
        "; ",
    )

    text = "up,id,label\n,1,\n1,2,\n2,5,1\n2,4,0\n,7,\n"
    file = write(folder, "with_labels.csv", text)
    yield (
        Hierarchy.from_csv(file, [4, 5], parent="up", child="id"),
        [["1", "2", "4"], ["1", "2", "5"]],
        "",
    )

    record = {"name": "all", "children": [{"name": "a", "children": [{"name": "x", "value": 3}]}]}
    record["children"] += [{"name": "b", "children": [{"name": "x"}, {"name": "y"}]}]  # type: ignore[operator]
    paths = [["all", "a", "x"], ["all", "b", "x"], ["all", "b", "y"]]
    yield Hierarchy.from_nested(record), paths, "/"
    yield Hierarchy.from_nested({"all": {"a": ["x"], "b": {"x": None, "y": {}}}}), paths, "/"
    yield Hierarchy.from_outline("all\n  a\n    x\n  b\n    x\n    y\n"), paths, "/"
    yield (
        Hierarchy.from_outline(["all", "-- a", "---- x", "-- b", "---- x", "---- y"], indent="--"),
        paths,
        "/",
    )

    lines = ["Top\tA\tB", "A\tA1\tA2"]
    edges = [(parent, child) for parent, *children in map(str.split, lines) for child in children]
    yield (
        Hierarchy.from_edges(edges, [child for _, child in edges]),
        [["Top", "A"], ["Top", "B"], ["Top", "A", "A1"], ["Top", "A", "A2"]],
        "",
    )

    records = [("person", "person"), ("vehicle", "car"), ("vehicle", "bus")]
    yield Hierarchy.from_paths(records), [list(path) for path in records], "/"
    yield Hierarchy.from_paths([(1, 0), (0, 1), (0, 2)]), [["1", "0"], ["0", "1"], ["0", "2"]], "/"
    yield (
        Hierarchy.from_codes(["A", "A1", "A12", "A13", "B"]),
        [["A", "A1", "A12"], ["A", "A1", "A13"], ["B"]],
        "",
    )


def test_invented_files_of_the_same_shapes(tmp_path: Path) -> None:
    count = 0
    for tree, paths, sep in invented(tmp_path):
        assert [parts_of(tree, int(node), sep) for node in tree.classes] == paths
        above = {tuple(path[:end]) for path in paths for end in range(1, len(path) + 1)}
        assert tree.subset(tree.class_names).num_nodes == len(above)
        count += 1
    assert count == 15


def test_lone_classes_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "tree.csv", "parent,child\nanimal,dog\nanimal,cat\n,stone\n")
    assert Hierarchy.from_csv(file).class_names == ("dog", "cat", "stone")
    assert Hierarchy.from_edges([(None, "stone"), ("a", "b")]).class_names == ("stone", "b")
    assert Hierarchy.from_parents({"stone": None, "b": "a", "a": ""}).class_names == ("stone", "b")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("le") else ""
    file = write(tmp_path, "tree.csv", f"{mark}parent,child\nTier,Bär\nTier,Maus\n", encoding)
    assert Hierarchy.from_csv(file).class_names == ("Bär", "Maus")


def test_a_row_order_of_the_file_leaves_no_trace_in_a_subset(tmp_path: Path) -> None:
    rows = ["animal,dog", "animal,cat", "dog,husky", "dog,beagle", "cat,siamese", "thing,car"]
    labels = ["car", "siamese", "husky", "beagle"]
    digests = set()
    for turn in range(len(rows)):
        order = rows[turn:] + rows[:turn]
        file = write(tmp_path, "tree.csv", "\n".join(["parent,child", *order]))
        digests.add(Hierarchy.from_csv(file).subset(labels).digest)
    assert len(digests) == 1
