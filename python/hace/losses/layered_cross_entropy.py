"""Cross-entropy along the path with node logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import hace_kernels
from hace_kernels.rows import loss_dtype, reduce, row_weights
from hace_kernels.target_errors import check_targets

from ..arguments import check_input, check_target, is_index, shape_of_targets
from ..class_dim import to_rows
from ..hierarchy import Hierarchy
from ..options import LossOptions, Reduction
from ..spaces import TargetSpace
from ..table_cache import PerDevice, outside_modes
from ..tables import Tables
from .options_module import OptionsModule

__all__ = ["LayeredCrossEntropyLoss"]


class LayeredCrossEntropyLoss(OptionsModule):
    """h-CE: `L = −Σ_{j ∈ path(y)} log p_j + Σ_{i internal} Π_{j ∈ path(i)} p_j`.

    p is the softmax over all N nodes, each of which has a logit. The poster "Loss in Layers" is
    read as follows: path(y) is y and every node above it, roots included; internal nodes are those
    with children, and the second sum is over all of them, also those on path(y). The poster calls
    it hierarchical cross-entropy (h-CE), a name that other papers give to other losses: see
    `hace.HXELoss` and `hace.CrossEntropyLoss`.

    It takes a log-softmax, sums it down the paths (`hace_kernels.tree_sum_down`), and is exact in
    log space. p_v comes from node v's own logit and is not the mass of its subtree, so a class at
    an inner node and that node are the same target here.

    Args:
        hierarchy: of the classes; a tree or forest, or a DAG, where path(i) is i and every node
            above it.
        target_space: which T things a target is an index of: the "classes" or the "nodes".
        weight: (T,), multiplies the loss of each target's rows.
        ignore_index: rows with this target are left out, also of the mean.
        reduction: "none", "sum", or "mean", which divides by `Σ weight[y]`.
        backend: "auto", or one of `hace.backends()`.

    Shape:
        - Input: (N), (B, N) or (B, N, d1, …), floating: one logit per node.
        - Target: (), (B) or (B, d1, …) int64 indices.
        - Output: a scalar, or with reduction "none" the target's shape; float64 for float64 input,
          float32 otherwise.

    Attributes:
        ignore_index: the argument; it may be set.
        reduction: the argument; it may be set.

    Raises:
        ValueError: at construction or call: an option outside its range, shapes that do not fit.
        TypeError: input, target or option of a wrong type.
        IndexError: at call: a target out of range (on the CPU, uncompiled).
        hace.BackendError: at call: the backend asked for cannot run.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.zeros(2, tree.num_nodes)  # one per node, not per class
        >>> hace.LayeredCrossEntropyLoss(tree)(logits, torch.tensor([1, 2]))
        tensor(3.6189)
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        *,
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        backend: str = "auto",
    ) -> None:
        options = LossOptions.of(
            logit_space="nodes",
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            backend=backend,
        )
        super().__init__(hierarchy, weight, target_space)
        self._options = options
        self._prepare()

    def _prepare(self) -> None:
        tables, target_space = Tables.of(self.hierarchy), self.options.targets.target_space
        internal = torch.from_numpy(self.hierarchy.heights > 0).nonzero()[:, 0]
        self._nodes = PerDevice(lambda device: tables.nodes("nodes", device=device))
        self._node = PerDevice(lambda device: tables.nodes_of_targets(target_space, device=device))
        self._internal = PerDevice(lambda device: outside_modes(lambda: internal.to(device)))
        for on_device in (self._nodes, self._node, self._internal):
            on_device.on(torch.device("cpu"))

    @property
    def options(self) -> LossOptions:
        """The keywords that losses share."""
        return self._options

    def _set_options(self, options: LossOptions) -> None:
        self._options = options

    def __getstate__(self) -> dict[str, Any]:
        made_again = ("_nodes", "_node", "_internal")
        return {name: value for name, value in self.__dict__.items() if name not in made_again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` against `target`; see the class."""
        options = self.options
        check_input(input, self.hierarchy, "nodes")
        if isinstance(target, (Tensor, tuple)) and not is_index(target):
            raise ValueError("h-CE takes target indices, one per row; got probabilities or a pair")
        check_target(target, input, self.hierarchy, options)
        rows, index = to_rows(input), target.reshape(-1).long()
        counts = index != options.ignore_index
        nodes = self._node.on(rows.device)
        in_range = (index >= 0) & (index < len(nodes))
        check_targets(index, counts & ~in_range, len(nodes))
        index = torch.where(in_range, index, 0)

        dtype = loss_dtype(rows.dtype)
        log_path = hace_kernels.tree_sum_down(
            rows.log_softmax(1, dtype=dtype), self._nodes.on(rows.device), backend=options.backend
        )
        of_target = log_path.gather(1, nodes[index, None])[:, 0]
        of_internal = log_path.index_select(1, self._internal.on(rows.device))
        loss = of_internal.exp().sum(1) - of_target
        loss = torch.where(in_range, loss, torch.nan)
        row_weight = row_weights(counts, index, self.weight, dtype)
        loss = torch.where(row_weight != 0, row_weight * loss, 0.0)
        loss = reduce(loss, row_weight.sum(), options.reduction)
        return loss.reshape(shape_of_targets(input)) if options.reduction == "none" else loss

    def extra_repr(self) -> str:
        """The hierarchy's size, and the options that differ from the defaults."""
        return ", ".join([repr(self.hierarchy), *self.options.differing(but=("logit_space",))])
