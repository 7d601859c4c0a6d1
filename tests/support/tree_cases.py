"""Trees as the ops over all nodes take them, with what the oracle needs, and target tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import torch
import trees
from backend import Backend
from cases import evaluate
from rows import on_some_rows

import hace
from hace.options import TargetOptions
from hace.tables import Tables
from hace.weights import HACEWeights
from hace_kernels import TargetTable, TreeTable, tree_log_loss

ONE_TARGET = torch.tensor([0])

#: Numbers of rows around the sizes of the blocks that kernels work on, which are 4 to 16 rows.
ROWS = [0, 1, 3, 15, 16, 17, 33]


def without_classes(tree: trees.Tree, rng: np.random.Generator, share: float = 0.4) -> trees.Tree:
    """The same nodes with a share of the classes removed, so that whole subtrees have no column."""
    kept = rng.random(tree.num_classes) >= share
    kept[0] = True
    return trees.Tree(tree.parents, tree.classes[kept])


#: A class at inner node 1, whose children have no class, one at the root 4, and nodes without any.
STUBS = trees.Tree(np.array([-1, 0, 1, 1, -1, 4, 5, 4, -1, 8]), np.array([4, 1, 6]))

SHAPES: dict[str, Callable[[np.random.Generator], trees.Tree]] = {
    "one class": lambda rng: trees.flat(1, rooted=False),
    "flat": lambda rng: trees.flat(13),
    "flat forest": lambda rng: trees.flat(13, rooted=False),
    "chain": lambda rng: trees.chain(6),
    "chain of classes": lambda rng: trees.chain(9).in_node_mode(),
    "caterpillar": lambda rng: trees.caterpillar(40),
    "star of stars": lambda rng: trees.balanced([5, 7], rooted=True),
    "balanced forest": lambda rng: trees.balanced([3, 2, 4]),
    "tree": lambda rng: trees.random_tree(rng, 50),
    "forest": lambda rng: trees.random_tree(rng, 50, roots=6),
    "inner classes": lambda rng: trees.random_tree(rng, 40, roots=2, inner=0.5),
    "shuffled": lambda rng: trees.random_tree(rng, 50, roots=6, shuffle=True),
    "shuffled inner classes": lambda rng: trees.random_tree(rng, 40, inner=0.5, shuffle=True),
    "nodes": lambda rng: trees.random_tree(rng, 40, roots=2).in_node_mode(),
    "nodes without classes": lambda rng: without_classes(
        trees.random_tree(rng, 60, roots=5, inner=0.3, shuffle=True), rng
    ),
    "stubs": lambda rng: STUBS,
}

#: One shape of each kind, for tests that need not try every shape.
FEW = ["caterpillar", "balanced forest", "shuffled inner classes", "nodes without classes"]


def hierarchy_of(tree: trees.Tree) -> hace.Hierarchy:
    return hace.Hierarchy.from_parents(tree.parents, classes=tree.classes)


@dataclass(frozen=True)
class TreeCase:
    """A tree whose classes are the columns: as a table, and as a matrix for the oracle."""

    tree: trees.Tree

    @cached_property
    def hierarchy(self) -> hace.Hierarchy:
        return hierarchy_of(self.tree)

    @cached_property
    def table(self) -> TreeTable:
        return Tables.of(self.hierarchy).label_nodes()

    @cached_property
    def reach(self) -> np.ndarray:
        return self.tree.reach()

    @cached_property
    def sweep(self) -> oracle.Sweep:
        return oracle.Sweep(self.tree)

    @cached_property
    def labels(self) -> trees.LabelTree:
        return self.tree.labels()

    @cached_property
    def label_sweep(self) -> oracle.Sweep:
        return oracle.Sweep(self.labels)

    @cached_property
    def depth(self) -> int:
        return max(len(self.tree.path(node)) for node in range(self.tree.num_nodes))

    @property
    def num_classes(self) -> int:
        return self.tree.num_classes

    @property
    def num_nodes(self) -> int:
        return self.tree.num_nodes

    def logits(self, rows: int, dtype: torch.dtype, scale: float = 2.0) -> torch.Tensor:
        return (scale * torch.randn(rows, self.num_classes)).to(dtype)

    def targets(self, rows: int, space: str = "classes") -> torch.Tensor:
        """Random indices; of nodes only those with a class at or below them, at every depth."""
        if space == "classes":
            return torch.randint(self.num_classes, (rows,))
        valid = np.flatnonzero(self.reach.any(axis=1))
        return torch.from_numpy(np.resize(np.random.default_rng(1).permutation(valid), rows))

    def probabilities(self, rows: int, space: str = "classes") -> torch.Tensor:
        """Probabilities over classes or nodes, with mass on a few that have a class below them."""
        width = self.num_classes if space == "classes" else self.num_nodes
        raw = torch.rand(rows, width, dtype=torch.float64)
        raw[raw < 0.7] = 0
        if space == "nodes":
            raw[:, ~torch.from_numpy(self.reach.any(axis=1))] = 0
        return raw / raw.sum(1, keepdim=True).clamp(min=1e-3)

    def pairs(
        self, rows: int, count: int, space: str = "classes"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` weighted targets per row, which contain duplicates."""
        index = self.targets(rows * count, space).view(rows, count)
        if count > 2:
            index[::2, 1] = index[::2, 0]
        return index, torch.rand(rows, count, dtype=torch.float64)

    def target_table(
        self,
        dilution: float = 0.7,
        weight: torch.Tensor | None = None,
        target: Any = ONE_TARGET,
        **options: Any,
    ) -> TargetTable:
        """The table of the targets for a loss; for pairs, it is made for pairs."""
        tables, chosen = Tables.of(self.hierarchy), TargetOptions(**options)
        return tables.targets(HACEWeights(dilution), "classes", chosen).table_for(
            weight, isinstance(target, tuple)
        )


def some_case(rng: np.random.Generator, leaves: int = 50, shuffle: bool = False) -> TreeCase:
    return TreeCase(trees.random_tree(rng, leaves, roots=3, inner=0.2, shuffle=shuffle))


def to_device(target: Any, device: torch.device) -> Any:
    if isinstance(target, tuple):
        return tuple(part.to(device) for part in target)
    return target.to(device)


def call(
    case: TreeCase,
    logits: torch.Tensor,
    target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    table: TargetTable,
    backend: Backend,
    *,
    incoming: Any = 1.0,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient (see `evaluate`) of the op."""
    device = backend.device

    def loss_fn(logits: torch.Tensor, target: Any) -> torch.Tensor:
        return tree_log_loss(
            logits,
            target,
            case.table.to(device),
            table.to(device),
            backend=backend.name,
            **options,
        )

    return evaluate(loss_fn, logits.to(device), to_device(target, device), incoming)


def expected(
    case: TreeCase,
    logits: torch.Tensor,
    target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    dilution: float = 0.7,
    *,
    reduction: str = "mean",
    incoming: Any = 1.0,
    **options: Any,
) -> oracle.Answer:
    rows, divisor = oracle.hace(case.tree, logits, target, dilution, **options)
    return oracle.reduce(rows, reduction, divisor, incoming)


@on_some_rows
def check(
    case: TreeCase,
    logits: torch.Tensor,
    target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    backend: Backend,
    dilution: float = 0.7,
    *,
    roundings: float = 16,
    reduction: str = "sum",
    incoming: Any = 1.0,
    eps: float = 0.0,
    ignore_index: int = -100,
    **target_options: Any,
) -> None:
    """Compares the op's HACE and gradient with the oracle, and checks that logits are unchanged."""
    called = {"reduction": reduction, "incoming": incoming, "eps": eps}
    called["ignore_index"] = ignore_index
    before = logits.clone()
    table = case.target_table(dilution, target=target, **target_options)
    loss, grad = call(case, logits, target, table, backend, **called)
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)
    assert grad.dtype == logits.dtype
    answer = expected(case, logits, target, dilution, **called, **target_options)
    # Mass is a product along a path, so it is rounded once per level.
    roundings += case.depth
    oracle.assert_loss_close(loss, answer, logits.dtype, roundings)
    # A gradient that the forward pass stored is rounded again when the incoming one multiplies it.
    plain = isinstance(incoming, float) and incoming == 1.0
    oracle.assert_grad_close(grad, answer, roundings=roundings, output_roundings=1 if plain else 2)


def roundings_of_sums(dtype: torch.dtype, terms: int, backend: Backend) -> float:
    """The roundings to allow for a sum of equal terms.

    Kernels sum float32 numbers in a wider type. Float64 has no wider type, and the reference does
    not use one: there, equal terms are added one by one, and the rounding errors may all have the
    same sign.
    """
    one_by_one = dtype == torch.float64 or backend.name == "reference"
    return 16 + (terms / 4 if one_by_one else 0)


@cache
def wide_case() -> TreeCase:
    """A root with two children, of which one has 100,000 children and the other 50."""
    parents = np.concatenate([[-1, 0, 0], np.full(100_000, 1), np.full(50, 2)])
    return TreeCase(trees.Tree(parents, np.arange(3, len(parents))))


def deep_case(kind: str, backend: Backend) -> TreeCase:
    """A tree of 10,000 levels: with one class at the end, one per level, or every node a class.

    It has fewer levels if the backend has no time for more.
    """
    return _deep_case(kind, backend.levels)


@cache
def _deep_case(kind: str, levels: int) -> TreeCase:
    if kind == "caterpillar":
        return TreeCase(trees.caterpillar(levels))
    chain = trees.chain(levels)
    return TreeCase(chain if kind == "chain" else chain.in_node_mode())


@cache
def large_case() -> TreeCase:
    """100,000 nodes of every kind: inner classes, chains, several roots, shuffled columns."""
    return TreeCase(
        trees.random_tree(np.random.default_rng(0), 60_000, roots=20, inner=0.1, shuffle=True)
    )


def far_apart(x: torch.Tensor, directory: Path) -> torch.Tensor:
    """Puts two rows 2^31 elements apart, so that offsets need 64 bits, in a sparse file."""
    assert len(x) == 2
    size = 2**31 + x.shape[1]
    path = directory / f"{x.shape[1]} {x.dtype}"
    store = torch.from_file(str(path), shared=True, size=size, dtype=x.dtype)
    return store.as_strided(x.shape, (2**31, 1)).copy_(x)


def assert_rows_stand_alone(
    run: Callable[[torch.Tensor], torch.Tensor],
    threads: Callable[[int], None],
    backend: Backend,
    single_row: float = 0.0,
) -> None:
    """Asserts that a row gets the same bits whatever rows are with it, on any number of threads.

    Kernels work on blocks of rows. What they do for a row that needs care, or at the end of the
    batch, must not affect other rows. The reference has PyTorch's matrix products, which promise
    the same number only up to rounding.

    Args:
        run: computes the results for some of 33 rows, given by their numbers.
        threads: sets the number of threads.
        backend: the backend that `run` uses.
        single_row: how far, relative to its value, a row on its own may be from the same row in a
            batch, for kernels that treat few rows in another way. A twentieth of it is allowed
            absolutely, since the parts of a gradient, which are at most 1, may cancel.
    """
    rounding = 1e-5 if backend.name == "reference" else 0.0
    everything = run(torch.arange(33))
    for count in (1, 2) if backend.name != "reference" else (2,):
        threads(count)
        for rows in (
            torch.arange(33),
            torch.arange(33).flip(0),
            *(torch.arange(first, last) for first in (1, 5, 16) for last in (17, 30, 33)),
            *torch.tensor([0, 1, 2, 3, 4, 15, 16, 32])[:, None],
        ):
            found = run(rows)
            allowed = max(rounding, single_row) if len(rows) == 1 else rounding
            torch.testing.assert_close(
                found, everything[rows], rtol=allowed, atol=allowed / 20, equal_nan=True
            )
