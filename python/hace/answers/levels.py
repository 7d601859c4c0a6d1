"""The answers at each depth: the points of that depth, and the leaves that are less deep.

So the answers of every level are a partition of the classes, however uneven the leaves' depths.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..tables import Tables
from .points import Points

__all__ = ["Ranked", "best_by_level", "has_answer"]


class Ranked(NamedTuple):
    """The k best answers of R rows, best first.

    Attributes:
        point: int64 (R, k), −1 where there are fewer answers.
        log_prob: (R, k), −inf there.
    """

    point: Tensor
    log_prob: Tensor


class _Level(NamedTuple):
    """The points of one depth, and which of them are leaves; int64 tensors on one device."""

    points: Tensor
    leaves: Tensor


def best_by_level(log_prob: Tensor, points: Points, k: int) -> Iterator[Ranked]:
    """The k most probable answers at depth 0, 1, …, the hierarchy's depth.

    O(P + depth · k) for each row.

    Args:
        log_prob: (R, P), of the points of a tree or forest.
        points: that these are.
        k: at least 1.
    """
    finished = _none(log_prob, k)
    for level in _levels(points, log_prob.device):
        here = _best(log_prob, level.points, k)
        yield _merged(here, finished, k)
        finished = _merged(_best(log_prob, level.leaves, k), finished, k)


def _none(log_prob: Tensor, k: int) -> Ranked:
    shape = (log_prob.shape[0], k)
    return Ranked(
        torch.full(shape, -1, device=log_prob.device), log_prob.new_full(shape, -torch.inf)
    )


def _best(log_prob: Tensor, points: Tensor, k: int) -> Ranked:
    if not len(points):
        return _none(log_prob, 0)
    best, place = log_prob.index_select(1, points).topk(min(k, len(points)), dim=1)
    return Ranked(torch.where(best == -torch.inf, -1, points[place]), best)


def _merged(a: Ranked, b: Ranked, k: int) -> Ranked:
    point = torch.cat([a.point, b.point], 1)
    log_prob = torch.cat([a.log_prob, b.log_prob], 1)
    best, place = log_prob.topk(k, dim=1)
    return Ranked(point.gather(1, place), best)


def _levels(points: Points, device: torch.device) -> list[_Level]:
    tables = Tables.of(points.hierarchy)
    return tables.derived(("levels", device), lambda: _find_levels(points, device))


def _find_levels(points: Points, device: torch.device) -> list[_Level]:
    depths, heights = points.tree.depths, points.tree.heights
    order = np.argsort(depths, kind="stable")
    ends = np.searchsorted(depths[order], np.arange(points.tree.depth + 2))
    levels = [order[first:last] for first, last in pairwise(ends)]
    return [
        _Level(
            torch.from_numpy(level.copy()).to(device),
            torch.from_numpy(level[heights[level] == 0]).to(device),
        )
        for level in levels
    ]


def has_answer(points: Points, point: Tensor, level: int) -> Tensor:
    """Whether each point is an answer of a level; a coarser one leaves the level's answer open."""
    tables = points.on(point.device)
    return (tables.depth[point] == level) | (
        (tables.depth[point] < level) & (tables.height[point] == 0)
    )
