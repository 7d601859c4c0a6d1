"""Inputs as rows, and the probabilities of nodes and points in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import hace_kernels
from hace_kernels.exporting import is_exported

from ..arguments import check_input, shape_of_targets
from ..class_dim import to_rows
from ..hierarchy import Hierarchy
from ..spaces import LogitSpace
from ..tables import Tables
from .points import Points

__all__ = [
    "class_log_probs",
    "input_rows",
    "node_log_prob_rows",
    "point_log_prob_rows",
    "row_by_row",
    "shape_of_targets",
]

# Numbers in a chunk of rows: 64 MiB of float32, enough to keep a GPU busy.
_CHUNK = 1 << 24
# Kernels work on blocks of this many rows.
_BLOCK = 16


def input_rows(input: Tensor, hierarchy: Hierarchy, logit_space: LogitSpace) -> Tensor:
    """Logits (C), (N, C) or (N, C, d1, …) as rows (R, columns), without a gradient.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not floating point, or no hierarchy.
    """
    check_input(input, hierarchy, logit_space)
    return to_rows(input.detach())


def row_by_row(
    input: Tensor,
    hierarchy: Hierarchy,
    logit_space: LogitSpace,
    decide: Callable[[Tensor], Tensor],
) -> Tensor:
    """What `decide` returns for each row, in the input's shape.

    The rows go through a few at a time, so that memory beyond input and output stays small.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …).
        hierarchy: of the classes.
        logit_space: what the columns are.
        decide: from rows (r, columns) to (r, …).

    Returns:
        The input's shape without its class dimension, followed by the shape of one row's result.

    Raises:
        ValueError: the input's shape does not fit.
        TypeError: input that is not floating point, or no hierarchy.
    """
    rows = input_rows(input, hierarchy, logit_space)
    if is_exported():  # a graph must not depend on the number of chunks of one batch
        decided = decide(rows)
        return decided.reshape((*shape_of_targets(input), *decided.shape[1:]))
    parts = [decide(part) for part in chunks_of(rows, hierarchy.num_nodes)]
    decided = parts[0] if len(parts) == 1 else torch.cat(parts)
    return decided.reshape((*shape_of_targets(input), *decided.shape[1:]))


def chunks_of(rows: Tensor, width: int) -> Iterator[Tensor]:
    """The rows, a few at a time; at least one chunk."""
    size = max(_BLOCK, _CHUNK // max(1, width) // _BLOCK * _BLOCK)
    return iter(torch.split(rows, size))


def node_log_prob_rows(rows: Tensor, hierarchy: Hierarchy, logit_space: LogitSpace) -> Tensor:
    """`log P_v` of every node: (R, columns) to (R, N)."""
    nodes = Tables.of(hierarchy).nodes(logit_space, device=rows.device)
    return hace_kernels.tree_log_prob(rows, nodes)


def point_log_prob_rows(rows: Tensor, points: Points, logit_space: LogitSpace) -> Tensor:
    """`log P` of every point: (R, columns) to (R, P)."""
    of_nodes = node_log_prob_rows(rows, points.hierarchy, logit_space)
    own_label = points.on(rows.device).own_label
    if not len(own_label):
        return of_nodes
    return torch.cat([of_nodes, class_log_probs(rows, points.hierarchy, own_label, logit_space)], 1)


def class_log_probs(
    rows: Tensor, hierarchy: Hierarchy, label: Tensor, logit_space: LogitSpace
) -> Tensor:
    """The log-probabilities of some classes alone: (R, columns), (L) labels to (R, L)."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    columns = columns_of_classes(hierarchy, logit_space, rows.device)
    own = rows.index_select(1, label if columns is None else columns[label]).to(wide)
    return own - rows.to(wide).logsumexp(1, keepdim=True)


def columns_of_classes(
    hierarchy: Hierarchy, logit_space: LogitSpace, device: torch.device
) -> Tensor | None:
    """The column of each class label; None where it is the label itself."""
    if logit_space == "classes":
        return None
    if logit_space == "nodes":
        return Tables.of(hierarchy).nodes_of_targets("classes", device=device)
    return Tables.of(hierarchy).depth_first_columns(device=device)
