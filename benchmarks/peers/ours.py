"""This package's losses as contestants; the tests compare them with the formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import hace
import hace_kernels
from hace.options import TargetOptions
from hace.tables import Tables
from hace.weights import HACEWeights

from .. import trees
from ..problem import ALPHA, DILUTION, Loss, Problem, Target
from .peer import Peer, Step, training_step

__all__ = [
    "HACE",
    "HACE_CUDA",
    "HACE_MASKED",
    "HACE_ORDERED",
    "HACE_SHUFFLED",
    "HACE_SPREAD",
    "HACE_TREE",
    "HACE_TREE_MASKED",
    "HACE_TREE_SPREAD",
    "HACE_TRITON",
    "HXE",
]


def _hace(problem: Problem) -> Loss:
    return hace.HACELoss(problem.tree, DILUTION, **problem.options)


def _on(backend: str) -> Callable[[Problem], Loss]:
    """Ours on a GPU, by the backend that "auto" prefers."""
    return lambda problem: hace.HACELoss(problem.tree, DILUTION, backend=backend, **problem.options)


def _lacks(backend: str) -> Callable[[Problem], str | None]:
    def lack(problem: Problem) -> str | None:
        if problem.device == "cpu":
            return "it is for GPUs"
        found = hace.backends()[backend]
        return None if found.available else found.reason

    return lack


def _ordered(problem: Problem) -> Loss:
    """Ours with columns of logits in depth-first order, whatever the order of the classes."""
    return hace.HACELoss(problem.tree, DILUTION, logit_space="depth_first", **problem.options)


def _shuffled(problem: Problem) -> Loss:
    return hace.HACELoss(trees.shuffled(problem.tree), DILUTION, **problem.options)


def _tree_op(problem: Problem) -> Loss:
    """The op for soft targets, which passes over the whole tree, for any kind of target."""
    tables, options = Tables.of(problem.tree), TargetOptions(**problem.options)
    tree = tables.label_nodes(device=problem.device)
    table = tables.targets(HACEWeights(DILUTION), "classes", options, device=problem.device).table
    return lambda logits, target: hace_kernels.tree_log_loss(logits, target, tree, table)


def _hxe(problem: Problem) -> Loss:
    return hace.HXELoss(problem.tree, ALPHA)


def _masked(loss: Loss, logits: Tensor, target: Target) -> Step:
    """Ours with every second class ruled out by a logit of −inf."""
    return training_step(loss, _lowered(logits, target, torch.inf), target)


def _spread(loss: Loss, logits: Tensor, target: Target) -> Step:
    """Ours with every second class so improbable that its gradient is subnormal."""
    return training_step(loss, _lowered(logits, target, 80.0), target)


def _lowered(logits: Tensor, target: Target, by: float) -> Tensor:
    assert isinstance(target, Tensor), "hard targets"
    lowered = logits.detach().clone()
    lowered[:, ::2] -= by
    lowered[torch.arange(len(target)), target] = 0.0
    return lowered.requires_grad_()


def _needs(problem: Problem) -> int:
    return problem.logits_bytes


HACE = Peer("hace", "hace.HACELoss", _hace, _needs)
HACE_ORDERED = Peer("hace_ordered", "hace.HACELoss, ordered columns", _ordered, _needs)
HACE_SHUFFLED = Peer("hace_shuffled", "hace.HACELoss, shuffled columns", _shuffled, _needs)
HACE_TREE = Peer("hace_tree", "hace_kernels.tree_log_loss", _tree_op, _needs)
HACE_MASKED = Peer(
    "hace_masked", "hace.HACELoss, half the classes -inf", _hace, _needs, step=_masked
)
HACE_SPREAD = Peer("hace_spread", "hace.HACELoss, logits 80 apart", _hace, _needs, step=_spread)
HACE_TREE_MASKED = Peer(
    "hace_tree_masked", "hace_kernels.tree_log_loss, half the classes -inf", _tree_op, _needs,
    step=_masked,
)  # fmt: skip
HACE_TREE_SPREAD = Peer(
    "hace_tree_spread", "hace_kernels.tree_log_loss, logits 80 apart", _tree_op, _needs,
    step=_spread,
)  # fmt: skip
HACE_CUDA = Peer(
    "hace_cuda", "hace.HACELoss, CUDA C++", _on("cuda"), _needs, same_as=_hace, lacks=_lacks("cuda")
)
HACE_TRITON = Peer(
    "hace_triton", "hace.HACELoss, Triton", _on("triton"), _needs, same_as=_hace,
    lacks=_lacks("triton"),
)  # fmt: skip
HXE = Peer("hxe", "hace.HXELoss", _hxe, _needs, beside="hxe")
