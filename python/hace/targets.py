"""Targets that are spread over the tree: smoothing, soft labels and class weights as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hace_kernels import ByColumn, Risen, SoftLabels, TargetTable
from hace_kernels.widest import widened

from .label_tree import LabelTree
from .options import TargetOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

__all__ = ["Targets", "build_targets", "check_targets"]


class Targets(NamedTuple):
    """A target table without class weights, and the values that these multiply; on one device.

    Attributes:
        table: how targets go up the tree.
        unit_place: int64 (U), the places on which smoothing and soft labels put mass.
        unit_target: int64 (U), the target whose class weight multiplies it there.
    """

    table: TargetTable
    unit_place: Tensor
    unit_target: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """The same on `device`."""
        return Targets(
            self.table.to(device), self.unit_place.to(device), self.unit_target.to(device)
        )

    def table_for(self, weight: Tensor | None, of_pairs: bool) -> TargetTable:
        """The table in which class weights (T,) multiply mass before it rises.

        Smoothing of a pair is in proportion to its weights, so a row whose entries are all ignored
        has no mass.
        """
        table = self.table
        if of_pairs and table.row_spread:
            spread = torch.full_like(table.share, table.row_spread)
            table = table._replace(spread=spread, row_spread=0.0)
        if weight is None:
            return table
        weight = widened(weight).contiguous()
        unit = table.unit.index_put((self.unit_place,), weight[self.unit_target])
        # Soft labels put their mass on classes, where `unit` multiplies it.
        share = table.share * weight if table.soft_labels is None else table.share
        return table._replace(unit=unit, share=share, weight=weight, risen=None, by_column=None)


def check_targets(options: TargetOptions, is_tree: bool, weighted: bool) -> None:
    """Raises ValueError where these options have no meaning together."""
    if options.soft_label_beta is not None and not is_tree:
        raise ValueError(
            "soft_label_beta makes soft labels of lowest common ancestors, which a DAG does not "
            "have; give the soft labels as probabilities"
        )
    if options.soft_label_beta is not None and _spreads_over_nodes(options):
        raise ValueError(
            "soft_label_beta puts the mass of a target on classes alone, and smoothing='nodes' on "
            "nodes too; with soft labels give smoothing='uniform' or 'others', or label_smoothing=0"
        )
    if weighted and _spreads_over_nodes(options) and options.target_space == "classes":
        raise ValueError(
            "smoothing='nodes' puts mass on nodes that are not classes, and weight has an entry "
            "for each class; with target_space='nodes' it has one for each node"
        )


def build_targets(
    labels: LabelTree,
    place: NDArray[np.int32],
    num_places: int,
    targets: NDArray[np.int64],
    keep: Float64,
    options: TargetOptions,
) -> Targets:
    """How the targets of a loss go up the tree, on the CPU.

    Smoothing by ε: `"uniform"` gives ε/C to every class, the target included, as PyTorch's
    `label_smoothing` does; `"others"` gives ε/(C−1) to every class except the target, as the
    CIFAR-100 code of arXiv 2605.06274 does (and ε/C where the target is not a class); `"nodes"`
    gives ε/(N−1) to every node except the target, N being the nodes of the label tree with a class
    at or below them, as that paper's code for FGVC-Aircraft and NABirds does.

    Args:
        labels: the label tree.
        place: int32, each of its nodes' place in the op's table, or −1.
        num_places: of that table.
        targets: int64 (T), the label tree's node of each target.
        keep: float64, the share of the mass reaching a node that stays there.
        options: what the targets stand for.
    """

    def by_place(of_nodes: Float64, elsewhere: float) -> Tensor:
        values = np.full(num_places, elsewhere)
        values[place[place >= 0]] = of_nodes[place >= 0]
        return torch.from_numpy(values)

    is_class = np.zeros(len(place))
    is_class[labels.classes] = 1
    over_nodes = _spreads_over_nodes(options)
    units = np.flatnonzero(place >= 0) if over_nodes else labels.classes
    is_unit = np.zeros(len(place))
    is_unit[units] = 1
    if options.target_space == "nodes":
        unit_target = labels.node[units]
    else:
        label = np.zeros(len(place), np.int64)
        label[labels.classes] = np.arange(len(labels.classes))
        unit_target = label[units]

    epsilon = options.label_smoothing
    share = np.full(len(targets), 1 - epsilon)
    spread, row_spread = None, 0.0
    if options.smoothing == "uniform":
        row_spread = epsilon / len(units)
    elif epsilon > 0:
        # As much on all units, and as much less on the target; soft labels are all on units.
        to_each = epsilon / max(1, len(units) - 1)
        on_units = (is_unit[targets] > 0) | (options.soft_label_beta is not None)
        share = np.where(on_units, share - to_each, share)
        spread = torch.from_numpy(np.where(on_units, to_each, epsilon / len(units)))

    table = TargetTable(
        place=torch.from_numpy(place[targets]),
        keep=by_place(keep, 1.0),
        unit=by_place(is_unit, 0.0),
        share=torch.from_numpy(share),
        weight=None,
        spread=spread,
        row_spread=row_spread,
        soft_labels=_soft_labels(labels, options, by_place, is_class),
        risen=_risen(labels, options, by_place, is_class, is_unit, keep),
    )
    table = table._replace(by_column=_by_column(table))
    return Targets(
        table, torch.from_numpy(place[units].astype(np.int64)), torch.from_numpy(unit_target)
    )


def _spreads_over_nodes(options: TargetOptions) -> bool:
    return options.smoothing == "nodes" and options.label_smoothing > 0


def _risen(
    labels: LabelTree,
    options: TargetOptions,
    by_place: Callable[[Float64, float], Tensor],
    is_class: Float64,
    is_unit: Float64,
    keep: Float64,
) -> Risen | None:
    """Where anything is put on every class."""
    links = labels.links
    if not options.spreads or not links.is_tree:
        return None
    reaching = is_unit.copy()
    for nodes in links.levels[:0:-1]:
        np.add.at(reaching, links.parents[nodes], (1 - keep[nodes]) * reaching[nodes])
    below = None
    if options.soft_label_beta is not None:
        below = by_place(links.sum_up(is_class), float(is_class.sum())).int()
    return Risen(by_place(keep * reaching, 0.0).float(), by_place(reaching, 0.0), below)


def _by_column(table: TargetTable) -> ByColumn | None:
    """Where the targets are the columns."""
    size = table.num_targets
    columns = torch.arange(size, dtype=table.place.dtype, device=table.place.device)
    if not torch.equal(table.place, columns):
        return None
    share, keep, unit = table.share, table.keep[:size], table.unit[:size]
    if size > 0 and all(bool((x == x[0]).all()) for x in (share, keep, unit)):
        share, keep = share[:1], keep[:1]
    return ByColumn((share * keep).float(), (share * (1 - keep)).float())


def _soft_labels(
    labels: LabelTree,
    options: TargetOptions,
    by_place: Callable[[Float64, float], Tensor],
    is_class: Float64,
) -> SoftLabels | None:
    """Class c's share in target y is proportional to exp(−β · distance(c, y)).

    Source: Bertinetto et al., *Making Better Mistakes*, CVPR 2020, section 3.2 (`"height"`), and
    the code of arXiv 2605.06274 (`"depth"`).
    """
    beta = options.soft_label_beta
    if beta is None:
        return None
    links = labels.links
    # A forest has a virtual root above its roots, at distance 1.
    forest = int(np.count_nonzero(links.num_parents == 0) > 1)
    if options.soft_label_distance == "height":
        distance = links.heights / max(1, links.heights.max() + forest)
    else:
        distance = 1 - (links.depths + forest) / max(1, links.depths.max() + forest)
    distance[links.is_leaf] = 0  # the class itself
    # Shares are relative to that of the nearest class. A node without a class below it has none as
    # near as it is itself: its nearest class is its nearest ancestor's.
    has_class = links.sum_up(is_class) > 0
    for nodes in links.levels:
        empty = nodes[~has_class[nodes]]
        parents = links.parents[empty]
        distance[empty] = np.where(parents >= 0, distance[parents], 1.0)
    return SoftLabels(
        log_similarity=by_place(-beta * distance, -beta),
        is_class=by_place(is_class, 0.0),
    )
