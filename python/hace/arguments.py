"""What the losses take: kinds and shapes of logits, targets and class weights, and their checks."""

from __future__ import annotations

from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor

from .class_dim import class_dim
from .hierarchy import Hierarchy, check_hierarchy
from .options import LossOptions
from .spaces import LogitSpace, TargetSpace, num_columns, num_targets

__all__ = [
    "INDEX_DTYPES",
    "Target",
    "check_input",
    "check_target",
    "check_weight",
    "is_index",
    "shape_of_targets",
]

INDEX_DTYPES = (torch.int64, torch.uint8)
"""What torch's own losses take as indices."""

Target: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Indices, probabilities, or a few weighted indices per row as the pair (index, weight)."""


def is_index(target: Target) -> TypeGuard[Tensor]:
    """Whether a target is one index per row."""
    return isinstance(target, Tensor) and not target.is_floating_point()


def shape_of_targets(input: Tensor) -> torch.Size:
    """The input's shape without its class dimension: that of index targets."""
    dim = class_dim(input)
    return input.shape[:dim] + input.shape[dim + 1 :]


def check_input(input: Tensor, hierarchy: Hierarchy, logit_space: LogitSpace) -> None:
    """Raises TypeError or ValueError unless `input` is floating-point logits of the hierarchy."""
    check_hierarchy(hierarchy)
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a tensor of logits, not {type(input).__name__}")
    num_logits = num_columns(hierarchy, logit_space)
    kind = "nodes" if logit_space == "nodes" else "classes"
    if input.dim() == 0 or input.shape[class_dim(input)] != num_logits:
        raise ValueError(
            f"input must be logits of shape (C), (N, C) or (N, C, d1, …) with C = {num_logits}, "
            f"one for each of the hierarchy's {kind}; got {tuple(input.shape)}"
        )
    if not input.is_floating_point():
        raise TypeError(f"input must be floating-point logits, got {input.dtype}")


def check_target(target: Target, input: Tensor, hierarchy: Hierarchy, options: LossOptions) -> None:
    """Raises TypeError unless `target` is of one of the three kinds, ValueError unless it fits."""
    if isinstance(target, tuple):
        _check_pair(target, input, options)
        return
    if not isinstance(target, Tensor):
        raise TypeError(
            "target must be a tensor of indices or probabilities, or a pair (index, weight) as a "
            f"tuple; got {type(target).__name__}"
        )
    shape = shape_of_targets(input)
    if target.is_floating_point():
        target_space = options.targets.target_space
        count = num_targets(hierarchy, target_space)
        expected = _with_class_dim(input, count)
        if target.shape != expected:
            raise ValueError(
                f"target as probabilities over the {count} {target_space} must be "
                f"{tuple(expected)} beside this input; got {tuple(target.shape)}"
            )
        _check_no_index_is_ignored(options)
        if options.targets.soft_label_beta is not None:
            raise ValueError(
                "soft_label_beta makes probabilities of a target index, and the target holds "
                "probabilities already; leave soft_label_beta out"
            )
    elif target.dtype not in INDEX_DTYPES:
        raise TypeError(
            f"target must hold int64 (or uint8) indices or floating-point probabilities, got "
            f"{target.dtype}"
        )
    elif target.shape != shape:
        count = num_targets(hierarchy, options.targets.target_space)
        if target.shape == _with_class_dim(input, count):
            raise ValueError(
                f"target holds integers in the shape of probabilities, {tuple(target.shape)}; if "
                "it is one-hot, give target.argmax(dim) as indices or target.float() as "
                "probabilities"
            )
        raise ValueError(
            f"target must be {tuple(shape)} indices beside an input of shape {tuple(input.shape)}; "
            f"got {tuple(target.shape)}"
        )


def _check_pair(target: tuple[Tensor, Tensor], input: Tensor, options: LossOptions) -> None:
    if len(target) != 2:
        raise ValueError(f"a tuple as target must be (index, weight), got {len(target)} entries")
    index, weight = target
    if not isinstance(index, Tensor) or not isinstance(weight, Tensor):
        raise TypeError(
            "a pair (index, weight) as target must be two tensors, got "
            f"{type(index).__name__} and {type(weight).__name__}"
        )
    if index.dtype not in INDEX_DTYPES or not weight.is_floating_point():
        raise TypeError(
            "a pair (index, weight) as target must hold int64 (or uint8) indices and "
            f"floating-point weights, got {index.dtype} and {weight.dtype}"
        )
    dim = class_dim(input)
    fits = index.dim() == input.dim() and index.shape == _with_class_dim(input, index.shape[dim])
    if not fits or weight.shape != index.shape:
        raise ValueError(
            "a pair (index, weight) as target must be twice the input's shape with K weighted "
            f"targets in the class dimension, {_shape_of_pairs(input)}; got {tuple(index.shape)} "
            f"and {tuple(weight.shape)}"
        )
    _check_no_index_is_ignored(options)


def _check_no_index_is_ignored(options: LossOptions) -> None:
    if options.ignore_index >= 0:
        raise ValueError(
            f"ignore_index = {options.ignore_index} goes with target indices, and the target "
            "holds probabilities; leave rows out by giving them no mass"
        )


def _with_class_dim(input: Tensor, size: int) -> torch.Size:
    """The input's shape with `size` in its class dimension."""
    dim = class_dim(input)
    return torch.Size((*input.shape[:dim], size, *input.shape[dim + 1 :]))


def _shape_of_pairs(input: Tensor) -> str:
    sizes = [*map(str, input.shape)]
    sizes[class_dim(input)] = "K"
    return f"({', '.join(sizes)})"


def check_weight(weight: Tensor | None, hierarchy: Hierarchy, target_space: TargetSpace) -> None:
    """Raises unless `weight` is a tensor with one entry for each target, or None.

    Raises:
        TypeError: it is not a tensor of real numbers.
        ValueError: it has another shape.
    """
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.is_complex():
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weight must be a tensor of real numbers, or None; got {kind}")
    count = num_targets(hierarchy, target_space)
    if weight.shape != (count,):
        raise ValueError(
            f"weight must be ({count},), one for each of the target {target_space}; got "
            f"{tuple(weight.shape)}"
        )
