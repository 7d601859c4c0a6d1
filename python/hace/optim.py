"""Optimisers for `on_weight_grad`: they update a head's weight tile by tile in the backward.

So the gradient of the weight, which is as large as the weight itself, is never held as a whole.
Each class is in one tile per backward, and gets the step that torch.optim's optimiser of the same
name would make.

Examples:
    >>> import torch, hace
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> head = hace.nn.HierarchicalClassifier(16, tree, fused=True)
    >>> head.on_weight_grad = hace.optim.TileAdam(head.linear.weight, lr=1e-3)
    >>> rest = torch.optim.Adam([head.linear.bias], lr=1e-3)
    >>> loss = head(torch.randn(8, 16), torch.randint(3, (8,))).loss
    >>> loss.backward()  # updates the weight
    >>> rest.step(), head.on_weight_grad.step()
    (None, None)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hace_kernels.linear import put_rows
from hace_kernels.rows import loss_dtype
from hace_kernels.widest import widest_dtype

__all__ = ["TileAdagrad", "TileAdam", "TileOptimizer", "TileSGD"]

Rows = Tensor | slice
"""Rows of the weight: a slice, or int64 indices without repetitions."""


class TileOptimizer(Optimizer, ABC):
    """What the three optimisers share: a weight (C, F), and states allocated once.

    It is a torch optimiser of one parameter, so that learning-rate schedulers, `state_dict` and
    `load_state_dict` work; but calling it with a tile makes the update, and `step()`, which every
    backward needs, only checks that nothing is amiss. Rows that get no tile keep weight and state.

    A backward is a step. So gradients cannot be accumulated: a second backward before `step()` is a
    RuntimeError. A `torch.amp.GradScaler` would multiply the step, and its `step` of this optimiser
    is one, too; with bfloat16 no scaler is needed. Clipping by a global norm cannot work, since it
    is known only after the last tile: `torch.nn.utils.clip_grad_norm_` does not see this weight,
    which has no gradient, and clips the others by their own norm. Under DistributedDataParallel
    each process would step by its own gradient.
    """

    # So that a gradient scaler does not look for gradients, but leaves the error to `step`.
    _step_supports_amp_scaling = True
    _awaits_step = False

    def __init__(self, weight: Tensor, options: dict[str, Any]) -> None:
        if hasattr(weight, "to_local"):
            raise TypeError(
                "weight is a DTensor, whose tiles are rows of one process: pass "
                "weight.to_local().detach(), which has the same memory"
            )
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError(
                f"weight must be (C, F), floating; got {tuple(weight.shape)} {weight.dtype}"
            )
        for name, value in options.items():
            at_least_zero = all(each >= 0 for each in (value if type(value) is tuple else (value,)))
            if not at_least_zero:
                raise ValueError(f"{name} must be at least 0, got {value}")
        super().__init__([weight], options)
        self.state[weight].update(self._new_state(weight))

    @abstractmethod
    def _new_state(self, weight: Tensor) -> dict[str, Tensor]:
        """The states before the first step, each (C, F) or (C, 1)."""

    @abstractmethod
    def _update(self, weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        """Changes some rows of the weight and of the states in place."""

    def begin(self) -> None:
        """Called before the first tile of each backward.

        Raises:
            RuntimeError: there was another backward since the last `step()`.
        """
        if self._awaits_step:
            raise RuntimeError(
                "a second backward before step(): a backward by tiles is a step already, so that "
                "gradients of several cannot be added up. Call step() after each backward; to "
                "accumulate, take larger batches, or the gradient as a whole without on_weight_grad"
            )
        self._awaits_step = True

    @torch.no_grad()
    def __call__(self, rows: Rows, grad: Tensor) -> None:
        """Updates rows of the weight, given their gradient (T, F)."""
        weight = self._weight()
        state = {name: array.to(weight.device) for name, array in self.state[weight].items()}
        self.state[weight].update(state)
        if isinstance(rows, slice):  # The parts are views.
            parts = {name: array[rows] for name, array in state.items()}
            self._update(weight[rows], grad.to(weight.dtype), parts)
            return
        parts = {name: array.index_select(0, rows) for name, array in state.items()}
        part = weight.index_select(0, rows)
        self._update(part, grad.to(weight.dtype), parts)
        put_rows(weight, rows, part)
        for name, array in state.items():
            put_rows(array, rows, parts[name])

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Does nothing, since the backward has updated the weight; checks that nothing was lost.

        Raises:
            RuntimeError: the weight has a gradient, which would be lost; from a gradient scaler.
            ValueError: with a closure.
        """
        self._awaits_step = False
        if closure is not None:
            raise ValueError("an update by tiles happens in the backward and takes no closure")
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError(
                "a GradScaler has multiplied the loss, and with it the steps that the backward has "
                "made by tiles: use bfloat16, which needs no scaler, or leave out on_weight_grad"
            )
        if self._weight().grad is not None:
            raise RuntimeError(
                "the weight has a gradient that did not come by tiles and would be lost: pass this "
                "optimiser as on_weight_grad wherever the weight is used, and set weight.grad to "
                "None"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's method; states of another shape raise ValueError."""
        for name, array in self.state[self._weight()].items():
            found = state_dict["state"].get(0, {}).get(name)
            if found is None or found.shape != array.shape:
                shape = None if found is None else tuple(found.shape)
                raise ValueError(f"the state {name} must be {tuple(array.shape)}, got {shape}")
        super().load_state_dict(state_dict)

    def _weight(self) -> Tensor:
        weight: Tensor = self.param_groups[0]["params"][0]
        return weight


class TileSGD(TileOptimizer):
    """`torch.optim.SGD` by tiles; without momentum it has no state.

    Args:
        weight: (C, F), the parameter of the head.
        lr: the learning rate.
        momentum: the factor of the velocity, v ← momentum · v + gradient.
        weight_decay: this factor times the weight is added to its gradient.
        nesterov: whether the step looks ahead along the velocity.

    Raises:
        ValueError: an option below 0, nesterov without momentum, or another shape of weight.
        TypeError: weight is a DTensor.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> layer = torch.nn.Linear(8, 3, bias=False)
        >>> optimizer = hace.optim.TileSGD(layer.weight, lr=0.1)
        >>> features, target = torch.randn(16, 8), torch.randint(3, (16,))
        >>> loss = hace.functional.linear_hace_loss(
        ...     features, layer.weight, target, tree, on_weight_grad=optimizer
        ... )
        >>> loss.backward()  # the weight has made its step
    """

    def __init__(
        self,
        weight: Tensor,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0")
        options = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(weight, {"lr": lr, **options})

    def _new_state(self, weight: Tensor) -> dict[str, Tensor]:
        has_momentum = self.param_groups[0]["momentum"] != 0
        return {"momentum_buffer": _zeros(weight)} if has_momentum else {}

    def _update(self, weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        group = self.param_groups[0]
        grad = _with_decay(grad, weight, group["weight_decay"])
        if group["momentum"]:
            velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
            grad = grad.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
        weight.sub_(grad, alpha=group["lr"])


class TileAdagrad(TileOptimizer):
    """`torch.optim.Adagrad` by tiles (Duchi et al., 2011), without decay of the learning rate.

    Args:
        weight: (C, F), the parameter of the head.
        lr: the learning rate.
        weight_decay: this factor times the weight is added to its gradient.
        initial_accumulator_value: what the sums of squares begin with.
        eps: added to their roots.

    Raises:
        ValueError: an option below 0, or another shape of weight.
        TypeError: weight is a DTensor.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> layer = torch.nn.Linear(8, 3, bias=False)
        >>> optimizer = hace.optim.TileAdagrad(layer.weight, lr=0.1)
        >>> features, target = torch.randn(16, 8), torch.randint(3, (16,))
        >>> loss = hace.functional.linear_hace_loss(
        ...     features, layer.weight, target, tree, on_weight_grad=optimizer
        ... )
        >>> loss.backward()  # the weight has made its step
    """

    def __init__(
        self,
        weight: Tensor,
        lr: float = 1e-2,
        *,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        options = {"weight_decay": weight_decay, "eps": eps}
        start = {"initial_accumulator_value": initial_accumulator_value}
        super().__init__(weight, {"lr": lr, **options, **start})

    def _new_state(self, weight: Tensor) -> dict[str, Tensor]:
        return {"sum": _zeros(weight).fill_(self.param_groups[0]["initial_accumulator_value"])}

    def _update(self, weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        group = self.param_groups[0]
        grad = _with_decay(grad, weight, group["weight_decay"])
        total = state["sum"].addcmul_(grad, grad)
        weight.addcdiv_(grad, total.sqrt().add_(group["eps"]), value=-group["lr"])


class TileAdam(TileOptimizer):
    """`torch.optim.Adam` by tiles (Kingma and Ba, 2015); decoupled decay makes it AdamW.

    Each row counts its own steps for the correction of the bias: 4 bytes per class.

    Args:
        weight: (C, F), the parameter of the head.
        lr: the learning rate.
        betas: the decay rates of the moments, each below 1.
        eps: added to the root of the second moment.
        weight_decay: this factor times the weight is added to its gradient.
        decoupled_weight_decay: multiply the weight by 1 - lr · weight_decay instead.

    Raises:
        ValueError: an option below 0, a beta of 1 or more, or another shape of weight.
        TypeError: weight is a DTensor.

    Examples:
        >>> import torch, hace
        >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
        >>> layer = torch.nn.Linear(8, 3, bias=False)
        >>> optimizer = hace.optim.TileAdam(layer.weight, lr=0.1)
        >>> features, target = torch.randn(16, 8), torch.randint(3, (16,))
        >>> loss = hace.functional.linear_hace_loss(
        ...     features, layer.weight, target, tree, on_weight_grad=optimizer
        ... )
        >>> loss.backward()  # the weight has made its step
    """

    def __init__(
        self,
        weight: Tensor,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        betas = (betas[0], betas[1])
        if max(betas) >= 1:
            raise ValueError(f"betas must be below 1, got {betas}")
        options = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        decoupled = {"decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(weight, {"lr": lr, **options, **decoupled})

    def _new_state(self, weight: Tensor) -> dict[str, Tensor]:
        # load_state_dict keeps the type of what is called "step"; a bfloat16 ends counting at 256.
        step = torch.zeros(len(weight), 1, dtype=torch.int32, device=weight.device)
        return {"exp_avg": _zeros(weight), "exp_avg_sq": _zeros(weight), "step": step}

    def _update(self, weight: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        group = self.param_groups[0]
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if group["decoupled_weight_decay"]:
            weight.mul_(1 - lr * decay)
        else:
            grad = _with_decay(grad, weight, decay)
        step = state["step"].add_(1)
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # In float32 for half types, as torch does with its scalars; a tile's copies are small.
        dtype = loss_dtype(weight.dtype)
        corrections = [_correction(beta, step).to(dtype) for beta in (beta1, beta2)]
        scale = square.sqrt().div(corrections[1].sqrt()).add_(group["eps"])
        weight.addcdiv_(mean.div(corrections[0]), scale, value=-lr)


def _correction(beta: float, step: Tensor) -> Tensor:
    """1 - β^step, without cancellation where there is no float64."""
    log_beta = math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(step.to(widest_dtype(step.device)) * log_beta)


def _zeros(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight, requires_grad=False)


def _with_decay(grad: Tensor, weight: Tensor, weight_decay: float) -> Tensor:
    return grad.add(weight, alpha=weight_decay) if weight_decay else grad
