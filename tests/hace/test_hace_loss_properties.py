"""Properties that HACE has on every hierarchy, tested on random hierarchies."""

from __future__ import annotations

import numpy as np
import oracle
import torch
import trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from tree_cases import hierarchy_of

import hace
from hace.functional import hace_loss
from hace.tables import Tables

property_test = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)

SEEDS = st.integers(0, 2**32 - 1)
DILUTIONS = st.floats(0.05, 1.0)


@st.composite
def hierarchies(draw: st.DrawFn) -> trees.Tree:
    kind = draw(st.sampled_from(["random", "flat", "caterpillar", "chain"]))
    size = draw(st.integers(1, 24))
    if kind == "flat":
        return trees.flat(size, rooted=draw(st.booleans()))
    if kind == "caterpillar":
        return trees.caterpillar(size)
    if kind == "chain":
        return trees.chain(size)
    return trees.random_tree(
        np.random.default_rng(draw(SEEDS)),
        size,
        roots=draw(st.integers(1, size)),
        inner=draw(st.sampled_from([0.0, 0.5, 1.0])),
        shuffle=draw(st.booleans()),
    )


def sample(tree: trees.Tree, seed: int, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, tree.num_classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(tree.num_classes, (rows,), generator=generator)


def row_losses(
    tree: trees.Tree, logits: torch.Tensor, target: torch.Tensor, dilution: float
) -> torch.Tensor:
    return hace_loss(logits, target, hierarchy_of(tree), dilution, reduction="none")


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_equals_the_oracle(tree: trees.Tree, seed: int, dilution: float) -> None:
    logits, target = sample(tree, seed)
    answer, _ = oracle.hace(tree, logits, target, dilution)
    logits.requires_grad_()
    loss = row_losses(tree, logits, target, dilution)
    oracle.assert_loss_close(loss, answer, torch.float64)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    oracle.assert_grad_close(grad, answer)


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_is_not_negative(tree: trees.Tree, seed: int, dilution: float) -> None:
    assert (row_losses(tree, *sample(tree, seed), dilution) >= 0).all()


@property_test
@given(hierarchies(), SEEDS, DILUTIONS, st.floats(-1e3, 1e3))
def test_ignores_a_constant_in_the_logits(
    tree: trees.Tree, seed: int, dilution: float, constant: float
) -> None:
    logits, target = sample(tree, seed)
    torch.testing.assert_close(
        row_losses(tree, logits + constant, target, dilution),
        row_losses(tree, logits, target, dilution),
        rtol=1e-10,
        atol=1e-10,
    )


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_gradient_rows_sum_to_zero(tree: trees.Tree, seed: int, dilution: float) -> None:
    logits, target = sample(tree, seed)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(row_losses(tree, logits, target, dilution).sum(), logits)
    assert grad.sum(1).abs().max() <= 1e-14


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_does_not_depend_on_node_ids(tree: trees.Tree, seed: int, dilution: float) -> None:
    logits, target = sample(tree, seed)
    ids = np.random.default_rng(seed).permutation(tree.num_nodes)
    parents = np.full(tree.num_nodes, -1)
    parents[ids] = np.where(tree.parents < 0, -1, ids[tree.parents])
    renamed = trees.Tree(parents, ids[tree.classes])
    torch.testing.assert_close(
        row_losses(renamed, logits, target, dilution),
        row_losses(tree, logits, target, dilution),
        rtol=1e-12,
        atol=1e-13,
    )


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_does_not_depend_on_the_order_of_columns(
    tree: trees.Tree, seed: int, dilution: float
) -> None:
    logits, target = sample(tree, seed)
    order = np.random.default_rng(seed).permutation(tree.num_classes)
    place = torch.from_numpy(np.argsort(order))
    reordered = trees.Tree(tree.parents, tree.classes[order])
    torch.testing.assert_close(
        row_losses(reordered, logits[:, torch.from_numpy(order)], place[target], dilution),
        row_losses(tree, logits, target, dilution),
        rtol=1e-12,
        atol=1e-13,
    )


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_lies_between_its_leaf_term_and_cross_entropy(
    tree: trees.Tree, seed: int, dilution: float
) -> None:
    """P grows along the path of a leaf, so d CE <= HACE <= CE, with equality for d = 1."""
    logits, target = sample(tree, seed)
    leaves = torch.from_numpy(tree.leaf_labels())
    target = leaves[target % len(leaves)]
    plain = cross_entropy(logits, target, reduction="none")
    loss = row_losses(tree, logits, target, dilution)
    assert (loss <= plain * (1 + 1e-12) + 1e-13).all()
    assert (loss >= dilution * plain * (1 - 1e-12) - 1e-13).all()
    torch.testing.assert_close(row_losses(tree, logits, target, 1.0), plain, rtol=1e-12, atol=1e-13)


@property_test
@given(hierarchies(), SEEDS, DILUTIONS, st.sampled_from([torch.float32, torch.bfloat16]))
def test_low_precision(tree: trees.Tree, seed: int, dilution: float, dtype: torch.dtype) -> None:
    logits, target = sample(tree, seed)
    logits = (10 * logits).to(dtype)
    answer, _ = oracle.hace(tree, logits, target, dilution)
    logits.requires_grad_()
    loss = row_losses(tree, logits, target, dilution)
    oracle.assert_loss_close(loss, answer, dtype)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    oracle.assert_grad_close(grad, answer)


@property_test
@given(hierarchies(), SEEDS, DILUTIONS)
def test_single_child_chains_keep_the_user_s_depths(
    tree: trees.Tree, seed: int, dilution: float
) -> None:
    """A node inserted between a leaf and its parent changes the weights by the formula."""
    logits, target = sample(tree, seed)
    leaf = int(np.flatnonzero(np.isin(tree.classes, tree.leaves()))[0])
    parents = np.append(tree.parents, tree.parents[tree.classes[leaf]])
    parents[tree.classes[leaf]] = tree.num_nodes
    longer = trees.Tree(parents, tree.classes)
    target[:] = leaf
    answer, _ = oracle.hace(longer, logits, target, dilution)
    oracle.assert_loss_close(row_losses(longer, logits, target, dilution), answer, torch.float64)


def test_properties_see_every_kind_of_tree() -> None:
    """The strategy really draws forests, shuffled columns and inner classes."""
    seen: set[str] = set()

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(hierarchies())
    def look(tree: trees.Tree) -> None:
        hierarchy = hierarchy_of(tree)
        if len(hierarchy.roots) > 1:
            seen.add("forest")
        if Tables.of(hierarchy).layout().column is not None:
            seen.add("shuffled")
        if len(tree.leaf_labels()) < tree.num_classes:
            seen.add("inner")

    look()
    assert seen == {"forest", "shuffled", "inner"}
    assert isinstance(hierarchy_of(trees.flat(2)), hace.Hierarchy)
