"""Whether PyTorch is asked for more than values and ordinary gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "in_forward_mode",
    "in_func_transform",
    "in_transform",
    "is_differentiated",
    "without_levels",
]

#: Whether one of torch.func's transforms is active.
in_func_transform = torch._C._are_functorch_transforms_active


def in_forward_mode() -> bool:
    """Whether forward mode is active, so that tensors may be dual."""
    return forward_ad._current_level >= 0


def in_transform() -> bool:
    """Whether forward mode or one of torch.func's transforms is active."""
    return in_func_transform() or in_forward_mode()


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a derivative may be taken in any of the tensors, at any level of transforms."""
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            return torch.is_grad_enabled() or in_forward_mode()
    if torch.compiler.is_compiling() or not in_transform():
        return False
    return any(_is_differentiated_inside(tensor) for tensor in tensors if tensor is not None)


def _is_differentiated_inside(tensor: Tensor) -> bool:
    while True:
        dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
        if tensor.requires_grad or dual.tangent is not None:
            return True
        if not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = torch._C._functorch.get_unwrapped(tensor)


def without_levels(x: Any) -> Any:
    """Tensors, also those in lists and tuples, without the levels of `torch.func` they came from.

    What is computed inside a transform belongs to its level, and cannot be used once that has
    ended. For constants: nothing may be differentiated in them.
    """
    if isinstance(x, (list, tuple)):
        return type(x)(map(without_levels, x))
    while isinstance(x, Tensor) and torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
