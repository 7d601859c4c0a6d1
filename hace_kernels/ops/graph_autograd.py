"""Reverse mode of the torch ops that compiled graphs hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad

from ..transforms import in_func_transform, in_transform

__all__ = ["register_reverse_mode"]

_LIBRARY = torch.library.Library("hace_kernels", "IMPL")  # type: ignore[no-untyped-call]


def register_reverse_mode(
    name: str,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Like `torch.library.register_autograd`, but refuses forward mode, which the op does not have.

    PyTorch silently drops the tangents of such an op's arguments if none requires a gradient.

    Args:
        name: the op's name.
        backward, setup_context: as there; or None for an op that has no derivatives at all.
    """
    op = getattr(torch.ops.hace_kernels, name).default
    reverse = make_autograd_impl(op, Info(backward, setup_context))

    def checked(keyset: Any, *arguments: Any) -> Any:
        if in_transform():
            _refuse_transforms(name, arguments)
        return reverse(keyset, *arguments)

    _LIBRARY.impl(name, checked, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]


def _refuse_transforms(name: str, arguments: tuple[Any, ...]) -> None:
    lost = None
    for tensor in _tensors(arguments):
        if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            lost = "has no forward mode, and a tangent was given"
        elif tensor.requires_grad and torch.is_grad_enabled() and in_func_transform():
            lost = "cannot be differentiated by torch.func"
    if lost is not None:
        function = name.removeprefix("triton_").removesuffix("_backward")
        raise NotImplementedError(
            f"torch.ops.hace_kernels.{name} {lost}: call hace_kernels.{function}, which has all "
            "derivatives"
        )


def _tensors(arguments: Any) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)
