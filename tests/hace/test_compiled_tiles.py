"""torch.compile of models that work by tiles of classes gives the same, and leaves tiles eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

import hace
from hace.nn import HierarchicalClassifier, TreeLinear

ROWS, FEATURES, CLASSES = 9, 5, 24

TREE = hace.Hierarchy.from_paths(
    [f"{a}/{b}/{c}" for c in range(2) for a in range(3) for b in range(4)]
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes tiles of a few classes, and forgets what was compiled before."""
    for module in ("columns", "topk", "interval_log_prob"):
        monkeypatch.setattr(f"hace_kernels.linear.{module}.tile_width", lambda *shape: 5)
    torch._dynamo.reset()


class Model(nn.Module):
    """A body, which is compiled, and a head that works by tiles."""

    def __init__(self, head: nn.Module, of_head: Callable[..., Tensor]) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(7, FEATURES), head
        self.of_head = of_head

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return 2 * self.of_head(self.head, self.body(x).tanh(), target)


def classifier(**options: Any) -> HierarchicalClassifier:
    return HierarchicalClassifier(FEATURES, TREE, hace.HACELoss(TREE, **options), fused=True)


INDEX = torch.arange(ROWS)
PAIR = torch.stack([INDEX, INDEX + 9], 1), torch.full((ROWS, 2), 0.5)
HACE = hace.HACELoss(TREE)

LOSSES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], Any]] = {
    "classifier": (classifier, lambda head, x, target: head(x, target).loss, INDEX),
    "output": (classifier, lambda head, x, target: head(x, target).output.sum(), INDEX),
    "pairs": (classifier, lambda head, x, target: head(x, target).loss, PAIR),
    "smoothed": (
        lambda: classifier(label_smoothing=0.1),
        lambda head, x, target: head(x, target).loss,
        INDEX,
    ),
    "linear": (
        lambda: nn.Linear(FEATURES, CLASSES),
        lambda head, x, target: hace.functional.linear_hace_loss(
            x, head.weight, target, TREE, linear_bias=head.bias, logit_bytes=0
        ),
        INDEX,
    ),
    "TreeLinear": (
        lambda: TreeLinear(FEATURES, TREE),
        lambda head, x, target: head.loss(x, target, HACE, logit_bytes=0),
        INDEX,
    ),
}

ANSWERS: dict[str, Callable[..., Any]] = {
    "topk": lambda head, x: head.topk(x, 3),
    "predict": lambda head, x: head.predict(x),
    "nodes": lambda head, x: head.node_log_probs(x, [0, 3, 5]),
}


OTHERS = ("output", "pairs", "smoothed", "linear", "TreeLinear")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.thorough) if n in OTHERS else n for n in LOSSES],
)
def test_losses_and_gradients(name: str) -> None:
    make, of_head, target = LOSSES[name]
    model, counter = Model(make(), of_head), CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    x = torch.randn(ROWS, 7)
    found = []
    for each in (compiled, model):
        loss = each(x, target)
        found.append([loss, *torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)])
    assert [each is None for each in found[0]] == [each is None for each in found[1]]
    for one, two in zip(*found, strict=True):
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    assert counter.op_count < 15  # the ops before and after the tiles


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize(
    "make",
    [
        classifier,
        pytest.param(lambda: TreeLinear(FEATURES, TREE), marks=pytest.mark.thorough, id="tree"),
    ],
)
def test_answers(make: Callable[[], nn.Module], name: str) -> None:
    head, ask, x = make(), ANSWERS[name], torch.randn(ROWS, FEATURES)
    found = torch.compile(lambda x: ask(head, x), backend="eager")(x)
    torch.testing.assert_close(found, ask(head, x))


@pytest.mark.thorough
def test_batches_of_other_sizes_make_no_graphs_of_tiles() -> None:
    head, counter = classifier(), CompileCounterWithBackend("eager")
    compiled = torch.compile(lambda x, target: head(x, target).loss + 0, backend=counter)
    for rows in (9, 8, 7, 6):
        compiled(torch.randn(rows, FEATURES), torch.arange(rows))
    assert counter.op_count < 20


def test_an_update_by_tiles() -> None:
    weights = []
    for compile_or_not in (lambda model: torch.compile(model, backend="eager"), lambda f: f):
        torch.manual_seed(0)
        head = classifier()
        head.on_weight_grad = hace.optim.TileAdam(head.linear.weight)
        compile_or_not(head)(torch.randn(ROWS, FEATURES), INDEX).loss.backward()
        weights.append(head.linear.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_whole_graph_is_refused_with_the_alternative() -> None:
    head, x = classifier(), torch.randn(ROWS, FEATURES)
    with pytest.raises(Unsupported, match=r"leave out fullgraph=True, or .* fused=False"):
        torch.compile(lambda: head(x, INDEX).loss, fullgraph=True, backend="eager")()


@pytest.mark.parametrize("strict", [False, True])
def test_tiles_are_not_exported(strict: bool) -> None:
    head, batch = classifier(), (torch.randn(ROWS, FEATURES), INDEX)
    with pytest.raises(Exception, match="make the logits whole with fused=False"):
        torch.export.export(head, batch, strict=strict)


def test_logits_within_the_budget_are_one_graph() -> None:
    head, x = HierarchicalClassifier(FEATURES, TREE), torch.randn(ROWS, FEATURES)
    found = torch.compile(head, fullgraph=True, backend="eager")(x, INDEX)
    torch.testing.assert_close(found.loss, head(x, INDEX).loss)
    weight = head.linear.weight
    loss = torch.compile(
        lambda: hace.functional.linear_hace_loss(x, weight, INDEX, TREE),
        fullgraph=True,
        backend="eager",
    )
    torch.testing.assert_close(loss(), hace.functional.linear_hace_loss(x, weight, INDEX, TREE))


@pytest.mark.thorough
def test_inductor() -> None:
    make, of_head, target = LOSSES["classifier"]
    model, x = Model(make(), of_head), torch.randn(ROWS, 7)
    loss = torch.compile(model)(x, target)
    torch.testing.assert_close(loss, model(x, target), rtol=1e-6, atol=1e-7)
    loss.backward()
    assert model.body.weight.grad is not None
