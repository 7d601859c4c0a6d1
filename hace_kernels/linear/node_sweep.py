"""Losses over all nodes, by tiles of classes.

With q_v the mass that node v keeps in a row, the row's loss is

    S = -sum_v q_v log P_v = sum_v q_v (L - lse_v)

where lse_v is the log of the sum of exponentials below v, and L that of the whole row. A node whose
classes are all in one tile is complete when the tile is. Nodes that cross a border are added up
over their tiles, and over processes. The gradient of a tile is that of the loss over its
`FoldedTree`, in which each node has its own mass, and the outermost column has the mass of all
other nodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..ops.tree_log_loss import tree_log_loss_gradient
from ..ops.tree_log_prob import tree_log_prob
from ..row_paths import Rings
from ..rows import loss_dtype
from ..target_table import TargetTable
from ..widest import widened, widest_dtype
from .folded_tree import FoldedTree, FoldedTrees

__all__ = ["NodeSweep"]


class NodeSweep(ABC):
    """The sums over all nodes of B rows, from tile to tile, and then the gradient of each tile.

    Args:
        trees: the tiles' trees.
        rows: B.
        dtype: that of the logits.
        backend: that of the ops over trees.

    Attributes:
        dtype: the working type.
        needs_shift: whether `add_tile` needs logits minus the largest of the tile.
    """

    needs_shift = True

    def __init__(self, trees: FoldedTrees, rows: int, dtype: torch.dtype, backend: str) -> None:
        self.trees, self.backend, self.dtype = trees, backend, loss_dtype(dtype)
        device = trees.crossing.device
        wide = widest_dtype(device)
        # Over the nodes that are complete: the sum of q lse, and that of q where lse is −inf.
        self.weighted, self.dead = torch.zeros(2, rows, dtype=wide, device=device)
        # The lse of the nodes that cross borders, over the tiles so far.
        self.log_sum = self.weighted.new_full((rows, len(trees.crossing)), -torch.inf)
        # For each tile, the lse over those classes of crossing nodes that are in it, (B, E).
        self._inside: list[Tensor] = []
        self._memory = torch.empty(0, dtype=self.dtype, device=device)

    # ---- what each kind of mass defines ----

    @abstractmethod
    def add_tile(
        self, wide: Tensor, top: Tensor, log_prob: Tensor, whole: Tensor, first: int
    ) -> None:
        """Adds the nodes inside a tile.

        Args:
            wide: (B, T + E), logits of the tile and of the columns beside it; minus `top` where it
                `needs_shift`.
            top: float64 (B), the largest logit of the tile.
            log_prob: (B, n), log P of the nodes inside the tile, among all columns of `wide`.
            whole: float64 (B), the lse of all columns of `wide`, plus `top`.
            first: the tile's first local position.
        """

    @abstractmethod
    def add_crossing(self, which: Tensor) -> None:
        """Adds nodes that cross borders, once their `log_sum` is known; int64, a part of X."""

    @abstractmethod
    def total(self) -> Tensor:
        """The sum of q over all nodes, float64 () or (B), once all are added."""

    @abstractmethod
    def target_of(self, folded: FoldedTree, first: int, rows: int) -> tuple[Tensor, TargetTable]:
        """The target that `tree_log_loss` gets for a folded tree."""

    def shared_sums(self) -> Tensor:
        """The sums that processes add up, float64 (B, …)."""
        return torch.stack([self.weighted, self.dead], 1)

    def take_shared_sums(self, sums: Tensor) -> None:
        """Takes the sums of all processes."""
        self.weighted, self.dead = sums.unbind(1)

    # ---- measure ----

    def measure(self, z: Tensor, first: int) -> None:
        """Adds a tile (B, T) of logits, the classes from local position `first` on.

        Logits in `memory` are overwritten.
        """
        folded = self.tree_at(first)
        wide = self._wide(z, folded)
        below = wide[:, : folded.width]
        largest = below.amax(1)
        largest = torch.where(largest == -torch.inf, 0.0, largest)
        if self.needs_shift:
            below -= largest[:, None]
        # One more class beside the tile, with the tile's largest logit. The tile's own sum follows
        # from it without loss of digits, because it is at least as large as that class.
        wide[:, folded.width :] = -torch.inf
        wide[:, -1] = 0 if self.needs_shift else largest
        log_prob = tree_log_prob(wide, folded.with_column, backend=self.backend)
        log_prob, of_column = log_prob[:, :-1], widened(log_prob[:, -1])
        top = widened(largest)
        whole, num_inside = top - of_column, folded.num_inside

        self.add_tile(wide, top, log_prob[:, :num_inside], whole, first)
        log_sum = whole[:, None] + log_prob[:, num_inside:]
        crossing = folded.crossing[:-1]
        self.log_sum[:, crossing] = torch.logaddexp(self.log_sum[:, crossing], log_sum)
        of_tile = top + torch.expm1(-of_column).log()
        self._inside.append(torch.cat([log_sum, of_tile[:, None]], 1))

    def memory(self, first: int) -> Tensor:
        """Where the logits (B, T) of a tile are best put, in `dtype`; the same for all tiles."""
        folded = self.tree_at(first)
        return self._all_columns(folded)[:, : folded.width]

    def tree_at(self, first: int) -> FoldedTree:
        """The tree of the tile at a local position."""
        return self.trees.tiles[first // self.trees.width]

    def _all_columns(self, folded: FoldedTree) -> Tensor:
        rows, columns = len(self.log_sum), folded.tree.num_classes
        if len(self._memory) < rows * columns:
            self._memory = self._memory.new_empty(rows * columns)
        return self._memory[: rows * columns].view(rows, columns)

    def _wide(self, z: Tensor, folded: FoldedTree) -> Tensor:
        """The logits of all T + E columns, of which those of the tile's classes are set."""
        wide = self._all_columns(folded)
        if z.data_ptr() != wide.data_ptr():
            wide[:, : folded.width] = z
        return wide

    def add_done(self, values: Tensor, kept: Tensor, shift: Tensor) -> None:
        """Adds complete nodes, of lse values (B, V) + shift (B), and q = kept, (V) or (B, V)."""

        def dot(x: Tensor) -> Tensor:
            return widened(x @ kept if kept.dim() == 1 else (x * kept).sum(1))

        weighted, total = dot(values), widened(kept).sum(-1)
        if values.device.type != "cpu" or not weighted.isfinite().all():
            is_dead = values == -torch.inf
            weighted = dot(torch.where(is_dead, 0.0, values))
            dead = dot(is_dead.to(kept.dtype))
            self.dead = self.dead + dead
            total = total - dead
        shift = torch.where(shift == -torch.inf, 0.0, shift)
        self.weighted = self.weighted + weighted + total * shift

    # ---- resolve ----

    def add_own(self) -> None:
        """Once all tiles are measured, adds the nodes whose classes are all in this process."""
        self.add_crossing((~self.trees.is_shared[:-1]).nonzero()[:, 0])

    def beside(self, rings: Rings) -> Rings:
        """The rings, with the sums that processes exchange as further rings of each row."""
        shared = self.log_sum[:, self.trees.is_shared]
        top = shared.to(rings.max.dtype)
        relative = torch.where(top == -torch.inf, 0.0, (shared - widened(top)).exp())
        sums = self.shared_sums()
        added = torch.cat([relative, sums], 1).flatten()
        of_sums = torch.zeros_like(sums, dtype=top.dtype)
        moment = rings.moment
        if moment is not None:
            moment = torch.cat([moment.flatten(), torch.zeros_like(added)])[None]
        return Rings(
            torch.cat([rings.max.flatten(), torch.cat([top, of_sums], 1).flatten()])[None],
            torch.cat([rings.sum.flatten(), added])[None],
            moment,
        )

    def take(self, together: Rings, rings: Rings) -> None:
        """Takes the result of `beside`, after it was exchanged, into `rings` and the sums."""
        size, rows = rings.max.numel(), len(self.log_sum)
        for mine, both in zip(rings, together, strict=True):
            if mine is not None and both is not None:
                mine.copy_(both[0, :size].view_as(mine))
        num_shared = int(self.trees.is_shared.sum())
        width = num_shared + self.shared_sums().shape[1]
        top, total = (x[0, size:].view(rows, width) for x in (together.max, together.sum))
        log_sum = widened(top[:, :num_shared]) + total[:, :num_shared].log()
        self.log_sum[:, self.trees.is_shared] = log_sum
        self.take_shared_sums(total[:, num_shared:])

    def resolve(self, rings: Rings) -> Tensor:
        """S, float64 (B), from the rings of all classes; only those of the first paths are read."""
        self.add_crossing(self.trees.is_shared[:-1].nonzero()[:, 0])
        rows = len(self.log_sum)
        whole = (widened(rings.max) + rings.sum.log()).logsumexp(1)[:rows]
        if len(whole) < rows:  # pairs with K = 0, which do not have a path
            return torch.zeros_like(self.weighted)
        self.log_sum[:, -1] = whole
        loss = (self.total() - self.dead) * whole - self.weighted
        return torch.where(self.dead > 0, torch.inf, loss)

    # ---- write ----

    def gradient(self, z: Tensor, first: int, grad: Tensor) -> tuple[Tensor, Tensor]:
        """A tile's logits and their gradient, both (B, T) in `dtype`, given that of S, (B)."""
        folded = self.tree_at(first)
        wide = self._wide(z, folded)
        inside = self._inside[first // self.trees.width]
        wide[:, folded.width :] = _outside(folded, inside, self.log_sum[:, folded.crossing])
        target, table = self.target_of(folded, first, len(z))
        grad = grad.to(wide.dtype)
        all_columns = tree_log_loss_gradient(
            grad, wide, target, folded.tree, table, backend=self.backend
        )
        return wide[:, : folded.width], all_columns[:, : folded.width]


def _outside(folded: FoldedTree, inside: Tensor, log_sum: Tensor) -> Tensor:
    """The logits (B, E) of what crossing nodes have outside the tile.

    Args:
        folded: the tile's tree.
        inside: the lse (B, E) of their classes in the tile.
        log_sum: the lse (B, E) of all their classes.
    """
    is_dead = log_sum == -torch.inf
    outside = torch.where(is_dead, 0.0, 1 - (inside - log_sum).exp()).clamp(min=0)
    # Minus what belongs to the crossing nodes below.
    above = folded.above[:-1]
    share = torch.where(is_dead[:, :-1], 0.0, (log_sum[:, :-1] - log_sum[:, above]).exp())
    own = outside.index_add(1, above, share * outside[:, :-1], alpha=-1)
    return own.clamp(min=0).log() + log_sum
