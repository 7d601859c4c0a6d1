"""Accuracy against informativeness, for several models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..answers.specificity import Specificity
from ..hierarchy import Hierarchy
from ..metrics.operating import operating_curve
from .style import COLOURS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from typing_extensions import Unpack

    from ..metrics.scored import LogitLabels

__all__ = ["operating_curves"]

_LINES = ("-", "--", "-.", ":", "-", "--")
_MARKED = (0.9, 0.5)


def operating_curves(
    logits: Mapping[str, Tensor],
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    specificity: Specificity = "information",
    title: str | None = None,
    axes: Axes | None = None,
    **labels: Unpack[LogitLabels],
) -> Axes:
    """What is gained by stopping at coarser nodes: one line per model, marked at two thresholds.

    Args:
        logits: a mapping from the name of each model to its logits; at most six.
        target: the truth, integer.
        hierarchy: of all; DAGs too.
        specificity: "information" or "depth", see `hace.metrics.operating_curve`.
        title: above the picture.
        axes: to draw into.
        labels: `logit_space`, `target_space`, `ignore_index`, see `hace.metrics.LogitLabels`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no model or too many, or as for `hace.metrics.operating_curve`.

    Examples:
        >>> import torch, hace, hace.pictures
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
        >>> models = {"ours": logits, "half as sure": logits / 2}
        >>> axes = hace.pictures.operating_curves(models, torch.tensor([1, 0, 2]), tree)
        >>> axes.figure.savefig("curves.png")
    """
    if not 1 <= len(logits) <= len(COLOURS):
        raise ValueError(f"logits must be of 1 to {len(COLOURS)} models, got {len(logits)}")
    axes = new_axes(axes, 7, 4.5)
    lowest = 100.0
    for i, (name, input) in enumerate(logits.items()):
        curve = operating_curve(input, target, hierarchy, specificity=specificity, **labels)
        x, y = 100 * curve.information.cpu().numpy(), 100 * curve.accuracy.cpu().numpy()
        area = curve.area().item()
        label = f"{name}: area {area:.3f}"
        axes.plot(x, y, label=label, color=COLOURS[i], linestyle=_LINES[i])
        for threshold, marker in zip(_MARKED, "os", strict=True):
            at = int((curve.threshold >= threshold).sum()) - 1
            axes.plot(x[at], y[at], marker, color=COLOURS[i], markersize=6)
            if i == 0:
                axes.annotate(
                    f"P ≥ {threshold}",
                    (x[at], y[at]),
                    (6, 6),
                    textcoords="offset points",
                    fontsize=8,
                )
        lowest = min(lowest, float(y.min()))
    says = "bits" if specificity == "information" else "levels"
    axes.set(
        xlabel=f"what answers say, % of the {says} that a class says",
        ylabel="right answers, %",
        xlim=(0, 100),
        ylim=(max(0, lowest - 5), 101),
    )
    axes.set_title(title or "Accuracy against informativeness")
    axes.legend(frameon=False, loc="lower left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
