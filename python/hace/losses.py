"""The losses as modules, drop-ins for `torch.nn.CrossEntropyLoss`."""

from __future__ import annotations

from dataclasses import fields

from torch import Tensor, nn

from .functional import check_weight, loss_with_options
from .hierarchy import Hierarchy, Space
from .options import Distance, LossOptions, Reduction, Smoothing
from .weights import HACEWeights

__all__ = ["HACELoss"]


class HACELoss(nn.Module):
    """Hierarchy-Aware Cross-Entropy: log-loss at the target and at each of its ancestors.

    `L = −Σ_i w_i log P_{a_i}`, where `P_v` is the softmax mass of the classes at or below node v
    and a_0 … a_D is the path from the target to its root, weighted `w_i = d(1−d)^i` for i < D and
    `w_D = (1−d)^D`. Source: Chan, D'Ascenzo, Cultrera di Montesano, *When Labels Have Structure*,
    arXiv 2605.06274, section 3. With d = 1 and leaf targets it is `nn.CrossEntropyLoss`, whose
    arguments and shapes it has. Two things differ: half-precision logits give a float32 loss, and
    probability 0 on a −inf logit adds 0 where PyTorch has NaN.

    An explicit root holds all the mass, so its share (1−d)^D of the loss is 0; without it the
    superclasses are the topmost nodes and take that share. A flat tree under a root gives d times
    the cross-entropy, the same classes without a root the cross-entropy itself.

    Index targets run in the fused kernels. Label smoothing and probability targets run in the
    PyTorch reference, with O(B·N) memory.

    Args:
        hierarchy: of the classes; its class i is logit i.
        dilution: d in (0, 1], the share of its mass that a node keeps; the rest goes to its parent.
        logits: what the class dimension of the input holds: the hierarchy's C "classes", or one
            logit for each of its N "nodes", each of which then counts as a class of its own.
        targets: what targets are, T in number: "classes", or "nodes", so that coarse labels
            (which stand for their whole subtree) mix with fine ones.
        weight: (T,), multiplies each target's mass before it goes up the tree.
        ignore_index: rows with this target count for nothing (index targets only).
        reduction: "none", "sum", or "mean", which divides by `Σ weight[y]` for indices and by the
            number of rows for probabilities.
        label_smoothing: the share of each target's mass that is spread over the C classes.
        smoothing: "uniform" spreads it over all C (PyTorch), "others" over those that are not the
            target (the paper's code).
        soft_labels: β of distance-based soft labels; not in this release.
        soft_label_distance: "height" or "depth", for `soft_labels`.
        eps: added to each P_v inside the logarithm; 1e-6 reproduces the paper's code.
        backend: "auto", or one of `hace.backends()`.

    Shape:
        - Input: (C), (N, C) or (N, C, d1, …), floating.
        - Target: (), (N) or (N, d1, …) int64 indices; or floating probabilities with the T targets
          in the class dimension.
        - Output: a scalar, or with reduction "none" the shape of index targets; float64 for
          float64 input, float32 otherwise.

    Raises:
        ValueError: at construction or call: an option outside its range, shapes that do not fit.
        TypeError: input, target or option of a wrong type.
        IndexError: at call: a target out of range, or without a class at or below it. (On the CPU,
            uncompiled; compiled code raises RuntimeError, an accelerator gives NaN.)
        hace.BackendError: at call: the backend asked for cannot run.
        MemoryError: at construction: the tree's path table would not fit in memory.
    """

    weight: Tensor | None

    def __init__(
        self,
        hierarchy: Hierarchy,
        dilution: float = 0.7,
        *,
        logits: Space = "classes",
        targets: Space = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        smoothing: Smoothing = "uniform",
        soft_labels: float | None = None,
        soft_label_distance: Distance = "height",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(hierarchy, Hierarchy):
            raise TypeError(f"hierarchy must be a hace.Hierarchy, got {type(hierarchy).__name__}")
        self.hierarchy = hierarchy
        self.path_weights = HACEWeights(dilution)
        self.options = LossOptions(
            logits,
            targets,
            ignore_index,
            reduction,
            label_smoothing,
            smoothing,
            soft_labels,
            soft_label_distance,
            eps,
            backend,
        )
        self.register_buffer("weight", weight)
        check_weight(weight, hierarchy, targets)
        # Built here, where its errors belong and torch.compile does not trace it.
        hierarchy.path_table(self.path_weights, logits=logits, targets=targets, keep_full=eps > 0)
        hierarchy.target_table(self.path_weights, self.options)

    @property
    def dilution(self) -> float:
        """d."""
        return self.path_weights.dilution

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` against `target`; see the class."""
        return loss_with_options(
            input, target, self.hierarchy, self.path_weights, self.weight, self.options
        )

    def extra_repr(self) -> str:
        """The hierarchy's size, the dilution, and what differs from the defaults."""
        differing = [
            f", {field.name}={getattr(self.options, field.name)!r}"
            for field in fields(self.options)
            if getattr(self.options, field.name) != field.default
        ]
        return f"{self.hierarchy!r}, dilution={self.dilution}{''.join(differing)}"
