"""Layers whose rows belong to classes or nodes, with a state that says to which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..hierarchy import Hierarchy, check_hierarchy
from ..scripting import NotScripted

__all__ = ["HierarchyState"]

_PARTS = ("links", "names", "order of classes", "order of rows")
_SIZE = 32  # bytes of a digest


class HierarchyState(NotScripted, nn.Module):
    """A layer over a hierarchy, whose state dict has the hierarchy's digests as its extra state.

    Loading the state of a layer over another hierarchy is refused, since its rows belong to other
    classes. `hace.nn.carry_over` moves rows by name.
    """

    #: Says which row belongs to which class or node, where the hierarchy alone does not; 32 bytes.
    _row_order = b""

    def __init__(self, hierarchy: Hierarchy) -> None:
        super().__init__()
        check_hierarchy(hierarchy)
        self.hierarchy = hierarchy

    def get_extra_state(self) -> Tensor:
        """The SHA-256 digests of the links, the names and the order of the classes: uint8 (96).

        A layer whose rows are in another order than its class's has one more for that: (128).
        """
        digests = [*self.hierarchy.digests, self._row_order]
        return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)

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
        if differing == _PARTS[-1:]:
            raise RuntimeError(
                f"the state of {prefix.rstrip('.') or type(self).__name__} has its rows in another "
                "order: those of a TreeLinear over several processes are in depth-first order, "
                "those of others by node id. Load it into a layer like the one that was saved, and "
                "use gathered() or take_rows_of(layer) of the one over several processes"
            )
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

    def _differing(self, state: Any) -> tuple[str, ...]:
        if not isinstance(state, Tensor) or state.numel() not in (3 * _SIZE, 4 * _SIZE):
            return ("digests",)
        digests = [bytes(x.tolist()) for x in (self.get_extra_state(), state.cpu().to(torch.uint8))]
        parts = [[x[at : at + _SIZE] for at in range(0, 4 * _SIZE, _SIZE)] for x in digests]
        pairs = zip(_PARTS, *parts, strict=True)
        return tuple(part for part, one, other in pairs if one != other)
