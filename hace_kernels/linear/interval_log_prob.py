"""Log-probabilities of intervals of classes, of a linear layer, without holding all its logits."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from ..eager import eager
from ..ops.path_stages import path_measure
from ..row_paths import Rings, RowPaths, empty_rings
from ..rows import loss_dtype
from ..widest import widened
from .column_sums import ColumnSums
from .layer_checks import check_layer, product_dtype
from .node_sums import NodeSums
from .shard import Exchange, LocalClasses
from .tiles import Layer, tile_width
from .tree_layer import layer_of

__all__ = ["linear_interval_log_probs"]

_EVERY_CLASS = torch.iinfo(torch.int32).max


class _Call(NamedTuple):
    """The arguments of `linear_interval_log_probs`, with `x` and `layer` in the products' dtype."""

    x: Tensor
    layer: Layer
    start: Tensor
    stop: Tensor
    classes: LocalClasses
    exchange: Exchange | None
    backend: str


@eager
def linear_interval_log_probs(
    input: Tensor,
    weight: Tensor,
    start: Tensor,
    stop: Tensor,
    classes: LocalClasses,
    *,
    bias: Tensor | None = None,
    exchange: Exchange | None = None,
    backend: str = "auto",
    node_sums: NodeSums | None = None,
) -> Tensor:
    """`log P` of intervals of class positions under `F.linear(input, weight, bias)`, by tiles.

    It has no gradient.

    Args:
        input: (B, F), floating.
        weight: (C', F), the rows of the classes that this process holds.
        start, stop: int32 (M), the same intervals for all rows, for which each tile is read once;
            or (B, M), each row's own, for which it is read M times.
        classes: the class positions of the weight's rows.
        bias: (C'), or None.
        exchange: with the processes that hold the other classes; None if this one holds all.
        backend: "auto", or one of `hace_kernels.backends()`.
        node_sums: if given, weight and bias are node vectors, (N, F) and (N).

    Returns:
        (B, M), float64 where the products are, float32 otherwise; −inf for intervals without mass,
        and NaN for rows without mass.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit.
        BackendError: the backend asked for cannot run, or does not have the stages.
    """
    check_layer(input, weight, bias, classes.size if node_sums is None else node_sums.num_nodes)
    dtype = product_dtype(input, weight)
    width = tile_width(len(input), weight.shape[1], dtype.itemsize)
    layer = layer_of(weight, bias, classes.order, dtype, width, node_sums)
    find = _of_all_rows if start.dim() == 1 else _of_each_row
    with torch.no_grad():
        x = input.detach().to(dtype)
        found = find(_Call(x, layer, start, stop, classes, exchange, backend))
        return found.to(loss_dtype(dtype))


def _of_all_rows(call: _Call) -> Tensor:
    x, layer, start, stop, classes, exchange, backend = call
    # The ends of all intervals cut the classes into pieces, and each interval is a run of them.
    ends = torch.unique(torch.cat([start, stop, start.new_tensor([0, _EVERY_CLASS])]))
    first_piece, last_piece = (torch.searchsorted(ends, end).tolist() for end in (start, stop))
    here = classes.local(ends).tolist()
    sums = ColumnSums((len(ends) - 1, len(x)), x.dtype, x.device, backend)
    for first, last, z in layer.tiles(x):
        piece = bisect_right(here, first) - 1
        while piece < len(here) - 1 and here[piece] < last:
            a, b = max(here[piece], first) - first, min(here[piece + 1], last) - first
            if a < b:
                sums.add(piece, z[:, a:b])
            piece += 1
    _exchange(sums.rings, exchange)
    of_pieces = sums.log_sum()
    total = of_pieces.logsumexp(0)
    found = total.new_full((len(start), len(x)), -torch.inf)
    for at, (a, b) in enumerate(zip(first_piece, last_piece, strict=True)):
        if a < b:
            torch.logsumexp(of_pieces[a:b], 0, out=found[at])
    return (found - total).T.contiguous()


def _of_each_row(call: _Call) -> Tensor:
    x, layer, start, stop, classes, exchange, backend = call
    each = start.T.reshape(-1, 1), stop.T.reshape(-1, 1)
    paths = classes.paths(RowPaths(*each, weight=widened(torch.zeros_like(each[0]))))
    rings = empty_rings(paths, loss_dtype(x.dtype))
    for first, _, z in layer.tiles(x):
        for m in range(start.shape[1]):
            rows = slice(m * len(x), (m + 1) * len(x))
            path_measure(z, paths.part(rows), first, rings.part(rows), backend)
    _exchange(rings, exchange)
    log_sum = torch.where(rings.sum == 0, -torch.inf, widened(rings.max) + rings.sum.log())
    found = log_sum[:, 0] - log_sum.logsumexp(1)
    return found.view(start.shape[1], len(x)).T.contiguous()


def _exchange(rings: Rings, exchange: Exchange | None) -> None:
    if exchange is not None:
        exchange.rings(rings, rings.max.new_zeros((), dtype=torch.float32))
