"""A model's output for a row, in names and percentages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..answers.rows import class_log_probs, columns_of_classes, input_rows, node_log_prob_rows
from .levels import top_k_per_level
from .threshold import majority_subtree

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy
    from ..spaces import LogitSpace

__all__ = ["Explanation", "Named", "explain"]


class Named(NamedTuple):
    """A node and its probability, for people to read.

    Attributes:
        node: its id; −1 for the whole forest.
        name: its name, or "node 7" in a hierarchy without names.
        probability: of the node, or of the class alone.
    """

    node: int
    name: str
    probability: float

    def __str__(self) -> str:
        return f"{self.name} ({_percent(self.probability)})"


@dataclass(frozen=True)
class Explanation:
    """A model's output for one row, for people to read: `print` it.

    Attributes:
        classes: the k most probable classes, best first, each by itself.
        majority: the smallest subtree that holds more than half of the probability.
        levels: the k most probable answers at each depth, best first; empty on a DAG.
    """

    classes: list[Named]
    majority: Named
    levels: list[list[Named]]

    def __str__(self) -> str:
        width = max(len(answer.name) for answer in self.classes)
        lines = [
            f"{rank}. {answer.name:{width}}  {_percent(answer.probability):>5}"
            for rank, answer in enumerate(self.classes, 1)
        ]
        lines.append(f"more likely than not: {self.majority}")
        for depth, level in enumerate(self.levels):
            lines.append(f"at depth {depth}: {', '.join(map(str, level))}")
        return "\n".join(lines)


def explain(
    input: Tensor, hierarchy: Hierarchy, k: int = 3, *, logit_space: LogitSpace = "classes"
) -> list[Explanation]:
    """The most probable classes and nodes of each row by name, for people to read.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating; its rows are those of
            (N · d1 · …, C).
        hierarchy: of the classes; DAGs too.
        k: how many answers at most, 1 or more.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.

    Raises:
        TypeError: input that is not floating point.
        ValueError: the input's shape does not fit, or k is less than 1.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> print(hace.decode.explain(logits, tree)[0])
        1. animal/cat    49 %
        2. animal/dog    44 %
        3. vehicle/car    7 %
        more likely than not: animal (93 %)
        at depth 0: animal (93 %), vehicle (7 %)
        at depth 1: animal/cat (49 %), animal/dog (44 %), vehicle/car (7 %)
    """
    if not k >= 1:
        raise ValueError(f"k must be at least 1, got {k!r}")
    rows = input_rows(input, hierarchy, logit_space)
    names = hierarchy.names

    def named(node: int, probability: float) -> Named:
        if node < 0:
            return Named(node, "anything", 1.0)
        return Named(node, names[node] if names else f"node {node}", probability)

    columns = columns_of_classes(hierarchy, logit_space, rows.device)
    of_classes = rows if columns is None else rows.index_select(1, columns)
    label = of_classes.topk(min(k, hierarchy.num_classes), dim=1).indices
    explanations = []
    for row, best in zip(torch.split(rows, 1), label.tolist(), strict=True):
        log_prob = class_log_probs(row, hierarchy, label.new_tensor(best), logit_space)[0]
        nodes = hierarchy.classes[best].tolist()
        classes = [named(node, p) for node, p in zip(nodes, log_prob.exp().tolist(), strict=True)]
        major = int(majority_subtree(row, hierarchy, logit_space=logit_space))
        mass = node_log_prob_rows(row, hierarchy, logit_space)[0, major].exp().item()
        levels: list[list[Named]] = []
        if hierarchy.is_tree:
            ranking = top_k_per_level(row, hierarchy, k, logit_space=logit_space)
            levels = [
                [named(node, p) for node, p in zip(*level, strict=True) if node >= 0]
                for level in zip(
                    ranking.node[0].tolist(), ranking.probability[0].tolist(), strict=True
                )
            ]
        explanations.append(Explanation(classes, named(major, mass), levels))
    return explanations


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability >= 0.005 else "<1 %"
