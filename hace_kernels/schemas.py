"""The ops' schemas, each defined once, for the compiled library and for the Triton kernels.

An op's arguments are a named tuple, from which its schema is made. The compiled library
(csrc/arguments.h) takes them in this order. The Triton version of an op is called `triton_` and the
op's name.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

__all__ = ["LOSSES", "PathLogLossArguments", "TreeArguments", "TreeLogLossArguments"]


class PathLogLossArguments(NamedTuple):
    """The arguments of `path_log_loss`.

    Attributes:
        logits: (B, C), unit stride along a row.
        target: int64 (B), contiguous.
        table: the tensors of a `PathTable`.
        max_entries: the entries of the longest path in the table. It follows from `ptr`, but on a
            GPU that would need a copy to the host.
        target_weight: float64 (T), contiguous, or None.
        entropy: weight of `sum_j p_j log p_j`.
        ignore_index: rows with this target count for nothing.
        reduction: 0 none, 1 mean, 2 sum.
        eps: inside the logarithm.
    """

    logits: Tensor
    target: Tensor
    table: list[Tensor]
    max_entries: int
    target_weight: Tensor | None
    entropy: float
    ignore_index: int
    reduction: int
    eps: float


class TreeLogLossArguments(NamedTuple):
    """The arguments of `tree_log_loss`; targets are mass, or indices with or without weights.

    `dag_log_loss` has the same, but its `tree` and `level_ptr` are the tensors and sizes of a
    `ClosureTable`.

    Attributes:
        logits: (B, C), unit stride along a row.
        mass: (B, T) in the loss's dtype, unit stride along a row.
        indices: int64 (B, K), contiguous.
        index_weight: float64 (B, K), contiguous. If None, K is 1, and a row counts the weight of
            its target.
        tree: the tensors of a `TreeTable`.
        level_ptr: its levels.
        table: the tensors of a `TargetTable`, and None for each that it does not have.
        row_spread: that of the target table.
        ignore_index: an index that counts for nothing.
        reduction: 0 none, 1 mean, 2 sum.
        eps: inside the logarithm.
    """

    logits: Tensor
    mass: Tensor | None
    indices: Tensor | None
    index_weight: Tensor | None
    tree: list[Tensor]
    level_ptr: list[int]
    table: list[Tensor | None]
    row_spread: float
    ignore_index: int
    reduction: int
    eps: float


class TreeArguments(NamedTuple):
    """The arguments of the ops that take rows and a tree, or a DAG, only.

    Attributes:
        rows: (B, C) or (B, N), unit stride along a row.
        tree: the tensors of a `TreeTable`, or of a `ClosureTable`.
        level_ptr: its levels, or its sizes.
    """

    rows: Tensor
    tree: list[Tensor]
    level_ptr: list[int]


#: The ops that give a loss and the gradient of the logits for an incoming one of 1, which is empty
#: (0) unless `with_grad`; and how many of their arguments have an entry per row, which come first.
#:
#: The op `<name>_backward` computes the gradient for any incoming one. `<name>_bind` converts the
#: arguments that have no entry per row, once for many calls of `<name>_bound`; only the compiled
#: library has these two.
LOSSES: dict[str, tuple[type[PathLogLossArguments] | type[TreeLogLossArguments], int]] = {
    "path_log_loss": (PathLogLossArguments, 2),
    "tree_log_loss": (TreeLogLossArguments, 4),
    "dag_log_loss": (TreeLogLossArguments, 4),
}

_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    list[Tensor | None]: "Tensor?[]",
    int: "int",
    list[int]: "int[]",
    float: "float",
}


def _arguments(of: type[tuple[object, ...]], which: slice = slice(None)) -> str:
    arguments = [f"{_TYPES[type_]} {name}" for name, type_ in get_type_hints(of).items()]
    return ", ".join(arguments[which])


def _schemas() -> dict[str, str]:
    """The schema of each op by its name."""
    schemas = {}
    for name, (of, num_rows) in LOSSES.items():
        arguments, results = _arguments(of), "(Tensor loss, Tensor grad_logits)"
        rows, rest = _arguments(of, slice(num_rows)), _arguments(of, slice(num_rows, None))
        schemas[name] = f"({arguments}, bool with_grad) -> {results}"
        schemas[f"{name}_backward"] = f"(Tensor grad_loss, {arguments}) -> Tensor"
        schemas[f"{name}_bind"] = f"({rest}) -> Tensor"
        schemas[f"{name}_bound"] = f"({rows}, Tensor bound, bool with_grad) -> {results}"
    tree = _arguments(TreeArguments)
    for kind in ("tree", "dag"):
        schemas[f"{kind}_log_prob"] = f"({tree}) -> Tensor"
        schemas[f"{kind}_log_prob_backward"] = f"(Tensor grad_log_prob, {tree}) -> Tensor"
        schemas[f"{kind}_sum_up"] = f"({tree}) -> Tensor"
        schemas[f"{kind}_sum_down"] = f"({tree}) -> Tensor"
    return schemas


#: Ops of the CPU only, which `ops/tree_linear.py` explains.
_ON_CPU = {
    "tree_linear_bind": "(Tensor[] tree, int first_class) -> Tensor",
    "tree_linear_hand_down": "(Tensor values, Tensor? bias, Tensor bound) -> Tensor",
    "tree_linear_gather_up": "(Tensor values, Tensor bound) -> Tensor",
    "tree_linear_vectors_up": "(Tensor(a!) vectors, Tensor bound) -> ()",
    "tree_linear_nodes_down": "(Tensor values, Tensor bound) -> Tensor",
    "tree_linear_nodes_up": "(Tensor values, Tensor bound) -> Tensor",
}

#: The ops that write into tensors of the caller.
_IN_PLACE = {
    # The stages of path_log_loss on a tile of columns (rows, T), whose first is class position
    # `first`. start, stop: (rows, K), the rows' nested intervals, innermost first; rings:
    # (rows, K + 1).
    "path_measure": "(Tensor logits, Tensor start, Tensor stop, int first, Tensor(a!) ring_max, "
    "Tensor(b!) ring_sum, Tensor(c!)? ring_moment) -> ()",
    # grad may be logits itself.
    "path_write": "(Tensor logits, Tensor start, Tensor stop, int first, Tensor shift, "
    "Tensor factor, Tensor offset, Tensor? slope, Tensor? middle, Tensor(a!) grad) -> ()",
    # grad *= factor, one number on grad's device; this costs little where it is 1. CUDA only.
    "scale_in_place": "(Tensor(a!) grad, Tensor factor) -> ()",
}

# The ops are unregistered when their library is freed.
_LIBRARY = torch.library.Library("hace_kernels", "DEF")  # type: ignore[no-untyped-call]

for _name, _schema in _schemas().items():
    for _prefix in ("", "triton_"):
        _LIBRARY.define(f"{_prefix}{_name}{_schema}")  # type: ignore[no-untyped-call]
for _name, _schema in (_ON_CPU | _IN_PLACE).items():
    _LIBRARY.define(_name + _schema)  # type: ignore[no-untyped-call]
