"""Limits comparisons with the oracle to as many rows as a slow backend has time for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["limit_rows", "on_some_rows"]

_limit: int | None = None


def limit_rows(limit: int) -> None:
    """Limits comparisons to this many rows, for the rest of the process."""
    global _limit
    _limit = limit


def on_some_rows(check: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a check use only some random rows of the tensors among its arguments.

    The first tensor's length is the number of rows; a tensor without a batch dimension is one row.
    Targets may be tuples of tensors. The keyword `incoming` may have one number per row. With
    `all_rows=True` the check uses all rows.
    """

    @functools.wraps(check)
    def on_some(*args: Any, all_rows: bool = False, **options: Any) -> Any:
        first = next(arg for arg in args if isinstance(arg, torch.Tensor))
        if all_rows or _limit is None or first.dim() < 2 or len(first) <= _limit:
            return check(*args, **options)
        some = torch.randperm(len(first))[:_limit].sort().values

        def pick(given: Any) -> Any:
            if type(given) is tuple:
                return tuple(map(pick, given))
            return given[some] if isinstance(given, torch.Tensor) and given.dim() else given

        if "incoming" in options:
            options["incoming"] = pick(options["incoming"])
        return check(*map(pick, args), **options)

    return on_some
