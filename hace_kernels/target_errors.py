"""The errors for targets that are not valid, and those that the compiled library raises."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from .exporting import is_traced

__all__ = [
    "check_mass_has_classes",
    "check_targets",
    "check_targets_have_classes",
    "no_class",
    "out_of_range",
    "translated",
]

_KINDS = {"IndexError": IndexError, "TypeError": TypeError, "ValueError": ValueError}
# csrc/errors.h puts this tag before a message. C++ adds a place and a backtrace on other lines.
_TAG = re.compile(r"\[(IndexError|TypeError|ValueError)\] (.*)")


def translated(error: RuntimeError) -> Exception:
    """An error of the compiled library as the type that its tag names; unchanged without a tag."""
    found = _TAG.search(str(error))
    return error if found is None else _KINDS[found[1]](found[2])


def check_targets(target: Tensor, bad: Tensor, num_targets: int) -> None:
    """Raises IndexError for the first bad target, on the CPU.

    On an accelerator, in a compiled graph and under torch.func's transforms nothing is raised: the
    loss is NaN there. Targets are (B,), or (B, K) with several per row.
    """
    if (found := _first(target, bad)) is not None:
        raise IndexError(out_of_range(*found, num_targets))


def out_of_range(value: int, row: int, num_targets: int) -> str:
    return f"target {value} of row {row} is out of range: it must be in [0, {num_targets})"


def check_targets_have_classes(target: Tensor, bad: Tensor) -> None:
    """Like `check_targets`, for targets without a class at or below them."""
    if (found := _first(target, bad)) is not None:
        raise IndexError(no_class(*found))


def check_mass_has_classes(mass: Tensor, empty: Tensor) -> None:
    """Like `check_targets`, for mass (B, T) on targets; those in `empty` (T) have no class."""
    if _is_in_a_graph(mass) or _is_transformed(mass):
        return
    index = torch.arange(mass.shape[1], device=mass.device).expand_as(mass)
    check_targets_have_classes(index, (mass != 0) & empty)


def no_class(value: int, row: int) -> str:
    return (
        f"target {value} of row {row} has no class at or below it, so its probability is 0 "
        "whatever the logits"
    )


def _is_in_a_graph(x: Tensor) -> bool:
    """Whether there are no values to read, or reading them would wait for an accelerator."""
    return (
        torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or is_traced()
        or isinstance(x, FakeTensor | FunctionalTensor)
    )


def _is_transformed(x: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def _first(target: Tensor, bad: Tensor) -> tuple[int, int] | None:
    """The first bad target and its row, or None; also None where values cannot be read."""
    if _is_in_a_graph(target):
        return None
    if _is_transformed(bad) or _is_transformed(target) or not bad.any():
        return None
    at = bad.nonzero()[0]
    return int(target[tuple(at)]), int(at[0])
