"""The losses as functions, in the manner of `torch.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import hace_kernels
from hace_kernels import reference

from .class_dim import class_dim, to_rows
from .hierarchy import Hierarchy, Space
from .options import Distance, LossOptions, Reduction, Smoothing
from .target_mass import one_hot, smoothed
from .weights import HACEWeights

__all__ = ["hace_loss"]


def hace_loss(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    dilution: float = 0.7,
    *,
    logits: Space = "classes",
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
    """Hierarchy-Aware Cross-Entropy as a function; see `hace.HACELoss` for formula and arguments.

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


def loss_with_options(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    path_weights: HACEWeights,
    weight: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """`hace_loss` once its keywords are checked."""
    if not isinstance(hierarchy, Hierarchy):
        raise TypeError(f"hierarchy must be a hace.Hierarchy, got {type(hierarchy).__name__}")
    if isinstance(target, tuple):
        raise NotImplementedError(
            "a pair (index, weight) as target comes with the op tree_log_loss, which this release "
            "does not have; give probabilities for now"
        )
    _check_shapes(input, target, hierarchy, weight, options)
    rows = to_rows(input)
    if target.is_floating_point() or options.label_smoothing > 0:
        loss = _tree_loss(rows, target, hierarchy, path_weights, weight, options)
    else:
        table = hierarchy.path_table(
            path_weights,
            logits=options.logits,
            targets=options.targets,
            keep_full=options.eps > 0,
            device=input.device,
        )
        loss = hace_kernels.path_log_loss(
            rows,
            target.reshape(-1),
            table,
            target_weight=weight,
            ignore_index=options.ignore_index,
            reduction=options.reduction,
            eps=options.eps,
            backend=options.backend,
        )
    return loss.reshape(_target_shape(input)) if options.reduction == "none" else loss


def _tree_loss(
    rows: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    path_weights: HACEWeights,
    weight: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """Targets that are spread over many classes: log-loss at every node, by the reference."""
    hace_kernels.require_reference(options.backend, "label smoothing and probability targets")
    tree = hierarchy.tree_table(logits=options.logits, device=rows.device)
    nodes = hierarchy.target_nodes(options.targets, device=rows.device)
    num_targets, dtype = len(nodes), reference.loss_dtype(rows.dtype)

    if target.is_floating_point():
        mass = to_rows(target).to(dtype)
        counts = torch.ones(len(mass), dtype=torch.bool, device=mass.device)
        total_weight: Tensor | int = len(mass)
    else:
        index = target.reshape(-1)
        counts = index != options.ignore_index
        in_range = (index >= 0) & (index < num_targets)
        reference.check_targets(index, counts & ~in_range, num_targets)
        index = torch.where(in_range, index, 0)
        mass = one_hot(index, counts, in_range, num_targets, dtype)
        total_weight = reference.row_weights(counts, index, weight, dtype).sum()

    is_class = torch.isin(nodes, hierarchy.target_nodes("classes", device=rows.device))
    mass = smoothed(mass, is_class, options.label_smoothing, options.smoothing)
    if weight is not None:
        mass = mass * weight.to(dtype)
    reference.check_mass_has_classes(mass, tree.empty[tree.place[nodes]])
    mass = mass.new_zeros(len(mass), tree.num_nodes).index_copy(1, nodes, mass)
    keep = torch.full((tree.num_nodes,), path_weights.dilution, dtype=dtype, device=rows.device)
    keep = torch.where(tree.parent[tree.place] < 0, 1.0, keep)
    loss = reference.tree_log_loss(rows, mass, tree, keep, eps=options.eps)
    loss = torch.where(counts, loss, 0.0)
    return reference.reduce(loss, total_weight, options.reduction)


def _target_shape(input: Tensor) -> torch.Size:
    """The input's shape without its class dimension."""
    dim = class_dim(input)
    return input.shape[:dim] + input.shape[dim + 1 :]


def _check_shapes(
    input: Tensor,
    target: Tensor,
    hierarchy: Hierarchy,
    weight: Tensor | None,
    options: LossOptions,
) -> None:
    num_logits = hierarchy.num_targets(options.logits)
    num_targets = hierarchy.num_targets(options.targets)
    if input.dim() == 0 or input.shape[class_dim(input)] != num_logits:
        raise ValueError(
            f"input must be logits of shape (C), (N, C) or (N, C, d1, …) with C = {num_logits}, "
            f"one for each of the hierarchy's {options.logits}; got {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise TypeError(f"input must be floating-point logits, got {input.dtype}")
    check_weight(weight, hierarchy, options.targets)
    shape = _target_shape(input)
    if target.is_floating_point():
        dim = class_dim(input)
        expected = torch.Size((*shape[:dim], num_targets, *shape[dim:]))
        if target.shape != expected:
            raise ValueError(
                f"target as probabilities over the {num_targets} {options.targets} must be "
                f"{tuple(expected)} beside this input; got {tuple(target.shape)}"
            )
        if options.ignore_index >= 0:
            raise ValueError(
                f"ignore_index = {options.ignore_index} goes with target indices, and the target "
                "holds probabilities; leave rows out by giving them no mass"
            )
    elif target.dtype != torch.int64:
        raise TypeError(
            f"target must hold int64 indices or floating-point probabilities, got {target.dtype}"
        )
    elif target.shape != shape:
        raise ValueError(
            f"target must be {tuple(shape)} indices beside an input of shape {tuple(input.shape)}; "
            f"got {tuple(target.shape)}"
        )


def check_weight(weight: Tensor | None, hierarchy: Hierarchy, targets: Space) -> None:
    """Raises ValueError unless `weight` has one entry for each target."""
    num_targets = hierarchy.num_targets(targets)
    if weight is not None and weight.shape != (num_targets,):
        raise ValueError(
            f"weight must be ({num_targets},), one for each of the target {targets}; got "
            f"{tuple(weight.shape)}"
        )
