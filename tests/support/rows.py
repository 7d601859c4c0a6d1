"""Comparisons with the oracle on as many rows as there is time for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["limit_rows", "on_some_rows"]

_limit: int | None = None


def limit_rows(limit: int) -> None:
    """For the rest of the process comparisons look at this many rows."""
    global _limit
    _limit = limit


def on_some_rows(check: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a check take some rows, by chance, of the tensors among its arguments.

    The first tensor's length is the number of rows; without a batch dimension it is one row.
    Targets may be tuples of tensors; `incoming`, a keyword, may have a number per row.
    `all_rows=True` leaves the rows as they are.
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
