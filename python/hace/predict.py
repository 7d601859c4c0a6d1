"""From logits to predicted classes."""

from __future__ import annotations

from torch import Tensor

from .arguments import check_input
from .class_dim import class_dim
from .hierarchy import Hierarchy
from .spaces import LogitSpace, TargetSpace, check_target_space
from .tables import Tables

__all__ = ["predict"]


def predict(
    input: Tensor,
    hierarchy: Hierarchy,
    *,
    logit_space: LogitSpace = "classes",
    target_space: TargetSpace = "classes",
) -> Tensor:
    """The most probable class of each row.

    Where there is a logit for each node, only the logits of classes (the leaves, unless the
    hierarchy says otherwise) are compared, as in the evaluation of arXiv 2605.06274.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …).
        hierarchy: of the classes.
        logit_space: what the class dimension of the input holds: "classes", one logit for each of
            the hierarchy's "nodes", or the classes in "depth_first" order.
        target_space: what is returned: labels of "classes", or the ids of their "nodes".

    Returns:
        int64, the input's shape without its class dimension.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not a floating-point tensor.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> hace.predict(logits, tree)
        tensor([0, 2])
        >>> [tree.names[node] for node in hace.predict(logits, tree, target_space="nodes")]
        ['animal/cat', 'vehicle/car']
    """
    check_input(input, hierarchy, logit_space)
    check_target_space(target_space)
    tables, dim = Tables.of(hierarchy), class_dim(input)
    if logit_space == "nodes":
        classes = tables.nodes_of_targets("classes", device=input.device)
        input = input.index_select(dim, classes)
    label = input.argmax(dim)
    if logit_space == "depth_first":
        label = tables.depth_first_labels(device=label.device)[label]
    if target_space == "nodes":
        label = tables.nodes_of_targets("classes", device=label.device)[label]
    return label
