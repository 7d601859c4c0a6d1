"""Computes hierarchical log-losses and gradients from their formulas, as the tests' yardstick.

It is dense and slow on purpose: a reachability matrix, a matrix of path weights found by walking
parents, and one masked log-sum-exp per node, in extended precision (80 bits on x86) so that float64
results can be judged too. Nothing here shares code with the library.

    P_v   = sum of softmax(z) over the classes at or below node v
    L     = - sum_v q_v log(P_v + eps)
    dL/dz_j = p_j sum_v q_v P_v / (P_v + eps) - sum_{v above j} q_v p_j / (P_v + eps)
            = p_j sum_v q_v - sum_{v above j} q_v exp(z_j - lse_v)                    for eps = 0

A node whose logits are all -inf, in a row that has finite ones, has L = +inf; its share
exp(z_j - lse_v) then is spread evenly over its classes, which is the limit. A row whose logits are
all -inf gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from trees import Tree

REAL = np.longdouble

#: The relative error of one rounding: half the distance between neighbouring numbers.
ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
#: The absolute error of numbers that are almost zero: below the working dtype's smallest normal
#: number they may be flushed to zero, and fp16 rounds them to multiples of 2^-24.
UNDERFLOW = {
    torch.float64: 2.0**-1022,
    torch.float32: 2.0**-126,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-126,
}


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the library promises to compute, which is also the loss's dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_real(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor).astype(REAL)


@dataclass(frozen=True)
class Answer:
    """Loss and gradient, with the sizes of the terms that they are sums of.

    Rounding errors are proportional to these sizes, not to the sums. `grad_scale` is
    p_j (W + sum_{v above j} q_v / P_v), and `loss_scale` is sum_v q_v (1 + |log P_v|). `gap` is how
    far each logit lies below its row's largest: the error of z_j - max z is proportional to it.
    """

    loss: np.ndarray
    grad: np.ndarray
    loss_scale: np.ndarray
    grad_scale: np.ndarray
    gap: np.ndarray
    per_p: np.ndarray


# --- the formulas ---------------------------------------------------------------------------------


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """Log-sum-exp per row, with softmax's limits: all -inf gives -inf, and +inf gives NaN."""
    top = z.max(axis=1, keepdims=True)
    shift = np.where(top == -np.inf, 0, top)
    return (shift + np.log(np.exp(z - shift).sum(axis=1, keepdims=True)))[:, 0]


def below_largest(z: np.ndarray) -> np.ndarray:
    """Each row minus its largest entry; else even 80 bits lose log 2 beside the lowest float32."""
    top = z.max(axis=1, keepdims=True, initial=-np.inf)
    return z - np.where(np.isfinite(top), top, 0)


#: The most terms (row, node, column) that are held at a time.
TERMS = 1 << 18


def node_log_loss(
    logits: torch.Tensor | np.ndarray,
    reach: np.ndarray,
    mass: np.ndarray,
    eps: float = 0.0,
) -> Answer:
    """Loss and gradient per row of logits (B, C), for reachability (V, C) and node mass (B, V)."""
    z, reach = below_largest(to_real(logits)), reach != 0
    rows = max(1, TERMS // max(1, int(reach[(mass != 0).any(axis=0)].sum())))
    blocks = [
        _log_loss_of_terms(z[first : first + rows], reach, mass[first : first + rows], eps)
        for first in range(0, max(1, len(z)), rows)
    ]
    joined = {name: np.concatenate([vars(b)[name] for b in blocks]) for name in vars(blocks[0])}
    return Answer(**joined)


def _log_loss_of_terms(z: np.ndarray, reach: np.ndarray, mass: np.ndarray, eps: float) -> Answer:
    """The same, as a sum with one term per row, node with mass, and class at or below the node."""
    grad, scale = np.zeros(z.shape, dtype=REAL), np.zeros(z.shape, dtype=REAL)
    loss, loss_scale = np.zeros(len(z), dtype=REAL), np.zeros(len(z), dtype=REAL)
    per_p = np.zeros((len(z), 1), dtype=REAL)
    with np.errstate(invalid="ignore"):
        gap = z.max(axis=1, keepdims=True, initial=-np.inf) - z
    row, node = np.nonzero(mass)
    if len(row) == 0:
        return Answer(loss, grad, loss_scale, scale, gap, per_p)
    count = reach.sum(axis=1)[node]
    assert count.all(), "there is mass at a node without a class"
    first = np.cumsum(count) - count
    of_pair = np.repeat(np.arange(len(row)), count)
    start = np.cumsum(reach.sum(axis=1)) - reach.sum(axis=1)
    column = np.nonzero(reach)[1][np.arange(len(of_pair)) + (start[node] - first)[of_pair]]
    place = row[of_pair] * z.shape[1] + column
    with np.errstate(all="ignore"):
        whole = log_sum_exp(z)
        p = np.exp(z - whole[:, None])
        q = to_real(mass[row, node])
        top = np.maximum.reduceat(z.ravel()[place], first)
        shift = np.where(top == -np.inf, 0, top)
        term = np.exp(z.ravel()[place] - shift[of_pair])
        total = np.add.reduceat(term, first)
        lse = shift + np.log(total)
        if eps:
            prob = np.exp(lse - whole[row])
            log_prob = np.log(prob + REAL(eps))
            pull = prob / (prob + REAL(eps))
            share = p.ravel()[place] / (prob + REAL(eps))[of_pair]
            np.add.at(per_p[:, 0], row, np.abs(q) / (prob + REAL(eps)))
        else:
            log_prob = lse - whole[row]
            pull = np.ones_like(q)
            share = np.where(
                (lse == -np.inf)[of_pair], (REAL(1) / count)[of_pair], term / total[of_pair]
            )
            np.add.at(per_p[:, 0], row, np.abs(q))
        np.add.at(loss, row, -q * log_prob)
        np.add.at(loss_scale, row, np.abs(q) * (1 + np.abs(log_prob)))
        for sums, sign, weight in ((grad, -1, q), (scale, 1, np.abs(q))):
            of_row = np.zeros(len(z), dtype=REAL)
            np.add.at(of_row, row, weight * pull)
            some = np.unique(row)
            sums[some] = of_row[some, None] * p[some]
            np.add.at(sums.reshape(-1), place, sign * weight[of_pair] * share)
    return Answer(loss, grad, loss_scale, scale, gap, per_p)


def dilution_weights(tree: Tree, dilution: float) -> np.ndarray:
    """`weights[y, v]`: HACE's weight of node v for target y, d (1-d)^i and the rest at the root."""
    weights = np.zeros((tree.num_nodes, tree.num_nodes))
    for target, path in enumerate(tree.paths):
        kept = (1 - dilution) ** np.arange(len(path))
        weights[target, path] = dilution * kept
        weights[target, path[-1]] = kept[-1]
    return weights


def rows_of(answer: Answer, rows: slice) -> Answer:
    """Some rows of an unreduced answer."""
    return Answer(**{name: array[rows] for name, array in vars(answer).items()})


def reduce(answer: Answer, reduction: str, divisor: float = 1.0, incoming: Any = 1.0) -> Answer:
    """The reduced loss, and the gradient of `sum(incoming * reduced)`.

    `divisor` is the divisor of `mean`. `incoming` is one number, or one per row with `none`. Rows
    without any mass (ignored rows) have gradient 0 even if the divisor is 0.
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
        per_p = np.where(answer.per_p == 0, 0, answer.per_p * np.abs(factor))
    return Answer(loss, grad, loss_scale, grad_scale, answer.gap, per_p)


def hace(
    tree: Tree,
    logits: torch.Tensor,
    target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    dilution: float,
    *,
    logit_space: str = "classes",
    eps: float = 0.0,
    **target_options: Any,
) -> tuple[Answer, float]:
    """HACE per row for logits (B, C or N) and targets as in `target_mass`, and `mean`'s divisor."""
    mass, divisor = target_mass(tree, target, logit_space=logit_space, **target_options)
    labels = tree.labels()
    reach = Tree(labels.parents, labels.columns(logit_space)).reach()
    return node_log_loss(logits, reach, mass @ dilution_weights(labels, dilution), eps), divisor


def target_mass(
    tree: Tree,
    target: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    *,
    logit_space: str = "classes",
    target_space: str = "classes",
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    smoothing: str = "uniform",
    soft_label_beta: float | None = None,
    soft_label_distance: str = "height",
) -> tuple[np.ndarray, float]:
    """The mass of targets on the nodes of `tree.labels()`, before it rises, and `mean`'s divisor.

    Targets are indices (B,), pairs (index, weight) of shape (B, K) each, or probabilities (B, T).
    """
    labels = tree.labels()
    space = labels.targets(target_space)
    class_weight = np.ones(len(space)) if weight is None else to_real(weight)
    kept = np.ones(len(target[0] if isinstance(target, tuple) else target), dtype=bool)
    divisor = float(len(kept))
    if isinstance(target, tuple):
        index, share = target[0].numpy(), to_real(target[1])
        mass = np.zeros((len(index), len(space)), dtype=REAL)
        row, k = np.nonzero(index != ignore_index)
        np.add.at(mass, (row, index[row, k]), share[row, k])
    elif target.is_floating_point():
        mass = to_real(target)
    else:
        index = target.numpy()
        kept = index != ignore_index
        mass = np.zeros((len(index), len(space)), dtype=REAL)
        mass[kept, index[kept]] = 1
        divisor = float(class_weight[index[kept]].sum())

    on_nodes = np.zeros((len(mass), labels.num_nodes), dtype=REAL)
    on_nodes[:, space] = mass
    if soft_label_beta is not None:
        shares = soft_label_shares(labels, soft_label_beta, soft_label_distance)[space]
        on_nodes[:] = 0
        on_nodes[:, labels.classes] = mass @ shares
    if label_smoothing:
        among = labels.classes
        if smoothing == "nodes":
            reach = Tree(labels.parents, labels.columns(logit_space)).reach()
            among = np.flatnonzero(reach.any(axis=1))
        even = np.zeros_like(on_nodes)
        if smoothing == "uniform":
            # PyTorch smooths probabilities like this, whatever their sum; pairs are smoothed in
            # proportion to their sum.
            whole = on_nodes.sum(1, keepdims=True) if isinstance(target, tuple) else REAL(1)
            even[:, among] = whole / len(among)
        else:
            in_all = on_nodes[:, among].sum(1, keepdims=True)
            elsewhere = on_nodes.sum(1, keepdims=True) - in_all
            others = (in_all - on_nodes[:, among]) / max(1, len(among) - 1)
            even[:, among] = others + elsewhere / len(among)
        on_nodes = (1 - REAL(label_smoothing)) * on_nodes + REAL(label_smoothing) * even
    weight_of_node = np.ones(labels.num_nodes, dtype=REAL)
    if target_space == "nodes":
        weight_of_node = class_weight[labels.node]
    else:
        weight_of_node[labels.classes] = class_weight
    return np.where(kept[:, None], on_nodes * weight_of_node, 0), divisor


def soft_label_shares(tree: Tree, beta: float, distance: str = "height") -> np.ndarray:
    """`shares[y, c]`: class c's share in target node y, proportional to exp(-beta distance)."""
    forest = int((tree.parents < 0).sum() > 1)
    depth = np.array([len(path) - 1 for path in tree.paths])
    height = np.zeros(tree.num_nodes)
    above = np.zeros((tree.num_nodes, tree.num_nodes))
    at_depth = np.full((tree.num_nodes, depth.max() + 1), -1)
    for node, path in enumerate(tree.paths):
        height[path] = np.maximum(height[path], np.arange(len(path)))
        above[node, path] = 1
        at_depth[node, : len(path)] = path[::-1]
    # Two paths share their upper part, and its lowest node is the LCA.
    shared = (above @ above[tree.classes].T).astype(int)
    lca = at_depth[tree.classes[None], shared - 1]
    if distance == "height":
        far = to_real(height[lca]) / max(1, height.max() + forest)
    else:
        far = 1 - to_real(depth[lca] + forest) / max(1, depth.max() + forest)
        far[tree.classes, np.arange(tree.num_classes)] = 0
    far = np.where(shared == 0, 1, far)  # the LCA is the virtual root
    near = np.exp(-REAL(beta) * (far - far.min(axis=1, keepdims=True)))
    return near / near.sum(axis=1, keepdims=True)


# --- all nodes ------------------------------------------------------------------------------------


def node_log_probs(logits: torch.Tensor, reach: np.ndarray) -> np.ndarray:
    """log P_v, (B, V): -inf if v has no class or only logits -inf, NaN in rows without softmax."""
    z = below_largest(to_real(logits))
    found = np.full((len(z), len(reach)), -np.inf, dtype=REAL)
    if reach.any():
        node, column = np.nonzero(reach)
        node, first, count = np.unique(node, return_index=True, return_counts=True)
        with np.errstate(all="ignore"):
            whole = log_sum_exp(z)
            terms = z[:, column]
            top = np.maximum.reduceat(terms, first, axis=1)
            shift = np.where(top == -np.inf, 0, top)
            terms = np.exp(terms - np.repeat(shift, count, axis=1))
            lse = shift + np.log(np.add.reduceat(terms, first, axis=1))
            found[:, node] = lse - whole[:, None]
        found[~np.isfinite(whole)] = np.nan
    return found


def node_log_probs_grad(
    logits: torch.Tensor, reach: np.ndarray, incoming: torch.Tensor | np.ndarray
) -> Answer:
    """The gradient for incoming ones (B, V), ignoring those at nodes whose log P is -inf."""
    passed = np.where(node_log_probs(logits, reach) == -np.inf, 0, to_real(incoming))
    return node_log_loss(logits, reach, -passed)


@dataclass(frozen=True)
class Sweep:
    """The same by sums level by level, for trees whose matrices would not fit into memory.

    It works with probabilities, not logarithms: 80-bit numbers go down to e^-11000, so a softmax
    needs no care as long as gaps are smaller than that.
    """

    tree: Tree

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """The nodes of each depth, the roots first."""
        by_parent = np.argsort(self.tree.parents, kind="stable")
        above = self.tree.parents[by_parent]
        levels = [by_parent[above < 0]]
        while len(levels[-1]):
            first = np.searchsorted(above, levels[-1], "left")
            last = np.searchsorted(above, levels[-1], "right")
            children = [by_parent[a:b] for a, b in zip(first, last, strict=True)]
            levels.append(np.concatenate(children))
        return levels[:-1]

    def up(self, values: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
        """Sums over subtrees of values (B, N), where a node hands on the share `share` (N).

        Without `share`, each node hands on everything.
        """
        total = values.astype(REAL).T.copy()
        share = np.ones(self.tree.num_nodes) if share is None else share
        for level in self.levels[:0:-1]:  # siblings are neighbours in a level
            parents = self.tree.parents[level]
            first = np.flatnonzero(np.diff(parents, prepend=-1))
            below = share[level, None] * total[level]
            total[parents[first]] += np.add.reduceat(below, first, axis=0)
        return total.T

    def down(self, values: np.ndarray) -> np.ndarray:
        """Sums of values (B, N) along paths: each node's value and those of all nodes above it."""
        total = values.astype(REAL).T.copy()
        for level in self.levels[1:]:
            total[level] += total[self.tree.parents[level]]
        return total.T

    def risen(self, mass: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """q_v = keep_v m_v, where m_v = t_v + sum of (1 - keep_c) m_c over v's children."""
        keep = to_real(keep)
        return keep * self.up(mass, 1 - keep)

    def on_nodes(self, columns: np.ndarray) -> np.ndarray:
        """Values of the classes (B, C), moved to their nodes (B, N)."""
        found = np.zeros((len(columns), self.tree.num_nodes), dtype=REAL)
        found[:, self.tree.classes] = columns
        return found

    def log_probs(self, logits: torch.Tensor) -> np.ndarray:
        """log P_v, (B, N)."""
        z = to_real(logits)
        with np.errstate(divide="ignore"):
            return np.log(self.up(self.on_nodes(np.exp(z - log_sum_exp(z)[:, None]))))

    def log_loss(self, logits: torch.Tensor, q: np.ndarray) -> Answer:
        """`node_log_loss` for finite logits, without eps, with the mass q (B, N)."""
        z = to_real(logits)
        p = np.exp(z - log_sum_exp(z)[:, None])
        prob = np.where(q != 0, self.up(self.on_nodes(p)), 1)
        above = self.down(q / prob)[:, self.tree.classes]
        size = self.down(np.abs(q) / prob)[:, self.tree.classes]
        return Answer(
            -(q * np.log(prob)).sum(1),
            p * (q.sum(1, keepdims=True) - above),
            (np.abs(q) * (1 + np.abs(np.log(prob)))).sum(1),
            p * (np.abs(q).sum(1, keepdims=True) + size),
            z.max(axis=1, keepdims=True) - z,
            np.abs(q).sum(1, keepdims=True),
        )


# --- the comparison -------------------------------------------------------------------------------


def assert_loss_close(
    actual: torch.Tensor, answer: Answer, dtype: torch.dtype, roundings: float = 16
) -> None:
    """Asserts that the loss of `dtype` logits is right to a few roundings of its terms."""
    assert actual.dtype == working_dtype(dtype), f"the loss has dtype {actual.dtype}"
    expected, scale = np.atleast_1d(answer.loss), np.atleast_1d(answer.loss_scale)
    assert actual.shape == np.shape(answer.loss), f"{actual.shape} != {np.shape(answer.loss)}"
    found = np.atleast_1d(to_real(actual))
    unit = ROUNDOFF[working_dtype(dtype)]
    _assert_within(found, expected, roundings * unit * np.where(np.isfinite(scale), scale, 0))


def assert_sums_close(
    actual: torch.Tensor,
    expected: np.ndarray,
    scale: np.ndarray,
    *,
    roundings: float | np.ndarray = 16,
) -> None:
    """Asserts that each sum is right to a few roundings of `scale`, the sum of its terms' sizes.

    Half precision adds a rounding of the result.
    """
    assert tuple(actual.shape) == expected.shape, f"{actual.shape} != {expected.shape}"
    unit = ROUNDOFF[working_dtype(actual.dtype)]
    bound = roundings * unit * np.where(np.isfinite(scale), scale, 0)
    if actual.dtype in (torch.float16, torch.bfloat16):
        size = np.abs(np.where(np.isfinite(expected), expected, 0))
        bound = bound + ROUNDOFF[actual.dtype] * (size + bound)
    _assert_within(to_real(actual), expected, bound + UNDERFLOW[actual.dtype])


def assert_log_probs_close(
    actual: torch.Tensor,
    expected: np.ndarray,
    dtype: torch.dtype,
    *,
    roundings: float | np.ndarray = 16,
) -> None:
    """Asserts that each log P of `dtype` logits is right to a few roundings of 1 + |log P|."""
    assert actual.dtype == working_dtype(dtype), f"log P has dtype {actual.dtype}"
    assert_sums_close(actual, expected, 1 + np.abs(expected), roundings=roundings)


def assert_grad_close(
    actual: torch.Tensor,
    answer: Answer,
    *,
    roundings: float = 16,
    output_roundings: float = 1,
) -> None:
    """Asserts that each entry is right to a few roundings of its terms and of its row's largest.

    An entry's terms are p_j times something. Besides a few roundings, each has the error of its
    exponent z_j - max, which is proportional to the gap. Where the gap is above 45, the term no
    longer counts, or is computed from a maximum of its own. In float64, whose exponents reach
    further, that happens above 600, and a share exp(z_j - max) / exp(z_v - max) of a node far below
    the maximum has the errors of both its exponents.
    A number below 2^-60 of the row's largest may be replaced by anything that small. Half precision
    adds `output_roundings` of the result.
    """
    assert tuple(actual.shape) == answer.grad.shape, f"{actual.shape} != {answer.grad.shape}"
    unit = ROUNDOFF[working_dtype(actual.dtype)]
    own_maximum, exponents = (600, 2) if actual.dtype == torch.float64 else (45, 1)
    with np.errstate(all="ignore"):
        scale = np.where(np.isfinite(answer.grad_scale), answer.grad_scale, 0)
        largest_term = scale.max(axis=1, keepdims=True, initial=0)
        gap = np.where(np.isfinite(answer.gap), answer.gap, 0)
        own = (
            unit * (roundings + exponents * np.minimum(gap, own_maximum)) * scale
            + 2.0**-60 * largest_term
        )
        size = np.abs(np.where(np.isfinite(answer.grad), answer.grad, 0))
        largest = size.max(axis=1, keepdims=True, initial=0)
        exponent = np.where(gap <= own_maximum, gap, 0)
        of_row = (unit * (roundings + exponents * exponent) * size).max(
            axis=1, keepdims=True, initial=0
        )
        # If the terms of a row's largest entry cancel (a confident and right prediction), no bound
        # holds relative to what is left of them.
        of_row = np.where(largest > largest_term / 2, of_row, np.inf)
        flushed = np.where(np.isfinite(answer.per_p), answer.per_p, 0)
        bound = np.minimum(own, of_row) + UNDERFLOW[working_dtype(actual.dtype)] * flushed
        if actual.dtype in (torch.float16, torch.bfloat16):
            bound += output_roundings * (ROUNDOFF[actual.dtype] * (size + bound))
        bound += output_roundings * UNDERFLOW[actual.dtype]
    _assert_within(to_real(actual), answer.grad, bound)


def _assert_within(found: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Asserts NaN and infinities in the same places, and everything else within the bound."""
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
