"""The error of `torch.jit.script` for modules that it cannot compile."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["NotScripted"]


class NotScripted:
    """A module that holds a hierarchy, a type that TorchScript does not have."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}, which holds a hierarchy: "
            "use torch.export, torch.compile or torch.jit.trace"
        )
