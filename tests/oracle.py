"""Hierarchical log-losses and their gradients from the formulas, for the tests to measure against.

Dense and slow on purpose: a reachability matrix, a matrix of path weights found by walking
parents, and one masked log-sum-exp for every node, in extended precision (80 bits on x86) so that
float64 results can be judged too. Nothing here shares code with the library.

    P_v   = sum of softmax(z) over the classes at or below node v
    L     = - sum_v q_v log(P_v + eps)
    dL/dz_j = p_j sum_v q_v P_v / (P_v + eps) - sum_{v above j} q_v p_j / (P_v + eps)
            = p_j sum_v q_v - sum_{v above j} q_v exp(z_j - lse_v)                    for eps = 0

A node whose classes are all -inf in a row that is not has L = +inf, and the limit of its share
exp(z_j - lse_v) is spread evenly over its classes. A row that is -inf throughout is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from trees import Tree

REAL = np.longdouble

#: Half the relative distance between neighbouring numbers: the error of one rounding.
ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
#: What may become of numbers that are almost zero: below the working dtype's smallest normal number
#: they may be flushed, and fp16 rounds them to multiples of 2^-24.
UNDERFLOW = {
    torch.float64: 2.0**-1022,
    torch.float32: 2.0**-126,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-126,
}


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the library promises to work, and the loss to come."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_real(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor).astype(REAL)


@dataclass(frozen=True)
class Answer:
    """Loss and gradient with the sizes of the terms that they are sums of.

    Rounding errors are proportional to those sizes, not to the sums: `grad_scale` is
    p_j (W + sum_{v above j} q_v / P_v), `loss_scale` is sum_v q_v (1 + |log P_v|). `gap` is how far
    each logit is below its row's largest, which is what rounding z_j - max z multiplies.
    """

    loss: np.ndarray
    grad: np.ndarray
    loss_scale: np.ndarray
    grad_scale: np.ndarray
    gap: np.ndarray


# --- the formulas ---------------------------------------------------------------------------------


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """Row by row, in the limits that softmax has: all -inf gives -inf, +inf gives NaN."""
    top = z.max(axis=1, keepdims=True)
    shift = np.where(top == -np.inf, 0, top)
    return (shift + np.log(np.exp(z - shift).sum(axis=1, keepdims=True)))[:, 0]


def node_log_loss(
    logits: torch.Tensor | np.ndarray,
    reach: np.ndarray,
    mass: np.ndarray,
    eps: float = 0.0,
) -> Answer:
    """Row by row: logits (B, C), reachability (V, C), target mass over the nodes (B, V)."""
    z = to_real(logits)
    grad, scale = np.zeros_like(z), np.zeros_like(z)
    loss, loss_scale = np.zeros(len(z), dtype=REAL), np.zeros(len(z), dtype=REAL)
    with np.errstate(all="ignore"):
        whole = log_sum_exp(z)
        p = np.exp(z - whole[:, None])
        for node in np.flatnonzero((mass != 0).any(axis=0)):
            rows = np.flatnonzero(mass[:, node])
            columns = np.flatnonzero(reach[node])
            block = np.ix_(rows, columns)
            q = to_real(mass[rows, node])
            lse = log_sum_exp(z[block])
            if eps:
                prob = np.exp(lse - whole[rows])
                log_prob = np.log(prob + REAL(eps))
                pull = prob / (prob + REAL(eps))
                share = p[block] / (prob + REAL(eps))[:, None]
            else:
                log_prob = lse - whole[rows]
                pull = np.ones_like(q)
                empty = (lse == -np.inf)[:, None]
                share = np.where(empty, REAL(1) / len(columns), np.exp(z[block] - lse[:, None]))
            loss[rows] -= q * log_prob
            loss_scale[rows] += np.abs(q) * (1 + np.abs(log_prob))
            grad[rows] += (q * pull)[:, None] * p[rows]
            grad[block] -= q[:, None] * share
            scale[rows] += np.abs(q * pull)[:, None] * p[rows]
            scale[block] += np.abs(q)[:, None] * share
        gap = z.max(axis=1, keepdims=True) - z
    return Answer(loss, grad, loss_scale, scale, gap)


def dilution_weights(tree: Tree, dilution: float) -> np.ndarray:
    """`weights[y, v]`, what HACE gives to node v for target y: d (1-d)^i, the rest at the root."""
    weights = np.zeros((tree.num_nodes, tree.num_nodes))
    for target in range(tree.num_nodes):
        path = tree.path(target)
        for steps, node in enumerate(path[:-1]):
            weights[target, node] = dilution * (1 - dilution) ** steps
        weights[target, path[-1]] = (1 - dilution) ** (len(path) - 1)
    return weights


def reduce(answer: Answer, reduction: str, divisor: float = 1.0, incoming: Any = 1.0) -> Answer:
    """The reduced loss, and the gradient of `sum(incoming * reduced)`.

    `divisor` is what `mean` divides by, `incoming` a number, or one for each row with `none`. Rows
    without any mass (ignored) have no gradient even where the divisor is 0.
    """
    with np.errstate(all="ignore"):
        factor = np.broadcast_to(to_real(np.asarray(incoming)), answer.loss.shape)[:, None]
        loss, loss_scale = answer.loss, answer.loss_scale
        if reduction != "none":
            loss, loss_scale = loss.sum(), loss_scale.sum()
        if reduction == "mean":
            factor = factor / REAL(divisor)
            loss, loss_scale = loss / REAL(divisor), loss_scale / np.abs(REAL(divisor))
        grad = np.where(answer.grad_scale == 0, 0, answer.grad * factor)
        grad_scale = np.where(answer.grad_scale == 0, 0, answer.grad_scale * np.abs(factor))
    return replace(answer, loss=loss, grad=grad, loss_scale=loss_scale, grad_scale=grad_scale)


def hace(
    tree: Tree,
    logits: torch.Tensor,
    target: torch.Tensor,
    dilution: float,
    *,
    logits_space: str = "classes",
    targets: str = "classes",
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    smoothing: str = "uniform",
    eps: float = 0.0,
) -> tuple[Answer, float]:
    """HACE's rows for logits (B, C or N) and targets (B,) or (B, T), and the divisor of `mean`."""
    space = tree.classes if targets == "classes" else np.arange(tree.num_nodes)
    class_weight = np.ones(len(space)) if weight is None else to_real(weight)
    if target.is_floating_point():
        mass, divisor = to_real(target), float(len(target))
        kept = np.ones(len(target), dtype=bool)
        original = None
    else:
        original = target.numpy()
        kept = original != ignore_index
        mass = np.zeros((len(original), len(space)), dtype=REAL)
        mass[kept, original[kept]] = 1
        divisor = float(class_weight[original[kept]].sum())
    if label_smoothing:
        labels = tree.classes if targets == "nodes" else np.arange(tree.num_classes)
        even = np.zeros_like(mass)
        if smoothing == "uniform":
            even[:, labels] = REAL(1) / len(labels)
        else:
            assert original is not None, "smoothing over the others needs an index"
            target_is_class = np.isin(original, labels)
            others = len(labels) - target_is_class
            even[:, labels] = REAL(1) / others[:, None]
            even[kept, original[kept]] = 0
        mass = (1 - REAL(label_smoothing)) * mass + REAL(label_smoothing) * even
    mass = np.where(kept[:, None], mass * class_weight, 0)
    weights = dilution_weights(tree, dilution)[space]
    reach = (tree if logits_space == "classes" else tree.in_node_mode()).reach()
    return node_log_loss(logits, reach, mass @ weights, eps), divisor


# --- the comparison -------------------------------------------------------------------------------


def assert_loss_close(
    actual: torch.Tensor, answer: Answer, dtype: torch.dtype, roundings: float = 16
) -> None:
    """The loss is right to a few roundings of its terms, in the working dtype of `dtype` logits."""
    assert actual.dtype == working_dtype(dtype), f"the loss is {actual.dtype}"
    expected, scale = np.atleast_1d(answer.loss), np.atleast_1d(answer.loss_scale)
    assert actual.shape == np.shape(answer.loss), f"{actual.shape} != {np.shape(answer.loss)}"
    found = np.atleast_1d(to_real(actual))
    unit = ROUNDOFF[working_dtype(dtype)]
    _assert_within(found, expected, roundings * unit * np.where(np.isfinite(scale), scale, 0))


def assert_grad_close(
    actual: torch.Tensor,
    answer: Answer,
    *,
    roundings: float = 16,
    output_roundings: float = 1,
) -> None:
    """Each entry is right to a few roundings of its own terms, and of its row's largest entry.

    An entry's terms are p_j times something: besides a few roundings each carries that of its
    exponent z_j - max, which is as large as the gap. Where e^-gap is below 2^-64 (a gap of 45) the
    term no longer counts, or is found from a maximum of its own. Numbers below 2^-60 of the row's
    largest may be anything that small. Half precision adds `output_roundings` of the result.
    """
    assert tuple(actual.shape) == answer.grad.shape, f"{actual.shape} != {answer.grad.shape}"
    unit = ROUNDOFF[working_dtype(actual.dtype)]
    with np.errstate(all="ignore"):
        scale = np.where(np.isfinite(answer.grad_scale), answer.grad_scale, 0)
        largest_term = scale.max(axis=1, keepdims=True, initial=0)
        gap = np.where(np.isfinite(answer.gap), answer.gap, 0)
        own = unit * (roundings + np.minimum(gap, 45)) * scale + 2.0**-60 * largest_term
        size = np.abs(np.where(np.isfinite(answer.grad), answer.grad, 0))
        largest = size.max(axis=1, keepdims=True, initial=0)
        exponent = np.where(gap <= 45, gap, 0)
        of_row = (unit * (roundings + exponent) * size).max(axis=1, keepdims=True, initial=0)
        # Where the terms of a row's largest entry cancel (a confident, right prediction), no
        # bound holds relative to what is left of them.
        of_row = np.where(largest > largest_term / 8, of_row, np.inf)
        bound = np.minimum(own, of_row)
        if actual.dtype in (torch.float16, torch.bfloat16):
            bound += output_roundings * (ROUNDOFF[actual.dtype] * (size + bound))
        bound += output_roundings * UNDERFLOW[actual.dtype]
    _assert_within(to_real(actual), answer.grad, bound)


def _assert_within(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """NaN and infinities in the same places, all else within the bound; names the worst entry."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(expected)
        same = np.where(
            finite, np.isfinite(found), (found == expected) | np.isnan(found + expected)
        )
        same &= np.isnan(found) == np.isnan(expected)
        excess = np.where(finite & same, np.abs(found - expected) - bound, 0)
        excess[~same] = np.inf
    if not (excess > 0).any():
        return
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    wrong, index = int((excess > 0).sum()), list(map(int, worst))
    raise AssertionError(
        f"{wrong} of {excess.size} entries are wrong; at {index}: "
        f"{float(found[worst])!r}, expected {float(expected[worst])!r} "
        f"+- {float(bound[worst]):.2g}"
    )
