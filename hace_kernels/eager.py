"""Functions that torch.compile leaves as they are.

Loops over tiles of classes are such functions. A graph of one would contain every tile separately,
thousands for a large head, and would be compiled again for every batch size. The loop calls kernels
and matrix products, which a compiler cannot make faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo

from .exporting import is_exporting

__all__ = ["eager"]

P = ParamSpec("P")
T = TypeVar("T")

_WHAT = "a linear layer by tiles of classes, or classes over several processes"
_BREAKS = (
    f"{_WHAT}, run between two graphs: leave out fullgraph=True, or make the logits whole with "
    "fused=False or a larger logit_bytes"
)
_NO_EXPORT = (
    f"{_WHAT}, cannot be exported, since the tiles are of one size of batch: make the logits whole "
    "with fused=False, or apply losses and functions to the logits of to_linear()"
)


def eager(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator: torch.compile ends its graph before a call and begins another one after it.

    With `fullgraph=True`, which forbids that, its error says what to do instead; so does that of
    `torch.export`, a RuntimeError. Gradients are those of PyTorch's eager mode.
    """
    untraced = _disable_dynamo(function)  # which imports the compiler at the first call
    untraced._torchdynamo_disable = True  # type: ignore[attr-defined]
    untraced._torchdynamo_disable_msg = _BREAKS  # type: ignore[attr-defined]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            if is_exporting():
                raise RuntimeError(_NO_EXPORT)
            return untraced(*args, **kwargs)
        return function(*args, **kwargs)

    return call
