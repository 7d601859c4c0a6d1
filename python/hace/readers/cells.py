"""The name of a node from a cell of a table, an array or a list; or no value."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import Any

NOTHING_WORDS = frozenset(
    ("nan", "NaN", "NAN", "<NA>", "NaT", "None", "none", "NA", "N/A", "n/a", "#N/A", "null")
) | {"NULL", "Null", "nil", "NIL", "-", "?"}
"""Text by which programs write that there is no value."""

STRINGIFIED_NOTHING = frozenset(("nan", "NaN", "<NA>", "NaT"))
"""The ones among them that never name a node: what `str` makes of a missing number."""

_MISSING_TYPES = ("NAType", "NaTType")  # pandas.NA and pandas.NaT, which cannot be compared
_EXACT_FLOATS = 2.0**53  # from here on floats skip whole numbers


def name_of(value: Any) -> str:
    """The name in a cell, "" where it holds no value (None, NaN, pandas.NA or "").

    Whole numbers of any type are written without a point: an empty cell makes pandas write a whole
    column of ids as floats.

    Raises:
        TypeError: the value is neither text nor a number.
        ValueError: the value is a number that is not whole, or a float too large to be exact.
    """
    if isinstance(value, str):
        return str(value)
    if value is None or type(value).__name__ in _MISSING_TYPES:
        return ""
    if isinstance(value, bytes):
        raise TypeError(f"{value!r} is bytes; give text, {value!r}.decode()")
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise TypeError(f"{value!r} is not the name of a node; give text or a whole number")
    try:
        return str(operator.index(value))
    except TypeError:
        pass
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{value!r} is not the name of a node; give text or a whole number"
        ) from None
    if number != number:
        return ""
    if not number.is_integer():
        raise ValueError(f"{value!r} is not the name of a node; ids are text or whole numbers")
    if abs(number) >= _EXACT_FLOATS:
        raise ValueError(
            f"{value!r} is a float, and floats of that size do not tell all whole numbers apart; "
            f"read the ids as text or integers"
        )
    return str(int(number))


def rows_of(table: Any) -> Iterable[Any]:
    """The rows of a list, an array, a tensor, or a pandas or polars frame, as Python values."""
    if isinstance(table, (set, frozenset)):
        raise TypeError("a set has no order, which labels and node ids need; give a list")
    for method in ("iter_rows", "itertuples", "tolist"):
        rows = getattr(table, method, None)
        if callable(rows):
            found: Iterable[Any] = (
                rows(index=False, name=None) if method == "itertuples" else rows()
            )
            return found
    if not isinstance(table, Iterable):
        raise TypeError(f"{table!r} cannot be read row by row")
    return table


def checked_missing(missing: Collection[str] | None) -> frozenset[str] | None:
    """The words that mean "no value"; None if the user has not given any.

    Raises:
        TypeError: they are not a list of strings.
    """
    if missing is None:
        return None
    words = [missing] if isinstance(missing, str) else list(missing)
    if isinstance(missing, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"missing must be a list of strings, got {missing!r}")
    return frozenset(words)
