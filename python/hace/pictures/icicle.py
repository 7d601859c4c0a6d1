"""The tree as an icicle, coloured by error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..hierarchy import Hierarchy
from ..metrics.compare import compare
from ..metrics.nodes import node_counts
from .style import ERROR_COLOURS, name_of, new_axes, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from ..metrics.compare import Labels

__all__ = ["error_icicle"]

# Parts of the picture's width: narrower boxes are not drawn, or have no name.
_NARROWEST = 5e-4
_NAMED = 0.016


def error_icicle(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    levels: int = 4,
    title: str | None = None,
    axes: Axes | None = None,
    **labels: Unpack[Labels],
) -> Axes:
    """Each node as a box, children to the right of their parent, coloured by its error.

    The height of a box is the share of the rows whose truth is in it, so large dark boxes are where
    a model can gain most. A node's error is the share of the rows with a truth at or below it whose
    answer is not.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; a tree or forest.
        levels: how many to draw, from the roots on.
        title: above the picture.
        axes: to draw into.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a DAG, or as for `hace.metrics.node_accuracy`.

    Examples:
        >>> import torch, hace, hace.pictures
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred, target = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 2, 2])
        >>> axes = hace.pictures.error_icicle(pred, target, tree)
        >>> axes.figure.savefig("errors.png")
    """
    hierarchy.require_tree("an icicle")
    counts = node_counts(compare(pred, target, hierarchy, **labels))
    rows, both = counts.truth.cpu().numpy(), counts.both.cpu().numpy()
    axes = new_axes(axes, 10, 7)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Rectangle

    colours = colormaps[ERROR_COLOURS]
    start = _starts(hierarchy, rows)
    total = max(1, int(rows[hierarchy.roots].sum()))
    shown = np.flatnonzero((hierarchy.depths < levels) & (rows / total > _NARROWEST))
    for node in shown.tolist():
        depth, share = int(hierarchy.depths[node]), rows[node] / total
        error = 1 - both[node] / rows[node]
        colour = colours(error)
        box = (depth, start[node] / total)
        edge = 0.5 if share > 0.004 else 0.0  # edges would hide narrow boxes
        axes.add_patch(Rectangle(box, 1, share, facecolor=colour, edgecolor="white", lw=edge))
        if share > _NAMED:
            text = f"{shortened(name_of(hierarchy, node), 120 // levels)}  {100 * error:.0f} %"
            dark = sum(colour[:3]) < 1.4
            axes.text(
                depth + 0.02,
                box[1] + share / 2,
                text,
                va="center",
                fontsize=7,
                color="white" if dark else "black",
                clip_on=True,
            )
    num_levels = min(levels, hierarchy.depth + 1)
    axes.set(xlim=(0, num_levels), ylim=(1, 0), ylabel="share of the rows, by their truth")
    axes.set_xticks(np.arange(num_levels) + 0.5, [f"depth {depth}" for depth in range(num_levels)])
    axes.tick_params(length=0)
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    axes.set_title(title or "Where answers leave the truth's subtree")
    bar = axes.figure.colorbar(ScalarMappable(cmap=colours), ax=axes, pad=0.01, fraction=0.03)
    bar.set_label("error: truth in the subtree, answer outside")
    bar.ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    return axes


def _starts(hierarchy: Hierarchy, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each node's box begins: siblings by falling size, inside their parent."""
    start = np.zeros(hierarchy.num_nodes, np.int64)
    parents = hierarchy.parents
    for depth in range(hierarchy.depth + 1):
        nodes = np.flatnonzero(hierarchy.depths == depth)
        nodes = nodes[np.lexsort((nodes, -rows[nodes], parents[nodes]))]
        before = np.cumsum(rows[nodes]) - rows[nodes]
        is_first = np.diff(parents[nodes], prepend=-2) != 0
        before -= np.maximum.accumulate(np.where(is_first, before, 0))
        above = parents[nodes]
        start[nodes] = before + np.where(above >= 0, start[above], 0)
    return start
