"""Path losses of a linear layer without holding all logits at once."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor

from hace_kernels.eager import eager
from hace_kernels.linear import (
    NodeSums,
    OnWeightGrad,
    Shard,
    linear_path_log_loss,
    linear_with_log_prob,
    logits_fit,
)

from .arguments import Target, check_weight, is_index
from .linear_layer import check_layer
from .spaces import num_columns, num_targets
from .tables import LossTables
from .weights import HACEWeights

__all__ = [
    "linear_path_loss_by_tiles",
    "linear_path_loss_with_log_prob",
    "takes_tiles",
    "why_not_by_tiles",
]


def linear_path_loss_by_tiles(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Target,
    class_weight: Tensor | None,
    tables: LossTables,
    *,
    logit_bytes: int | None = None,
    on_weight_grad: OnWeightGrad | None = None,
    shard: Shard | None = None,
    node_sums: NodeSums | None = None,
) -> Tensor:
    """The loss of `F.linear(input, weight, bias)`; `hace.functional.linear_hace_loss` says more.

    With node sums, weight and bias are those of `hace.nn.TreeLinear`.
    """
    rows, target = _checked(input, weight, target, class_weight, tables, shard, node_sums)
    lack = why_not_by_tiles(target, tables)
    if lack is not None:
        raise ValueError(lack)
    options = tables.options
    loss = linear_path_log_loss(
        rows,
        weight,
        target,
        tables.paths.on(input.device),
        bias=bias,
        target_weight=class_weight,
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        entropy=options.entropy,
        eps=options.eps,
        spread=tables.spread(class_weight, target, input.device),
        logit_bytes=logit_bytes,
        backend=options.backend,
        shard=shard,
        on_weight_grad=on_weight_grad,
        node_sums=node_sums,
    )
    return loss.reshape(input.shape[:-1]) if options.reduction == "none" else loss


@eager
def linear_path_loss_with_log_prob(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    tables: LossTables,
    *,
    logit_bytes: int | None = None,
    on_weight_grad: OnWeightGrad | None = None,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss by tiles, and each row's log P of its target, from one pass over the logits."""
    rows, index = _checked(input, weight, target, class_weight, tables, shard)
    assert isinstance(index, Tensor)
    options = tables.options
    loss, log_prob = linear_with_log_prob(
        rows,
        weight,
        index,
        tables.paths.on(input.device),
        tables.own_paths(input.device),
        bias=bias,
        target_weight=class_weight,
        ignore_index=options.ignore_index,
        reduction=options.reduction,
        entropy=options.entropy,
        eps=options.eps,
        spread=tables.spread(class_weight, index, input.device),
        logit_bytes=logit_bytes,
        backend=options.backend,
        shard=shard,
        on_weight_grad=on_weight_grad,
    )
    if input.dim() == 2:  # FSDP warns of modules that give views
        return loss, log_prob
    return loss.reshape(()), log_prob.reshape(())


def takes_tiles(
    input: Tensor, weight: Tensor, target: Target, tables: LossTables, logit_bytes: int | None
) -> bool:
    """Whether the logits exceed the budget and the loss can be computed without them as a whole."""
    rows = input.numel() // max(1, input.shape[-1])
    fits = logits_fit(rows * len(weight), input, weight, logit_bytes)
    return not fits and why_not_by_tiles(target, tables) is None


_WHOLE = "apply the loss to whole logits, F.linear(input, weight, bias) in one process"


def why_not_by_tiles(target: Target, tables: LossTables) -> str | None:
    """Why a loss cannot be computed by tiles of classes, and what to do instead; or None."""
    if not tables.hierarchy.is_tree:
        return f"a DAG's subtrees are not runs of classes: {_WHOLE}"
    if isinstance(target, tuple):
        if not isinstance(tables.path_weights, HACEWeights):
            return (
                f"{tables.path_weights} weighs single paths: give target indices, one per row. "
                "Pairs go with HACELoss and CrossEntropyLoss"
            )
        if tables.options.entropy:
            return "the entropy of RegularizedCrossEntropyLoss goes with one target index per row"
    if tables.options.targets.spreads or _is_mass(target):
        return _why_not_spread(target, tables)
    return None


def _is_mass(target: Target) -> TypeGuard[Tensor]:
    return isinstance(target, Tensor) and target.is_floating_point()


def _why_not_spread(target: Target, tables: LossTables) -> str | None:
    """The same for targets that are spread over the tree."""
    options = tables.options
    if not isinstance(tables.path_weights, HACEWeights):
        return (
            f"{tables.path_weights} weighs single paths, and the targets are spread over all: give "
            "target indices, one per row"
        )
    if options.eps:
        return (
            "targets that are spread over all classes have no eps by tiles: leave out eps, or "
            + _WHOLE
        )
    if options.entropy:
        return (
            "the entropy of RegularizedCrossEntropyLoss goes with one target index per row, and "
            "these are spread over all classes"
        )
    if options.targets.spares_all:
        return (
            "smoothing that leaves nothing on the target cancels to 0 there, which tiles do not "
            f"find: take a smaller label_smoothing, or {_WHOLE}"
        )
    if not _is_mass(target):
        return None
    if options.targets.target_space == "nodes":
        return (
            "probabilities of nodes may be on inner nodes, which tiles do not take: give a few "
            f"nodes per row as a pair (index, weight), or {_WHOLE}"
        )
    if options.targets.label_smoothing and options.targets.smoothing == "nodes":
        return (
            "probabilities that are smoothed over nodes are on inner nodes, which tiles do not "
            f'take: smooth over classes, smoothing="uniform", or {_WHOLE}'
        )
    if target.requires_grad:
        return (
            "probabilities that require a gradient get none by tiles: detach the target, or "
            + _WHOLE
        )
    return None


def _checked(
    input: Tensor,
    weight: Tensor,
    target: Target,
    class_weight: Tensor | None,
    tables: LossTables,
    shard: Shard | None,
    node_sums: NodeSums | None = None,
) -> tuple[Tensor, Target]:
    """Input and target as rows, once their shapes are checked."""
    hierarchy, options = tables.hierarchy, tables.options
    check_weight(class_weight, hierarchy, options.targets.target_space)
    columns = num_columns(hierarchy, options.logit_space)
    columns = columns if shard is None else shard.last - shard.first
    columns = columns if node_sums is None else node_sums.num_nodes
    check_layer(input, weight, columns)
    rows = input if input.dim() == 2 else input[None]
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ValueError(
                f"a tuple as target must be (index, weight), got {len(target)} entries"
            )
        index, mass = target
        return rows, (index, mass) if input.dim() == 2 else (index[None], mass[None])
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor or a pair of them, got {type(target).__name__}")
    if is_index(target):
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"target must be {tuple(input.shape[:-1])} indices beside an input of shape "
                f"{tuple(input.shape)}; got {tuple(target.shape)}"
            )
        return rows, target.reshape(-1)
    wanted = (*input.shape[:-1], num_targets(hierarchy, options.targets.target_space))
    if target.shape != wanted:
        raise ValueError(
            f"target must be {wanted} probabilities beside an input of shape "
            f"{tuple(input.shape)}; got {tuple(target.shape)}"
        )
    return rows, target if input.dim() == 2 else target[None]
