"""A last layer and a loss in one, with the layer's rows in the order that kernels read fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hace_kernels import loss_dtype
from hace_kernels.eager import eager
from hace_kernels.exporting import is_exported
from hace_kernels.linear import OnWeightGrad, linear_topk, logits_fit

from ..arguments import Target, is_index
from ..hierarchy import Hierarchy
from ..linear_loss import linear_path_loss_with_log_prob, takes_tiles, why_not_by_tiles
from ..linear_nodes import linear_node_log_probs_by_tiles
from ..losses import CrossEntropyLoss, HACELoss
from ..losses.path_loss import PathLoss
from ..table_cache import PerDevice
from ..tables import Tables
from .linear import linear_of
from .pretrained import Pretrained
from .sharded_linear import local_part, sharded_linear, whole
from .topk import TopK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from ..distributed import ClassShard, SpreadRows

__all__ = ["HierarchicalClassifier", "Prediction", "TopK"]


class Prediction(NamedTuple):
    """What a forward pass of `HierarchicalClassifier` gives.

    Attributes:
        output: (N), each row's log-probability of its target; for a coarse target that of its whole
            subtree. Only for index targets, else None.
        loss: a scalar, or of the shape that the loss's reduction gives.
    """

    output: Tensor | None
    loss: Tensor


class HierarchicalClassifier(Pretrained):
    """A linear layer and a hierarchical loss, in the manner of `nn.AdaptiveLogSoftmaxWithLoss`.

    Inside, the layer's rows are in depth-first order of the tree, where every subtree is a run of
    neighbouring columns and the loss kernel needs no gather. Outside, labels are the hierarchy's.

    Args:
        in_features: F.
        hierarchy: of the C classes; a tree or forest.
        loss: a loss of this package over the same hierarchy with a logit for each class; left out,
            `hace.HACELoss(hierarchy)`.
        bias: whether the layer has one.
        fused: whether logits are computed in tiles of classes and never held as a whole. "auto":
            where they would exceed `logit_bytes` and the targets allow it; True: always, or an
            error that says why not; False: never.
        logit_bytes: a budget for the logits, in bytes.
        on_weight_grad: an update of the layer's weight, tile by tile in the backward, as
            `hace.functional.linear_hace_loss` takes it, such as those of `hace.optim`; needs
            fused=True.
        device_mesh: of one dimension: the layer's weight becomes a DTensor with `Shard(0)` over it,
            and each process holds its rows alone. All get the same loss. Constructing the module
            and calling its methods is then collective.
        rows: with a device_mesh, whether all processes have the same input and targets,
            "replicated", or each rows of its own, "sharded", as where a body runs data-parallel on
            the same processes. The loss is that of all rows then; what there is per row is of a
            process's own. The input's gradient comes times the number of processes, since DDP and
            FSDP divide the body's by that.
        device, dtype: of the layer.

    Shape:
        - Input: (N, F) or (F). Target: as the loss takes it.

    Attributes:
        linear: the layer; its row i is class `hierarchy.depth_first_classes[i]`.

    Raises:
        TypeError: `loss` is not a loss over paths (h-CE is not one, since it needs node logits).
        ValueError: the hierarchy is a DAG; `loss` is over another hierarchy, or takes a logit for
            each node; sharded rows without a device_mesh.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> head = hace.nn.HierarchicalClassifier(8, tree)
        >>> features, target = torch.randn(16, 8), torch.randint(3, (16,))
        >>> head(features, target).loss.backward()
        >>> head.predict(features).shape
        torch.Size([16])
    """

    def __init__(
        self,
        in_features: int,
        hierarchy: Hierarchy,
        loss: PathLoss | None = None,
        *,
        bias: bool = True,
        fused: Literal["auto"] | bool = "auto",
        logit_bytes: int = 256 << 20,
        on_weight_grad: OnWeightGrad | None = None,
        device_mesh: DeviceMesh | None = None,
        rows: Literal["replicated", "sharded"] = "replicated",
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
        if fused not in ("auto", True, False):
            raise ValueError(f"fused must be 'auto', True or False, got {fused!r}")
        if device_mesh is not None and fused is False:
            raise ValueError(
                "a layer over several processes is always fused: use fused='auto' with device_mesh"
            )
        if on_weight_grad is not None and fused is not True:
            raise ValueError(
                "on_weight_grad is called tile by tile, and whole logits have no tiles: use it "
                f"with fused=True, not {fused!r}"
            )
        if rows not in ("replicated", "sharded") or (rows == "sharded" and device_mesh is None):
            raise ValueError(
                f"rows must be 'replicated', or 'sharded' with a device_mesh, got {rows!r}"
                + (" without one" if device_mesh is None else "")
            )
        self.fused, self.logit_bytes, self.on_weight_grad = fused, logit_bytes, on_weight_grad
        self.loss = loss.for_depth_first_logits()
        self.linear: nn.Linear
        self.rows = rows
        self._shard: ClassShard | None = None
        if device_mesh is None:
            self.linear = nn.Linear(
                in_features, hierarchy.num_classes, bias=bias, device=device, dtype=dtype
            )
        else:
            from ..distributed import ClassShard

            group = device_mesh.get_group()
            self._shard = ClassShard(hierarchy, group, logit_space="depth_first")
            self._shard.exchange.adds_grad_input = rows == "replicated"
            self.linear = sharded_linear(
                in_features, hierarchy.num_classes, bias, device_mesh, device, dtype
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
        # Not buffers: a prediction must not depend on anything that a checkpoint does not restore.
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
        if self._takes_tiles(input, target):
            return self._by_tiles(input, target)
        logits = self.linear(input)
        loss = self.loss(logits, target)
        if not is_index(target):
            return Prediction(None, loss)
        if self.target_log_loss.ignore_index != self.loss.ignore_index:  # it may be set
            self.target_log_loss.ignore_index = self.loss.ignore_index
        return Prediction(-self.target_log_loss(logits, target), loss)

    def _takes_tiles(self, input: Tensor, target: Target) -> bool:
        if self.fused is True or self._shard is not None:
            lack = why_not_by_tiles(target, self.loss._tables)
            if lack is not None:
                how = "fused=True" if self._shard is None else "classes over several processes"
                raise ValueError(f"{how}: {lack}")
            return True
        if self.fused is False or is_exported():
            return False
        weight = self.linear.weight
        return takes_tiles(input, weight, target, self.loss._tables, self.logit_bytes)

    @eager
    def _by_tiles(self, input: Tensor, target: Target) -> Prediction:
        spread = self._spread_rows(input)
        if spread is None:
            return self._loss_by_tiles(input, target)
        output, loss = self._loss_by_tiles(spread.whole(input), spread.whole_target(target))
        loss = loss if loss.dim() == 0 else spread.own(loss)
        return Prediction(None if output is None else spread.own(output), loss)

    def _spread_rows(self, input: Tensor) -> SpreadRows | None:
        """Which rows of the batch are here; None: all of them. With spread rows a collective call.

        Raises:
            ValueError: an input that is not rows.
        """
        if self.rows == "replicated" or self._shard is None:
            return None
        from ..distributed import SpreadRows

        if input.dim() != 2:
            raise ValueError(f'input must be (N, F) with rows="sharded", got {tuple(input.shape)}')
        return SpreadRows(len(input), input.device, self._shard.exchange)

    def _loss_by_tiles(self, input: Tensor, target: Target) -> Prediction:
        weight, bias = self._local_layer()
        if not is_index(target):
            loss = self.loss.linear(
                input,
                weight,
                target,
                bias,
                logit_bytes=0,
                on_weight_grad=self.on_weight_grad,
                shard=self._shard,
            )
            return Prediction(None, loss)
        loss, output = linear_path_loss_with_log_prob(
            input,
            weight,
            bias,
            target,
            self.loss.weight,
            self.loss._tables,
            logit_bytes=self.logit_bytes if self.fused == "auto" else 0,
            on_weight_grad=self.on_weight_grad,
            shard=None if self._shard is None else self._shard.shard,
        )
        return Prediction(output, loss)

    def _local_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the classes that this process holds."""
        bias = self.linear.bias
        return local_part(self.linear.weight), None if bias is None else local_part(bias)

    def topk(self, input: Tensor, k: int) -> TopK:
        """The k most probable classes of each row, by tiles: log-probabilities and labels, (N, k).

        Raises:
            ValueError: there are not k classes.
        """
        if self._shard is None and is_exported():  # tiles have the size of one batch
            return TopK(*self.log_prob(input).topk(k))
        return self._topk_by_tiles(input, k)

    @eager
    def _topk_by_tiles(self, input: Tensor, k: int) -> TopK:
        rows = input if input.dim() == 2 else input[None]
        shape = (*input.shape[:-1], k)
        weight, bias = self._local_layer()
        if self._shard is not None:
            spread = self._spread_rows(input)
            if spread is not None:
                rows, shape = spread.whole_data(rows.detach()), (sum(spread.sizes), k)
            here = linear_topk(rows, weight, min(k, len(weight)), bias=bias)
            best = TopK(*(x.reshape(shape) for x in self._shard.merged(here, k)))
            return best if spread is None else TopK(*(x[spread.rows] for x in best))
        found = linear_topk(rows, weight, k, bias=bias)
        label = self._label.on(input.device)[found.column]
        return TopK(found.log_prob.reshape(shape), label.reshape(shape))

    @property
    def exchanged_bytes(self) -> int:
        """How many bytes this process has put into collectives; 0 without a `device_mesh`."""
        return 0 if self._shard is None else self._shard.exchange.bytes

    def log_prob(self, input: Tensor) -> Tensor:
        """The log-probability of every class, (N, C) in label order, in the loss's dtype.

        Raises:
            ValueError: the classes are spread over processes; `topk` gives the largest.
        """
        if self._shard is not None:
            raise ValueError(
                "log_prob gives (N, C) numbers, and the classes are spread over processes: use topk"
            )
        logits: Tensor = self.linear(input)
        log_prob = logits.log_softmax(-1, dtype=loss_dtype(logits.dtype))
        return log_prob.index_select(-1, self._column.on(log_prob.device))

    @eager
    def node_log_probs(self, input: Tensor, nodes: Tensor | Sequence[int]) -> Tensor:
        """Log-probabilities of chosen nodes by tiles, (N, M); they have no gradient.

        Args:
            input: (N, F) or (F).
            nodes: ids, (M), the same for all rows, or (N, M), a few nodes of its own for each row.
                With several processes, all must give the same ids and all get the same result.

        Raises:
            IndexError: there is no such node.
            ValueError, TypeError: shapes or dtypes do not fit.
        """
        weight, bias = self._local_layer()
        spread = self._spread_rows(input)
        if spread is not None:
            each = torch.as_tensor(nodes, device=input.device)
            input = spread.whole_data(input.detach())
            nodes = spread.whole_data(each) if each.dim() == 2 else each
        found = linear_node_log_probs_by_tiles(
            input,
            weight,
            bias,
            nodes,
            self.hierarchy,
            "depth_first",
            shard=self._shard,
            backend=self.loss.options.backend,
        )
        return found if spread is None else found[spread.rows]

    def predict(self, input: Tensor) -> Tensor:
        """The label of the most probable class, (N) int64."""
        if self._is_large(input):
            return self.topk(input, 1).label[..., 0]
        logits: Tensor = self.linear(input)
        return self._label.on(logits.device)[logits.argmax(-1)]

    def _is_large(self, input: Tensor) -> bool:
        if self._shard is None and (self.fused is False or is_exported()):
            return False
        num_logits = input.numel() // max(1, input.shape[-1]) * self.hierarchy.num_classes
        fits = logits_fit(num_logits, input, self.linear.weight, self.logit_bytes)
        return self._shard is not None or not fits

    def to_linear(self) -> nn.Linear:
        """An ordinary `nn.Linear` with the logits in label order.

        For a layer over several processes this is a collective call, which gathers all rows.
        """
        weight: Tensor = whole(self.linear.weight)
        bias: Tensor | None = None if self.linear.bias is None else whole(self.linear.bias)
        column = self._column.on(weight.device)
        return linear_of(weight[column], None if bias is None else bias[column])
