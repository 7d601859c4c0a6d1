"""Layers whose rows belong to classes or nodes, with a state that says to which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..hierarchy import Hierarchy, check_hierarchy
from ..scripting import NotScripted

__all__ = ["HierarchyState"]

_PARTS = ("links", "names", "order of classes")


class HierarchyState(NotScripted, nn.Module):
    """A layer over a hierarchy, whose state dict has the hierarchy's digests as its extra state.

    Loading the state of a layer over another hierarchy is refused, since its rows belong to other
    classes. `hace.nn.carry_over` moves rows by name.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        super().__init__()
        check_hierarchy(hierarchy)
        self.hierarchy = hierarchy

    def get_extra_state(self) -> Tensor:
        """The SHA-256 digests of the links, the names and the order of the classes: uint8 (96)."""
        return torch.frombuffer(bytearray(b"".join(self.hierarchy.digests)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Does nothing: loading has compared the hierarchies, and this one stays."""

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state = state_dict.get(f"{prefix}_extra_state")
        differing = [] if state is None else self._differing(state)
        if differing:
            # Raised at once and not collected, so that the layers inside this one are not loaded
            # either.
            raise RuntimeError(
                f"the state of {prefix.rstrip('.') or type(self).__name__} is of a layer over "
                f"another hierarchy than {self.hierarchy!r}, with other {', '.join(differing)}, so "
                "its rows belong to other classes. Build the layer over the hierarchy that it was "
                "saved with, and use hace.nn.carry_over(old, new) to move its rows by name"
            )
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _differing(self, state: Any) -> list[str]:
        own = self.get_extra_state()
        if not isinstance(state, Tensor) or state.shape != own.shape:
            return ["digests"]
        same = (state.cpu() == own).view(len(_PARTS), -1).all(1)
        return [part for part, is_same in zip(_PARTS, same.tolist(), strict=True) if not is_same]
