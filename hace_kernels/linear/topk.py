"""The largest logits of a linear layer, without holding all its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..eager import eager
from ..rows import loss_dtype
from .column_sums import ColumnSums
from .layer_checks import product_dtype
from .node_sums import NodeSums
from .tiles import Layer, tile_width
from .tree_layer import layer_of

__all__ = ["TopK", "linear_topk"]


class TopK(NamedTuple):
    """The most probable columns of each row.

    Attributes:
        log_prob: (B, k), largest first, float64 for float64 products and float32 otherwise.
        column: int64 (B, k).
        log_sum: (B), log of the sum of exp(logit) over all columns.
    """

    log_prob: Tensor
    column: Tensor
    log_sum: Tensor


@eager
def linear_topk(
    input: Tensor,
    weight: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    order: Tensor | None = None,
    backend: str = "auto",
    node_sums: NodeSums | None = None,
) -> TopK:
    """`F.linear(input, weight, bias).log_softmax(1).topk(k)` by tiles of classes.

    Args:
        input: (B, F).
        weight: (C, F).
        k: how many columns per row, at most C.
        bias: (C), or None.
        order: int32 (C), the order in which the rows of the weight are visited; the columns of the
            result are these rows. None: 0 … C − 1.
        backend: "auto", or one of `hace_kernels.backends()`.
        node_sums: if given, weight and bias are node vectors, (N, F) and (N), and the order is that
            of the class positions.

    Raises:
        ValueError: k is not in 1 … C.
    """
    dtype = product_dtype(input, weight)
    width = tile_width(len(input), weight.shape[1], dtype.itemsize)
    layer = layer_of(weight, bias, order, dtype, width, node_sums)
    if not 0 < k <= layer.num_classes and layer.num_classes > 0:
        raise ValueError(f"k must be between 1 and the {layer.num_classes} classes, got {k}")
    with torch.no_grad():
        return _topk(input.to(dtype), layer, order, k, backend)


def _topk(x: Tensor, layer: Layer, order: Tensor | None, k: int, backend: str) -> TopK:
    worked_in, sums = loss_dtype(x.dtype), ColumnSums((1, len(x)), x.dtype, x.device, backend)
    best = x.new_empty(len(x), 0)
    column = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    for first, last, z in layer.tiles(x):
        sums.add(0, z)
        here, position = z.topk(min(k, last - first), 1)
        position += first
        best, column = torch.cat([best, here], 1), torch.cat([column, position], 1)
        best, chosen = best.topk(min(k, best.shape[1]), 1)
        column = column.gather(1, chosen)
    if order is not None:
        column = order.long()[column]
    log_sum = sums.log_sum()[0].to(worked_in)
    return TopK(best.to(worked_in) - log_sum[:, None], column, log_sum)
