"""The rows of a batch that count, their weights, and the reduction of their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops.path_stages import select_paths
from ..path_table import PathTable
from ..row_paths import RowPaths
from ..rows import reduce, row_weights
from ..widest import widened, widest_dtype
from .columns import Head
from .folded_tree import FoldedTrees
from .mass_sweep import Masses, MassSweep
from .masses import Probabilities, SoftMasses
from .node_sweep import NodeSweep
from .shard import Shard, local_classes
from .smoothing import SmoothingSweep
from .spread import Spread
from .tiles import OnWeightGrad

__all__ = ["Batch", "Options", "batch_of"]


@dataclass(frozen=True)
class Options:
    """The keywords of `path_log_loss` except its target weights; and how targets are spread.

    Attributes:
        spread: how targets are spread over the tree, including their weights; None if they are not.
    """

    ignore_index: int = -100
    reduction: str = "mean"
    entropy: float = 0.0
    eps: float = 0.0
    backend: str = "auto"
    spread: Spread | None = None


@dataclass(frozen=True)
class Batch:
    """The targets of a batch, in the form that the stages take.

    Attributes:
        size: B, the number of rows.
        kept: int64 (B'), the rows that are kept, to which all that follows belongs; None: all.
        head: the rows' paths, and all else that their loss needs beside the layer.
        counts: bool (B'), False where the target is `ignore_index`.
        weight: float64 (B'), the factor of each row's loss; (K · B') if rows have K paths.
        total: float64 scalar, what the mean divides by.
        reduction: "none", "mean" or "sum".
        everywhere: float64 (B'), the factor of each row's loss over all nodes; None: without it.
    """

    size: int
    kept: Tensor | None
    head: Head
    counts: Tensor
    weight: Tensor
    total: Tensor
    reduction: str
    everywhere: Tensor | None = None

    def rows(self, x: Tensor) -> Tensor:
        """The rows of x (B, …) that are kept."""
        return x if self.kept is None else x.index_select(0, self.kept)

    def spread(self, x: Tensor) -> Tensor:
        """Values (B') of the kept rows as (B), with 0 in the other rows."""
        return x if self.kept is None else x.new_zeros(self.size).index_copy(0, self.kept, x)

    def with_own(self, target: Tensor, own: PathTable) -> Batch:
        """The batch with the target's own interval, from `own`, as the innermost of each path."""
        entry, _ = select_paths(own, self.rows(target), self.counts, check=False)
        if not entry.start.shape[1]:  # each target holds every class
            entry = RowPaths(*(x.new_zeros(len(x), 1) for x in entry))
            entry.stop.fill_(own.num_classes)
        paths = self.head.paths.with_own(entry.start[:, 0], entry.stop[:, 0])
        local = self.head.classes.paths(paths) if self.head.exchange is not None else paths
        return replace(self, head=replace(self.head, paths=paths, local=local))

    def counted(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities (B') of the kept rows as (B), 0 in rows that do not count."""
        return self.spread(torch.where(self.counts, log_probs, 0.0))

    def row_factor(self) -> Tensor:
        """The weight in the reduced loss of each row's loss along its path, float64 (B')."""
        factor = self.weight / self.total if self.reduction == "mean" else self.weight
        return torch.where(self.weight != 0, factor, 0.0)

    def reduced(self, losses: Tensor, of_nodes: Tensor | None) -> Tensor:
        """The losses along paths and over all nodes (`RowLosses`), added and reduced."""
        losses = torch.where(self.head.is_right, losses, torch.nan)
        losses = torch.where(self.weight != 0, self.weight * losses, 0.0)
        if self.head.repeats != 1:
            rows = self.size if self.kept is None else len(self.kept)
            losses = losses.view(self.head.repeats, rows).sum(0)
        if of_nodes is not None and self.everywhere is not None:
            smoothed = torch.where(self.everywhere != 0, self.everywhere * of_nodes, 0.0)
            losses = losses + smoothed
        if self.reduction == "none":
            return self.spread(losses)
        return reduce(losses, self.total, self.reduction)


def batch_of(
    target: Tensor | tuple[Tensor, Tensor],
    table: PathTable,
    target_weight: Tensor | None,
    options: Options,
    dtype: torch.dtype,
    shard: Shard | None = None,
    on_weight_grad: OnWeightGrad | None = None,
) -> Batch:
    """The batch of some targets.

    Rows that do not count are left out if finding them does not wait for a device, and if other
    processes do not rely on the number of rows.

    Args:
        target: int64 (B), indices of the table's targets, or `ignore_index`; or a pair of (B, K)
            indices and their weights; or with `options.spread` probabilities (B, T).
        table: the path table over all classes.
        target_weight: (T,), or None.
        options: the other keywords.
        dtype: that of the logits.
        shard: the classes that this process holds; None: all.
        on_weight_grad: that of the head.

    Raises:
        IndexError: a bad target, in eager mode on the CPU; with a shard, the exchange raises it.
    """
    if isinstance(target, tuple):
        return _batch_of_pairs(*target, table, target_weight, options, dtype, shard, on_weight_grad)
    if target.is_floating_point():
        return _batch_of_probabilities(target, table, options, dtype, shard, on_weight_grad)
    size, counts, kept = len(target), target != options.ignore_index, None
    if shard is None and target.device.type == "cpu" and not counts.all():
        kept = counts.nonzero()[:, 0]
        target, counts = target[kept], counts[kept]
    head = _head(target, counts, table, options, dtype, shard, on_weight_grad)
    row = torch.where(counts & head.is_right, target, 0)
    weight = row_weights(counts, row, target_weight, widest_dtype(row.device))
    batch = Batch(size, kept, head, counts, weight, weight.sum(), options.reduction)
    if options.spread is None:
        return batch
    return _spread(batch, row, widened(counts), options.spread, shard)


def _batch_of_pairs(
    index: Tensor,
    pair_weight: Tensor,
    table: PathTable,
    target_weight: Tensor | None,
    options: Options,
    dtype: torch.dtype,
    shard: Shard | None,
    on_weight_grad: OnWeightGrad | None,
) -> Batch:
    """A batch of K paths per row: since the loss is linear in the target's mass, they add up."""
    (size, repeats), kept = index.shape, None
    if shard is None and index.device.type == "cpu":
        has_any = (index != options.ignore_index).any(1)
        if not has_any.all():
            kept = has_any.nonzero()[:, 0]
            index, pair_weight = index[kept], pair_weight[kept]
    target, mass = index.T.reshape(-1), widened(pair_weight.T.reshape(-1))
    counts = target != options.ignore_index
    head = _head(target, counts, table, options, dtype, shard, on_weight_grad)
    row = torch.where(counts & head.is_right, target, 0)
    weight = row_weights(counts, row, target_weight, widest_dtype(row.device))
    weight = torch.where(weight != 0, weight * mass, 0.0)
    head = replace(head, repeats=repeats)
    total = weight.new_tensor(size)
    batch = Batch(size, kept, head, counts, weight, total, options.reduction)
    if options.spread is None:
        return batch
    mass = torch.where(counts, mass, 0.0)
    return _spread(batch, row, mass, options.spread, shard)


def _spread(batch: Batch, row: Tensor, mass: Tensor, spread: Spread, shard: Shard | None) -> Batch:
    """The batch with its targets' mass spread over the classes.

    Args:
        batch: the batch; its `total` does not change.
        row: int64, the target of each path.
        mass: float64, the weight of each path's target in its row, without target weights.
    """
    head, table = batch.head, spread.table
    everywhere = torch.where(mass != 0, mass * spread.everywhere[row], 0.0)
    has_mass = batch.counts
    if head.repeats != 1:
        rows = batch.size if batch.kept is None else len(batch.kept)
        everywhere = everywhere.view(head.repeats, rows).sum(0)
        has_mass = has_mass.view(head.repeats, rows).any(0)
    if table.soft_labels is None:
        share = table.share[row]
        sweep = _smoothing_sweep(spread, head, shard)
    else:  # all of the mass is in the sweep; the paths only say where the targets are
        share = torch.zeros_like(table.share[row])
        mass_of = torch.where(head.is_right, mass, 0.0)
        masses = SoftMasses.of(
            row, mass_of, everywhere, spread.tree, table, head.classes, head.backend
        )
        sweep = _mass_sweep(spread, head, shard, masses)
        everywhere = widened(has_mass)

    def scaled(paths: RowPaths) -> RowPaths:
        return paths._replace(weight=paths.weight * share[:, None])

    head = replace(head, paths=scaled(head.paths), local=scaled(head.local), sweep=sweep)
    return replace(batch, head=head, weight=mass, everywhere=everywhere)


def _smoothing_sweep(
    spread: Spread, head: Head, shard: Shard | None
) -> Callable[[int, int], NodeSweep]:
    kept = spread.tree.kept(spread.table)

    def sweep(rows: int, width: int) -> NodeSweep:
        trees = _trees(spread, head, shard, width)
        return SmoothingSweep(trees, kept, rows, head.dtype, head.backend)

    return sweep


def _mass_sweep(
    spread: Spread, head: Head, shard: Shard | None, masses: Masses
) -> Callable[[int, int], NodeSweep]:
    def sweep(rows: int, width: int) -> NodeSweep:
        trees = _trees(spread, head, shard, width)
        tree, keep = spread.tree.tree, spread.table.keep
        return MassSweep(trees, tree, keep, masses, rows, head.dtype, head.backend)

    return sweep


def _trees(spread: Spread, head: Head, shard: Shard | None, width: int) -> FoldedTrees:
    first, borders = (0, None) if shard is None else (shard.first, shard.borders)
    return spread.tree.folded(head.classes, first, width, borders)


def _batch_of_probabilities(
    target: Tensor,
    table: PathTable,
    options: Options,
    dtype: torch.dtype,
    shard: Shard | None,
    on_weight_grad: OnWeightGrad | None,
) -> Batch:
    """A batch whose mass is all in the sweep over all nodes; its rows do not have paths."""
    spread = options.spread
    assert spread is not None
    no_target = torch.zeros(len(target), dtype=torch.int64, device=target.device)
    counts = torch.ones_like(no_target, dtype=torch.bool)
    paths = select_paths(table, no_target, counts, check=False)[0].without_entries()
    head = _head_of(paths, counts, table, options, dtype, shard, on_weight_grad)
    masses = Probabilities.of(target, spread.table, table.num_classes)
    head = replace(head, sweep=_mass_sweep(spread, head, shard, masses))
    one = widened(counts)
    total = one.new_tensor(len(target))
    return Batch(len(target), None, head, counts, one, total, options.reduction, one)


def _head(
    target: Tensor,
    counts: Tensor,
    table: PathTable,
    options: Options,
    dtype: torch.dtype,
    shard: Shard | None,
    on_weight_grad: OnWeightGrad | None,
) -> Head:
    paths, is_right = select_paths(table, target, counts, check=shard is None)
    return _head_of(paths, is_right, table, options, dtype, shard, on_weight_grad)


def _head_of(
    paths: RowPaths,
    is_right: Tensor,
    table: PathTable,
    options: Options,
    dtype: torch.dtype,
    shard: Shard | None,
    on_weight_grad: OnWeightGrad | None,
) -> Head:
    classes = local_classes(table, shard)
    return Head(
        paths=paths,
        classes=classes,
        local=paths if shard is None else classes.paths(paths),
        is_right=is_right,
        eps=options.eps,
        entropy=options.entropy,
        dtype=dtype,
        backend=options.backend,
        exchange=None if shard is None else shard.exchange,
        on_weight_grad=on_weight_grad,
    )
