"""Path weights, which distinguish the losses of the family `L = -Σ_i w_i · log P_i`.

On the path a_0 … a_D of a target, a_0 is the target itself and a_D its root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from hace_kernels import WEIGHT_CUT, PathEntries

from .checks import as_finite, as_number, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CallableWeights",
    "HACEWeights",
    "HXEWeights",
    "NodeWeights",
    "Scheme",
    "SuperclassWeights",
    "remaining_mass",
]

Scheme: TypeAlias = Literal["balanced", "power", "lazy"]


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
        object.__setattr__(self, "dilution", as_number("dilution", self.dilution))
        if not 0 < self.dilution <= 1:
            raise ValueError(
                f"dilution must be above 0 and at most 1 (1 is plain cross-entropy), "
                f"got {self.dilution}"
            )

    @cached_property
    def max_entries(self) -> int | None:
        """The smallest L such that every weight w_i with i ≥ L is below 2^-60, on any path.

        The largest of these is the root's, (1-d)^D with D = L. None if L does not fit in 32 bits.
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
        """The share of the mass reaching a node that it keeps, which defines the same loss."""
        return np.where(has_parent, self.dilution, 1.0)

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        below_root = entries.index < entries.length
        power = np.power(1.0 - self.dilution, entries.index)
        return power * np.where(below_root, self.dilution, 1.0)


@dataclass(frozen=True)
class HXEWeights:
    """HXE's weights, from `L = −Σ_v λ_v log(P_v / P_parent(v))` with `λ_v = exp(−α · depth(v))`.

    Collecting each log P_v gives `w_0 = λ_0` to the target and `w_i = λ_i − λ_{i−1}` to the nodes
    above it, which is negative for α < 0. Source: Bertinetto et al., *Making Better Mistakes*, CVPR
    2020, section 3.1.

    Args:
        alpha: α.
        scale: multiplies every λ.
    """

    alpha: float
    scale: float = 1.0
    max_entries: ClassVar[None] = None

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        weight = self.scale * np.exp(-self.alpha * entries.depth)
        below = self.scale * np.exp(-self.alpha * (entries.depth + 1))
        weights: NDArray[np.float64] = np.where(entries.index == 0, weight, weight - below)
        return weights


@dataclass(frozen=True, eq=False)
class CallableWeights:
    """Weights by a function of arrays (target, node, depth, height), int64 (E), for E entries.

    Args:
        function: gives E weights.
        node: int64, the hierarchy's node of each node of the label tree.
    """

    function: Callable[..., NDArray[np.float64]]
    node: NDArray[np.int64]
    max_entries: ClassVar[None] = None

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        node = self.node[entries.node]
        return self.function(entries.target, node, entries.depth, entries.height)

    def __repr__(self) -> str:
        return f"CallableWeights({self.function!r})"


class _Keyed:
    """Weights made of arrays, compared by a key: torch.compile would hash a dataclass's arrays."""

    max_entries: ClassVar[None] = None
    key: Hashable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and type(self) is type(other) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class NodeWeights(_Keyed):
    """One weight per node, whatever the path that it is on.

    Args:
        weight: float64 (N).
    """

    def __init__(self, weight: NDArray[np.float64]) -> None:
        self.key = weight.tobytes()
        self.weight = weight

    def __repr__(self) -> str:
        return f"NodeWeights({len(self.weight)} nodes)"

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        return self.weight[entries.node]


class SuperclassWeights(_Keyed):
    """A mass of 1 handed down the path from below the root; the target takes what is left.

    A node of height h (edges to the deepest leaf below it) takes, of the m that reaches it,
    `"balanced"` m/(h+1), `"power"` |1−q| m / |1−q^(h+1)|, which is the former at q = 1; `"lazy"`
    gives 1/H to each inner node, H being the hierarchy's height. In a forest the roots are below a
    virtual root, which adds 1 to H. Source: Urbani et al. 2024, arXiv 2411.16438.

    Args:
        parents, depths, heights: int64 (N), of the tree or forest.
        scheme: "balanced", "power" or "lazy".
        q: of "power", positive.

    Attributes:
        own: float64 (N), what a node takes as the target.
        passing: float64 (N), what it takes of the mass for a target below it.

    Raises:
        ValueError: an unknown scheme, or a q that is not positive.
    """

    def __init__(
        self,
        parents: NDArray[np.int64],
        depths: NDArray[np.int64],
        heights: NDArray[np.int64],
        scheme: Scheme,
        q: float = 2.0,
    ) -> None:
        check_choice("scheme", scheme, get_args(Scheme))
        self.scheme, self.q = scheme, as_finite("q", q)
        self.key = (self.scheme, self.q)
        forest = int(np.count_nonzero(parents < 0) > 1)
        below_root = depths + forest > 0
        if scheme == "lazy":
            step = 1 / max(1, int(depths.max()) + forest)
            self.own = 1 - step * np.maximum(depths + forest - 1, 0)
            self.passing = np.where(below_root, step, 0.0)
            return
        share = 1 / (heights + 1) if scheme == "balanced" else _power_shares(self.q, heights)
        share = np.where(below_root, share, 0.0)
        self.own = remaining_mass(parents, depths, share)
        self.passing = share * self.own

    def __repr__(self) -> str:
        q = f", q={self.q}" if self.scheme == "power" else ""
        return f"SuperclassWeights({self.scheme!r}{q})"

    def __call__(self, entries: PathEntries) -> NDArray[np.float64]:
        return np.where(entries.index == 0, self.own[entries.node], self.passing[entries.node])


def _power_shares(q: float, height: NDArray[np.int64]) -> NDArray[np.float64]:
    """|1−q| / |1−q^(h+1)| = 1 / (1 + q + … + q^h)."""
    if q <= 0:
        raise ValueError(f"q must be a positive number, got {q!r}")
    log_q = abs(math.log(q))
    if log_q == 0:
        return 1 / (height + 1)
    # With r = min(q, 1/q), so that nothing overflows: (1 − r) / (1 − r^(h+1)), times r^h if q > 1.
    share: NDArray[np.float64] = np.expm1(-log_q) / np.expm1(-log_q * (height + 1))
    return share * np.exp(-log_q * height) if q > 1 else share


def remaining_mass(
    parents: NDArray[np.int64], depths: NDArray[np.int64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The part of a mass of 1 at the root that reaches each node, when each takes its share (N)."""
    reaching = np.ones(len(parents))
    by_depth = np.argsort(depths, kind="stable")
    for node in np.split(by_depth, np.cumsum(np.bincount(depths))[:-1])[1:]:
        above = parents[node]
        reaching[node] = reaching[above] * (1 - share[above])
    return reaching
