"""The confusion matrix at one level of the tree, with the worst pairs named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from ..metrics.compare import compare
from .style import name_of, new_axes, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Unpack

    from ..metrics.compare import Labels

__all__ = ["confusion"]

_PAIRS = 6


def confusion(
    pred: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    level: int = 0,
    *,
    most: int = 24,
    title: str | None = None,
    axes: Axes | None = None,
    **labels: Unpack[Labels],
) -> Axes:
    """Truths by answers at a depth, in percent of each truth, with the worst pairs below.

    Args:
        pred: answers, integer, any shape.
        target: the truth, same shape.
        hierarchy: of both; a tree or forest.
        level: the depth at which truths and answers are compared; leaves that are less deep count
            as themselves.
        most: how many nodes to show, those that are confused most often.
        title: above the picture.
        axes: to draw into.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a DAG, a level outside the tree, or as for `hace.metrics.level_accuracy`.

    Examples:
        >>> import torch, hace, hace.pictures
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> pred, target = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 2, 2])
        >>> axes = hace.pictures.confusion(pred, target, tree, level=1, title="Cats, dogs, cars")
        >>> axes.figure.savefig("confusion.png")
    """
    c = compare(pred, target, hierarchy, **labels)
    ancestry = c.tree_ancestry("a level")
    if not 0 <= level <= hierarchy.depth:
        raise ValueError(f"level = {level} is outside 0 to {hierarchy.depth}")
    depth = torch.tensor(level, device=c.target.device)
    answer, truth = (c.points.told(ancestry.at_depth(p, depth)) for p in (c.pred, c.target))
    pairs, count = torch.unique(torch.stack([truth, answer], 1), dim=0, return_counts=True)
    table = {(t, a): n for (t, a), n in zip(pairs.tolist(), count.tolist(), strict=True)}
    wrong = sorted(((n, t, a) for (t, a), n in table.items() if t != a), reverse=True)
    confused: dict[int, int] = {}
    for n, t, a in wrong:
        confused[t] = confused.get(t, 0) + n
        confused[a] = confused.get(a, 0) + n
    for t, _ in table:  # those that are never confused come last
        confused.setdefault(t, 0)
    shown = sorted(sorted(confused, key=lambda node: -confused[node])[:most])
    rows = {t: sum(n for (truth_, _), n in table.items() if truth_ == t) for t in shown}
    share = np.array([[table.get((t, a), 0) / max(1, rows[t]) for a in shown] for t in shown])

    axes = new_axes(axes, 9, 11)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [shortened(name_of(hierarchy, node), 34) for node in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    for i, j in zip(*np.nonzero(share >= 0.01), strict=True):
        dark = share[i, j] > 0.55
        axes.text(
            j,
            i,
            f"{100 * share[i, j]:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if dark else "black",
        )
    worst = [
        f"{n:,} × {shortened(name_of(hierarchy, t), 40)} → {shortened(name_of(hierarchy, a), 40)}"
        for n, t, a in wrong[:_PAIRS]
    ]
    axes.set(ylabel="truth")
    axes.set_xlabel("answer\n\nWorst pairs (rows × truth → answer):\n" + "\n".join(worst))
    axes.xaxis.label.set_fontsize(8)
    axes.set_title(title or f"Confusions at depth {level}, in percent of each truth")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.0f} %")
    return axes
