"""What every class gets beside the target, by tiles: label smoothing.

With u_v the part of it that node v keeps once it has risen, the same in every row, a row's loss is

    S = -sum_v u_v log P_v = sum_v u_v (L - lse_v)

where lse_v is the log of the sum of exponentials below v, and L that of the whole row. The nodes
whose classes are all in one tile are done when the tile is. Those that cross a border are added up
over the tiles that they reach, and over processes. The gradient of a tile is that of the tree that
is folded up outside it (`FoldedTree`), in which each node has its mass, and the outermost column
what all other nodes have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.path_stages import path_measure
from ..ops.tree_log_loss import tree_log_loss_gradient
from ..ops.tree_log_prob import tree_log_prob
from ..row_paths import Rings, RowPaths, empty_rings
from ..rows import loss_dtype
from ..target_table import Risen, TargetTable
from ..widest import widened, widest_dtype
from .folded_tree import FoldedTree, FoldedTrees, TreeOfClasses

__all__ = ["NodeSweep", "Smoothing"]


@dataclass(frozen=True)
class Smoothing:
    """How the mass of T targets is smoothed; tensors on one device.

    Attributes:
        tree: of the classes.
        kept: float64 (P), what each of the tree's places keeps of 1 on every class.
        share: float64 (T), what multiplies the weights of a target's path; class weights included.
        everywhere: float64 (T), what a target puts on every class.
    """

    tree: TreeOfClasses
    kept: Tensor
    share: Tensor
    everywhere: Tensor


class _Inside(NamedTuple):
    """What of a row is inside a tile.

    Attributes:
        log_sum: float64 (B), of all its classes.
        log_prob: (B, E − 1), of the crossing nodes' classes in it, relative to `log_sum`.
    """

    log_sum: Tensor
    log_prob: Tensor


class NodeSweep:
    """The sums over all nodes of B rows, from tile to tile, and then the gradient of each tile.

    Args:
        trees: of the tiles.
        kept: as `Smoothing` has it.
        rows: B.
        dtype: of the logits.
        backend: of the ops over trees.
    """

    def __init__(
        self, trees: FoldedTrees, kept: Tensor, rows: int, dtype: torch.dtype, backend: str
    ) -> None:
        self.trees, self.backend = trees, backend
        # In the precision in which it is used, so that a constant added to a row adds nothing.
        self.kept = widened(kept.to(loss_dtype(dtype)))
        self._inside: list[_Inside] = []
        # Of the nodes that are done: sum of u lse, and of u alone where lse is −inf.
        self._weighted, self._dead = self.kept.new_zeros(2, rows)
        # The lse of the nodes that cross borders, as far as it is known.
        self._log_sum = self.kept.new_full((rows, len(trees.crossing)), -torch.inf)

    # ---- measure ----

    def measure(self, z: Tensor, first: int) -> None:
        """Adds a tile (B, T) of logits, the classes from local position `first` on."""
        folded = self._tree_at(first)
        top, wide = _below_top(z, folded)
        log_prob = tree_log_prob(wide, folded.tree, backend=self.backend)
        here = _log_sum(wide, self.backend)
        log_prob = torch.where((here == -torch.inf)[:, None], -torch.inf, log_prob)
        here = here + top

        kept, num_inside = self.kept[folded.place].to(wide.dtype), folded.num_inside
        self._add(wide[:, : folded.width], kept[: folded.width], top)
        self._add(log_prob[:, :num_inside], kept[folded.inside], here)
        inside = _Inside(here, log_prob[:, num_inside:].clone())
        self._inside.append(inside)
        crossing = folded.crossing[:-1]
        known = self._log_sum[:, crossing]
        found = torch.logaddexp(known, here[:, None] + inside.log_prob)
        self._log_sum[:, crossing] = found

    def _tree_at(self, first: int) -> FoldedTree:
        return self.trees.tiles[first // self.trees.width]

    def _add(self, values: Tensor, kept: Tensor, shift: Tensor) -> None:
        """Nodes that are done: lse is values (B, V) + shift (B), and u is kept (V)."""
        weighted, total = values @ kept, widened(kept).sum()
        if values.device.type != "cpu" or not weighted.isfinite().all():
            is_dead = values == -torch.inf
            weighted = torch.where(is_dead, 0.0, values) @ kept
            dead = widened(is_dead.to(kept.dtype) @ kept)
            self._dead += dead
            total = total - dead
        self._weighted += widened(weighted) + total * torch.where(shift == -torch.inf, 0.0, shift)

    # ---- resolve ----

    def add_own(self) -> None:
        """Once all tiles are measured: the nodes whose classes are all in this process are done."""
        self._add_crossing(~self.trees.is_shared)

    def beside(self, rings: Rings) -> Rings:
        """Rings, and the sums that processes exchange as rings beside them: all in one row."""
        shared = self._log_sum[:, self.trees.is_shared]
        top = shared.to(rings.max.dtype)
        relative = torch.where(top == -torch.inf, 0.0, (shared - widened(top)).exp())
        sums = torch.cat([self._weighted, self._dead])
        of_sums = torch.zeros_like(sums, dtype=top.dtype)
        added = torch.cat([relative.flatten(), sums])
        moment = rings.moment
        if moment is not None:
            moment = torch.cat([moment.flatten(), torch.zeros_like(added)])[None]
        return Rings(
            torch.cat([rings.max.flatten(), top.flatten(), of_sums])[None],
            torch.cat([rings.sum.flatten(), added])[None],
            moment,
        )

    def take(self, together: Rings, rings: Rings) -> None:
        """Takes what `beside` gave, once it is that of all processes, in place."""
        size = rings.max.numel()
        for mine, both in zip(rings, together, strict=True):
            if mine is not None and both is not None:
                mine.copy_(both[0, :size].view_as(mine))
        rows = len(self._weighted)
        top, total = together.max[0, size : -2 * rows], together.sum[0, size : -2 * rows]
        self._log_sum[:, self.trees.is_shared] = (widened(top) + total.log()).view(rows, -1)
        self._weighted, self._dead = together.sum[0, -2 * rows :].view(2, rows)

    def resolve(self, rings: Rings) -> Tensor:
        """S, float64 (B), from the rings of all classes; those of the rows' first paths will do."""
        self._add_crossing(self.trees.is_shared)
        rows = len(self._weighted)
        whole = (widened(rings.max) + rings.sum.log()).logsumexp(1)[:rows]
        if len(whole) < rows:  # pairs without an entry, which nothing comes from
            return torch.zeros_like(self._weighted)
        self._log_sum[:, -1] = whole
        loss = (self.kept.sum() - self._dead) * whole - self._weighted
        return torch.where(self._dead > 0, torch.inf, loss)

    def _add_crossing(self, which: Tensor) -> None:
        which = which[:-1].nonzero()[:, 0]  # the last is the whole row, which no u is on
        kept = self.kept[self.trees.crossing[which]]
        self._add(self._log_sum[:, which], kept, torch.zeros_like(self._weighted))

    # ---- write ----

    def gradient(self, z: Tensor, first: int, grad: Tensor) -> Tensor:
        """The gradient (B, T) of a tile in the loss's dtype, from that of S, (B)."""
        folded = self._tree_at(first)
        top, wide = _below_top(z, folded)
        log_sum = self._log_sum[:, folded.crossing]
        inside = self._inside[first // self.trees.width]
        wide[:, folded.width :] = _outside(folded, inside, log_sum) - top[:, None]
        kept = self.kept[folded.place]
        kept[folded.tree.num_classes - 1] = self.kept.sum() - kept.sum()
        table = TargetTable(
            place=folded.tree.place.new_zeros(1),
            keep=torch.ones_like(kept),
            unit=kept,
            share=kept.new_zeros(1),
            weight=None,
            spread=None,
            row_spread=1.0,
            soft_labels=None,
            risen=Risen(kept.float(), kept, None),
        )
        target = folded.crossing.new_zeros(len(z))
        grad = grad.to(wide.dtype)
        all_columns = tree_log_loss_gradient(
            grad, wide, target, folded.tree, table, backend=self.backend
        )
        return all_columns[:, : folded.width]


def _below_top(z: Tensor, folded: FoldedTree) -> tuple[Tensor, Tensor]:
    """The largest logit, float64 (B), and all relative to it; columns of −inf beside them."""
    dtype, width = loss_dtype(z.dtype), folded.width
    top = z.amax(1, keepdim=True).to(dtype)
    top = torch.where(top == -torch.inf, 0.0, top)
    wide = z.new_empty(len(z), folded.tree.num_classes, dtype=dtype)
    torch.sub(z, top, out=wide[:, :width])
    wide[:, width:] = -torch.inf
    return widened(top[:, 0]), wide


def _log_sum(z: Tensor, backend: str) -> Tensor:
    """Row by row, float64 (B)."""
    nothing = torch.zeros(len(z), 0, dtype=torch.int32, device=z.device)
    no_paths = RowPaths(nothing, nothing, nothing.to(widest_dtype(z.device)))
    ring = empty_rings(no_paths, z.dtype)
    path_measure(z, no_paths, 0, ring, backend)
    return widened(ring.max[:, 0]).clamp(min=torch.finfo(z.dtype).min) + ring.sum[:, 0].log()


def _outside(folded: FoldedTree, inside: _Inside, log_sum: Tensor) -> Tensor:
    """The logits (B, E) of what crossing nodes have outside the tile.

    Args:
        folded: the tile's tree.
        inside: what is in the tile.
        log_sum: lse (B, E) of the crossing nodes.
    """
    all_of_it = inside.log_prob.new_zeros(len(log_sum), 1)  # the virtual root's
    here = torch.cat([inside.log_prob, all_of_it], 1) + inside.log_sum[:, None]
    is_dead = log_sum == -torch.inf
    outside = torch.where(is_dead, 0.0, 1 - (here - log_sum).exp()).clamp(min=0)
    # Less what is outside the crossing nodes below.
    above = folded.above[:-1]
    share = torch.where(is_dead[:, :-1], 0.0, (log_sum[:, :-1] - log_sum[:, above]).exp())
    own = outside.index_add(1, above, share * outside[:, :-1], alpha=-1)
    return own.clamp(min=0).log() + log_sum
