"""Hierarchy-Aware Cross-Entropy."""

from __future__ import annotations

from torch import Tensor

from ..hierarchy import Hierarchy
from ..options import Distance, LossOptions, Reduction, Smoothing
from ..spaces import LogitSpace, TargetSpace
from ..weights import HACEWeights
from .path_loss import PathLoss

__all__ = ["HACELoss"]


class HACELoss(PathLoss):
    """Hierarchy-Aware Cross-Entropy: log-loss at the target and at each of its ancestors.

    `L = −Σ_i w_i log P_{a_i}`, where `P_v` is the softmax mass of the classes at or below node v
    and a_0 … a_D is the path from the target to its root, weighted `w_i = d(1−d)^i` for i < D and
    `w_D = (1−d)^D`. Source: Chan, D'Ascenzo, Cultrera di Montesano, *When Labels Have Structure*,
    arXiv 2605.06274, section 3. With d = 1 it is `nn.CrossEntropyLoss`, and it takes the same
    arguments and shapes; the smaller d, the more weight the ancestors have. Two things differ:
    half-precision logits give a float32 loss, and a target probability of 0 on a −inf logit adds 0
    where PyTorch gives NaN.

    A class label means that class alone: at an inner node, where a class has a logit of its own,
    the path of its label starts at that logit, as if the class were a leaf under its node. A node
    id (`target_space="nodes"`) means the node's subtree.

    Leave out an artificial root. It has probability 1, so its share (1−d)^D of the weight adds
    nothing to the loss; without it the superclasses are the topmost nodes and take that share. A
    flat tree under a root gives d times the cross-entropy, the same classes without a root the
    cross-entropy itself.

    Soft targets go up the tree as mass: each node keeps the share d of what reaches it, q_v, and
    hands the rest to its parent; then `L = −Σ_v q_v log P_v` over all nodes. They are label
    smoothing, distance-based soft labels, probabilities, and the few weighted targets of mixup.
    On a DAG, a node hands the rest to its parents in equal parts, and every class counts once in
    P_v; soft labels are not defined there.

    Args:
        hierarchy: the classes and what is above them; its class i is logit i.
        dilution: d in (0, 1], the share of its mass that a node keeps; the rest goes to its parent.
        logit_space: what the class dimension of the input holds: the hierarchy's C "classes", or
            one logit for each of its N "nodes", each of which then counts as a class of its own,
            or the classes in "depth_first" order, that of `hierarchy.depth_first_classes`.
        target_space: which T things a target is an index of: the "classes", or the "nodes", so that
            coarse labels mix with fine ones.
        weight: (T,), multiplies each target's mass before it goes up the tree.
        ignore_index: rows with this target are left out, also of the mean; in a pair (index,
            weight) such an entry adds nothing, and with probabilities it has no meaning.
        reduction: "none", "sum", or "mean", which divides by `Σ weight[y]` for indices and by the
            number of rows for probabilities and pairs.
        label_smoothing: ε, the share of each target's mass that is spread.
        smoothing: over what: "uniform" spreads it over all C classes (PyTorch), "others" over the
            classes except the target (the paper's text and its CIFAR-100 code), "nodes" over all
            nodes except the target, each as a target of its own (the paper's code for
            FGVC-Aircraft and NABirds); not with soft labels, which are on classes alone.
        soft_label_beta: β, for which target y stands for the distribution
            `q_c ∝ exp(−β · dist(c, y))` over the classes (Bertinetto et al., *Making Better
            Mistakes*, CVPR 2020, section 3.2).
        soft_label_distance: "height", the height of the lowest common ancestor over the tree's
            (Bertinetto et al.), or "depth", 1 − its depth over the greatest, and 0 from a class to
            itself (the code of arXiv 2605.06274). A forest is measured under a virtual root.
        eps: added to each P_v inside the logarithm; 1e-6 reproduces the code of arXiv 2605.06274.
        backend: "auto", or one of `hace.backends()`.

    Attributes:
        dilution: the argument; it may be set.
        ignore_index: the argument; it may be set.
        reduction: the argument; it may be set.
        label_smoothing: the argument; it may be set.

    Shape:
        - Input: (C), (N, C) or (N, C, d1, …), floating.
        - Target: (), (N) or (N, d1, …) int64 indices; or floating probabilities with the T targets
          in the class dimension; or the pair (index, weight), both with K weighted targets per row
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

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> target = torch.tensor([1, 2])  # a dog and a car
        >>> loss_fn = hace.HACELoss(tree, dilution=0.7)
        >>> loss_fn(logits, target)
        tensor(0.5917)

        A dog and "some animal" in one batch, by the ids of their nodes:

        >>> coarse = torch.tensor([tree.index("animal/dog"), tree.index("animal")])
        >>> hace.HACELoss(tree, target_space="nodes", reduction="none")(logits, coarse)
        tensor([1.0136, 1.8566])
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        dilution: float = 0.7,
        *,
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        smoothing: Smoothing = "uniform",
        soft_label_beta: float | None = None,
        soft_label_distance: Distance = "height",
        eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        options = LossOptions.of(
            logit_space=logit_space,
            target_space=target_space,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            smoothing=smoothing,
            soft_label_beta=soft_label_beta,
            soft_label_distance=soft_label_distance,
            eps=eps,
            backend=backend,
        )
        super().__init__(hierarchy, HACEWeights(dilution), options, weight)

    @property
    def dilution(self) -> float:
        """d; it may be set, and the loss takes the tables for the new value."""
        assert isinstance(self.path_weights, HACEWeights)
        return self.path_weights.dilution

    @dilution.setter
    def dilution(self, value: float) -> None:
        self._prepare(HACEWeights(value), self.options)

    def _own_repr(self) -> str:
        return f"dilution={self.dilution}"
