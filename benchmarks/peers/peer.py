"""What a contestant is, and the check that it computes the right thing before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem import Loss, Problem, Target

__all__ = ["Peer", "Step", "WrongAnswerError", "check_answer", "training_step"]

Step = Callable[[], object]

#: How far a loss, and a row's gradient relative to its largest entry, may be from ours: about a
#: hundred roundings, because the peers add up probabilities where we add up exponentials.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 2e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


class WrongAnswerError(AssertionError):
    """A contestant's loss or gradient is not the one that it is measured against."""


def training_step(loss: Loss, logits: Tensor, target: Target) -> Step:
    """Forward and backward, into a fresh gradient."""

    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()

    return step


def runs_anywhere(problem: Problem) -> str | None:
    """Lacks nothing."""
    return None


@dataclass(frozen=True)
class Peer:
    """One contestant.

    Attributes:
        name: its name in results and filters.
        title: its name in tables and plots.
        make: gives its loss for a problem, including its matrices and tables.
        needs: the bytes that it allocates beside the logits, by its formula: what `make` keeps, and
            the most that a step needs at once. Never more than it really takes.
        same_as: the loss of this package that it has to agree with; None for what is not a loss,
            and for this package's own losses.
        beside: the contestant with whose time its own is compared.
        lacks: gives the reason why it cannot run on a problem, or None.
        step: what is timed.
        overwrites_logits: whether it does, and so gets logits of its own.
        compiles: whether its first call for a shape compiles, which does not count as memory of a
            step.
    """

    name: str
    title: str
    make: Callable[[Problem], Loss]
    needs: Callable[[Problem], int]
    same_as: Callable[[Problem], Loss] | None = None
    beside: str = "hace"
    lacks: Callable[[Problem], str | None] = runs_anywhere
    step: Callable[[Loss, Tensor, Target], Step] = training_step
    overwrites_logits: bool = False
    compiles: bool = False


def check_answer(peer: Peer, loss: Loss, problem: Problem, logits: Tensor, target: Target) -> None:
    """Compares a contestant's loss and gradient with ours, on the batch that it is timed on.

    Raises:
        WrongAnswerError: they differ.
    """
    if peer.same_as is None:
        return
    expected, expected_grad = _loss_and_grad(peer.same_as(problem), logits, target)
    found, grad = _loss_and_grad(loss, logits, target)
    loss_error = abs(found - expected) / abs(expected)
    error = (grad - expected_grad).abs().amax(1) / expected_grad.abs().amax(1)
    grad_error, bound = float(error.max()), TOLERANCE[problem.dtype]
    if not (loss_error <= bound and grad_error <= bound):  # NaN is not
        raise WrongAnswerError(
            f"{peer.title} differs from ours by {loss_error:.1e} in the loss and {grad_error:.1e} "
            f"in the gradient, where {bound:.0e} is allowed"
        )


def _loss_and_grad(loss: Loss, logits: Tensor, target: Target) -> tuple[float, Tensor]:
    value = loss(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    return float(value.detach()), grad
