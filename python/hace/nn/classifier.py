"""A last layer and a loss in one, whose rows lie as the kernels want them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hace_kernels.rows import loss_dtype

from ..arguments import Target, is_index
from ..hierarchy import Hierarchy
from ..losses import CrossEntropyLoss, HACELoss
from ..losses.path_loss import PathLoss
from ..table_cache import PerDevice
from ..tables import Tables
from .hierarchy_state import HierarchyState
from .linear import linear_of

__all__ = ["HierarchicalClassifier", "Prediction"]


class Prediction(NamedTuple):
    """What a forward pass of `HierarchicalClassifier` gives.

    Attributes:
        output: (N), each row's log-probability of its target; for a coarse target that of its whole
            subtree. Only for index targets, else None.
        loss: a scalar, or as the loss's reduction says.
    """

    output: Tensor | None
    loss: Tensor


class HierarchicalClassifier(HierarchyState):
    """A linear layer and a hierarchical loss, in the manner of `nn.AdaptiveLogSoftmaxWithLoss`.

    Inside, the layer's rows are in depth-first order of the tree, where every subtree is a run of
    neighbouring columns and the loss kernel needs no gather. Outside, labels are the hierarchy's.

    Args:
        in_features: F.
        hierarchy: of the C classes; a tree or forest.
        loss: a loss of this package over the same hierarchy with a logit for each class; left out,
            `hace.HACELoss(hierarchy)`.
        bias: whether the layer has one.
        device, dtype: of the layer.

    Shape:
        - Input: (N, F) or (F). Target: as the loss takes it.

    Attributes:
        linear: the layer; its row i is class `hierarchy.depth_first_classes[i]`.

    Raises:
        TypeError: `loss` is not a loss of the path family (h-CE is not: it needs node logits).
        ValueError: the hierarchy is a DAG; `loss` is over another hierarchy, or takes a logit for
            each node.
    """

    def __init__(
        self,
        in_features: int,
        hierarchy: Hierarchy,
        loss: PathLoss | None = None,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hierarchy)
        hierarchy.require_tree("HierarchicalClassifier")
        loss = HACELoss(hierarchy) if loss is None else loss
        if not isinstance(loss, PathLoss):
            raise TypeError(f"loss must be a loss like hace.HACELoss, got {type(loss).__name__}")
        if loss.hierarchy != hierarchy:
            raise ValueError(
                f"loss is over {loss.hierarchy!r}, another hierarchy than the one given, "
                f"{hierarchy!r}"
            )
        self.loss = loss.for_depth_first_logits()
        self.linear = nn.Linear(
            in_features, hierarchy.num_classes, bias=bias, device=device, dtype=dtype
        )
        self.target_log_loss = CrossEntropyLoss(
            hierarchy,
            logit_space="depth_first",
            target_space=loss.options.targets.target_space,
            ignore_index=loss.options.ignore_index,
            reduction="none",
            backend=loss.options.backend,
        )
        self._prepare()

    def _prepare(self) -> None:
        # No buffers: nothing that a checkpoint does not restore may decide a prediction.
        tables = Tables.of(self.hierarchy)
        self._label = PerDevice(lambda device: tables.depth_first_labels(device=device))
        self._column = PerDevice(lambda device: tables.depth_first_columns(device=device))
        for on_device in (self._label, self._column):
            on_device.on(torch.device("cpu"))

    def __getstate__(self) -> dict[str, Any]:
        made_again = ("_label", "_column")
        return {name: value for name, value in self.__dict__.items() if name not in made_again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    def forward(self, input: Tensor, target: Target) -> Prediction:
        """The loss, and for index targets their log-probabilities."""
        logits = self.linear(input)
        loss = self.loss(logits, target)
        if not is_index(target):
            return Prediction(None, loss)
        if self.target_log_loss.ignore_index != self.loss.ignore_index:  # it may be set
            self.target_log_loss.ignore_index = self.loss.ignore_index
        return Prediction(-self.target_log_loss(logits, target), loss)

    def log_prob(self, input: Tensor) -> Tensor:
        """Every class's log-probability, (N, C) in label order, in the loss's dtype."""
        logits: Tensor = self.linear(input)
        log_prob = logits.log_softmax(-1, dtype=loss_dtype(logits.dtype))
        return log_prob.index_select(-1, self._column.on(log_prob.device))

    def predict(self, input: Tensor) -> Tensor:
        """The label of the most probable class, (N) int64."""
        logits: Tensor = self.linear(input)
        return self._label.on(logits.device)[logits.argmax(-1)]

    def to_linear(self) -> nn.Linear:
        """An ordinary `nn.Linear` with the logits in label order."""
        weight: Tensor = self.linear.weight
        bias: Tensor | None = self.linear.bias
        column = self._column.on(weight.device)
        return linear_of(weight[column], None if bias is None else bias[column])
