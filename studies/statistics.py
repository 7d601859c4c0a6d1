"""Paired differences with intervals, and what is left of them after Holm's correction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

DRAWS = 10_000
MOST_WEIGHTS = 200_000_000  # in all draws together, so more than 20,000 rows get fewer draws
LEVEL = 0.05

FloatArray = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """The difference of two means: estimate, 95 % interval, and p-value of its being zero."""

    value: float
    low: float
    high: float
    p: float

    def turned(self) -> Difference:
        """The difference of the same two means the other way round."""
        return Difference(-self.value, -self.high, -self.low, self.p)


def paired_difference(a: FloatArray, b: FloatArray, draws: int = DRAWS) -> Difference:
    """The mean of `a` − `b`, both (seeds, rows), by a bootstrap over seeds and rows at once.

    The interval is made of the bootstrap's percentiles; p comes from the normal distribution with
    the bootstrap's standard error.
    """
    difference = (a - b).astype(np.float32)
    seeds, rows = difference.shape
    of_seeds, of_rows = _resampled(seeds, rows, min(draws, MOST_WEIGHTS // rows))
    means = ((of_rows @ difference.T) * of_seeds).sum(1, dtype=np.float64)
    value = float(difference.mean())
    error = float(means.std())
    p = 1.0 if error == 0 else float(2 * norm.sf(abs(value) / error))
    low, high = np.percentile(means, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return Difference(value, float(low), float(high), p)


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the same order."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


@lru_cache(maxsize=3)
def _resampled(seeds: int, rows: int, draws: int) -> tuple[Weights, Weights]:
    """The weights of the seeds (draws, seeds) and of the rows (draws, rows) in each draw.

    All comparisons of a task share them.
    """
    rng = np.random.default_rng(0)

    def weights(number: int) -> Weights:
        found = np.empty((draws, number), dtype=np.float32)
        for i in range(draws):
            found[i] = np.bincount(rng.integers(number, size=number), minlength=number)
        found /= number
        return found

    return weights(seeds), weights(rows)
