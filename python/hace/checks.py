"""Checks of single values, with errors that name the argument and what it may be."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

__all__ = ["as_finite", "as_integer", "as_number", "check_choice"]


def as_number(name: str, value: object) -> float:
    """Any real number, a NumPy scalar too, as a float.

    Raises:
        TypeError: it is not a number.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def as_finite(name: str, value: object) -> float:
    """A finite real number as a float.

    Raises:
        TypeError: it is not a number.
        ValueError: it is infinite or NaN.
    """
    number = as_number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def as_integer(name: str, value: Any) -> int:
    """Any integer, a NumPy scalar too, as an int.

    Raises:
        TypeError: it is not an integer.
    """
    try:
        return int(operator.index(value))
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError, which lists the choices, unless `value` is one of them."""
    if not isinstance(value, str) or value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")
