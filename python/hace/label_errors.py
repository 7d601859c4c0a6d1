"""Errors for labels out of range that say what may have been meant."""

from __future__ import annotations

import re

from .hierarchy import Hierarchy
from .spaces import TargetSpace

__all__ = ["explained"]

_VALUE = re.compile(r"target (-?\d+) .*is out of range")


def explained(error: IndexError, hierarchy: Hierarchy, target_space: TargetSpace) -> IndexError:
    """The error; where the target is a node id but not a label, with a hint at `target_space`."""
    found = _VALUE.search(str(error))
    if found is None or target_space != "classes":
        return error
    value = int(found[1])
    if not hierarchy.num_classes <= value < hierarchy.num_nodes:
        return error
    return IndexError(
        f"{error}: labels are classes. If targets are node ids ({value} is the node "
        f"{hierarchy.short_name(value)!r}), give target_space='nodes'"
    )
