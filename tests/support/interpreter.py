"""Makes Triton's interpreter, which runs a kernel's source with NumPy, quick enough for tests."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import oracle
import torch

__all__ = ["prepare"]


def prepare() -> None:
    """Changes the interpreter for the rest of the process.

    TRITON_INTERPRET must be set, and Triton must not have been imported yet.
    """
    # The interpreter truncates to bfloat16 where it should round, which errs twice as much.
    oracle.ROUNDOFF[torch.bfloat16] = 2.0**-7
    if importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction

    # The overflow check takes a quarter of the time. A number that overflows is far off, so the
    # comparison with the oracle finds it anyway.
    interpreter.interpreter_builder.options = replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )
    # The interpreter makes a table of all dtypes at every call.
    numpy_dtype, known = interpreter._get_np_dtype, {}

    def known_dtype(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in known:
            known[name] = numpy_dtype(dtype)
        return known[name]

    interpreter._get_np_dtype = known_dtype

    # The interpreter patches triton.language at every call of a device function, but once per
    # module is enough.
    call, patched = InterpretedFunction.__call__, set()

    def call_patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__module__
        if module in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(module)
        return call(self, *args, **kwargs)

    InterpretedFunction.__call__ = call_patched
