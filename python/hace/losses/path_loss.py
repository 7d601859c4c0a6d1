"""What the losses of the family share: a module around a hierarchy, path weights and options."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hace_kernels.path_table import PathWeights

from ..arguments import Target, check_weight
from ..functional import loss_with_options, prepare_tables
from ..hierarchy import Hierarchy, check_hierarchy
from ..options import LossOptions

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PathLoss"]


class PathLoss(nn.Module):
    """A loss of the form `L = −Σ_i w_i log P_{a_i}` over the target's path a_0 … a_D.

    The base of the losses; `hace.PathLogLoss` is the one for weights of your own.

    Args:
        hierarchy: of the classes.
        path_weights: the weights w_i.
        options: the keywords that losses share.
        weight: (T,) class weights.
    """

    weight: Tensor | None

    def __init__(
        self,
        hierarchy: Hierarchy,
        path_weights: PathWeights,
        options: LossOptions,
        weight: Tensor | None,
    ) -> None:
        super().__init__()
        check_hierarchy(hierarchy)
        self.hierarchy = hierarchy
        self.path_weights = path_weights
        self.options = options
        self.register_buffer("weight", weight)
        check_weight(weight, hierarchy, options.targets)
        # Built here, where their errors belong and torch.compile does not trace it.
        prepare_tables(hierarchy, path_weights, options)

    def forward(self, input: Tensor, target: Target) -> Tensor:
        """The loss of `input` against `target`; see the class."""
        return loss_with_options(
            input, target, self.hierarchy, self.path_weights, self.weight, self.options
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # A hierarchy is pickled without its tables.
        prepare_tables(self.hierarchy, self.path_weights, self.options)

    def for_depth_first_logits(self) -> Self:
        """The same loss of logits whose columns are the classes in depth-first order.

        Raises:
            ValueError: the loss takes a logit for each node.
        """
        if self.options.logits == "nodes":
            raise ValueError(
                f"{type(self).__name__} takes a logit for each node here, and depth-first order is "
                'one of the classes: make it with logits="classes"'
            )
        loss = copy.deepcopy(self)
        loss.options = replace(self.options, logits="depth_first")
        prepare_tables(loss.hierarchy, loss.path_weights, loss.options)
        return loss

    def _own_repr(self) -> str:
        """The arguments that the class has beside the shared ones."""
        return ""

    def extra_repr(self) -> str:
        """The hierarchy's size, the loss's own arguments, and which of the shared ones differ."""
        parts = [repr(self.hierarchy), self._own_repr(), *self.options.differing()]
        return ", ".join(filter(None, parts))
