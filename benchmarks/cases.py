"""What is measured: sweeps along one axis each, around a few base points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from . import trees
from .problem import TARGETS, Problem

__all__ = ["SWEEPS", "Case", "all_cases"]

CORE = ("clone", "cross_entropy", "hace", "hace_shuffled")
SCALING = ("hace_tree", "index_add", "sparse")  # what else works for large trees
FUSED = {
    "cpu": ("compiled_cross_entropy",),
    "cuda": ("compiled_cross_entropy", "liger", "quack", "hace_cuda", "hace_triton"),
}

#: The sweeps, and the question that each answers.
SWEEPS = {
    "table": "the table of the README",
    "classes": "how time grows with C",
    "rows": "how time grows with B",
    "depth": "what a deeper tree costs",
    "trees": "what the shape of a tree costs, synthetic or real",
    "dtypes": "half precision",
    "targets": "every kind of target",
    "threads": "one thread and all",
    "memory": "the peak memory of a step",
}


@dataclass(frozen=True)
class Case:
    """One race: a problem by name, and who takes part.

    Attributes:
        sweep: one of `SWEEPS`.
        tree: the tree's name, see `trees`.
        rows: B.
        contestants: names of `peers.PEERS`.
        dtype: that of the logits.
        target: one of `problem.TARGETS`.
        threads: how many; 0 for all.
    """

    sweep: str
    tree: str
    rows: int
    contestants: tuple[str, ...]
    dtype: str = "float32"
    target: str = "index"
    threads: int = 0

    @property
    def name(self) -> str:
        """The name that `--filter` matches."""
        threads = f"threads-{self.threads or 'all'}"
        shape = f"{trees.title(self.tree)}/{self.rows}"
        return f"{self.sweep}/{shape}/{self.dtype}/{self.target}/{threads}"

    def problem(self, device: str) -> Problem:
        """The problem itself."""
        dtype = getattr(torch, self.dtype)
        return Problem(trees.build(self.tree), self.rows, dtype, self.target, device)


def all_cases(quick: bool, device: str, taxonomies: tuple[str, ...] = ()) -> list[Case]:
    """All cases, sweep by sweep; fewer and smaller ones if `quick`."""
    return [
        *_table(quick),
        *_classes(quick, FUSED[device]),
        *_rows(quick),
        *_depth(quick),
        *_trees(quick, taxonomies),
        *_dtypes(quick, FUSED[device], large=device == "cuda" and not quick),
        *_targets(quick),
        *(_threads(quick) if device == "cpu" else ()),
        *_memory(quick, FUSED[device]),
    ]


def decimal(classes: int) -> str:
    """The balanced tree with about ten children per node."""
    return f"balanced:{classes}:{len(str(classes - 1))}"


def _table(quick: bool) -> Iterator[Case]:
    rows_of = {
        1_000: (1, 16, 256, 4_096, 16_384),
        10_000: (1, 16, 256, 1_600),
        100_000: (1, 16, 48, 256),
        1_000_000: (1, 4, 16),
    }
    if quick:
        rows_of = {1_000: (1, 256, 4_096), 10_000: (16, 256), 100_000: (16,), 1_000_000: (1, 4)}
    with_dense = [(1_000, 256), (1_000, 4_096), (10_000, 256)]
    for classes, all_rows in rows_of.items():
        for rows in all_rows:
            dense = ("dense",) if (classes, rows) in with_dense else ()
            yield Case("table", decimal(classes), rows, CORE + dense)


def _classes(quick: bool, fused: tuple[str, ...]) -> Iterator[Case]:
    everyone = (*CORE, *fused, *SCALING, "masked", "dense", "hxe", "hxe_masks")
    few = (100, 1_000, 10_000, 100_000, 1_000_000)
    for classes in few if quick else sorted({*few, 300, 3_000, 30_000, 300_000}):
        yield Case("classes", decimal(classes), 64, everyone)


def _rows(quick: bool) -> Iterator[Case]:
    for rows in (1, 16, 1_024) if quick else (1, 4, 16, 64, 256, 1_024, 4_096):
        yield Case("rows", decimal(10_000), rows, (*CORE, "hace_tree", "index_add"))


def _depth(quick: bool) -> Iterator[Case]:
    contestants = (*CORE, *SCALING, "masked")
    for depth in (2, 6, 20) if quick else (2, 3, 4, 6, 8, 12, 16, 20):
        yield Case("depth", f"balanced:10000:{depth}", 64 if quick else 256, contestants)


def _trees(quick: bool, taxonomies: tuple[str, ...]) -> Iterator[Case]:
    rows = 64 if quick else 256
    for tree in ("balanced:10000:4", "random:10000", "caterpillar:1000"):
        yield Case("trees", tree, rows, CORE + SCALING)
    for tree in ("icd10", *taxonomies):
        yield Case("trees", tree, rows, (*CORE, "hace_ordered", *SCALING))
    for batch in (128, 1_024):
        yield Case("trees", "cifar100", batch, (*CORE, "hace_ordered", "hace_tree"))
    for batch in (256,) if quick else (128, 256, 1_024):  # many levels, and labels in no order
        yield Case("trees", "random:1000:2", batch, (*CORE, "hace_tree"))


def _dtypes(quick: bool, fused: tuple[str, ...], large: bool) -> Iterator[Case]:
    shapes = [(10_000, 256)] if quick else [(10_000, 256), (100_000, 64)]
    if large:  # beyond the caches of a GPU
        shapes += [(10_000, 8_192), (100_000, 1_024), (1_000_000, 64)]
    contestants = (*CORE, *fused, "hace_tree", "index_add")
    for classes, rows in shapes:
        for dtype in ("float32", "bfloat16"):
            yield Case("dtypes", decimal(classes), rows, contestants, dtype=dtype)


def _targets(quick: bool) -> Iterator[Case]:
    many = [(10_000, 400), (10_000, 1_600), (100_000, 48)]
    few = [(1_000, 1), (1_000, 16), (100_000, 1), (1_000_000, 1)]
    for classes, rows in [(10_000, 64)] if quick else many + few:
        for target in TARGETS:
            contestants = ("clone", "cross_entropy", "hace")
            yield Case("targets", decimal(classes), rows, contestants, target=target)


def _threads(quick: bool) -> Iterator[Case]:
    shapes = [(10_000, 256), (1_000_000, 1)]
    for classes, rows in shapes if quick else [*shapes, (100_000, 64)]:
        for threads in (1, 0):
            contestants = ("clone", "cross_entropy", "hace", "hace_tree")
            yield Case("threads", decimal(classes), rows, contestants, threads=threads)


def _memory(quick: bool, fused: tuple[str, ...]) -> Iterator[Case]:
    contestants = ("cross_entropy", *fused, "hace", *SCALING, "masked", "dense", "hxe_masks")
    if quick:
        contestants = ("cross_entropy", "hace", "hace_tree", "index_add", "dense")
    for classes in (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        yield Case("memory", decimal(classes), 64, contestants)
