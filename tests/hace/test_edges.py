"""Rare cases of a training: an empty last batch, sharp soft labels, negative weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend
from rows import on_some_rows
from tree_cases import hierarchy_of

import hace
from hace.functional import node_log_probs

pytestmark = [
    pytest.mark.parity,
    pytest.mark.not_on("gpu", reason="the tensors are made on the CPU"),
]

PATHS = ["a/x", "a/y", "b/z", "b/c/w"]
CLASSES, FEATURES = 4, 5

#: Empty batches (0, width), as made by slicing, transposing and expanding.
EMPTIES: dict[str, Callable[[int], torch.Tensor]] = {
    "made": lambda width: torch.zeros(0, width),
    "sliced": lambda width: torch.zeros(3, 2 * width)[3:, ::2],
    "transposed": lambda width: torch.zeros(width, 0).T,
    "expanded": lambda width: torch.zeros(0, 1).expand(0, width),
    "of stride 0": lambda width: torch.zeros(1).expand(0, width),
    "permuted": lambda width: torch.zeros(width, 2, 0).permute(2, 1, 0)[:, 0],
}


def losses(tree: hace.Hierarchy, backend: str) -> dict[str, torch.nn.Module]:
    options: dict[str, Any] = {"backend": backend, "reduction": "sum"}
    return {
        "HACE": hace.HACELoss(tree, **options),
        "smoothed": hace.HACELoss(tree, label_smoothing=0.1, **options),
        "HXE": hace.HXELoss(tree, **options),
        "soft": hace.SoftLabelLoss(tree, **options),
        "cross-entropy": hace.CrossEntropyLoss(tree, **options),
        "entropy": hace.RegularizedCrossEntropyLoss(tree, **options),
    }


@pytest.mark.sample(name=["HACE", "smoothed"], kind=["index"], empty=["transposed"])
@pytest.mark.parametrize("empty", EMPTIES)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "index") for name in ("HACE", "smoothed", "HXE", "soft", "entropy")),
        *((name, "probabilities") for name in ("HACE", "cross-entropy")),
        *((name, "pair") for name in ("HACE", "smoothed")),
    ],
)
def test_an_empty_batch_has_loss_0(backend: Backend, name: str, kind: str, empty: str) -> None:
    tree = hace.Hierarchy.from_paths(PATHS)
    targets: dict[str, Any] = {
        "index": torch.zeros(0, dtype=torch.int64),
        "probabilities": EMPTIES[empty](CLASSES),
        "pair": (torch.zeros(0, 2, dtype=torch.int64), EMPTIES[empty](2)),
    }
    loss = losses(tree, backend.name)[name]
    logits = EMPTIES[empty](CLASSES).requires_grad_()
    value = loss(logits, targets[kind])
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, CLASSES)
    loss.reduction = "none"
    assert loss(logits, targets[kind]).shape == (0,)
    loss.reduction = "mean"
    assert loss(logits, targets[kind]).isnan()  # 0 / 0, as in PyTorch


@pytest.mark.sample(empty=["transposed"])
@pytest.mark.parametrize("empty", EMPTIES)
def test_layers_take_an_empty_batch(backend: Backend, empty: str) -> None:
    tree = hace.Hierarchy.from_paths(PATHS)
    layer = hace.nn.TreeLinear(FEATURES, tree, backend=backend.name)
    x = EMPTIES[empty](FEATURES).requires_grad_()
    logits = layer(x)
    logits.sum().backward()
    assert logits.shape == (0, CLASSES)
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))
    z = EMPTIES[empty](CLASSES).requires_grad_()
    log_prob = node_log_probs(z, tree, backend=backend.name)
    log_prob.sum().backward()
    assert log_prob.shape == (0, tree.num_nodes)
    assert z.grad is not None
    assert hace.predict(z, tree).shape == (0,)


@pytest.mark.not_on(
    "cuda-emulated", "triton-interpreted", "gpu", reason="tiles are for the CPU and the reference"
)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("empty", EMPTIES)
def test_classifiers_take_an_empty_batch(backend: Backend, empty: str, fused: bool) -> None:
    tree = hace.Hierarchy.from_paths(PATHS)
    loss = hace.HACELoss(tree, backend=backend.name)
    head = hace.nn.HierarchicalClassifier(FEATURES, tree, loss, fused=fused)
    output = head(EMPTIES[empty](FEATURES), torch.zeros(0, dtype=torch.int64)).output
    assert output.shape == (0,)
    assert head.predict(EMPTIES[empty](FEATURES)).shape == (0,)


@pytest.mark.sample(beta=[500.0], dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [500.0, 1e30])
@pytest.mark.parametrize("distance", ["height", "depth"])
def test_soft_labels_as_sharp_as_they_get(
    backend: Backend, tree: trees.Tree, beta: float, distance: str, dtype: torch.dtype
) -> None:
    """If exp(−β d) is 0 for all other classes, the nearest classes share the target."""
    loss = hace.HACELoss(
        hierarchy_of(tree),
        0.7,
        soft_label_beta=beta,
        soft_label_distance=distance,
        target_space="nodes",
        reduction="none",
        backend=backend.name,
    )
    targets = torch.from_numpy(np.flatnonzero(tree.reach().any(axis=1)))

    @on_some_rows
    def check(logits: torch.Tensor, targets: torch.Tensor) -> None:
        answer, _ = oracle.hace(
            tree,
            logits,
            targets,
            0.7,
            target_space="nodes",
            soft_label_beta=beta,
            soft_label_distance=distance,
        )
        oracle.assert_loss_close(loss(logits, targets), answer, dtype, roundings=40)

    check(torch.randn(len(targets), tree.num_classes, dtype=dtype), targets)


@pytest.mark.sample(every=[30], dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("every", [30, 1])
def test_hxe_with_a_negative_alpha_on_a_deep_tree(
    backend: Backend, every: int, dtype: torch.dtype
) -> None:
    """HXE's weights are then negative above the target and grow with depth."""
    tree = trees.caterpillar(120)
    alpha, labels = -0.05, tree.labels()
    loss = hace.HXELoss(
        hierarchy_of(tree), alpha, reduction="none", backend=backend.name, target_space="classes"
    )
    targets = torch.arange(0, tree.num_classes, every)
    logits = 2 * torch.randn(len(targets), tree.num_classes, dtype=dtype)
    weights = np.zeros((labels.num_nodes, labels.num_nodes), dtype=oracle.REAL)
    for target in labels.classes:
        path = labels.path(target)
        each = [np.exp(oracle.REAL(-alpha) * (len(path) - 1 - step)) for step in range(len(path))]
        for step, node in enumerate(path):
            weights[target, node] = each[step] - (each[step - 1] if step else 0)
    reach = trees.Tree(labels.parents, labels.classes).reach()
    answer = oracle.node_log_loss(logits, reach, weights[labels.classes[::every]])
    found = loss(logits, targets)
    oracle.assert_loss_close(found, answer, dtype, roundings=40)


def test_targets_as_kernels_do_not_take_them(backend: Backend) -> None:
    """Strided targets work; too few targets, or targets of another type, are refused."""
    loss = hace.HACELoss(hace.Hierarchy.from_paths(PATHS), backend=backend.name)
    logits = torch.randn(3, CLASSES).requires_grad_()
    target = torch.tensor([0, 2, 1, 0, 2])
    (grad,) = torch.autograd.grad(loss(logits, target[::2]), logits)
    (expected,) = torch.autograd.grad(loss(logits, target[::2].clone()), logits)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)
    for bad in (target[:2], target, target[:3].double(), target[:3].int()):
        with pytest.raises((ValueError, TypeError)):
            loss(logits, bad)
    torch.testing.assert_close(loss(logits, target[:3].byte()), loss(logits, target[:3]))
