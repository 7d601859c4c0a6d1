"""The Tree Loss: a linear layer whose classes share the vectors of their ancestors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hace_kernels
from hace_kernels import loss_dtype
from hace_kernels.linear import OnWeightGrad, linear_topk

from ..arguments import Target
from ..hierarchy import Hierarchy
from ..label_errors import explained
from ..linear_loss import linear_path_loss_by_tiles, takes_tiles
from ..linear_nodes import linear_node_log_probs_by_tiles
from ..losses.path_loss import PathLoss
from ..table_cache import PerDevice
from ..tables import Tables
from ..weights import remaining_mass
from .hierarchy_state import HierarchyState
from .linear import linear_of
from .topk import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TreeLinear"]


class TreeLinear(HierarchyState):
    """`nn.Linear` whose weight of class c is the sum of one vector for each node on its path.

    `logits_c = Σ_{v ∈ path(c)} (v_v · x + b_v)`: the N products are summed down the tree, and the
    (C, F) matrix of class weights is never built. Classes share the vectors of their common
    ancestors, so rare classes learn from frequent ones. Followed by cross-entropy it is the Tree
    Loss of Wang & Izbicki 2022, *The Tree Loss: Improving Generalization with Many Classes*; it can
    be used with every loss here. For many classes, `loss` makes the logits tile by tile. Where
    there is no tree, `Hierarchy.from_embeddings` makes one.

    On a DAG, path(c) is the class's node and all nodes above it, each once.

    Args:
        in_features: F.
        hierarchy: of the C classes.
        bias: whether nodes have a bias b_v.
        device, dtype: of the parameters.
        backend: "auto", or one of `hace.backends()`.

    Shape:
        - Input: (…, F). Output: (…, C), in label order.

    Attributes:
        weight: (N, F), one vector per node, by node id.
        bias: (N), or None.

    Raises:
        TypeError: `hierarchy` is not a `hace.Hierarchy`.
        hace.BackendError: at call: the backend asked for cannot run.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        hierarchy: Hierarchy,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(hierarchy)
        self.in_features = in_features
        self.out_features = hierarchy.num_classes
        self.backend = backend
        num_nodes = hierarchy.num_nodes
        self.weight = nn.Parameter(torch.empty(num_nodes, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(num_nodes, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._prepare()
        self.reset_parameters()

    def _prepare(self) -> None:
        tables = Tables.of(self.hierarchy)
        self._nodes = PerDevice(lambda device: tables.nodes(device=device))
        self._nodes.on(torch.device("cpu"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_nodes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()

    def reset_parameters(self) -> None:
        """Draws the parameters so that a leaf's sums have the variance of `nn.Linear`'s weights.

        `nn.Linear` draws from ±1/√F. On the way down each node takes a share of what remains of
        that variance: the h-th part where the deepest leaf is h nodes below, and a leaf takes all
        that is left. On a DAG, where a leaf may have more nodes above it than there are levels, its
        sums vary more than that.
        """
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        share = 1 / (self.hierarchy.heights + 1)
        if self.hierarchy.is_tree:
            share = share * remaining_mass(self.hierarchy.parents, self.hierarchy.depths, share)
        scale = torch.from_numpy(share).sqrt().to(self.weight)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.weight.mul_(scale[:, None])
            if self.bias is not None:
                nn.init.uniform_(self.bias, -bound, bound)
                self.bias.mul_(scale)

    def forward(self, input: Tensor) -> Tensor:
        """The logits; see the class."""
        of_nodes = F.linear(input, self.weight, self.bias)
        logits = self._sum_down(of_nodes.reshape(-1, of_nodes.shape[-1]))
        return logits.reshape(*of_nodes.shape[:-1], self.out_features)

    def loss(
        self,
        input: Tensor,
        target: Target,
        loss_fn: PathLoss,
        *,
        logit_bytes: int | None = None,
        on_weight_grad: OnWeightGrad | None = None,
    ) -> Tensor:
        """`loss_fn(self(input), target)`, where neither logits nor class weights need be whole.

        Products of up to `logit_bytes`, one for each row and node, are made whole, as are those of
        targets and trees that tiles do not take (see `hace.functional.linear_hace_loss`). Else each
        tile of classes has its weights summed from the nodes over it, and multiplied once in the
        forward and once more in the backward.

        Args:
            input: (N, F) or (F).
            target: as the loss takes it.
            loss_fn: a loss like `hace.HACELoss`, of this hierarchy and a logit for each class.
            logit_bytes: a budget in bytes; None: 256 MiB. 0 takes tiles wherever they can be.
            on_weight_grad: called with node ids, int64 (n), and the gradients of their vectors,
                (n, F), each node once; see `hace.functional.linear_hace_loss`. Always by tiles.

        Raises:
            TypeError: `loss_fn` is not a loss of the path family.
            ValueError: it is over another hierarchy or other columns; with on_weight_grad, tiles
                do not take such targets.
            IndexError, RuntimeError: as the loss, and as `hace.functional.linear_hace_loss`.
        """
        self._check_loss(loss_fn)
        tables = loss_fn._tables
        if on_weight_grad is None and not takes_tiles(
            input, self.weight, target, tables, logit_bytes
        ):
            return cast("Tensor", loss_fn(self(input), target))
        try:
            return linear_path_loss_by_tiles(
                input,
                self.weight,
                self.bias,
                target,
                loss_fn.weight,
                tables,
                on_weight_grad=on_weight_grad,
                node_sums=Tables.of(self.hierarchy).node_sums(device=input.device),
            )
        except IndexError as error:
            space = tables.options.targets.target_space
            raise explained(error, self.hierarchy, space) from None

    def _check_loss(self, loss_fn: object) -> None:
        if not isinstance(loss_fn, PathLoss):
            raise TypeError(
                f"loss_fn must be a loss like hace.HACELoss, got {type(loss_fn).__name__}"
            )
        if loss_fn.hierarchy != self.hierarchy:
            raise ValueError(
                f"loss_fn is over {loss_fn.hierarchy!r}, another hierarchy than the layer's, "
                f"{self.hierarchy!r}"
            )
        if loss_fn.options.logit_space != "classes":
            raise ValueError(
                "the layer has a logit for each class in label order: make loss_fn with "
                f'logit_space="classes", not "{loss_fn.options.logit_space}"'
            )

    def topk(self, input: Tensor, k: int) -> TopK:
        """The k most probable classes of each row by tiles: log-probabilities and labels, (N, k).

        They have no gradient. On a DAG logits are whole.

        Raises:
            ValueError: there are not k classes.
        """
        if not self.hierarchy.is_tree:
            logits = self(input).detach()
            return TopK(*logits.log_softmax(-1, dtype=loss_dtype(logits.dtype)).topk(k))
        tables = Tables.of(self.hierarchy)
        rows = input if input.dim() == 2 else input[None]
        found = linear_topk(
            rows,
            self.weight,
            k,
            bias=self.bias,
            backend=self.backend,
            node_sums=tables.node_sums(device=input.device),
        )
        label = tables.depth_first_labels(device=input.device)[found.column]
        return TopK(*(x.reshape(*input.shape[:-1], k) for x in (found.log_prob, label)))

    def predict(self, input: Tensor) -> Tensor:
        """The label of the most probable class by tiles, int64 (N)."""
        return self.topk(input, 1).label[..., 0]

    def node_log_probs(self, input: Tensor, nodes: Tensor | Sequence[int]) -> Tensor:
        """Log-probabilities of chosen nodes by tiles, (N, M); they have no gradient.

        Args:
            input: (N, F) or (F).
            nodes: ids, (M), the same for all rows, or (N, M), a few of each row's own.

        Raises:
            IndexError: there is no such node.
            ValueError: shapes do not fit, or the hierarchy is a DAG.
        """
        return linear_node_log_probs_by_tiles(
            input,
            self.weight,
            self.bias,
            nodes,
            self.hierarchy,
            "classes",
            backend=self.backend,
            node_sums=Tables.of(self.hierarchy).node_sums(device=input.device),
        )

    def to_linear(self) -> nn.Linear:
        """An ordinary `nn.Linear` with the same outputs, for inference."""
        with torch.no_grad():
            weight = self._sum_down(self.weight.T).T.contiguous()
            bias = None if self.bias is None else self._sum_down(self.bias[None])[0]
        return linear_of(weight, bias)

    def _sum_down(self, of_nodes: Tensor) -> Tensor:
        nodes = self._nodes.on(of_nodes.device)
        return hace_kernels.tree_sum_down(of_nodes, nodes, backend=self.backend)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self.hierarchy!r}"
        )
