"""Hard targets over nested intervals, from a linear layer's input or from a part of the logits."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..eager import eager
from ..ops.checks import check_options, check_rows
from ..ops.path_log_loss import path_log_loss
from ..path_table import PathTable
from ..rows import loss_dtype
from .batch import Batch, Options, batch_of
from .by_rows import loss_by_rows, rows_at_once
from .columns import linear_row_losses, logit_row_losses
from .layer_checks import check_layer, product_dtype
from .node_sums import NodeSums
from .shard import Shard
from .spread import Spread
from .tiles import OnWeightGrad

__all__ = [
    "LOGIT_BYTES",
    "linear_path_log_loss",
    "linear_with_log_prob",
    "logits_fit",
    "sharded_path_log_loss",
]

Target: TypeAlias = Tensor | tuple[Tensor, Tensor]

#: Logits up to this size are computed at once: for small ones tiles would only add calls.
LOGIT_BYTES = 256 << 20


def linear_path_log_loss(
    input: Tensor,
    weight: Tensor,
    target: Target,
    table: PathTable,
    *,
    bias: Tensor | None = None,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    entropy: float = 0.0,
    eps: float = 0.0,
    spread: Spread | None = None,
    logit_bytes: int | None = None,
    backend: str = "auto",
    shard: Shard | None = None,
    on_weight_grad: OnWeightGrad | None = None,
    node_sums: NodeSums | None = None,
) -> Tensor:
    """`path_log_loss(F.linear(input, weight, bias), …)` that never has to hold all logits.

    Logits of up to `logit_bytes` are computed at once. Larger ones are computed in tiles of
    classes, twice: for the loss, and again for the gradient. If the logits of 512 rows fit into the
    budget, they are computed only once, some rows at a time, together with the gradients in the
    forward; this needs a reduced loss, products in float32 or float64, and the weight in the order
    of positions. Under autocast the layer is cast tile by tile.

    Args:
        input: (B, F), floating.
        weight: (C, F); row `table.order[i]` is the class at position i. With a shard, the rows of
            its classes.
        target: (B) int64, indices of the table's targets, or `ignore_index`; or several weighted
            ones per row, as a pair of (B, K) int64 and (B, K) floating tensors, whose losses add
            up. "mean" divides pairs by B.
        table, target_weight, ignore_index, reduction, entropy, eps, backend: as in
            `path_log_loss`.
        spread: how targets are spread over the tree; then tiles are used whatever the budget, and
            targets may be probabilities (B, T). Not with eps.
        bias: (C), or None; with a shard, its entries.
        logit_bytes: a budget for the logits, in bytes; None: 256 MiB. 0 always takes tiles.
        shard: the classes that this process holds; None: all. Every process has all rows.
        on_weight_grad: called in the backward with rows of the weight, a slice or int64 indices,
            and their gradient (T, F), tile by tile; the weight itself then gets no gradient, so
            that this is never whole. It may change these rows in place.
        node_sums: if given, weight and bias are node vectors, (N, F) and (N), and those of the
            classes are their sums, in the positions of `table`; tiles are always used.

    Returns:
        The loss, float64 where the products are, float32 otherwise: a scalar, or (B,) with "none".
        With a shard it has the same bits in all processes.

    Raises:
        IndexError, ValueError, TypeError, BackendError: as `path_log_loss`. With a shard a bad
            target in one process is an IndexError in all.
        RuntimeError: for a second derivative through tiles, which do not have one; in a backward
            with on_weight_grad if the weight has a gradient already.
    """
    size = table.num_classes if shard is None else shard.last - shard.first
    size = size if node_sums is None else node_sums.num_nodes
    _check_linear(input, weight, bias, target, size, spread)
    _check_options(reduction, eps, entropy, spread)
    needs_tiles = shard is not None or on_weight_grad is not None or node_sums is not None
    needs_tiles = needs_tiles or isinstance(target, tuple) or spread is not None
    if not needs_tiles and logits_fit(len(input) * len(weight), input, weight, logit_bytes):
        assert isinstance(target, Tensor)
        return path_log_loss(
            linear(input, weight, bias),
            target,
            table,
            target_weight=target_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            entropy=entropy,
            eps=eps,
            backend=backend,
        )
    options = Options(ignore_index, reduction, entropy, eps, backend, spread)
    tensors = (input, weight, bias, target, target_weight)
    return _loss_by_tiles(*tensors, table, options, logit_bytes, shard, on_weight_grad, node_sums)


@eager
def _loss_by_tiles(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Target,
    target_weight: Tensor | None,
    table: PathTable,
    options: Options,
    logit_bytes: int | None,
    shard: Shard | None,
    on_weight_grad: OnWeightGrad | None,
    node_sums: NodeSums | None,
) -> Tensor:
    dtype = product_dtype(input, weight)
    batch = batch_of(target, table, target_weight, options, dtype, shard, on_weight_grad)
    batch = replace(batch, head=replace(batch.head, sums=node_sums))
    loss, _ = _loss_and_log_probs(input, weight, bias, batch, logit_bytes)
    return loss.to(loss_dtype(dtype))


@eager
def sharded_path_log_loss(
    logits: Tensor,
    target: Target,
    table: PathTable,
    shard: Shard,
    *,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    entropy: float = 0.0,
    eps: float = 0.0,
    spread: Spread | None = None,
    backend: str = "auto",
) -> Tensor:
    """`path_log_loss` of logits whose columns are spread over processes.

    Args:
        logits: (B, C'), the columns of this process, floating. Every process has all rows.
        table: the path table of all C classes.
        shard: the columns that this process holds.
        target, target_weight, ignore_index, reduction, entropy, eps, spread, backend: as in
            `linear_path_log_loss`, the same in every process.

    Returns:
        As `path_log_loss`, with the same bits in all processes.

    Raises:
        IndexError: in all processes, if one of them has a bad target.
        ValueError, TypeError, BackendError, RuntimeError: as `linear_path_log_loss`.
    """
    check_rows("logits", logits, shard.last - shard.first, "class of the shard")
    _check_target(target, len(logits), spread)
    _check_options(reduction, eps, entropy, spread)
    options = Options(ignore_index, reduction, entropy, eps, backend, spread)
    batch = batch_of(target, table, target_weight, options, logits.dtype, shard)
    rows = logits if logits.shape[1] <= 1 or logits.stride(1) == 1 else logits.contiguous()
    losses, _, of_nodes = logit_row_losses(rows, batch.head)
    return batch.reduced(losses, of_nodes).to(loss_dtype(logits.dtype))


@eager
def linear_with_log_prob(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    table: PathTable,
    own: PathTable | None = None,
    *,
    bias: Tensor | None = None,
    target_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    entropy: float = 0.0,
    eps: float = 0.0,
    spread: Spread | None = None,
    logit_bytes: int | None = None,
    backend: str = "auto",
    shard: Shard | None = None,
    on_weight_grad: OnWeightGrad | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of `linear_path_log_loss` by tiles, and each row's log P of its target.

    Both come from one pass over the logits.

    Args:
        own: a table of the same targets, in which each path is the target's own interval; None if
            the paths of `table` begin with that interval.

    Returns:
        The loss, and (B) log-probabilities of its dtype, 0 in rows that do not count.
    """
    size = table.num_classes if shard is None else shard.last - shard.first
    _check_linear(input, weight, bias, target, size, spread)
    _check_options(reduction, eps, entropy, spread)
    dtype = product_dtype(input, weight)
    options = Options(ignore_index, reduction, entropy, eps, backend, spread)
    batch = batch_of(target, table, target_weight, options, dtype, shard, on_weight_grad)
    if own is not None:
        batch = batch.with_own(target, own)
    loss, log_probs = _loss_and_log_probs(input, weight, bias, batch, logit_bytes)
    wanted = loss_dtype(dtype)
    return loss.to(wanted), batch.counted(log_probs).to(wanted)


def _loss_and_log_probs(
    input: Tensor, weight: Tensor, bias: Tensor | None, batch: Batch, logit_bytes: int | None
) -> tuple[Tensor, Tensor]:
    """The reduced loss and (B') log-probabilities, by rows or by tiles of classes; float64."""
    rows, budget = batch.rows(input), LOGIT_BYTES if logit_bytes is None else logit_bytes
    size = rows_at_once(batch, (rows, weight, bias), len(weight), budget)
    if size:
        return loss_by_rows(rows, weight, bias, batch, size)
    losses, log_probs, of_nodes = linear_row_losses(rows, weight, bias, batch.head)
    return batch.reduced(losses, of_nodes), log_probs


def _check_options(reduction: str, eps: float, entropy: float, spread: Spread | None) -> None:
    check_options(reduction, eps, entropy)
    if eps and spread is not None:
        raise ValueError("eps inside the logarithm cannot be combined with spread targets by tiles")


def logits_fit(
    num_logits: int, input: Tensor, weight: Tensor, logit_bytes: int | None = None
) -> bool:
    """Whether whole logits are within the budget, `LOGIT_BYTES` by default."""
    budget = LOGIT_BYTES if logit_bytes is None else logit_bytes
    return num_logits * product_dtype(input, weight).itemsize <= budget


def _check_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Target,
    num_classes: int,
    spread: Spread | None,
) -> None:
    check_layer(input, weight, bias, num_classes)
    _check_target(target, len(input), spread)


def _check_target(target: Target, rows: int, spread: Spread | None) -> None:
    if isinstance(target, tuple):
        index, mass = target
        if index.dim() != 2 or len(index) != rows or mass.shape != index.shape:
            raise ValueError(
                f"a pair as target must be two ({rows}, K) tensors, indices and weights; got "
                f"{tuple(index.shape)} and {tuple(mass.shape)}"
            )
        if index.dtype != torch.int64 or not mass.is_floating_point():
            raise TypeError(
                "a pair as target must hold int64 indices and floating-point weights, got "
                f"{index.dtype} and {mass.dtype}"
            )
        return
    if spread is not None and target.is_floating_point():
        if target.shape != (rows, spread.table.num_targets):
            raise ValueError(
                f"probabilities must be ({rows}, {spread.table.num_targets}), one per row and "
                f"target; got {tuple(target.shape)}"
            )
        return
    if target.shape != (rows,) or target.dtype != torch.int64:
        raise ValueError(
            f"target must be ({rows},) int64, one index per row; got {tuple(target.shape)} "
            f"{target.dtype}"
        )
