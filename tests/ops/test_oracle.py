"""The tests' oracle agrees with another formula, and is strict enough to reject wrong gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

FOREST: dict[str, Any] = {"leaves": 30, "roots": 4, "inner": 0.3, "shuffle": True}


def naive(
    logits: torch.Tensor, reach: np.ndarray, mass: np.ndarray, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The published dense formula with autograd: softmax, P = p R^T, -T log(P + eps)."""
    logits = logits.double().requires_grad_()
    prob = logits.softmax(1) @ torch.from_numpy(reach.T.astype(float))
    log_prob = (prob + eps).log()
    loss = -(torch.from_numpy(mass.astype(float)) * log_prob).sum(1)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), grad


def answer_for(logits: torch.Tensor, tree: trees.Tree, target: np.ndarray) -> oracle.Answer:
    mass = oracle.dilution_weights(tree, 0.7)[target]
    return oracle.node_log_loss(logits, tree.reach(), mass)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("node_mode", [False, True])
def test_agrees_with_autograd_of_the_dense_formula(
    rng: np.random.Generator, eps: float, node_mode: bool
) -> None:
    tree = trees.random_tree(rng, **FOREST)
    tree = tree.in_node_mode() if node_mode else tree
    logits = torch.randn(20, tree.num_classes, dtype=torch.float64)
    mass = rng.dirichlet(np.ones(tree.num_nodes), size=20)
    answer = oracle.node_log_loss(logits, tree.reach(), mass, eps)
    loss, grad = naive(logits, tree.reach(), mass, eps)
    oracle.assert_loss_close(loss, answer, torch.float64, roundings=64)
    oracle.assert_grad_close(grad, answer, roundings=64)


def test_worked_example() -> None:
    weights = oracle.dilution_weights(trees.chain(3), 0.7)
    np.testing.assert_allclose(weights[2, [2, 1, 0]], [0.7, 0.21, 0.09], rtol=1e-12)


@pytest.mark.parametrize("dilution", [0.2, 0.7, 1.0])
def test_weights_of_a_path_sum_to_one(rng: np.random.Generator, dilution: float) -> None:
    weights = oracle.dilution_weights(trees.random_tree(rng, **FOREST), dilution)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_flat_forest_is_cross_entropy(rng: np.random.Generator, label_smoothing: float) -> None:
    logits = torch.randn(12, 9, dtype=torch.float64, requires_grad=True)
    target = torch.from_numpy(rng.integers(0, 9, 12))
    target[3] = -100
    weight = torch.rand(9, dtype=torch.float64)
    rows, divisor = oracle.hace(
        trees.flat(9, rooted=False),
        logits.detach(),
        target,
        0.3,
        weight=weight,
        label_smoothing=label_smoothing,
    )
    answer = oracle.reduce(rows, "mean", divisor)
    loss = torch.nn.functional.cross_entropy(
        logits, target, weight, label_smoothing=label_smoothing
    )
    (grad,) = torch.autograd.grad(loss, logits)
    oracle.assert_loss_close(loss.detach(), answer, torch.float64)
    oracle.assert_grad_close(grad, answer)


def test_masked_classes() -> None:
    tree = trees.balanced([2, 2])
    logits = torch.tensor([[-torch.inf, -torch.inf, 0, 0], [-torch.inf, 0, 0, 0]])
    answer = answer_for(logits, tree, tree.classes[[0, 0]])
    assert answer.loss.tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(answer.grad[0].astype(float), [-0.85, -0.15, 0.5, 0.5])
    np.testing.assert_allclose(
        answer.grad[1].astype(float), [-0.7, 1 / 3 - 0.3, 1 / 3, 1 / 3], rtol=1e-12
    )
    masked = answer_for(torch.full((1, 4), -torch.inf), tree, tree.classes[[0]])
    assert np.isnan(masked.loss).all()
    assert np.isnan(masked.grad).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_comparison_accepts_the_rounded_answer(
    rng: np.random.Generator, dtype: torch.dtype
) -> None:
    tree = trees.random_tree(rng, **FOREST)
    logits = 5 * torch.randn(8, tree.num_classes).to(dtype)
    answer = answer_for(logits, tree, tree.classes[:8])
    oracle.assert_grad_close(torch.from_numpy(answer.grad.astype(float)).to(dtype), answer)
    loss = torch.from_numpy(answer.loss.astype(float)).to(oracle.working_dtype(dtype))
    oracle.assert_loss_close(loss, answer, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", ["relative", "flushed", "offset", "ring", "neighbour", "nan"])
def test_comparison_rejects_a_wrong_gradient(dtype: torch.dtype, fault: str) -> None:
    """Rejects errors that an absolute tolerance of 1e-5 would accept for 4,000 classes."""
    tree = trees.balanced([40, 100])
    logits = torch.randn(2, 4000).to(dtype)
    answer = answer_for(logits, tree, tree.classes[[7, 3777]])
    grad = torch.from_numpy(answer.grad.astype(float))
    error = 64 * oracle.ROUNDOFF[dtype]
    if fault == "relative":
        grad *= 1 + error
    elif fault == "flushed":
        grad[1, answer.grad[1].astype(float) > 0] = 0
    elif fault == "offset":
        grad += error / 4000
    elif fault == "ring":
        grad[0, :100] *= 1 + error
    elif fault == "neighbour":
        grad[:, 2000:2002] = grad[:, 2000:2002].flip(1)
    else:
        grad[1, 5] = torch.nan
    with pytest.raises(AssertionError, match="entries are wrong"):
        oracle.assert_grad_close(grad.to(dtype), answer)


def test_comparison_rejects_a_wrong_loss() -> None:
    tree = trees.balanced([4, 4])
    answer = answer_for(torch.randn(3, 16), tree, tree.classes[:3])
    loss = torch.from_numpy(answer.loss.astype(np.float32))
    for wrong in (loss * (1 + 1e-5), loss + torch.tensor([0, 0, torch.nan])):
        with pytest.raises(AssertionError, match="entries are wrong"):
            oracle.assert_loss_close(wrong, answer, torch.float32)


def test_path_table_describes_the_same_tree(rng: np.random.Generator) -> None:
    """The sums of the table's intervals are the weights of the nodes on each path."""
    for shuffle in (False, True):
        tree = trees.random_tree(rng, leaves=40, roots=3, inner=0.4, shuffle=shuffle)
        weights = oracle.dilution_weights(tree, 0.6)[tree.classes]
        table = trees.path_table(tree, weights, tree.classes, keep_full=True)
        assert (table.order is None) == (not shuffle)
        per_class = weights @ tree.reach()
        order = np.arange(tree.num_classes) if table.order is None else table.order.numpy()
        for row in range(tree.num_classes):
            found = np.zeros(tree.num_classes)
            for entry in range(int(table.ptr[row]), int(table.ptr[row + 1])):
                inside = order[int(table.start[entry]) : int(table.stop[entry])]
                found[inside] += float(table.weight[entry])
            np.testing.assert_allclose(found, per_class[row], rtol=1e-12)
