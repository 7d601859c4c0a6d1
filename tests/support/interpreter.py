"""Triton's interpreter, which runs a kernel's source with NumPy, made quick and told apart."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import oracle
import torch

__all__ = ["prepare"]


def prepare() -> None:
    """For the rest of the process; TRITON_INTERPRET is set, and Triton not imported yet."""
    # The interpreter cuts bits off where it should round to bfloat16: that is twice a rounding.
    oracle.ROUNDOFF[torch.bfloat16] = 2.0**-7
    if importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction

    # A quarter of the time. The numbers of what overflows are wrong by far, and seen by that.
    interpreter.interpreter_builder.options = replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )
    # It makes a table of all dtypes each time.
    numpy_dtype, known = interpreter._get_np_dtype, {}

    def known_dtype(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in known:
            known[name] = numpy_dtype(dtype)
        return known[name]

    interpreter._get_np_dtype = known_dtype

    # It patches triton.language at every call of a device function: once per module will do.
    call, patched = InterpretedFunction.__call__, set()

    def call_patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__module__
        if module in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(module)
        return call(self, *args, **kwargs)

    InterpretedFunction.__call__ = call_patched
