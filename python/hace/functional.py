"""The losses as functions, in the manner of `torch.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import hace_kernels
from hace_kernels.path_table import PathWeights
from hace_kernels.target_table import TargetTable

from .arguments import (
    Target,
    check_input,
    check_target,
    check_weight,
    is_index,
    shape_of_targets,
)
from .class_dim import class_dim, to_rows
from .hierarchy import Columns, Hierarchy, Space
from .options import Distance, LossOptions, Reduction, Smoothing
from .targets import with_class_weights
from .weights import HACEWeights

__all__ = ["hace_loss", "node_log_probs"]


def hace_loss(
    input: Tensor,
    target: Target,
    hierarchy: Hierarchy,
    dilution: float = 0.7,
    *,
    logits: Columns = "classes",
    targets: Space = "classes",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "uniform",
    soft_labels: float | None = None,
    soft_label_distance: Distance = "height",
    eps: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Hierarchy-Aware Cross-Entropy as a function.

    `hace.HACELoss` has the formula, the other arguments, the shapes and the errors.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: as `hace.HACELoss` takes it.
        hierarchy: of the classes.
        dilution: d in (0, 1].
    """
    options = LossOptions(
        logits,
        targets,
        ignore_index,
        reduction,
        label_smoothing,
        smoothing,
        soft_labels,
        soft_label_distance,
        eps,
        backend,
    )
    return loss_with_options(input, target, hierarchy, HACEWeights(dilution), weight, options)


def node_log_probs(
    input: Tensor, hierarchy: Hierarchy, *, logits: Columns = "classes", backend: str = "auto"
) -> Tensor:
    """`log P_v` of every node v, `P_v` being the softmax mass of the classes at or below it.

    Differentiable. Nodes whose classes all have a logit of −inf, or that have no class, get −inf
    and pass no gradient on; a row that is −inf throughout is NaN.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes.
        logits: what the class dimension of the input holds: "classes", one logit for each of the
            hierarchy's "nodes", or the classes in "depth_first" order.
        backend: "auto", or one of `hace.backends()`.

    Returns:
        The input's shape with the hierarchy's nodes, by id, in the class dimension; float64 for
        float64 input and float32 otherwise.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not floating point.
        hace.BackendError: the backend asked for cannot run.
    """
    check_input(input, hierarchy, logits)
    tree = hierarchy.node_table(logits, device=input.device)
    rows = hace_kernels.tree_log_prob(to_rows(input), tree, backend=backend)
    dim = class_dim(input)
    return rows.reshape((*shape_of_targets(input), tree.num_nodes)).movedim(-1, dim)


def loss_with_options(
    input: Tensor,
    target: Target,
    hierarchy: Hierarchy,
    path_weights: PathWeights,
    weight: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """A loss of the family once its keywords are checked."""
    check_input(input, hierarchy, options.logits)
    check_weight(weight, hierarchy, options.targets)
    check_target(target, input, hierarchy, options)
    rows, target = to_rows(input), _target_rows(target)
    if _goes_up_the_tree(target, hierarchy, options):
        loss = _tree_loss(rows, target, hierarchy, path_weights, weight, options)
    else:
        assert isinstance(target, Tensor)
        loss = hace_kernels.path_log_loss(
            rows,
            target,
            hierarchy.path_table(
                path_weights,
                logits=options.logits,
                targets=options.targets,
                keep_full=options.eps > 0,
                device=input.device,
            ),
            target_weight=weight,
            ignore_index=options.ignore_index,
            reduction=options.reduction,
            entropy=options.entropy,
            eps=options.eps,
            backend=options.backend,
        )
    return loss.reshape(shape_of_targets(input)) if options.reduction == "none" else loss


def _goes_up_the_tree(target: Target, hierarchy: Hierarchy, options: LossOptions) -> bool:
    """Whether a target is more than one path: several targets a row, spread ones, or a DAG."""
    return not is_index(target) or options.spreads or not hierarchy.is_tree


def _tree_loss(
    rows: Tensor,
    target: Target,
    hierarchy: Hierarchy,
    path_weights: PathWeights,
    weight: Tensor | None,
    options: LossOptions,
) -> Tensor:
    if options.entropy:
        raise ValueError(
            "the entropy of RegularizedCrossEntropyLoss goes with target indices on a tree, one a "
            "row; got probabilities, a pair, or a DAG"
        )
    if not isinstance(path_weights, HACEWeights):
        raise ValueError(
            f"{path_weights} weighs single paths: give target indices, one a row. Probabilities "
            "and pairs go with HACELoss, CrossEntropyLoss and SoftLabelLoss"
        )
    return hace_kernels.tree_log_loss(
        rows,
        target,
        hierarchy.node_table(options.logits, device=rows.device),
        _target_table(hierarchy, path_weights, weight, options, rows.device),
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        eps=options.eps,
        backend=options.backend,
    )


def prepare_tables(hierarchy: Hierarchy, path_weights: PathWeights, options: LossOptions) -> None:
    """Builds the tables that `loss_with_options` will look up.

    Raises:
        MemoryError: they would not fit.
    """
    if hierarchy.is_tree:
        hierarchy.path_table(
            path_weights,
            logits=options.logits,
            targets=options.targets,
            keep_full=options.eps > 0,
        )
    if isinstance(path_weights, HACEWeights):
        hierarchy.node_table(options.logits)
        hierarchy.target_table(path_weights, options)


def _target_rows(target: Target) -> Target:
    if isinstance(target, tuple):
        return to_rows(target[0]), to_rows(target[1])
    return to_rows(target) if target.is_floating_point() else target.reshape(-1)


def _target_table(
    hierarchy: Hierarchy,
    path_weights: HACEWeights,
    weight: Tensor | None,
    options: LossOptions,
    device: torch.device,
) -> TargetTable:
    table = hierarchy.target_table(path_weights, options, device=device)
    if weight is None:
        return table
    classes = hierarchy.target_nodes("classes", device=device)
    return with_class_weights(table, weight, classes if options.targets == "nodes" else None)
