"""From logits to predicted classes."""

from __future__ import annotations

from torch import Tensor

from .arguments import check_input
from .class_dim import class_dim
from .hierarchy import Columns, Hierarchy, Space

__all__ = ["predict"]


def predict(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    logits: Columns = "classes",
    targets: Space = "classes",
) -> Tensor:
    """The most probable class of each row.

    With a logit for each node, only those of the classes (the leaves, unless the hierarchy says
    otherwise) are compared, as in the evaluation of arXiv 2605.06274.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …).
        hierarchy: of the classes.
        logits: what the class dimension of the input holds: "classes", one logit for each of the
            hierarchy's "nodes", or the classes in "depth_first" order.
        targets: what is returned: labels of "classes", or ids of "nodes".

    Returns:
        int64, the input's shape without its class dimension.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not floating point.
    """
    check_input(input, hierarchy, logits)
    hierarchy.num_targets(targets)  # raises for a space that is none
    dim = class_dim(input)
    if logits == "nodes":
        classes = hierarchy.target_nodes("classes", device=input.device)
        input = input.index_select(dim, classes)
    label = input.argmax(dim)
    if logits == "depth_first":
        label = hierarchy.depth_first_labels(device=label.device)[label]
    if targets == "nodes":
        label = hierarchy.target_nodes("classes", device=label.device)[label]
    return label
