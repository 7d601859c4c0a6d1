"""The Tree Loss: a linear layer whose classes share the vectors of their ancestors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hace_kernels

from ..hierarchy import Hierarchy
from ..table_cache import PerDevice
from ..tables import Tables
from ..weights import remaining_mass
from .hierarchy_state import HierarchyState
from .linear import linear_of

__all__ = ["TreeLinear"]


class TreeLinear(HierarchyState):
    """`nn.Linear` whose weight of class c is the sum of one vector for each node on its path.

    `logits_c = Σ_{v ∈ path(c)} (v_v · x + b_v)`: the N products are summed down the tree, and the
    (C, F) matrix of class weights is never built. Classes share the vectors of their common
    ancestors, so rare classes learn from frequent ones. Followed by cross-entropy it is the Tree
    Loss of Wang & Izbicki 2022, *The Tree Loss: Improving Generalization with Many Classes*; it can
    be used with every loss here. Where there is no tree, `Hierarchy.from_embeddings` makes one.

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
