"""The ops over a DAG in plain PyTorch, on any device: sums, log-probabilities, rising mass.

`P_v` is the softmax mass of the columns at or below node v, each counted once, however many paths
lead to it. This needs the list of these columns (`ClosureTable`), and O(B · entries) time. The
lists are gathered in tiles, so that nothing of size B × entries is ever in memory.

Internally, rows are the last dimension, so that a gathered column of logits is contiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..closure_table import ClosureTable, Ragged
from ..exporting import is_exported
from ..rows import loss_dtype
from ..transforms import in_transform
from ..widest import widened, widest_dtype
from . import dag_plain
from .log_sums import LogSum

__all__ = ["dag_kept_mass", "dag_log_prob", "dag_sum_down", "dag_sum_up"]

# How many logits a tile has. It takes memory for up to four times as many 8-byte numbers.
_TILE = 1 << 18
# How many rows are worked on together: enough to fill vectors.
_ROWS = 64


def dag_sum_up(values: Tensor, table: ClosureTable) -> Tensor:
    """For each node the sum of the columns at or below it, each once: (B, C) to (B, N).

    Args:
        values: (B, C) floating.
        table: the DAG, on the values' device.

    Returns:
        Of the values' dtype; half precision is summed in float32.
    """
    _check("values", values, table.num_classes, "class")
    sums = _sums(values.to(loss_dtype(values.dtype)), table.below, table.above)
    return sums.to(values.dtype)


def dag_sum_down(values: Tensor, table: ClosureTable) -> Tensor:
    """For each column the sum over its node and all nodes above, each once: (B, N) to (B, C).

    Args:
        values: (B, N) floating.
        table: the DAG, on the values' device.

    Returns:
        Of the values' dtype; half precision is summed in float32.
    """
    _check("values", values, table.num_nodes, "node")
    sums = _sums(values.to(loss_dtype(values.dtype)), table.above, table.below)
    return sums.to(values.dtype)


def dag_log_prob(
    logits: Tensor, table: ClosureTable, spread_dead: bool, eps: float = 0.0
) -> Tensor:
    """`log(P_v + eps)` of every node by node id, (B, C) to (B, N); exact in log space.

    A node whose columns are all −inf, or that has none, gets −inf. A row that has no softmax (all
    −inf, a +inf, a NaN) is NaN.

    Args:
        logits: (B, C) floating.
        table: the DAG, on the logits' device.
        spread_dead: whether a node of −inf passes its gradient on, spread evenly over its columns
            (as a log-loss needs), or does not pass any gradient on.
        eps: what is added to probabilities, at least 0.

    Returns:
        float64 for float64 logits and float32 otherwise.
    """
    _check("logits", logits, table.num_classes, "class")
    z = logits.to(loss_dtype(logits.dtype))
    if _in_one_formula(z):
        return dag_plain.log_prob(z, table, spread_dead, eps)
    log_p, rounding = cast(
        "tuple[Tensor, Tensor]",
        _LogProb.apply(z, table, spread_dead),  # type: ignore[no-untyped-call]
    )
    return (log_p.exp() * (1 + rounding) + eps).log() if eps else log_p


def dag_kept_mass(mass: Tensor, keep: Tensor, table: ClosureTable) -> Tensor:
    """The mass that each node keeps, when mass rises from children to parents.

    A node keeps a share of what reaches it and hands the rest to its parents in equal parts:
    `q_v = keep_v m_v` with `m_v = t_v + Σ_{children c} (1 − keep_c) / num_parents_c · m_c`. If keep
    is 1 at the roots, no mass is lost.

    Args:
        mass: (B, N) floating, by node id: the mass t_v put on each node.
        keep: (N,) floating, by node id; a constant.
        table: the DAG, on the mass's device.

    Returns:
        (B, N), float64 for float64 mass and float32 otherwise.
    """
    _check("mass", mass, table.num_nodes, "node")
    if keep.shape != (table.num_nodes,):
        raise ValueError(
            f"keep must be ({table.num_nodes},), one share per node; got {tuple(keep.shape)}"
        )
    if keep.requires_grad:
        raise ValueError("keep requires grad, but has no gradient here; give keep.detach()")
    mass = mass.to(loss_dtype(mass.dtype))
    # 1 − keep is computed in the wider of the two dtypes.
    keep = keep.to(torch.promote_types(keep.dtype, mass.dtype))
    child = table.edge_child.long()
    share = ((1 - keep[child]) / table.num_parents[child]).to(mass.dtype)
    if _in_one_formula(mass):
        return keep.to(mass.dtype) * dag_plain.risen_mass(mass, share, table)
    risen = cast(Tensor, _Risen.apply(mass, share, table))  # type: ignore[no-untyped-call]
    return keep.to(mass.dtype) * risen


def _in_one_formula(x: Tensor) -> bool:
    """Whether `dag_plain` is needed: for a transform, or for a graph of any number of rows."""
    return in_transform() or is_exported() or not isinstance(x.shape[0], int)


def _check(name: str, x: Tensor, width: int, columns: str) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(
            f"{name} must be (B, {width}), one column per {columns} of the closure table; got "
            f"{tuple(x.shape)}"
        )


# Tiles


def _row_blocks(num_rows: int) -> Iterator[slice]:
    step = max(1, min(_ROWS, _TILE))
    return (slice(first, first + step) for first in range(0, num_rows, step))


def _tiles(
    lists: Ragged, num_rows: int, nothing: int
) -> Iterator[tuple[int, int, Iterable[Tensor]]]:
    """The lists by length, as (first, last, pieces) for those at first … last of `by_length`.

    A piece is (lists, items), in which short lists are filled up with `nothing`. There are several
    pieces if one list is too long for a tile.
    """
    for begin, end, length in lists.buckets:
        width = max(1, min(length, _TILE // num_rows))
        step = max(1, _TILE // (width * num_rows))
        for first in range(begin, end, step):
            last = min(first + step, end)
            yield first, last, _pieces(lists, lists.by_length[first:last], length, width, nothing)


def _pieces(
    lists: Ragged, chosen: Tensor, length: int, width: int, nothing: int
) -> Iterator[Tensor]:
    start, stop = lists.ptr[chosen, None], lists.ptr[chosen + 1, None]
    for offset in range(0, length, width):
        entry = torch.arange(offset, min(offset + width, length), device=start.device)
        entry = start + entry
        item = lists.item[entry.clamp(max=len(lists.item) - 1)].long()
        yield torch.where(entry < stop, item, nothing)


def _gather(x: Tensor, items: Tensor) -> Tensor:
    """Gathers x (items, rows) at (lists, items) to (lists, items, rows)."""
    return x.index_select(0, items.reshape(-1)).view(*items.shape, -1)


def _rows_last(x: Tensor, nothing: float) -> Tensor:
    """Turns (rows, items) into (items + 1, rows), where the last item is `nothing`."""
    return torch.cat([x.t(), x.new_full((1, len(x)), nothing)])


# Sums


def _sums(values: Tensor, lists: Ragged, transposed: Ragged) -> Tensor:
    if _in_one_formula(values):
        return dag_plain.sums(values, lists)
    return cast(Tensor, _Sums.apply(values, lists, transposed))  # type: ignore[no-untyped-call]


class _Sums(torch.autograd.Function):
    """The sum of each list's items; its gradient is the sum over each item's lists."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lists: Ragged, transposed: Ragged) -> Tensor:
        ctx.lists, ctx.transposed = lists, transposed
        sums = values.new_empty(len(values), lists.num_lists)
        for rows in _row_blocks(len(values)):
            block = _rows_last(values[rows], 0.0)
            total = block.new_zeros(lists.num_lists, block.shape[1])
            for first, last, pieces in _tiles(lists, block.shape[1], nothing=len(block) - 1):
                sums_of_pieces = (_gather(block, items).sum(1) for items in pieces)
                total[first:last] = reduce(torch.add, sums_of_pieces)
            sums[rows] = total.index_select(0, lists.place).t()
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _sums(grad, ctx.transposed, ctx.lists), None, None


# Log-probabilities


class _LogProb(torch.autograd.Function):
    """With lse_v the log-sum-exp of the columns at or below v, and p the softmax of the row,

    `log P_v = lse_v − lse`, whose gradient is `Σ_{v above j} s_vj g_v − p_j Σ_v g_v` for the shares
    `s_vj = exp(z_j − lse_v)`.

    The second result, a constant, is what rounding left out of the first: of a log P of −40 that is
    2e-6 of P in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, table: ClosureTable, spread_dead: bool
    ) -> tuple[Tensor, Tensor]:
        log_p = z.new_empty(len(z), table.num_nodes)
        rounding = torch.empty_like(log_p)
        num_columns = table.ptr.diff().clamp(min=1)[:, None].to(z.dtype)
        tops, totals = [], []
        for rows in _row_blocks(len(z)):
            node = _log_sums(z[rows], table.below)
            row = _log_sum(z[rows].t(), 0)
            # In float64, so that P near 1 keeps its distance from 1 (where the maxima are equal). A
            # row without a softmax has no finite maximum or sum, and gives NaN everywhere.
            log_ratio = node.sum.log() - row.sum.log()
            exact = ((widened(node.max) - widened(row.max)) + log_ratio).clamp(max=0.0)
            log_p[rows] = exact.t()
            rounding[rows] = torch.where(exact == -torch.inf, 0.0, exact - log_p[rows].t()).t()
            tops.append(node.max)
            totals.append(torch.where(node.sum == 0, num_columns, node.sum.to(z.dtype)))
        ctx.table, ctx.spread_dead = table, spread_dead
        ctx.save_for_backward(z, log_p, *tops, *totals)
        ctx.mark_non_differentiable(rounding)
        return log_p, rounding

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
        z, log_p, *sums = ctx.saved_tensors
        half = len(sums) // 2
        shares = _Shares(ctx.table, tuple(sums[:half]), tuple(sums[half:]))
        g = grad if ctx.spread_dead else torch.where(log_p == -torch.inf, 0.0, grad)
        terms = (z - _finite(z.detach().amax(1, keepdim=True))).exp()
        p = terms / terms.sum(1, keepdim=True, dtype=widest_dtype(z.device)).to(z.dtype)
        grad_z = _down(g, z, shares) - p * g.sum(1, keepdim=True)
        # A row without an incoming gradient has gradient 0, even if it has no softmax.
        return torch.where((grad != 0).any(1, keepdim=True), grad_z, 0.0), None, None


def _log_sums(z: Tensor, lists: Ragged) -> LogSum:
    """The log-sum of each list's logits, with sums in float64: z (rows, C) to (lists, rows)."""
    z = _rows_last(z, -torch.inf)
    num_rows = z.shape[1]
    top = z.new_full((lists.num_lists, num_rows), -torch.inf)
    total = torch.zeros_like(top, dtype=widest_dtype(z.device))
    for first, last, pieces in _tiles(lists, num_rows, nothing=len(z) - 1):
        parts = (_log_sum(_gather(z, items), 1) for items in pieces)
        top[first:last], total[first:last] = reduce(_add, parts)
    return LogSum(top.index_select(0, lists.place), total.index_select(0, lists.place))


def _log_sum(z: Tensor, dim: int) -> LogSum:
    top = z.amax(dim)
    terms = (z - _finite(top).unsqueeze(dim)).exp_()
    return LogSum(top, terms.sum(dim, dtype=widest_dtype(z.device)))


def _add(a: LogSum, b: LogSum) -> LogSum:
    """Like log_sums.add, but also for sums whose terms are all exp(−inf)."""
    top = torch.maximum(a.max, b.max)
    shift = _finite(top)
    return LogSum(top, a.sum * (a.max - shift).exp() + b.sum * (b.max - shift).exp())


def _finite(top: Tensor) -> Tensor:
    """What to subtract from logits whose maximum is `top`, so that exp(−inf) is 0."""
    return top.clamp(min=torch.finfo(top.dtype).min)


# Shares


class _Shares(NamedTuple):
    """`s_vj = exp(z_j − top_v) / total_v` for the columns j at or below v.

    Where top_v is −inf, the exponential counts as 1 and the total is the number of columns (at
    least 1), so that all shares are equal.

    Attributes:
        table: the DAG.
        tops, totals: (N, rows), for each block of rows.
    """

    table: ClosureTable
    tops: tuple[Tensor, ...]
    totals: tuple[Tensor, ...]


def _down(g: Tensor, z: Tensor, shares: _Shares) -> Tensor:
    """`Σ_{v above j} s_vj g_v`, (B, N) to (B, C)."""
    return cast(Tensor, _Down.apply(g, z, shares))  # type: ignore[no-untyped-call]


def _up(x: Tensor, z: Tensor, shares: _Shares) -> Tensor:
    """`Σ_{j below v} s_vj x_j`, the mean of x below v: (B, C) to (B, N)."""
    return cast(Tensor, _Up.apply(x, z, shares))  # type: ignore[no-untyped-call]


def _grad_z(x: Tensor, g: Tensor, z: Tensor, shares: _Shares) -> Tensor:
    """The gradient in z of `Σ_vj g_v s_vj x_j`, (B, C). Equal shares of −inf are constants."""
    grad_z = x * _down(g, z, shares) - _down(g * _up(x, z, shares), z, shares)
    return torch.where(z == -torch.inf, 0.0, grad_z)


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, z: Tensor, shares: _Shares) -> Tensor:
        ctx.shares = shares
        ctx.save_for_backward(g, z)
        above = shares.table.above
        result = torch.empty_like(z)
        for rows, top, total in zip(_row_blocks(len(z)), shares.tops, shares.totals, strict=True):
            result[rows] = _weighted_down(g[rows].t() / total, z[rows].t(), top, above).t()
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        g, z = ctx.saved_tensors
        return _up(grad, z, ctx.shares), _grad_z(grad, g, z, ctx.shares), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, shares: _Shares) -> Tensor:
        ctx.shares = shares
        ctx.save_for_backward(x, z)
        below = shares.table.below
        result = x.new_empty(len(x), below.num_lists)
        for rows, top, total in zip(_row_blocks(len(z)), shares.tops, shares.totals, strict=True):
            result[rows] = (_weighted_up(x[rows], z[rows], top, below) / total).t()
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, z = ctx.saved_tensors
        return _down(grad, z, ctx.shares), _grad_z(x, grad, z, ctx.shares), None


def _weighted_down(weight: Tensor, z: Tensor, top: Tensor, above: Ragged) -> Tensor:
    """`Σ_{v above j} exp(z_j − top_v) weight_v`, (C, rows): weight, top (N, rows), z (C, rows)."""
    z = z.index_select(0, above.by_length)
    none = top.new_zeros(1, top.shape[1])
    top, weight = torch.cat([top, none + torch.inf]), torch.cat([weight, none])
    total = torch.zeros_like(z)

    def part(logit: Tensor, nodes: Tensor) -> Tensor:
        return _exp(logit, _gather(top, nodes)).mul_(_gather(weight, nodes)).sum(1)

    for first, last, pieces in _tiles(above, z.shape[1], nothing=len(top) - 1):
        parts = (part(z[first:last, None], nodes) for nodes in pieces)
        total[first:last] = reduce(torch.add, parts)
    return total.index_select(0, above.place)


def _weighted_up(x: Tensor, z: Tensor, top: Tensor, below: Ragged) -> Tensor:
    """`Σ_{j below v} exp(z_j − top_v) x_j`: x, z (rows, C), top (N, rows) to (N, rows)."""
    x, z = _rows_last(x, 0.0), _rows_last(z, -torch.inf)
    top = top.index_select(0, below.by_length)
    total = torch.zeros_like(top)

    def part(node_top: Tensor, columns: Tensor) -> Tensor:
        return _exp(_gather(z, columns), node_top).mul_(_gather(x, columns)).sum(1)

    for first, last, pieces in _tiles(below, z.shape[1], nothing=len(z) - 1):
        parts = (part(top[first:last, None], columns) for columns in pieces)
        total[first:last] = reduce(torch.add, parts)
    return total.index_select(0, below.place)


def _exp(logit: Tensor, node_top: Tensor) -> Tensor:
    return torch.where(node_top == -torch.inf, 1.0, (logit - node_top).exp_())


# Mass


class _Risen(torch.autograd.Function):
    """`m_v = t_v + Σ_{children c} share_{vc} m_c`."""

    @staticmethod
    def forward(ctx: Any, mass: Tensor, share: Tensor, table: ClosureTable) -> Tensor:
        ctx.share, ctx.table = share, table
        return _sweep(mass, share, table.edge_child, table.edge_parent, _levels(table))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        fallen = _Fallen.apply(grad, ctx.share, ctx.table)  # type: ignore[no-untyped-call]
        return fallen, None, None


class _Fallen(torch.autograd.Function):
    """`r_v = g_v + Σ_{parents u} share_{uv} r_u`, the transpose of `_Risen`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, share: Tensor, table: ClosureTable) -> Tensor:
        ctx.share, ctx.table = share, table
        return _sweep(grad, share, table.edge_parent, table.edge_child, _levels(table)[::-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        risen = _Risen.apply(grad, ctx.share, ctx.table)  # type: ignore[no-untyped-call]
        return risen, None, None


def _levels(table: ClosureTable) -> list[slice]:
    return [slice(*ends) for ends in pairwise(table.edge_level_ptr)]


def _sweep(x: Tensor, share: Tensor, source: Tensor, to: Tensor, levels: list[slice]) -> Tensor:
    """Adds each edge's share of its source to its end, level by level: (B, N) to (B, N)."""
    x = x.t().clone(memory_format=torch.contiguous_format)
    for level in levels:
        passed = share[level, None] * x.index_select(0, source[level])
        x.index_add_(0, to[level], passed)
    return x.t().contiguous()
