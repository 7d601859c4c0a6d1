"""The losses as functions, in the manner of `torch.nn.functional`.

Examples:
    >>> import torch, hace
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    >>> target = torch.tensor([1, 2])  # a dog and a car
    >>> hace.functional.hace_loss(logits, target, tree, dilution=0.7)
    tensor(0.5917)
    >>> hace.functional.node_log_probs(logits, tree).exp()[:, tree.index("animal")]
    tensor([0.9100, 0.1562])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

import hace_kernels
from hace_kernels.eager import eager
from hace_kernels.linear import OnWeightGrad, Shard, logits_fit, sharded_path_log_loss

from .arguments import (
    Target,
    check_input,
    check_target,
    check_weight,
    is_index,
    shape_of_targets,
)
from .class_dim import class_dim, to_rows, to_rows_or_pixels
from .hierarchy import Hierarchy, check_hierarchy
from .label_errors import explained
from .linear_layer import check_layer
from .linear_loss import linear_path_loss_by_tiles, why_not_by_tiles
from .linear_nodes import linear_node_log_probs_by_tiles
from .options import Distance, LossOptions, Reduction, Smoothing
from .spaces import LogitSpace, TargetSpace, num_columns
from .tables import LossTables, Tables
from .targets import check_targets
from .weights import HACEWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .distributed import ClassShard

__all__ = [
    "class_nodes",
    "hace_loss",
    "linear_hace_loss",
    "linear_node_log_probs",
    "node_log_probs",
]


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
    shard: ClassShard | None = None,
) -> Tensor:
    """Hierarchy-Aware Cross-Entropy as a function.

    `hace.HACELoss` has the formula, the other arguments, the shapes and the errors.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), floating.
        target: as `hace.HACELoss` takes it.
        hierarchy: of the classes.
        dilution: d in (0, 1].
        shard: the columns of the logits that `input` holds, where other processes have the others.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits, target = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1])
        >>> hace.functional.hace_loss(logits, target, tree, dilution=0.7)
        tensor(1.0136)
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
    tables = LossTables(hierarchy, HACEWeights(dilution), options)
    return path_loss(input, target, weight, tables, shard)


def linear_hace_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Target,
    hierarchy: Hierarchy,
    dilution: float = 0.7,
    *,
    linear_bias: Tensor | None = None,
    logit_bytes: int | None = None,
    on_weight_grad: OnWeightGrad | None = None,
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
    """`hace_loss(F.linear(input, linear_weight, linear_bias), …)`, by tiles of classes if need be.

    Logits of up to `logit_bytes` are computed as a whole. Larger ones are computed tile by tile and
    twice, for the loss and for the gradient, which takes four matrix products instead of three, and
    memory for one tile. The layer's gradient is rounded once. Under autocast the layer is cast tile
    by tile. The rows of the layer may be in label order or in any other `logit_space`.

    Args:
        input: of the layer, (N, F) or (F), floating.
        linear_weight: (C, F), one row for each column of the logits.
        target: indices, (N) or (), a pair (index, weight) of (N, K) or (K), or probabilities of
            the classes, (N, C) or (C), which get no gradient. On DAGs, and with eps beside targets
            that are spread over all classes, apply `hace_loss` to `F.linear`.
        hierarchy, dilution, logit_space, target_space, weight: as in `hace.HACELoss`.
        ignore_index, reduction, label_smoothing, smoothing, soft_label_beta: as there.
        soft_label_distance, eps, backend: as there.
        linear_bias: (C), or None.
        logit_bytes: a budget for the logits, in bytes; None: 256 MiB. 0 always takes tiles.
        on_weight_grad: called in the backward with rows of `linear_weight`, as a slice or int64
            indices, and their gradient (T, F), tile by tile; it may change these rows in place.
            `linear_weight` then gets no gradient, so that it is never whole, and clipping by a
            global norm does not see it. Gradients cannot be added up over several backwards: one
            that is there already raises RuntimeError. `hace.optim` has functions of this kind.

    Returns:
        float64 for float64 products and float32 otherwise: a scalar, or (N) with "none".

    Raises:
        ValueError, TypeError, IndexError, hace.BackendError, MemoryError: as `hace.HACELoss`.
        RuntimeError: at a second derivative through tiles, which do not have one.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> layer = torch.nn.Linear(8, 3)
        >>> features, target = torch.randn(16, 8), torch.randint(3, (16,))
        >>> loss = hace.functional.linear_hace_loss(
        ...     features, layer.weight, target, tree, linear_bias=layer.bias
        ... )
        >>> loss.backward()
        >>> layer.weight.grad.shape
        torch.Size([3, 8])
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
    return linear_path_loss(
        input,
        linear_weight,
        linear_bias,
        target,
        weight,
        LossTables(hierarchy, HACEWeights(dilution), options),
        logit_bytes=logit_bytes,
        on_weight_grad=on_weight_grad,
    )


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

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
        >>> hace.functional.node_log_probs(logits, tree).exp()[:, tree.index("animal")]
        tensor([0.9337])
    """
    check_input(input, hierarchy, logit_space)
    nodes = Tables.of(hierarchy).nodes(logit_space, device=input.device)
    rows = hace_kernels.tree_log_prob(to_rows(input), nodes, backend=backend)
    dim = class_dim(input)
    return rows.reshape((*shape_of_targets(input), hierarchy.num_nodes)).movedim(-1, dim)


def linear_node_log_probs(
    input: Tensor,
    linear_weight: Tensor,
    nodes: Tensor | Sequence[int],
    hierarchy: Hierarchy,
    *,
    linear_bias: Tensor | None = None,
    logit_space: LogitSpace = "classes",
    backend: str = "auto",
) -> Tensor:
    """`node_log_probs(F.linear(input, linear_weight, linear_bias), …)` of chosen nodes, by tiles.

    For evaluation: the logits are never held as a whole, and the result has no gradient.

    Args:
        input: of the layer, (N, F) or (F), floating.
        linear_weight: (C, F), one row for each column of the logits.
        nodes: ids, (M), the same for all rows; or (N, M), other nodes for each row, which is meant
            for small M: the logits of a tile are then read M times.
        hierarchy: of the classes; a tree or forest.
        linear_bias: (C), or None.
        logit_space: what the columns of the logits are, as in `node_log_probs`.
        backend: "auto", or one of `hace.backends()`.

    Returns:
        (N, M) or (M): float64 for float64 products and float32 otherwise.

    Raises:
        IndexError: there is no such node.
        ValueError, TypeError: shapes or dtypes do not fit, or the hierarchy is a DAG.
        hace.BackendError: the backend asked for cannot run.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> features, weight = torch.ones(1, 2), torch.tensor([[1.0, 1.0], [1.0, 0.9], [0.0, 0.0]])
        >>> nodes = [tree.index("animal"), tree.index("vehicle")]
        >>> hace.functional.linear_node_log_probs(features, weight, nodes, tree).exp()
        tensor([[0.9337, 0.0663]])
    """
    check_hierarchy(hierarchy)
    check_layer(input, linear_weight, num_columns(hierarchy, logit_space))
    return linear_node_log_probs_by_tiles(
        input, linear_weight, linear_bias, nodes, hierarchy, logit_space, backend=backend
    )


def class_nodes(hierarchy: Hierarchy, *, device: torch.device | str = "cpu") -> Tensor:
    """`Hierarchy.classes` as a tensor, to index what has a column per node; int64 (C), cached.

    (PyTorch warns when it is given the hierarchy's own arrays, which are read-only.)

    Raises:
        TypeError: it is not a hierarchy.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> of_nodes = torch.arange(tree.num_nodes) * 10
        >>> of_classes = of_nodes[hace.functional.class_nodes(tree)]
        >>> of_classes.tolist() == [10 * node for node in tree.classes]
        True
    """
    return Tables.of(hierarchy).nodes_of_targets("classes", device=device)


def linear_path_loss(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Target,
    weight: Tensor | None,
    tables: LossTables,
    *,
    logit_bytes: int | None = None,
    on_weight_grad: OnWeightGrad | None = None,
    shard: Shard | None = None,
) -> Tensor:
    """`path_loss` of a linear layer, by tiles where its logits would exceed the budget."""
    may_be_whole = shard is None and on_weight_grad is None
    is_spread = tables.options.targets.spreads
    if may_be_whole and (is_spread or why_not_by_tiles(target, tables) is not None):
        num_logits = input.numel() // max(1, input.shape[-1]) * len(linear_weight)
        if logits_fit(num_logits, input, linear_weight, logit_bytes):
            return path_loss(linear(input, linear_weight, linear_bias), target, weight, tables)
    try:
        return linear_path_loss_by_tiles(
            input,
            linear_weight,
            linear_bias,
            target,
            weight,
            tables,
            logit_bytes=logit_bytes,
            on_weight_grad=on_weight_grad,
            shard=shard,
        )
    except IndexError as error:
        raise explained(error, tables.hierarchy, tables.options.targets.target_space) from None


def path_loss(
    input: Tensor,
    target: Target,
    weight: Tensor | None,
    tables: LossTables,
    shard: ClassShard | None = None,
) -> Tensor:
    """A loss of the family `−Σ_i w_i log P_{a_i}`, whose keywords have been checked."""
    options, hierarchy = tables.options, tables.hierarchy
    if shard is not None:
        return _sharded_loss(input, target, weight, tables, shard)
    if weight is None and (loss := tables.bound_loss(input, target)) is not None:
        return loss
    check_input(input, hierarchy, options.logit_space)
    check_weight(weight, hierarchy, options.targets.target_space)
    check_target(target, input, hierarchy, options)
    if hasattr(input, "device_mesh"):  # a DTensor; its module takes a while to import
        from .distributed.dtensor import dtensor_path_loss

        return dtensor_path_loss(input, target, weight, tables)
    try:
        rows = to_rows_or_pixels(input)
        loss = _loss_of_rows(rows, _target_rows(target, rows.dim()), weight, tables)
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


@eager
def _sharded_loss(
    input: Tensor, target: Target, weight: Tensor | None, tables: LossTables, shard: ClassShard
) -> Tensor:
    """The loss of the columns that this process holds."""
    options, hierarchy = tables.options, tables.hierarchy
    if shard.hierarchy != hierarchy or shard.logit_space != options.logit_space:
        raise ValueError(
            f"shard is of {shard.logit_space!r} columns of {shard.hierarchy!r}, and the loss takes "
            f"{options.logit_space!r} columns of {hierarchy!r}"
        )
    check_weight(weight, hierarchy, options.targets.target_space)
    check_target(target, input, hierarchy, options)
    lack = why_not_by_tiles(target, tables)
    if lack is not None:
        raise ValueError(f"logits that are spread over processes: {lack}")
    loss = sharded_path_log_loss(
        to_rows(input),
        _target_rows(target),
        tables.paths.on(input.device),
        shard.shard,
        target_weight=weight,
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        entropy=options.entropy,
        eps=options.eps,
        spread=tables.spread(weight, target, input.device),
        backend=options.backend,
    )
    return loss.reshape(shape_of_targets(input)) if options.reduction == "none" else loss


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
        tables.targets.on(rows.device).table_for(weight, isinstance(target, tuple)),
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        eps=options.eps,
        # Smoothing that leaves nothing on the target itself: only the reference cancels the
        # target's mass to exactly 0 at every node; a rounding error left there would be infinitely
        # costly at −inf.
        backend="reference" if options.targets.spares_all else options.backend,
    )


def _target_rows(target: Target, dim: int = 2) -> Target:
    """The target in the form that the ops take beside rows, or beside pixels where `dim` is 3."""
    if isinstance(target, tuple):
        return to_rows(target[0]).long(), to_rows(target[1])
    if target.is_floating_point():
        return to_rows(target) if dim == 2 else target.flatten(2)
    index = target if target.dim() == 1 else target.reshape(-1)
    return index if index.dtype == torch.int64 else index.long()
