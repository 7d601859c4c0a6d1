"""Which backend the measured losses run on: figures of the reference are not taken by mistake."""

from __future__ import annotations

import os

import torch

import hace
from hace_kernels.backends import choose as choose_backend

__all__ = ["choose"]


def choose(asked: str | None, device: str) -> str:
    """Makes `asked`, if given, the backend of `backend="auto"` from now on; returns the backend.

    Raises:
        ValueError: it cannot run, or it is the reference and was not asked for.
    """
    if asked is not None:
        os.environ["HACE_BACKEND"] = asked  # also for the processes that memory is measured in
    try:
        found = choose_backend("path_log_loss", "auto", torch.device(device), torch.float32)
    except hace.BackendError as error:
        raise ValueError(str(error)) from error
    if found != "reference" or asked == "reference":
        return found
    if "HACE_BACKEND" in os.environ:
        why = f"HACE_BACKEND={os.environ['HACE_BACKEND']} is set"
    else:
        names = ("cpu",) if device == "cpu" else ("cuda", "triton")
        reasons = hace.backends()
        why = "; ".join(f"{name}: {reasons[name].reason}" for name in names)
    raise ValueError(
        f"only the slow reference would run here, and its figures are not the kernels' ({why}): "
        "`python -m benchmarks --backend reference` measures it all the same"
    )
