"""Path weights: a loss of the family `L = -Σ_i w_i · log P_i` is how it weighs a path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from hace_kernels.layout import WEIGHT_CUT
from hace_kernels.path_table import PathEntries

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class HACEWeights:
    """HACE's weights: `w_i = d(1-d)^i` for i < D, and the topmost node takes the rest, `(1-d)^D`.

    They sum to 1. With d = 1 only the target counts: plain cross-entropy. Source: Chan, D'Ascenzo,
    Cultrera di Montesano, *When Labels Have Structure*, arXiv 2605.06274, section 3.

    Args:
        dilution: d, 0 < d ≤ 1.

    Raises:
        ValueError: a dilution outside (0, 1].
        TypeError: a dilution that is not a number.
    """

    dilution: float

    def __post_init__(self) -> None:
        if not isinstance(self.dilution, Real):
            raise TypeError(f"dilution must be a number, not {type(self.dilution).__name__}")
        if not 0 < self.dilution <= 1:
            raise ValueError(
                f"dilution must be above 0 and at most 1 (1 is plain cross-entropy), "
                f"got {self.dilution}"
            )
        object.__setattr__(self, "dilution", float(self.dilution))

    @cached_property
    def max_entries(self) -> int | None:
        """The smallest L such that every weight w_i with i ≥ L is below 2^-60, on any path.

        Among them the root's, (1-d)^D with D = L, is the largest. None beyond 32-bit depths.
        """
        rest = 1.0 - self.dilution
        if rest < WEIGHT_CUT:
            return 1
        estimate = math.log(WEIGHT_CUT) / math.log1p(-self.dilution)
        if estimate >= 2**31:
            return None
        entries = max(1, int(estimate) - 1)
        while rest**entries >= WEIGHT_CUT:
            entries += 1
        return entries

    def keep(self, has_parent: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What each node keeps of the mass that reaches it, the same loss seen from the tree."""
        return np.where(has_parent, self.dilution, 1.0)

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        below_root = entries.index < entries.length
        power = np.power(1.0 - self.dilution, entries.index)
        return power * np.where(below_root, self.dilution, 1.0)
