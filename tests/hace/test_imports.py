"""No import runs upwards: `hace_kernels` never imports `hace`, and there are no import cycles."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hace_kernels": ROOT / "hace_kernels", "hace": ROOT / "python" / "hace"}


def modules() -> dict[str, Path]:
    """The file of every module, by its dotted name; a package's file is its `__init__`."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = file
    return found


def imports_of(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this project that a module imports, at run time or only for types."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*above * bool(node.level), *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {module for module in found if module in known} - {name}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(name, file, known) for name, file in known.items()}


def cycle_in(edges: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def test_the_graph_is_read() -> None:
    """If the graph had no edges, the other tests would pass without testing anything."""
    edges = graph()
    assert "hace.hierarchy" in edges["hace.spaces"]
    assert any(name.startswith("hace_kernels") for name in edges["hace.tables"])
    assert {"hace.losses", "hace.losses.path_loss"} <= edges["hace.nn.classifier"]
    assert len(edges) > 60


def test_a_cycle_is_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_import_each_other(package: str) -> None:
    edges = {name: above for name, above in graph().items() if name.split(".")[0] == package}
    assert cycle_in(edges) is None


def test_kernels_know_nothing_of_hace() -> None:
    upwards = {
        (name, above)
        for name, found in graph().items()
        if name.split(".")[0] == "hace_kernels"
        for above in found
        if above.split(".")[0] == "hace"
    }
    assert not upwards


#: The modules from the bottom up; each may import only those before it.
FLOORS = [
    "hace.checks",
    "hace.tree_checks",
    "hace.links",
    "hace.hierarchy",
    "hace.spaces",
    "hace.options",
    "hace.tables",
    "hace.functional",
    "hace.losses.path_loss",
    "hace.losses.hace_loss",
    "hace.nn.classifier",
    "hace",
]


def test_the_floors_stand_on_each_other() -> None:
    """Everything that a module imports, directly or not, is below it."""
    edges = graph()
    for floor, name in enumerate(FLOORS):
        reached, new = set(), {name}
        while new:
            reached |= new
            new = set().union(*(edges[module] for module in new)) - reached
        assert not reached & set(FLOORS[floor + 1 :])


def test_a_hierarchy_is_data() -> None:
    """The hierarchy's module imports neither torch nor losses nor tables."""
    known = modules()
    for name in ("hierarchy", "links", "hierarchy_file"):
        tree = ast.parse(known[f"hace.{name}"].read_text(encoding="utf-8"))
        named = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert "torch" not in named
        assert not {"tables", "targets", "losses", "options", "weights"} & named
