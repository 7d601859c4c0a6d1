"""Log-sums of exponentials of some columns of every row, added up tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.path_stages import path_measure
from ..row_paths import Rings, RowPaths
from ..rows import loss_dtype
from ..widest import widened, widest_dtype

__all__ = ["ColumnSums"]


class ColumnSums:
    """`log Σ exp(z)` of M sets of columns in B rows.

    Args:
        shape: (M, B).
        dtype: that of the logits.
        device: that of the logits.
        backend: that of the stage `path_measure`.

    Attributes:
        rings: the largest logit and the sum of each set, (M, B, 1).
    """

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, backend: str
    ) -> None:
        zeros = torch.zeros((*shape, 1), dtype=widest_dtype(device), device=device)
        largest = torch.full_like(zeros, -torch.inf, dtype=loss_dtype(dtype))
        self.rings = Rings(largest, zeros, None)
        end = torch.zeros(shape[1], 0, dtype=torch.int32, device=device)
        self._paths = RowPaths(end, end, widened(end))
        self._backend = backend

    def add(self, at: int, logits: Tensor) -> None:
        """Adds columns (B, T) to a set; rows of unit stride."""
        part = Rings(self.rings.max[at], self.rings.sum[at], None)
        path_measure(logits, self._paths, 0, part, self._backend)

    def log_sum(self) -> Tensor:
        """The log-sums, (M, B), -inf for sets without mass; in the widest dtype of the device."""
        total = self.rings.sum[..., 0]
        return torch.where(total == 0, -torch.inf, widened(self.rings.max[..., 0]) + total.log())
