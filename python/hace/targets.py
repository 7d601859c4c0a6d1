"""Targets that are spread over the tree: smoothing, soft labels and class weights as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hace_kernels.target_table import SoftLabels, TargetTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .hierarchy import Hierarchy
    from .options import LossOptions

__all__ = ["build_target_table", "with_class_weights"]


def build_target_table(
    hierarchy: Hierarchy, keep: NDArray[np.float64], options: LossOptions
) -> TargetTable:
    """The table of a loss's targets, on the CPU.

    Smoothing by ε: `"uniform"` gives ε/C to every class, the target included, as PyTorch's
    `label_smoothing` does; `"others"` gives ε/(C−1) to every class but the target, as the code of
    arXiv 2605.06274 does (and ε/C where the target is not a class).

    Args:
        hierarchy: of the classes.
        keep: float64 (N), the share of the mass reaching a node that stays there.
        options: of the loss.
    """
    tree = hierarchy.node_table(options.logits)
    place = tree.place.numpy()
    nodes = hierarchy.target_nodes(options.targets).numpy()
    is_class = np.zeros(hierarchy.num_nodes)
    is_class[hierarchy.classes] = 1
    num_classes, epsilon = hierarchy.num_classes, options.label_smoothing

    def by_place(of_nodes: NDArray[np.float64], elsewhere: float) -> Tensor:
        values = np.full(tree.num_places, elsewhere)
        values[place[place >= 0]] = of_nodes[place >= 0]
        return torch.from_numpy(values)

    share = np.full(len(nodes), 1 - epsilon)
    spread, row_spread = None, 0.0
    if options.smoothing == "uniform":
        row_spread = epsilon / num_classes
    elif epsilon > 0:
        # ε/(C−1) on all classes, and as much less on the target; soft labels are all on classes.
        to_each = epsilon / max(1, num_classes - 1)
        on_classes = (is_class[nodes] > 0) | (options.soft_labels is not None)
        share = np.where(on_classes, share - to_each, share)
        spread = torch.from_numpy(np.where(on_classes, to_each, epsilon / num_classes))

    return TargetTable(
        place=torch.from_numpy(place[nodes]),
        keep=by_place(keep, 1.0),
        unit=by_place(is_class, 0.0),
        share=torch.from_numpy(share),
        weight=None,
        spread=spread,
        row_spread=row_spread,
        soft_labels=_soft_labels(hierarchy, options, nodes, is_class, by_place),
    )


def _soft_labels(
    hierarchy: Hierarchy,
    options: LossOptions,
    nodes: NDArray[np.int64],
    is_class: NDArray[np.float64],
    by_place: Callable[[NDArray[np.float64], float], Tensor],
) -> SoftLabels | None:
    """Class c's share in target y is proportional to exp(−β · distance(c, y)).

    Source: Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.2 (`"height"`), and
    the code of arXiv 2605.06274 (`"depth"`).
    """
    beta = options.soft_labels
    if beta is None:
        return None
    if not hierarchy.is_tree:
        raise ValueError(
            "soft_labels are made of lowest common ancestors, which a DAG does not have; give the "
            "soft labels as probabilities"
        )
    # A forest has a virtual root above its roots, at distance 1.
    forest = int(len(hierarchy.roots) > 1)
    if options.soft_label_distance == "height":
        distance = hierarchy.heights / max(1, hierarchy.heights.max() + forest)
    else:
        distance = 1 - (hierarchy.depths + forest) / max(1, hierarchy.depth + forest)
    is_leaf = hierarchy.heights == 0
    distance[is_leaf] = 0  # the class itself
    apart = np.zeros(len(nodes), np.bool_)
    if options.soft_label_distance == "depth":
        apart = (is_class[nodes] > 0) & ~is_leaf[nodes]
    return SoftLabels(
        log_similarity=by_place(-beta * distance, -beta),
        is_class=by_place(is_class, 0.0),
        apart=torch.from_numpy(apart),
    )


def with_class_weights(table: TargetTable, weight: Tensor, classes: Tensor | None) -> TargetTable:
    """The table with each target's mass multiplied by its weight, before it rises.

    Args:
        table: of T targets.
        weight: (T,).
        classes: int64 (C), which target each class is; None: the classes are the targets.
    """
    weight = weight.double()
    labels = slice(None) if classes is None else classes
    unit = table.unit.index_put((table.place[labels].long(),), weight[labels])
    # Soft labels put their mass on classes, where `unit` multiplies it.
    share = table.share * weight if table.soft_labels is None else table.share
    return table._replace(unit=unit, share=share, weight=weight)
