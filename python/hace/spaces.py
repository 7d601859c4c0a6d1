"""What the columns of the logits are, and what a target is an index of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from .checks import check_choice
from .hierarchy import Hierarchy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LogitSpace",
    "TargetSpace",
    "check_logit_space",
    "check_target_space",
    "nodes_of_columns",
    "nodes_of_targets",
    "num_columns",
    "num_targets",
]

LogitSpace: TypeAlias = Literal["classes", "nodes", "depth_first"]
"""What the columns of the logits are: the C classes in label order, all N nodes by id, or the
classes in depth-first order (`Hierarchy.depth_first_classes`), which the kernels read fastest."""

TargetSpace: TypeAlias = Literal["classes", "nodes"]
"""What a target is an index of: the C classes, each of which is that class alone, or the N nodes,
each of which is its whole subtree."""


def check_logit_space(value: object) -> None:
    """Raises ValueError unless `value` is a `LogitSpace`."""
    check_choice("logit_space", value, get_args(LogitSpace))


def check_target_space(value: object) -> None:
    """Raises ValueError unless `value` is a `TargetSpace`."""
    check_choice("target_space", value, get_args(TargetSpace))


def num_columns(hierarchy: Hierarchy, logit_space: LogitSpace) -> int:
    """How many logits a row has.

    Raises:
        ValueError: an unknown `logit_space`.
    """
    check_logit_space(logit_space)
    return hierarchy.num_nodes if logit_space == "nodes" else hierarchy.num_classes


def num_targets(hierarchy: Hierarchy, target_space: TargetSpace) -> int:
    """T, how many targets there are.

    Raises:
        ValueError: an unknown `target_space`.
    """
    check_target_space(target_space)
    return hierarchy.num_nodes if target_space == "nodes" else hierarchy.num_classes


def nodes_of_columns(hierarchy: Hierarchy, logit_space: LogitSpace) -> NDArray[np.int64]:
    """The node of each column of the logits.

    Raises:
        ValueError: an unknown `logit_space`, or depth-first order of a DAG.
    """
    check_logit_space(logit_space)
    if logit_space == "nodes":
        return np.arange(hierarchy.num_nodes)
    if logit_space == "depth_first":
        return hierarchy.classes[hierarchy.depth_first_classes]
    return hierarchy.classes


def nodes_of_targets(hierarchy: Hierarchy, target_space: TargetSpace) -> NDArray[np.int64]:
    """The node of each target.

    Raises:
        ValueError: an unknown `target_space`.
    """
    check_target_space(target_space)
    return np.arange(hierarchy.num_nodes) if target_space == "nodes" else hierarchy.classes
