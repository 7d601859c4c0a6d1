"""The losses as functions, in the manner of `torch.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import hace_kernels

from .arguments import (
    Target,
    check_input,
    check_target,
    check_weight,
    is_index,
    shape_of_targets,
)
from .class_dim import class_dim, to_rows
from .hierarchy import Hierarchy, check_hierarchy
from .label_errors import explained
from .options import Distance, LossOptions, Reduction, Smoothing
from .spaces import LogitSpace, TargetSpace
from .tables import LossTables, Tables
from .targets import check_targets
from .weights import HACEWeights

__all__ = ["class_nodes", "hace_loss", "node_log_probs"]


def hace_loss(
    input: Tensor,
    target: Target,
    hierarchy: Hierarchy,
    dilution: float = 0.7,
    *,
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "uniform",
    soft_label_beta: float | None = None,
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
    check_hierarchy(hierarchy)
    options = LossOptions.of(
        logit_space=logit_space,
        target_space=target_space,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        smoothing=smoothing,
        soft_label_beta=soft_label_beta,
        soft_label_distance=soft_label_distance,
        eps=eps,
        backend=backend,
    )
    return path_loss(input, target, weight, LossTables(hierarchy, HACEWeights(dilution), options))


def node_log_probs(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    logit_space: LogitSpace = "classes",
    backend: str = "auto",
) -> Tensor:
    """`log P_v` of every node v, `P_v` being the softmax mass of the classes at or below it.

    Differentiable. Nodes whose classes all have a logit of −inf, or that have no class, get −inf
    and pass no gradient on; a row that is −inf throughout is NaN.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        hierarchy: of the classes.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.
        backend: "auto", or one of `hace.backends()`.

    Returns:
        The input's shape with the hierarchy's nodes, by id, in the class dimension; float64 for
        float64 input and float32 otherwise.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not a floating-point tensor.
        hace.BackendError: the backend asked for cannot run.
    """
    check_input(input, hierarchy, logit_space)
    nodes = Tables.of(hierarchy).nodes(logit_space, device=input.device)
    rows = hace_kernels.tree_log_prob(to_rows(input), nodes, backend=backend)
    dim = class_dim(input)
    return rows.reshape((*shape_of_targets(input), hierarchy.num_nodes)).movedim(-1, dim)


def class_nodes(hierarchy: Hierarchy, *, device: torch.device | str = "cpu") -> Tensor:
    """`Hierarchy.classes` as a tensor, to index what has a column per node; int64 (C), cached.

    (The hierarchy's own arrays are read-only, of which PyTorch warns.)

    Raises:
        TypeError: it is not a hierarchy.
    """
    return Tables.of(hierarchy).nodes_of_targets("classes", device=device)


def path_loss(input: Tensor, target: Target, weight: Tensor | None, tables: LossTables) -> Tensor:
    """A loss of the family `−Σ_i w_i log P_{a_i}`, once its keywords are checked."""
    options, hierarchy = tables.options, tables.hierarchy
    check_input(input, hierarchy, options.logit_space)
    check_weight(weight, hierarchy, options.targets.target_space)
    check_target(target, input, hierarchy, options)
    try:
        loss = _loss_of_rows(to_rows(input), _target_rows(target), weight, tables)
    except IndexError as error:
        raise explained(error, hierarchy, options.targets.target_space) from None
    return loss.reshape(shape_of_targets(input)) if options.reduction == "none" else loss


def _loss_of_rows(
    rows: Tensor, target: Target, weight: Tensor | None, tables: LossTables
) -> Tensor:
    options = tables.options
    if is_index(target) and not options.targets.spreads and tables.hierarchy.is_tree:
        return hace_kernels.path_log_loss(
            rows,
            target,
            tables.paths.on(rows.device),
            target_weight=weight,
            ignore_index=options.ignore_index,
            reduction=options.reduction,
            entropy=options.entropy,
            eps=options.eps,
            backend=options.backend,
        )
    # More than one path: several targets per row, spread ones, or a DAG.
    return _tree_loss(rows, target, weight, tables)


def _tree_loss(rows: Tensor, target: Target, weight: Tensor | None, tables: LossTables) -> Tensor:
    options = tables.options
    if options.entropy:
        raise ValueError(
            "the entropy of RegularizedCrossEntropyLoss goes with target indices, one per row, on "
            "a tree; got probabilities, a pair, or a DAG"
        )
    if not isinstance(tables.path_weights, HACEWeights):
        raise ValueError(
            f"{tables.path_weights} weighs single paths: give target indices, one per row. "
            "Probabilities and pairs go with HACELoss, CrossEntropyLoss and SoftLabelLoss"
        )
    check_targets(options.targets, tables.hierarchy.is_tree, weight is not None)
    return hace_kernels.tree_log_loss(
        rows,
        target,
        tables.nodes.on(rows.device),
        tables.targets.on(rows.device).weighted(weight),
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        eps=options.eps,
        backend=options.backend,
    )


def _target_rows(target: Target) -> Target:
    if isinstance(target, tuple):
        return to_rows(target[0]), to_rows(target[1])
    return to_rows(target) if target.is_floating_point() else target.reshape(-1)
