"""Reliability diagrams, one for each level: are answers right as often as predicted?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..hierarchy import Hierarchy
from ..metrics.calibration import reliability
from .style import COLOURS, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from typing_extensions import Unpack

    from ..metrics.scored import LogitLabels

__all__ = ["reliability_diagrams"]

_PER_ROW = 4


def reliability_diagrams(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    bins: int = 10,
    title: str | None = None,
    **labels: Unpack[LogitLabels],
) -> Figure | SubFigure:
    """Accuracy by confidence at each level, beside the diagonal of a calibrated model.

    Dots are as large as their bins' shares of the rows.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: the truth, integer.
        hierarchy: of both; a tree or forest.
        bins: of confidence.
        title: above the picture.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: a DAG, or as for `hace.metrics.reliability`.

    Examples:
        >>> import torch, hace, hace.pictures
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> figure = hace.pictures.reliability_diagrams(logits, torch.tensor([1, 0, 2]), tree)
        >>> figure.savefig("reliability.png")
    """
    found = reliability(input, target, hierarchy, bins=bins, **labels)
    num_levels = len(found.count)
    columns = min(_PER_ROW, num_levels)
    rows = -(-num_levels // columns)
    figure = new_axes(None, 2.6 * columns, 2.9 * rows + 0.3).figure
    figure.clear()
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    errors = found.error().tolist()
    for level, panel in enumerate(panels.flat):
        if level >= num_levels:
            panel.set_visible(False)
            continue
        count = found.count[level].cpu().numpy()
        kept = count > 0
        confidence = 100 * found.confidence[level].cpu().numpy()[kept] / count[kept]
        accuracy = 100 * found.right[level].cpu().numpy()[kept] / count[kept]
        panel.plot([0, 100], [0, 100], color="0.6", lw=1, ls="--")
        panel.plot(confidence, accuracy, color=COLOURS[0], lw=1)
        panel.scatter(
            confidence,
            accuracy,
            s=10 + 250 * count[kept] / max(1, count.sum()),
            color=COLOURS[0],
            alpha=0.8,
            zorder=3,
        )
        panel.set_title(f"depth {level}: error {100 * errors[level]:.1f} %", fontsize=9)
        panel.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
        panel.set_xticks(np.arange(0, 101, 25))
        panel.set_yticks(np.arange(0, 101, 25))
    figure.supxlabel("confidence of the most probable answer, %", fontsize=9)
    figure.supylabel("right answers, %", fontsize=9)
    figure.suptitle(title or "Reliability at each level")
    return figure
