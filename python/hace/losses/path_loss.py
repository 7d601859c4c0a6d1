"""The base of the losses over a path: a module with a hierarchy, path weights and options."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hace_kernels import PathWeights
from hace_kernels.linear import OnWeightGrad

from ..arguments import Target
from ..functional import linear_path_loss, path_loss
from ..hierarchy import Hierarchy, check_hierarchy
from ..options import LossOptions
from ..tables import LossTables
from ..targets import check_targets
from .options_module import Option, OptionsModule

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..distributed import ClassShard

__all__ = ["PathLoss", "check_tree"]


class PathLoss(OptionsModule):
    """A loss of the form `L = −Σ_i w_i log P_{a_i}` over the target's path a_0 … a_D.

    The base of the losses; `hace.PathLogLoss` is the one for weights of your own.

    Args:
        hierarchy: of the classes.
        path_weights: the weights w_i.
        options: the keywords that losses share.
        weight: (T,) class weights.

    Attributes:
        ignore_index: as in `nn.CrossEntropyLoss`; it may be set.
        reduction: as in `nn.CrossEntropyLoss`; it may be set.
        label_smoothing: as in `nn.CrossEntropyLoss`; it may be set.
    """

    label_smoothing = Option[float]()

    def __init__(
        self,
        hierarchy: Hierarchy,
        path_weights: PathWeights,
        options: LossOptions,
        weight: Tensor | None,
    ) -> None:
        super().__init__(hierarchy, weight, options.targets.target_space)
        self._prepare(path_weights, options)

    def _prepare(self, path_weights: PathWeights, options: LossOptions) -> None:
        """Takes weights, options and their tables; on an error it raises and keeps the old ones."""
        check_targets(options.targets, self.hierarchy.is_tree, self.weight is not None)
        tables = LossTables(self.hierarchy, path_weights, options)
        tables.prepare()
        self._tables = tables

    @property
    def options(self) -> LossOptions:
        """The keywords that losses share."""
        return self._tables.options

    @property
    def path_weights(self) -> PathWeights:
        """The weights w_i."""
        return self._tables.path_weights

    def _set_options(self, options: LossOptions) -> None:
        self._prepare(self.path_weights, options)

    def forward(self, input: Tensor, target: Target, *, shard: ClassShard | None = None) -> Tensor:
        """The loss of `input` against `target`; see the class.

        With a shard, `input` holds the shard's columns of the logits, and other processes hold the
        others. Logits that are DTensors need no shard.
        """
        # As an attribute, a buffer is found last of all: 2 % of a small call's time.
        return path_loss(input, target, self._buffers["weight"], self._tables, shard)

    def linear(
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Target,
        linear_bias: Tensor | None = None,
        *,
        logit_bytes: int | None = None,
        on_weight_grad: OnWeightGrad | None = None,
        shard: ClassShard | None = None,
    ) -> Tensor:
        """The loss of `F.linear(input, linear_weight, linear_bias)`, by tiles of classes if need
        be.

        `hace.functional.linear_hace_loss` describes the arguments, the result and the errors. With
        a shard, the layer holds the rows of its columns.
        """
        return linear_path_loss(
            input,
            linear_weight,
            linear_bias,
            target,
            self.weight,
            self._tables,
            logit_bytes=logit_bytes,
            on_weight_grad=on_weight_grad,
            shard=None if shard is None else shard.shard,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_tables"]  # they are built again
        return {**state, "path_weights": self.path_weights, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        path_weights, options = state.pop("path_weights"), state.pop("options")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare(path_weights, options)

    def for_depth_first_logits(self) -> Self:
        """The same loss of logits whose columns are the classes in depth-first order.

        Raises:
            ValueError: the loss takes a logit for each node.
        """
        if self.options.logit_space == "nodes":
            raise ValueError(
                f"{type(self).__name__} takes a logit for each node here, and depth-first order is "
                'one of the classes: make it with logit_space="classes"'
            )
        loss = copy.deepcopy(self)
        loss._prepare(self.path_weights, self.options.with_option("logit_space", "depth_first"))
        return loss

    def _own_repr(self) -> str:
        """The arguments that the class has in addition to the shared ones."""
        return ""

    def extra_repr(self) -> str:
        """The hierarchy's size, the loss's own arguments, and which of the shared ones differ."""
        parts = [repr(self.hierarchy), self._own_repr(), *self.options.differing()]
        return ", ".join(filter(None, parts))


def check_tree(hierarchy: object, loss: str) -> None:
    """Raises TypeError unless `hierarchy` is a `Hierarchy`, ValueError if it is a DAG."""
    check_hierarchy(hierarchy)
    assert isinstance(hierarchy, Hierarchy)
    hierarchy.require_tree(
        loss, "on a DAG use HACELoss, CrossEntropyLoss or LayeredCrossEntropyLoss"
    )
