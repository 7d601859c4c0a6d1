"""All figures of a model on a hierarchy in one call, as a table and as a dictionary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .answers.ancestry import TreeAncestry
from .hierarchy import Hierarchy
from .metrics.answers import (
    accuracy_ratio,
    coverage_ratio,
    deficient_ratio,
    excess_ratio,
    related_ratio,
)
from .metrics.calibration import reliability_of
from .metrics.compare import Comparison, compare
from .metrics.distances import distance_ratio, severity_ratio
from .metrics.levels import level_ratio, sibling_ratio
from .metrics.nodes import node_counts
from .metrics.operating import operating_steps
from .metrics.rankings import best_distance_ratio, distance_at_k_ratio, top_k_ratio
from .metrics.scored import Scored, score
from .metrics.sets import f1_ratio, precision_ratio, recall_ratio
from .spaces import LogitSpace, TargetSpace

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Report", "report"]


@dataclass(frozen=True)
class Report:
    """The figures of one model. `print` it for a table, or take `figures`.

    Attributes:
        num_rows: how many rows were counted.
        figures: name → number; "accuracy at depth 2" and the like for each level. What is
            undefined, such as the severity of no mistakes, is NaN.
        worst: the nodes at which most mistakes begin, as (name, rows whose truth is at or below
            the node, rows that are right one level higher and wrong at it).

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> found = hace.report(logits, target, tree, k=2)
        >>> found.num_rows, found.figures["accuracy"], found.worst
        (2, 0.5, [('animal/dog', 1, 1)])
    """

    num_rows: int
    figures: dict[str, float]
    worst: list[tuple[str, int, int]]

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings and lists for JSON; what is undefined is None."""
        return {
            "rows": self.num_rows,
            "figures": {
                name: None if math.isnan(value) else value for name, value in self.figures.items()
            },
            "worst": [
                {"node": name, "rows": rows, "wrong": wrong} for name, rows, wrong in self.worst
            ],
        }

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{name:{width}}  {_told(name, value)}" for name, value in self.figures.items()]
        lines.insert(0, f"{'rows':{width}}  {self.num_rows:,}")
        if self.worst:
            lines.append("mistakes begin at:")
            lines += [f"  {name}: {wrong:,} of {rows:,} rows" for name, rows, wrong in self.worst]
        return "\n".join(lines)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title=f"{self.num_rows:,} rows", title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in self.figures.items():
            table.add_row(name, _told(name, value))
        if self.worst:
            table.add_section()
            for name, rows, wrong in self.worst:
                table.add_row(f"first wrong at {name}", f"{wrong:,} of {rows:,}")
        return table


def report(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    *,
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
    pred_space: TargetSpace | None = None,
    ignore_index: int = -100,
    k: int = 5,
    worst: int = 5,
) -> Report:
    """All figures of `hace.metrics` that the hierarchy and the input have.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating; or answers, integer, of the target's
            shape. Only logits have rankings, calibration and an operating curve.
        target: the truth, integer.
        hierarchy: of both; on a DAG there are no figures of levels.
        logit_space: what the class dimension of logits holds, see `hace.metrics.LogitLabels`.
        target_space: what `target` holds: labels of "classes" or ids of "nodes".
        pred_space: what the answers are, by default the same as the target; not for logits.
        ignore_index: rows with this target are left out.
        k: of the rankings, at most C.
        worst: how many nodes to name.

    Raises:
        TypeError: a target that does not hold integers.
        ValueError: the shapes do not fit, or an option is outside its range.
        IndexError: an index is outside its space.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> answers, truth = torch.tensor([0, 2]), torch.tensor([1, 2])
        >>> figures = hace.report(answers, truth, tree).figures
        >>> figures["accuracy"], figures["accuracy at depth 0"]
        (0.5, 1.0)
    """
    if input.is_floating_point():
        if pred_space is not None:
            raise ValueError("pred_space is for answers, and the input holds logits")
        scored = score(
            input,
            target,
            hierarchy,
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
        )
        answers = scored.top(1)
    else:
        scored = None
        answers = compare(
            input,
            target,
            hierarchy,
            target_space=target_space,
            pred_space=pred_space,
            ignore_index=ignore_index,
        )
    figures = _of_answers(answers, hierarchy)
    if scored is not None:
        figures |= _of_logits(scored, min(k, hierarchy.num_classes))
    return Report(answers.num_rows, figures, _worst(answers, hierarchy, worst))


def _of_answers(c: Comparison, hierarchy: Hierarchy) -> dict[str, float]:
    ratios = {
        "accuracy": accuracy_ratio(c),
        "ancestor-or-descendant accuracy": related_ratio(c),
        "coverage": coverage_ratio(c),
        "severity of mistakes, LCA height": severity_ratio(c, "height"),
        "severity of mistakes, LCA depth": severity_ratio(c, "depth"),
        "mean distance, edges": distance_ratio(c, "hops"),
        "hierarchical precision": precision_ratio(c),
        "hierarchical recall": recall_ratio(c),
        "hierarchical F1": f1_ratio(c),
        "hierarchical F1, macro": f1_ratio(c, "macro"),
        "excess depth": excess_ratio(c),
        "deficient depth": deficient_ratio(c),
    }
    if hierarchy.is_tree:
        ratios["sibling accuracy"] = sibling_ratio(c)
    figures = {name: ratio.value().item() for name, ratio in ratios.items()}
    if hierarchy.is_tree:
        for depth, value in enumerate(level_ratio(c).value().tolist()):
            figures[f"accuracy at depth {depth}"] = value
    return figures


def _of_logits(s: Scored, k: int) -> dict[str, float]:
    figures = {
        f"top-{k} accuracy": top_k_ratio(s, k).value().item(),
        f"mean LCA height of the top {k}": distance_at_k_ratio(s, k).value().item(),
        f"LCA height of the best of {k}": best_distance_ratio(s, k).value().item(),
        "area under the operating curve": operating_steps(s).curve().area().item(),
    }
    if s.hierarchy.is_tree:
        for depth, value in enumerate(reliability_of(s).error().tolist()):
            figures[f"calibration error at depth {depth}"] = value
    return figures


def _worst(c: Comparison, hierarchy: Hierarchy, count: int) -> list[tuple[str, int, int]]:
    """The nodes at which most mistakes begin."""
    begins = torch.bincount(mistakes_begin(c), minlength=hierarchy.num_nodes)
    truths = node_counts(c).truth
    names = hierarchy.names
    return [
        (names[v] if names else f"node {v}", int(truths[v]), int(begins[v]))
        for v in begins.topk(min(count, len(begins))).indices.tolist()
        if begins[v] > 0
    ]


def mistakes_begin(c: Comparison) -> Tensor:
    """The node id of each wrong row at which it goes wrong.

    In a tree, the highest node that is at or above the truth and not at or above the answer; on a
    DAG the truth itself. Rows that are right so far (the answer is at or above the truth, or below
    it) have none.
    """
    wrong = ~(c.is_above | c.is_below)
    pred, target = c.pred[wrong], c.target[wrong]
    if isinstance(c.ancestry, TreeAncestry):
        lca = c.ancestry.lca(pred, target)
        target = c.ancestry.at_depth(target, c.ancestry.depth[lca] + 1)
    return c.points.told(target)


def _told(name: str, value: float) -> str:
    """The figure as text, with shares in percent."""
    if math.isnan(value):
        return "–"
    if "severity" in name or "distance" in name or "height" in name or name.endswith(" depth"):
        return f"{value:.2f}"
    return f"{100 * value:.1f} %"
