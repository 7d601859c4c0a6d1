"""On a device without float64 (Apple's MPS), the reference makes no float64 tensor.

The CPU stands in for such a device: a mode refuses every float64 result. Tables are made outside of
all modes, as on the host, and are moved to the device as they would be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hace
from hace import table_cache
from hace_kernels import widest

PATHS = ["animal/dog/husky", "animal/dog/poodle", "animal/cat", "car", "car/saloon", "boat/yacht"]
ROWS = 7


class NoFloat64(TorchDispatchMode):
    """A mode that refuses to make a float64 tensor."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
                raise TypeError(f"this device has no float64, and {func} made some")
        return made


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the CPU is a device without float64, and the host another device."""
    monkeypatch.setattr(widest, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    monkeypatch.setattr(table_cache, "_CPU", torch.device("meta"))  # so that tables are moved


def a_tree() -> hace.Hierarchy:
    """A new tree, whose tables have not been made yet."""
    return hace.Hierarchy.from_paths(PATHS)


def a_dag() -> hace.Hierarchy:
    edges = [("a", "x"), ("b", "x"), ("b", "y"), ("c", "b"), ("c", "z"), ("z", "t")]
    return hace.Hierarchy.from_edges(
        edges, classes=["x", "y", "z", "t", "a", "b"], allow_multiple_parents=True
    )


LABELS = torch.tensor([0, 1, 2, 3, 4, 5, -100])
PAIRS = (torch.tensor([[0, 5]] * ROWS), torch.tensor([[0.25, 0.75]] * ROWS))
PROBS = torch.full((ROWS, 6), 1 / 6)
LOSSES: dict[str, tuple[Callable[[], torch.nn.Module], Any]] = {
    "hace": (lambda: hace.HACELoss(a_tree()), LABELS),
    "weights": (lambda: hace.HACELoss(a_tree(), weight=torch.arange(1.0, 7.0)), LABELS),
    "none": (lambda: hace.HACELoss(a_tree(), reduction="none"), LABELS),
    "eps": (lambda: hace.HACELoss(a_tree(), eps=1e-6), LABELS),
    "nodes": (lambda: hace.HACELoss(a_tree(), target_space="nodes"), LABELS),
    "smoothed": (lambda: hace.HACELoss(a_tree(), label_smoothing=0.1), LABELS),
    "others": (lambda: hace.HACELoss(a_tree(), label_smoothing=0.1, smoothing="others"), LABELS),
    "weighted and smoothed": (
        lambda: hace.HACELoss(a_tree(), label_smoothing=0.1, weight=torch.arange(1.0, 7.0)),
        LABELS,
    ),
    "pairs": (lambda: hace.HACELoss(a_tree()), PAIRS),
    "probabilities": (lambda: hace.HACELoss(a_tree()), PROBS),
    "soft labels": (lambda: hace.SoftLabelLoss(a_tree()), LABELS),
    "cross-entropy": (lambda: hace.CrossEntropyLoss(a_tree()), LABELS),
    "hxe": (lambda: hace.HXELoss(a_tree()), LABELS),
    "regularized": (lambda: hace.RegularizedCrossEntropyLoss(a_tree()), LABELS),
    "dag": (lambda: hace.HACELoss(a_dag()), LABELS),
    "dag, smoothed": (lambda: hace.HACELoss(a_dag(), label_smoothing=0.1), LABELS),
}


def evaluate(loss_fn: torch.nn.Module, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, 6, generator=generator)).requires_grad_()
    loss = loss_fn(logits, target)
    loss.sum().backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    make, target = LOSSES[name]
    expected = evaluate(make(), target)  # with float64, on the best backend
    request.getfixturevalue("pretended")
    monkeypatch.setenv("HACE_BACKEND", "reference")
    with NoFloat64():
        found = evaluate(make(), target)
    for mine, wide in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wide, rtol=1e-5, atol=1e-6)


def test_the_mode_refuses() -> None:
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.zeros(1).double()


def test_probabilities_of_nodes_and_answers(
    pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HACE_BACKEND", "reference")
    logits, tree = torch.eye(6), a_tree()
    with NoFloat64():
        log_probs = hace.functional.node_log_probs(logits, tree)
        assert hace.predict(logits, tree).tolist() == list(range(6))
    animal = logits.softmax(1)[:, :3].sum(1)
    torch.testing.assert_close(log_probs[:, tree.index("animal")].exp(), animal)


def test_a_head_by_tiles(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HACE_BACKEND", "reference")
    tree = a_tree()
    input, weight = torch.randn(ROWS, 4), torch.randn(6, 4, requires_grad=True)
    with NoFloat64():
        tiled = hace.functional.linear_hace_loss(input, weight, LABELS, tree)
        tiled.backward()
        whole = hace.HACELoss(tree)(input @ weight.T, LABELS)
    torch.testing.assert_close(tiled, whole)


def decisions(logits: torch.Tensor, truth: torch.Tensor, tree: hace.Hierarchy) -> list[Any]:
    """One of each kind of decision, and what the metrics say."""
    decode, metrics = hace.decode, hace.metrics
    answers = hace.predict(logits, tree)
    return [
        decode.deepest_node(logits, tree, 0.4),
        decode.majority_subtree(logits, tree),
        decode.minimum_expected_cost(logits, tree),
        decode.expected_information(logits, tree),
        decode.top_down_greedy(logits, tree),
        decode.calibrate_threshold(logits, truth, tree, accuracy=0.5),
        decode.calibrate_bonus(logits, truth, tree, accuracy=0.5),
        decode.conformal_node(
            logits, tree, decode.conformal_threshold(logits, truth, tree, coverage=0.5)
        ),
        metrics.mistake_severity(answers, truth, tree),
        metrics.hierarchical_f1(answers, truth, tree),
        metrics.hierarchical_f1(answers, truth, tree, average="macro"),
        metrics.level_calibration_error(logits, truth, tree, level=0),
        metrics.operating_curve(logits, truth, tree).area(),
    ]


def test_decisions_and_metrics(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(40, 6, generator=generator)
    truth = torch.randint(6, (40,), generator=generator)
    expected = decisions(logits, truth, a_tree())
    request.getfixturevalue("pretended")
    monkeypatch.setenv("HACE_BACKEND", "reference")
    tree = a_tree()
    decisions(logits, truth, tree)  # makes tables, which is the host's work
    with NoFloat64():
        found = decisions(logits, truth, tree)
    for mine, wide in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wide, rtol=1e-5, atol=1e-6)
