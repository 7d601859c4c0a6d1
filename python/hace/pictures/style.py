"""What the pictures have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hierarchy import Hierarchy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "ERROR_COLOURS", "HATCHES", "name_of", "new_axes", "shortened"]

#: Okabe and Ito's, which people with any kind of colour vision tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
#: Light where all is right; the order can be seen from the lightness alone.
ERROR_COLOURS = "cividis_r"


def new_axes(axes: Axes | None, width: float, height: float) -> Axes:
    """The axes, or new ones of a size in inches.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if axes is not None:
        return axes
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install hace-kernels[pictures]"
        ) from error
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def name_of(hierarchy: Hierarchy, node: int) -> str:
    """The last part of a node's name, or its id."""
    if node < 0:
        return "anything"
    return str(node) if hierarchy.names is None else hierarchy.short_name(node)


def shortened(text: str, length: int) -> str:
    """The text, cut to a length with an ellipsis."""
    return text if len(text) <= length else text[: max(1, length - 1)].rstrip() + "…"
