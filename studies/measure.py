"""How good a model's answers are, always measured on the true tree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hace import decode, metrics

from .task import IntArray, Task

Measured = tuple[dict[str, float | str], npt.NDArray[np.uint8]]


def measure(
    logits: Tensor, label: IntArray, task: Task, *, least_cost: bool
) -> dict[str, Measured]:
    """The figures, and the height at which each answer meets the truth, per decision.

    Decisions are the most probable class and, with `least_cost`, the class of least expected
    height (Karthik et al. 2021).
    """
    target = torch.from_numpy(label)
    answers = {"most probable": logits.argmax(1)}
    if least_cost:
        answers["least cost"] = decode.minimum_expected_cost(logits, task.tree)
    shared = _of_scores(logits, target)
    return {name: _of_answers(pred, target, task, shared) for name, pred in answers.items()}


def _of_scores(logits: Tensor, target: Tensor) -> dict[str, float]:
    log_prob = logits.log_softmax(1)
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    confidence, pred = log_prob.exp().max(1)
    right = (pred == target).double()
    bins = torch.clamp((confidence * 15).ceil().long() - 1, 0, 14)
    gap = torch.zeros(15, dtype=torch.float64).index_add_(0, bins, right - confidence.double())
    return {
        "top5": 100 * (best == target[:, None]).any(1).double().mean().item(),
        "nll": -log_prob.gather(1, target[:, None]).double().mean().item(),
        "ece": 100 * gap.abs().sum().item() / len(target),
    }


def _of_answers(pred: Tensor, target: Tensor, task: Task, scores: dict[str, float]) -> Measured:
    tree = task.tree
    height = metrics.lca_height(pred, target, tree)
    right = pred == target
    levels = metrics.level_accuracies(pred, target, tree)
    values: dict[str, float | str] = {
        "top1": 100 * right.double().mean().item(),
        "height": height.double().mean().item(),
        "severity": metrics.mistake_severity(pred, target, tree).item(),
        "hops": metrics.edge_distance(pred, target, tree).double().mean().item(),
        "siblings": 100 * metrics.sibling_accuracy(pred, target, tree).item(),
        "hf1": 100 * metrics.hierarchical_f1(pred, target, tree).item(),
        **scores,
        **_by_frequency(right, target, task),
        "levels": "|".join(f"{100 * share:.2f}" for share in levels.tolist()),
    }
    return values, height.clamp(max=255).to(torch.uint8).numpy()


def _by_frequency(right: Tensor, target: Tensor, task: Task) -> dict[str, float]:
    """Top-1 by the frequency of the classes, and its mean over the classes.

    "tail" is the third of the classes with the fewest training rows, "head" the third with the
    most.
    """
    counts = task.train_counts()
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    third = torch.from_numpy(rank * 3 // len(counts))[target]
    share = right.double()
    per_class = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, target, share)
    rows = torch.bincount(target, minlength=len(counts))
    return {
        **{
            name: 100 * share[third == i].mean().item()
            for i, name in enumerate(("tail", "middle", "head"))
        },
        "macro": 100 * (per_class / rows)[rows > 0].mean().item(),
    }
