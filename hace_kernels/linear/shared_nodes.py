"""Node vectors that several processes need; each of them is held by one process.

One sum over processes gathers the vectors before the tiles, and another one adds up their gradients
after these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..rows import loss_dtype
from .shard import Exchange

__all__ = ["SharedNodes"]


@dataclass(frozen=True, eq=False)
class SharedNodes:
    """Which vectors several processes need. Each of the S nodes has a slot in what is exchanged.

    Attributes:
        num_nodes: N', the number of vectors that this process holds.
        size: S, the same in all processes.
        row: int64, the indices among these vectors of the nodes that are shared.
        slot: int64, the slots of these nodes.
        above: int64 (A), the slots of the nodes above this process's classes whose vectors are in
            other processes; here these nodes have the numbers N' to N' + A − 1.
        exchange: with the other processes.
    """

    num_nodes: int
    size: int
    row: Tensor
    slot: Tensor
    above: Tensor
    exchange: Exchange

    def to(self, device: torch.device | str) -> SharedNodes:
        """The same on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("row", "slot", "above")}
        return replace(self, **moved)

    def gathered(self, vectors: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The vectors (A, F) and biases (A) of the nodes above; a collective call.

        Args:
            vectors: (N', F), those of the nodes that this process holds.
            bias: (N'), or None.
        """
        width = vectors.shape[1] + (bias is not None)
        packed = vectors.new_zeros(self.size, width, dtype=loss_dtype(vectors.dtype))
        packed[self.slot, : vectors.shape[1]] = vectors[self.row].to(packed.dtype)
        if bias is not None:
            packed[self.slot, -1] = bias[self.row].to(packed.dtype)
        self.exchange.add_up(packed)
        above = packed[self.above]
        return above[:, : vectors.shape[1]], None if bias is None else above[:, -1]

    def slots(self) -> Tensor:
        """The slot of each node by its number here, int64 (N' + A); −1 for those not shared."""
        found = self.slot.new_full((self.num_nodes + len(self.above),), -1)
        found[self.row] = self.slot
        found[self.num_nodes :] = self.above
        return found
