"""Losses all of whose arguments are fixed, except the logits and the targets.

They serve the most common calls: in eager mode, with ordinary gradients, and with logits and
targets as the kernels take them. A small call costs half as much as through the op itself. The op
serves all other calls and says what is wrong with an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import asked_backend, resolve
from ..closure_table import ClosureTable
from ..exporting import is_traced
from ..path_table import PathTable
from ..rows import loss_dtype
from ..target_table import TargetTable
from ..transforms import in_transform
from ..tree_table import TreeTable
from ..widest import widened
from .loss import LossOp
from .path_log_loss import path_log_loss_rest
from .tree_log_loss import tree_log_loss_rest

__all__ = ["BoundPathLogLoss", "BoundTreeLogLoss"]


class _BoundLoss:
    """The op `name` with fixed `rest`: its arguments after those that have an entry per row."""

    def __init__(
        self,
        name: str,
        rest: tuple[Any, ...],
        device: torch.device,
        num_classes: int,
        backend: str,
    ) -> None:
        self._name, self._rest = name, rest
        self._device, self._num_classes, self._backend = device, num_classes, backend
        self._asked: str | None = None
        self._loss: Callable[..., Tensor] | None = None

    def __call__(self, logits: Tensor, target: Tensor | tuple[Tensor, Tensor]) -> Tensor | None:
        """The loss, or None where the op has to be called instead."""
        if torch.compiler.is_compiling() or is_traced() or in_transform():
            return None
        if type(logits) is not Tensor:  # a subclass, or not a tensor
            return None
        try:
            shape = logits.shape
            if (
                len(shape) != 2
                or shape[1] != self._num_classes
                or not (logits.requires_grad and torch.is_grad_enabled())
                or not logits.is_contiguous()
                or logits.device != self._device
            ):
                return None
            targets = self._targets(logits, target)
            asked = asked_backend(self._backend)
            if asked != self._asked:
                self._resolve(asked, logits)
            if targets is None or self._loss is None:
                return None
            return self._loss(logits, *targets)
        except RuntimeError:  # the kernels found something that is not valid: let the op report it
            return None

    def _targets(self, logits: Tensor, target: Any) -> tuple[Tensor | None, ...] | None:
        """The targets as the op takes them, or None where the kernels cannot take them as is."""
        raise NotImplementedError

    def _resolve(self, asked: str, logits: Tensor) -> None:
        op = resolve(self._name, asked, logits)
        self._loss = op.bound(self._rest) if isinstance(op, LossOp) else None
        self._asked = asked

    def _is_plain(self, target: object, dtype: torch.dtype, shape: Any) -> bool:
        return (
            type(target) is Tensor
            and target.dtype == dtype
            and target.shape == shape
            and target.is_contiguous()
            and target.device == self._device
        )


class BoundPathLogLoss(_BoundLoss):
    """`path_log_loss` with all arguments fixed except the logits and the targets.

    Args:
        table, ignore_index, reduction, entropy, eps, backend: as in `path_log_loss`, and valid,
            since they are not checked here.
    """

    def __init__(
        self,
        table: PathTable,
        *,
        ignore_index: int,
        reduction: str,
        entropy: float,
        eps: float,
        backend: str,
    ) -> None:
        rest = path_log_loss_rest(table, None, entropy, ignore_index, reduction, eps)
        super().__init__("path_log_loss", rest, table.device, table.num_classes, backend)

    def _targets(self, logits: Tensor, target: Any) -> tuple[Tensor | None, ...] | None:
        return (target,) if self._is_plain(target, torch.int64, logits.shape[:1]) else None


class BoundTreeLogLoss(_BoundLoss):
    """`tree_log_loss` with all arguments fixed except the logits and the targets (of any kind).

    Args:
        tree, table, ignore_index, reduction, eps, backend: as in `tree_log_loss`, and valid, since
            they are not checked here.
    """

    def __init__(
        self,
        tree: TreeTable | ClosureTable,
        table: TargetTable,
        *,
        ignore_index: int,
        reduction: str,
        eps: float,
        backend: str,
    ) -> None:
        name = "dag_log_loss" if isinstance(tree, ClosureTable) else "tree_log_loss"
        rest = tree_log_loss_rest(tree, table, ignore_index, reduction, eps)
        super().__init__(name, rest, table.device, tree.num_classes, backend)
        self._num_targets, self._takes_mass = table.num_targets, table.soft_labels is None

    def _targets(self, logits: Tensor, target: Any) -> tuple[Tensor | None, ...] | None:
        num_rows = logits.shape[0]
        if isinstance(target, tuple):
            return self._pair(num_rows, *target) if len(target) == 2 else None
        if self._is_plain(target, torch.int64, (num_rows,)):
            return None, target[:, None], None
        if (
            self._takes_mass
            and self._is_plain(target, loss_dtype(logits.dtype), (num_rows, self._num_targets))
            and not target.requires_grad
        ):
            return target, None, None
        return None

    def _pair(self, num_rows: int, index: Any, weight: Any) -> tuple[Tensor | None, ...] | None:
        if type(index) is not Tensor or type(weight) is not Tensor or index.dim() != 2:
            return None
        shape = (num_rows, index.shape[1])
        if not self._is_plain(index, torch.int64, shape) or weight.requires_grad:
            return None
        if not self._is_plain(weight, weight.dtype, shape) or not weight.is_floating_point():
            return None
        return None, index, widened(weight)
