"""How severe the mistakes of two or more models are, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice
from ..hierarchy import Hierarchy
from ..metrics.compare import compare
from ..metrics.distances import Distance, distances, severity_ratio
from .style import COLOURS, HATCHES, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Unpack

    from ..metrics.compare import Labels

__all__ = ["severity_histogram"]

_UNIT = {
    "height": "height of the lowest common ancestor, edges",
    "depth": "levels from the lowest common ancestor to the deepest leaf",
    "hops": "edges from answer to truth",
}


def severity_histogram(
    answers: Mapping[str, Tensor],
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    distance: Distance = "height",
    title: str | None = None,
    axes: Axes | None = None,
    **labels: Unpack[Labels],
) -> Axes:
    """Share of the rows at each distance from the truth; right answers are not drawn.

    Args:
        answers: a mapping from the name of each model to its answers, integer, all of the target's
            shape; at most six.
        target: the truth.
        hierarchy: of all.
        distance: "height", "depth" or "hops", see `hace.metrics.Distance`.
        title: above the picture.
        axes: to draw into.
        labels: `target_space`, `pred_space` and `ignore_index`, see `hace.metrics.Labels`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no model or too many, or as for `hace.metrics.mistake_severity`.

    Examples:
        >>> import torch, hace, hace.pictures
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> answers = {"always cat": torch.tensor([0, 0, 0]), "always dog": torch.tensor([1, 1, 1])}
        >>> axes = hace.pictures.severity_histogram(answers, torch.tensor([0, 2, 2]), tree)
        >>> axes.figure.savefig("severity.png")
    """
    check_choice("distance", distance, get_args(Distance))
    if not 1 <= len(answers) <= len(COLOURS):
        raise ValueError(f"answers must be of 1 to {len(COLOURS)} models, got {len(answers)}")
    axes = new_axes(axes, 8, 4.5)
    width = 0.8 / len(answers)
    most = 0
    for i, (name, pred) in enumerate(answers.items()):
        c = compare(pred, target, hierarchy, **labels)
        far = torch.bincount(distances(c, distance)[~c.right]).cpu().numpy()
        share = 100 * far / max(1, c.num_rows)
        accuracy = 100 * c.right.double().mean().item()
        mean = severity_ratio(c, distance).value().item()
        at = np.arange(len(far)) + (i - (len(answers) - 1) / 2) * width
        axes.bar(
            at,
            share,
            width,
            label=f"{name}: {accuracy:.1f} % right, mean of mistakes {mean:.2f}",
            color=COLOURS[i],
            hatch=HATCHES[i],
            edgecolor="white",
        )
        most = max(most, len(far) - 1)
    axes.set(xlabel=_UNIT[distance], ylabel="share of the rows, %", xlim=(0.4, max(1, most) + 0.6))
    axes.set_xticks(range(1, max(1, most) + 1))
    axes.set_title(title or "How far wrong answers are from the truth")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
