"""Cross-entropy along the path with node logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hace_kernels
from hace_kernels.reference.rows import check_targets, loss_dtype, reduce, row_weights

from ..arguments import check_input, check_target, check_weight, is_index, shape_of_targets
from ..class_dim import to_rows
from ..hierarchy import Hierarchy, Space, check_hierarchy
from ..options import LossOptions, Reduction

__all__ = ["HierarchicalCrossEntropyLoss"]


class HierarchicalCrossEntropyLoss(nn.Module):
    """h-CE: `L = −Σ_{j ∈ path(y)} log p_j + Σ_{i internal} Π_{j ∈ path(i)} p_j`.

    p is the softmax over all N nodes, each of which has a logit. The poster "Loss in Layers" is
    read so: path(y) is y and every node above it; internal nodes are those with children, and the
    second sum is over all of them, those on path(y) too; a root is on its paths.

    It takes a log-softmax, sums it down the paths (`hace_kernels.tree_sum_down`), and is exact in
    log space.

    Args:
        hierarchy: of the classes; a tree or forest, or a DAG, where path(i) is i and every node
            above it.
        targets: what targets are, T in number: "classes" or "nodes".
        weight: (T,), multiplies the loss of each target's rows.
        ignore_index: rows with this target count for nothing.
        reduction: "none", "sum", or "mean", which divides by `Σ weight[y]`.
        backend: "auto", or one of `hace.backends()`.

    Shape:
        - Input: (N), (B, N) or (B, N, d1, …), floating: one logit a node.
        - Target: (), (B) or (B, d1, …) int64 indices.
        - Output: a scalar, or with reduction "none" the target's shape; float64 for float64 input,
          float32 otherwise.

    Raises:
        ValueError: at construction or call: an option outside its range, shapes that do not fit.
        TypeError: input, target or option of a wrong type.
        IndexError: at call: a target out of range (on the CPU, uncompiled).
        hace.BackendError: at call: the backend asked for cannot run.
    """

    weight: Tensor | None
    is_internal: Tensor

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        targets: Space = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_hierarchy(hierarchy)
        self.hierarchy = hierarchy
        self.options = LossOptions("nodes", targets, ignore_index, reduction, backend=backend)
        self.register_buffer("weight", weight)
        check_weight(weight, hierarchy, targets)
        is_internal = torch.from_numpy(hierarchy.heights > 0)
        self.register_buffer("is_internal", is_internal, persistent=False)
        hierarchy.node_table("nodes")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.hierarchy.node_table("nodes")  # a hierarchy is pickled without its tables

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` against `target`; see the class."""
        options = self.options
        check_input(input, self.hierarchy, "nodes")
        if isinstance(target, (Tensor, tuple)) and not is_index(target):
            raise ValueError("h-CE takes target indices, one a row; got probabilities or a pair")
        check_target(target, input, self.hierarchy, options)
        rows, index = to_rows(input), target.reshape(-1)
        counts = index != options.ignore_index
        nodes = self.hierarchy.target_nodes(options.targets, device=rows.device)
        in_range = (index >= 0) & (index < len(nodes))
        check_targets(index, counts & ~in_range, len(nodes))
        index = torch.where(in_range, index, 0)

        dtype = loss_dtype(rows.dtype)
        table = self.hierarchy.node_table("nodes", device=rows.device)
        log_path = hace_kernels.tree_sum_down(
            rows.log_softmax(1, dtype=dtype), table, backend=options.backend
        )
        of_target = log_path.gather(1, nodes[index, None])[:, 0]
        loss = log_path.exp()[:, self.is_internal].sum(1) - of_target
        loss = torch.where(in_range, loss, torch.nan)
        row_weight = row_weights(counts, index, self.weight, dtype)
        loss = torch.where(row_weight != 0, row_weight * loss, 0.0)
        loss = reduce(loss, row_weight.sum(), options.reduction)
        return loss.reshape(shape_of_targets(input)) if options.reduction == "none" else loss

    def extra_repr(self) -> str:
        """The hierarchy's size, and the options that differ from the defaults."""
        return ", ".join([repr(self.hierarchy), *self.options.differing(but=("logits",))])
