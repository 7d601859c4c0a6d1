"""The Tree Loss: a linear layer whose classes share the vectors of their ancestors."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hace_kernels
from hace_kernels import loss_dtype
from hace_kernels.backends import asked_backend
from hace_kernels.eager import eager
from hace_kernels.exporting import is_traced
from hace_kernels.linear import NodeSums, OnWeightGrad, linear_topk
from hace_kernels.ops.tree_linear import ClassRows, linear_of_nodes, takes_linear_of_nodes
from hace_kernels.tree_table import TreeTable

from ..arguments import Target
from ..hierarchy import Hierarchy
from ..label_errors import explained
from ..linear_loss import linear_path_loss_by_tiles, takes_tiles
from ..linear_nodes import linear_node_log_probs_by_tiles
from ..losses.path_loss import PathLoss
from ..table_cache import PerDevice
from ..tables import LossTables, Tables
from ..weights import remaining_mass
from .hierarchy_state import HierarchyState
from .linear import linear_of
from .sharded_linear import draw_rows, local_part, sharded_linear, whole
from .topk import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from ..distributed import ClassShard

__all__ = ["TreeLinear"]


class TreeLinear(HierarchyState):
    """`nn.Linear` whose weight of class c is the sum of one vector for each node on its path.

    `logits_c = Σ_{v ∈ path(c)} (v_v · x + b_v)`: the N products of a row are summed down the tree,
    or, on the CPU and with many rows, the vectors are summed to class weights first. Classes share
    the vectors of their common ancestors, so rare classes learn from frequent ones. Followed by
    cross-entropy it is the Tree Loss of Wang & Izbicki 2022, *The Tree Loss: Improving
    Generalization with Many Classes*; it can be used with every loss here. For many classes, `loss`
    makes the logits tile by tile. Where there is no tree, `Hierarchy.from_embeddings` makes one.

    On a DAG, path(c) is the class's node and all nodes above it, each once.

    Args:
        in_features: F.
        hierarchy: the hierarchy of the C classes.
        bias: whether nodes have a bias b_v.
        device_mesh: a mesh of one dimension; for trees only. The nodes are divided among its
            processes in depth-first order, and each process holds only the vectors of its own
            nodes, as DTensors with `Shard(0)`. All processes have the same input and targets, and
            get the same loss. Constructing the module, and each of its methods, is then a
            collective call, and no process has all logits.
        device, dtype: those of the parameters.
        backend: "auto", or one of `hace.backends()`.

    Shape:
        - Input: (…, F). Output: (…, C), in label order.

    Attributes:
        weight: (N, F), one vector per node, by node id; with a device_mesh by `order`.
        bias: (N), or None.
        order: with a device_mesh int64 (N), the node of each row; otherwise None.

    Raises:
        TypeError: `hierarchy` is not a `hace.Hierarchy`.
        ValueError: a device_mesh with a DAG, or of several dimensions.
        hace.BackendError: at call: the backend asked for cannot run.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> layer = hace.nn.TreeLinear(8, tree)
        >>> layer(torch.randn(16, 8)).shape
        torch.Size([16, 3])
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        hierarchy: Hierarchy,
        bias: bool = True,
        *,
        device_mesh: DeviceMesh | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(hierarchy)
        self.in_features = in_features
        self.out_features = hierarchy.num_classes
        self.backend = backend
        self.order: Tensor | None = None
        self._shard: ClassShard | None = None
        num_nodes = hierarchy.num_nodes
        if device_mesh is not None:
            self._deal_out(device_mesh, bias, device, dtype)
            return
        self.weight = nn.Parameter(torch.empty(num_nodes, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(num_nodes, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._prepare()
        self.reset_parameters()

    def _deal_out(
        self,
        mesh: DeviceMesh,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Chooses this process's nodes, and makes their parameters."""
        from ..distributed import ClassShard

        self.hierarchy.require_tree("a TreeLinear over several processes")
        layer = sharded_linear(
            self.in_features, self.hierarchy.num_nodes, bias, mesh, device, dtype
        )
        rank, shards = mesh.get_local_rank(), Tables.of(self.hierarchy).node_shards(mesh.size())
        group, ends = mesh.get_group(), shards.positions[rank : rank + 2]
        shard = ClassShard(self.hierarchy, group, *ends, logit_space="depth_first")
        self._shard, self.order = shard, torch.from_numpy(shards.order)
        self._row_order = hashlib.sha256(b"depth-first").digest()
        self._rows = slice(*shards.rows[rank : rank + 2])
        for name in ("weight", "bias"):
            self.register_parameter(name, dict(layer.named_parameters()).get(name))
        self._sums = PerDevice(shards.node_sums(rank, shard.exchange).to)
        self._scale_rows()

    def _prepare(self) -> None:
        tables = Tables.of(self.hierarchy)
        self._nodes = PerDevice(lambda device: tables.nodes(device=device))
        table = self._nodes.on(torch.device("cpu"))
        self._class_rows = ClassRows.of(table) if isinstance(table, TreeTable) else None
        self._most_numbers = self._most_numbers_of_few_rows()

    def _most_numbers_of_few_rows(self) -> float:
        """How many numbers the input may have where its rows are few; see `_has_many_rows`.

        Counted per row or feature, the entries that are summed; and the products, of which 40 take
        as long as one such sum.
        """
        if not self.hierarchy.is_tree:
            return math.inf
        nodes, classes, features = self.hierarchy.num_nodes, self.out_features, self.in_features
        per_row = nodes + classes + features * (nodes - classes) / 40
        return features * features * (nodes + classes) / per_row

    def __getstate__(self) -> dict[str, Any]:
        made = ("_nodes", "_class_rows", "_most_numbers")
        return {name: value for name, value in self.__dict__.items() if name not in made}

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
        for parameter in self.parameters(recurse=False):
            draw_rows(parameter, self.in_features)
        self._scale_rows()

    def _scale_rows(self) -> None:
        """Scales drawn parameters, as `reset_parameters` says."""
        share = 1 / (self.hierarchy.heights + 1)
        if self.hierarchy.is_tree:
            share = share * remaining_mass(self.hierarchy.parents, self.hierarchy.depths, share)
        scale = torch.from_numpy(share).sqrt()
        scale = scale if self.order is None else scale[self.order[self._rows]]
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):
                part = local_part(parameter)
                part.mul_(scale.to(part.device, part.dtype).view(-1, *[1] * (part.dim() - 1)))

    def forward(self, input: Tensor) -> Tensor:
        """The logits; see the class.

        Raises:
            ValueError: the nodes are spread over processes.
        """
        if self._shard is not None:
            raise ValueError(
                "the classes are spread over processes, and no process has all logits: use loss, "
                "topk, predict and node_log_probs, or gathered() for a layer of one process"
            )
        weight, bias = self.weight, self.bias
        if torch.compiler.is_compiling() or is_traced():
            return self._sum_logits(input, weight, bias)
        classes = self._class_rows if asked_backend(self.backend) in ("auto", "cpu") else None
        if classes is not None and takes_linear_of_nodes(input, weight, bias):
            return linear_of_nodes(input, weight, bias, classes, self._sum_logits)
        if self._has_many_rows(input):
            bias = None if bias is None else self._sum_down(bias[None]).view(-1)
            return F.linear(input, self._sum_down(weight.T).T, bias)
        return self._sum_logits(input, weight, bias)

    def _sum_logits(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The logits as sums of those of all nodes, by ops that have all derivatives."""
        of_nodes = F.linear(input, weight, bias)
        logits = self._sum_down(of_nodes.reshape(-1, of_nodes.shape[-1]))
        return logits.reshape(*of_nodes.shape[:-1], self.out_features)

    def _has_many_rows(self, input: Tensor) -> bool:
        """Whether to sum the vectors to class weights and multiply these, instead of all vectors.

        On GPUs it is not measured.
        """
        return input.numel() > self._most_numbers and input.is_cpu

    def loss(
        self,
        input: Tensor,
        target: Target,
        loss_fn: PathLoss,
        *,
        logit_bytes: int | None = None,
        on_weight_grad: OnWeightGrad | None = None,
    ) -> Tensor:
        """`loss_fn(self(input), target)`, without holding all logits or class weights.

        Products of up to `logit_bytes`, one per row and node, are computed at once, as are those
        for targets and trees that tiles do not support (see `hace.functional.linear_hace_loss`).
        Otherwise the weights of each tile of classes are summed from the nodes above it, and
        multiplied once in the forward and once more in the backward.

        Args:
            input: (N, F) or (F).
            target: as the loss takes it.
            loss_fn: a loss like `hace.HACELoss`, of this hierarchy and one logit per class.
            logit_bytes: a budget in bytes; None: 256 MiB. 0 uses tiles wherever possible.
            on_weight_grad: called with node ids, int64 (n), and the gradients of their vectors,
                (n, F), each node once; see `hace.functional.linear_hace_loss`. Always by tiles.
                With a device_mesh, with rows of this process's part of the weight.

        Raises:
            TypeError: `loss_fn` is not a loss of the path family.
            ValueError: it is over another hierarchy or other columns; with on_weight_grad, tiles
                do not take such targets.
            IndexError, RuntimeError: as the loss, and as `hace.functional.linear_hace_loss`.
        """
        self._check_loss(loss_fn)
        tables = loss_fn._tables
        may_be_whole = self._shard is None and on_weight_grad is None
        if may_be_whole and not takes_tiles(input, self.weight, target, tables, logit_bytes):
            return cast("Tensor", loss_fn(self(input), target))
        return self._loss_by_tiles(input, target, loss_fn, on_weight_grad)

    @eager
    def _loss_by_tiles(
        self, input: Tensor, target: Target, loss_fn: PathLoss, on_weight_grad: OnWeightGrad | None
    ) -> Tensor:
        tables = loss_fn._tables
        if self._shard is not None:
            options = tables.options.with_option("logit_space", "depth_first")
            tables = LossTables(self.hierarchy, tables.path_weights, options)
        try:
            return linear_path_loss_by_tiles(
                input,
                *self._local_vectors(),
                target,
                loss_fn.weight,
                tables,
                on_weight_grad=on_weight_grad,
                shard=None if self._shard is None else self._shard.shard,
                node_sums=self._node_sums(input.device),
            )
        except IndexError as error:
            space = tables.options.targets.target_space
            raise explained(error, self.hierarchy, space) from None

    def _local_vectors(self) -> tuple[Tensor, Tensor | None]:
        """The vectors and biases of the nodes that this process holds."""
        return local_part(self.weight), None if self.bias is None else local_part(self.bias)

    def _node_sums(self, device: torch.device) -> NodeSums:
        if self._shard is not None:
            return self._sums.on(device)
        return Tables.of(self.hierarchy).node_sums(device=device)

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
                "the layer has one logit per class in label order: make loss_fn with "
                f'logit_space="classes", not "{loss_fn.options.logit_space}"'
            )

    def topk(self, input: Tensor, k: int) -> TopK:
        """The k most probable classes of each row by tiles: log-probabilities and labels, (N, k).

        They have no gradient. On a DAG all logits are computed at once.

        Raises:
            ValueError: there are not k classes.
        """
        if not self.hierarchy.is_tree:
            logits = self(input).detach()
            return TopK(*logits.log_softmax(-1, dtype=loss_dtype(logits.dtype)).topk(k))
        return self._topk_by_tiles(input, k)

    @eager
    def _topk_by_tiles(self, input: Tensor, k: int) -> TopK:
        rows, shape = input if input.dim() == 2 else input[None], (*input.shape[:-1], k)
        weight, bias = self._local_vectors()
        sums, backend = self._node_sums(input.device), self.backend
        if self._shard is not None:
            few = min(k, sums.num_classes)
            here = linear_topk(rows, weight, few, bias=bias, backend=backend, node_sums=sums)
            return TopK(*(x.reshape(shape) for x in self._shard.merged(here, k)))
        found = linear_topk(rows, weight, k, bias=bias, backend=backend, node_sums=sums)
        label = Tables.of(self.hierarchy).depth_first_labels(device=input.device)[found.column]
        return TopK(found.log_prob.reshape(shape), label.reshape(shape))

    def predict(self, input: Tensor) -> Tensor:
        """The label of the most probable class by tiles, int64 (N)."""
        return self.topk(input, 1).label[..., 0]

    @eager
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
            *self._local_vectors(),
            nodes,
            self.hierarchy,
            "classes" if self._shard is None else "depth_first",
            shard=self._shard,
            backend=self.backend,
            node_sums=self._node_sums(input.device),
        )

    def gathered(self) -> TreeLinear:
        """A layer of one process with the same vectors; with a device_mesh a collective call."""
        layer = TreeLinear(self.in_features, self.hierarchy, self.bias is not None, device="meta")
        for name in ("weight", "bias"):
            parameter = getattr(self, name)
            if parameter is not None:
                rows: Tensor = whole(parameter.detach()).clone()
                if self.order is not None:
                    rows[self.order] = rows.clone()
                setattr(layer, name, nn.Parameter(rows))
        layer.backend = self.backend
        return layer

    def take_rows_of(self, layer: TreeLinear) -> None:
        """Copies the vectors of a layer of one process, over the same hierarchy.

        With a device_mesh each process takes its part.

        Raises:
            ValueError: the layer is over several processes, over another hierarchy, or only one of
                the two has biases.
        """
        if layer._shard is not None or layer.hierarchy != self.hierarchy:
            raise ValueError(
                f"take_rows_of takes a layer of one process over {self.hierarchy!r}, got one "
                + ("over several" if layer._shard is not None else f"over {layer.hierarchy!r}")
            )
        if (layer.bias is None) != (self.bias is None):
            raise ValueError("only one of the two layers has biases")
        with torch.no_grad():
            for name in ("weight", "bias"):
                mine, other = getattr(self, name), getattr(layer, name)
                if mine is not None:
                    rows = other if self.order is None else other[self.order[self._rows]]
                    local_part(mine).copy_(rows)

    @property
    def exchanged_bytes(self) -> int:
        """How many bytes this process has sent in all-reduces so far; 0 without a device_mesh."""
        return 0 if self._shard is None else self._shard.exchange.bytes

    def to_linear(self) -> nn.Linear:
        """An ordinary `nn.Linear` with the same outputs, for inference.

        With a device_mesh this is a collective call, which gathers all vectors.
        """
        if self._shard is not None:
            return self.gathered().to_linear()
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
