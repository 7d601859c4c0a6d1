"""`hace.HACELoss` as a module: state, autocast, training, compilation, backends, bad arguments."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re
from collections.abc import Callable
from typing import Any

import dags
import numpy as np
import pytest
import torch

import hace
from hace.functional import hace_loss

PATHS = ["animal/dog/husky", "animal/dog/pug", "animal/cat/siamese", "vehicle/car", "vehicle/bus"]


@pytest.fixture
def tree() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 5)


@pytest.fixture
def target() -> torch.Tensor:
    return torch.tensor([0, 2, 3, 4])


# --- the module -----------------------------------------------------------------------------------


def through_pickle(module: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(module))


def through_torch_save(module: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, through_pickle, through_torch_save]
)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_copies(
    tree: hace.Hierarchy,
    logits: torch.Tensor,
    target: torch.Tensor,
    duplicate: Callable[[torch.nn.Module], torch.nn.Module],
    used: bool,
) -> None:
    module = hace.HACELoss(tree, 0.4, weight=torch.rand(5), label_smoothing=0.1, reduction="none")
    if used:
        module(logits, target)
    assert torch.equal(duplicate(module)(logits, target), module(logits, target))


def test_state_dict(tree: hace.Hierarchy, logits: torch.Tensor, target: torch.Tensor) -> None:
    """The class weight is in the state, as in nn.CrossEntropyLoss; the tables are not."""
    weight = torch.rand(5)
    module = hace.HACELoss(tree, weight=weight)
    state = module.state_dict()
    assert list(state) == ["weight"]
    other = hace.HACELoss(tree, weight=torch.ones(5))
    assert other(logits, target) != module(logits, target)
    other.load_state_dict(state)
    assert torch.equal(other(logits, target), module(logits, target))
    assert list(hace.HACELoss(tree).state_dict()) == []
    assert list(hace.HACELoss(tree).parameters()) == []


def test_weight_moves_with_the_module(tree: hace.Hierarchy) -> None:
    module = hace.HACELoss(tree, weight=torch.rand(5)).to(torch.float64)
    assert module.weight.dtype == torch.float64
    loss = module(torch.randn(2, 5, dtype=torch.float64), torch.tensor([0, 1]))
    assert loss.dtype == torch.float64
    module.to("meta")
    assert module.weight.device.type == "meta"


def test_one_module_serves_every_dtype(tree: hace.Hierarchy, target: torch.Tensor) -> None:
    """A float32 weight works with half-precision logits, since only models change precision."""
    module = hace.HACELoss(tree, weight=torch.rand(5))
    exact = torch.randn(4, 5, dtype=torch.float64).to(torch.bfloat16).double()
    expected = module(exact, target)
    for dtype in (torch.float32, torch.bfloat16):
        torch.testing.assert_close(
            module(exact.to(dtype), target).double(), expected, rtol=1e-6, atol=0
        )


def test_repr_shows_what_was_asked_for(tree: hace.Hierarchy) -> None:
    text = repr(hace.HACELoss(tree, 0.35, reduction="sum", label_smoothing=0.05))
    assert text.startswith("HACELoss(")
    for part in ("0.35", "sum", "0.05"):
        assert part in text
    assert len(text) < 500, "the repr contains the whole hierarchy"


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["hard", "smoothed"])
@pytest.mark.parametrize("shape", ["tree", "DAG"])
def test_caller_may_change_the_weight_afterwards(
    shape: str, options: dict[str, Any], tree: hace.Hierarchy
) -> None:
    """Nothing that follows from the weight is kept, so loading or changing it has an effect."""
    hierarchy = tree if shape == "tree" else dags.hierarchy_of(dags.diamond())
    num_classes = hierarchy.num_classes
    logits, target = torch.randn(4, num_classes), torch.arange(4) % num_classes
    module = hace.HACELoss(hierarchy, weight=torch.ones(num_classes), **options)
    module(logits, target)
    changed = torch.arange(1.0, num_classes + 1)
    module.weight.copy_(changed)
    expected = hace.HACELoss(hierarchy, weight=changed, **options)(logits, target)
    torch.testing.assert_close(module(logits, target), expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["hard", "smoothed"])
def test_autocast(tree: hace.Hierarchy, target: torch.Tensor, options: dict[str, Any]) -> None:
    """Layers return bfloat16, the loss is float32, and gradients reach float32 parameters."""
    layer = torch.nn.Linear(8, 5)
    features = torch.randn(4, 8)
    loss_fn = hace.HACELoss(tree, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(features)
        assert logits.dtype == torch.bfloat16
        loss = loss_fn(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_fn(logits.double(), target).float(), rtol=1e-6, atol=0)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


def test_training_decreases_the_loss(tree: hace.Hierarchy) -> None:
    features, target = torch.randn(32, 16), torch.randint(5, (32,))
    layer = torch.nn.Linear(16, 5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    loss_fn = hace.HACELoss(tree)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_fn(layer(features), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"eps": 1e-6}], ids=["hard", "smoothed", "eps"]
)
def test_compiled(
    tree: hace.Hierarchy, logits: torch.Tensor, target: torch.Tensor, options: dict[str, Any]
) -> None:
    torch._dynamo.reset()
    module = hace.HACELoss(tree, **options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for loss_fn in (module, compiled):
        x = logits.clone().requires_grad_()
        loss = loss_fn(x, target)
        loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-8)


# --- backends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reference", "cpu", "triton", "cuda"])
def test_named_backend_runs_or_says_why_not(
    tree: hace.Hierarchy, logits: torch.Tensor, target: torch.Tensor, name: str
) -> None:
    backend = hace.backends()[name]
    module = hace.HACELoss(tree, backend=name)
    assert backend.reason
    if name in ("triton", "cuda") or not backend.available:  # the logits are on the CPU
        with pytest.raises(hace.BackendError, match=name) as caught:
            module(logits, target)
        assert len(str(caught.value)) > len(name) + 30, "the error says neither why nor what to do"
    else:
        torch.testing.assert_close(
            module(logits, target), hace.HACELoss(tree, backend="reference")(logits, target)
        )


@pytest.mark.parametrize("soft", [{"label_smoothing": 0.1}, {}], ids=["smoothed", "probability"])
def test_every_backend_takes_soft_targets(
    tree: hace.Hierarchy, logits: torch.Tensor, target: torch.Tensor, soft: dict[str, Any]
) -> None:
    soft_target = target if soft else torch.full((4, 5), 0.2)
    expected = hace_loss(logits, soft_target, tree, backend="reference", **soft)
    for name, backend in hace.backends().items():
        if backend.available and name in ("reference", "cpu"):  # the logits are on the CPU
            loss = hace_loss(logits, soft_target, tree, backend=name, **soft)
            torch.testing.assert_close(loss, expected)


def test_environment_overrides_auto_only(
    monkeypatch: pytest.MonkeyPatch,
    tree: hace.Hierarchy,
    logits: torch.Tensor,
    target: torch.Tensor,
) -> None:
    monkeypatch.setenv("HACE_BACKEND", "cuda")
    with pytest.raises(hace.BackendError, match="cuda"):
        hace_loss(logits, target, tree)
    hace_loss(logits, target, tree, backend="reference")
    monkeypatch.setenv("HACE_BACKEND", "reference")
    hace_loss(logits, target, tree)
    monkeypatch.setenv("HACE_BACKEND", "fortran")
    with pytest.raises(ValueError, match="fortran"):
        hace_loss(logits, target, tree)


def test_environment_chooses_the_reference(
    monkeypatch: pytest.MonkeyPatch,
    tree: hace.Hierarchy,
    logits: torch.Tensor,
    target: torch.Tensor,
) -> None:
    """This shows in the ops that are called, of which only the kernel belongs to this library."""
    if not hace.backends()["cpu"].available:
        pytest.skip(hace.backends()["cpu"].reason)

    def ops_called() -> set[str]:
        with torch.profiler.profile() as profile:
            hace_loss(logits, target, tree)
        return {event.key for event in profile.key_averages() if "hace_kernels" in event.key}

    assert ops_called()
    monkeypatch.setenv("HACE_BACKEND", "reference")
    assert not ops_called()


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dilution": 0.0}, "0.0"),
        ({"dilution": -0.1}, "-0.1"),
        ({"dilution": 1.5}, "1.5"),
        ({"dilution": float("nan")}, "nan"),
        ({"reduction": "average"}, "average"),
        ({"logit_space": "leaves"}, "leaves"),
        ({"target_space": "leaf"}, "leaf"),
        ({"smoothing": "gaussian"}, "gaussian"),
        ({"label_smoothing": -0.1}, "-0.1"),
        ({"label_smoothing": 1.5}, "1.5"),
        ({"eps": -1e-6}, "-1e-06"),
        ({"soft_label_distance": "width"}, "width"),
        ({"backend": "fortran"}, "fortran"),
        ({"weight": torch.ones(4)}, "4"),
        ({"weight": torch.ones(5, 1)}, "5, 1"),
    ],
    ids=str,
)
def test_option_out_of_range(
    tree: hace.Hierarchy,
    logits: torch.Tensor,
    target: torch.Tensor,
    options: dict[str, Any],
    message: str,
) -> None:
    """The error names option, value and allowed values, in the constructor if possible."""
    (name,) = options
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        hace.HACELoss(tree, **options)(logits, target)
    assert name in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(message)):
        hace_loss(logits, target, tree, **options)


@pytest.mark.parametrize(
    "options",
    [{"dilution": 2.0}, {"reduction": "average"}, {"label_smoothing": 2.0}, {"smoothing": "x"}],
    ids=str,
)
def test_constructor_refuses_at_once(tree: hace.Hierarchy, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        hace.HACELoss(tree, **options)


@pytest.mark.parametrize(
    ("shape", "target_shape", "expected"),
    [
        ((4, 6), (4,), "5"),
        ((4, 5), (3,), "4"),
        ((4, 5), (4, 1), "4"),
        ((4, 5, 2), (4,), "4, 2"),
        ((5,), (1,), "()"),
        ((), (), "5"),
        ((4, 1), (4,), "5"),
    ],
)
def test_shapes_that_do_not_fit(
    tree: hace.Hierarchy, shape: tuple, target_shape: tuple, expected: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        hace_loss(torch.randn(shape), torch.zeros(target_shape, dtype=torch.long), tree)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (4,), (4, 5, 1), (5, 4)])
def test_probabilities_of_a_wrong_shape(
    tree: hace.Hierarchy, logits: torch.Tensor, shape: tuple
) -> None:
    with pytest.raises(ValueError, match=re.escape("(4, 5)")):
        hace_loss(logits, torch.rand(shape), tree)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.int16], ids=str)
def test_targets_of_a_wrong_dtype(
    tree: hace.Hierarchy, logits: torch.Tensor, dtype: torch.dtype
) -> None:
    with pytest.raises(TypeError, match=str(dtype).removeprefix("torch.")):
        hace_loss(logits, torch.zeros(4).to(dtype), tree)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64], ids=str)
def test_logits_of_a_wrong_dtype(
    tree: hace.Hierarchy, target: torch.Tensor, dtype: torch.dtype
) -> None:
    with pytest.raises(TypeError, match=str(dtype).removeprefix("torch.")):
        hace_loss(torch.zeros(4, 5).to(dtype), target, tree)


@pytest.mark.parametrize("bad", [-1, 5, 10**12])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["hard", "smoothed"])
def test_target_out_of_range(
    tree: hace.Hierarchy,
    logits: torch.Tensor,
    target: torch.Tensor,
    options: dict[str, Any],
    bad: int,
) -> None:
    target[1] = bad
    with pytest.raises(IndexError, match=rf"{bad}\b"):
        hace_loss(logits, target, tree, **options)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["hard", "smoothed"])
def test_target_with_no_class_below_it(options: dict[str, Any]) -> None:
    """A node with classes below it is a valid target, and a node without any is not."""
    tree = hace.Hierarchy.from_parents([-1, 0, 0, 2], classes=[1])
    logits = torch.randn(1, 1)
    assert hace_loss(logits, torch.tensor([0]), tree, target_space="nodes", **options) == 0
    for empty in (2, 3):
        with pytest.raises((IndexError, ValueError), match=rf"\b{empty}\b"):
            hace_loss(logits, torch.tensor([empty]), tree, target_space="nodes", **options)


def test_probability_on_a_node_with_no_class_below_it() -> None:
    tree = hace.Hierarchy.from_parents([-1, 0, 0, 2], classes=[1])
    logits = torch.randn(2, 1)
    fine = torch.tensor([[0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    hace_loss(logits, fine, tree, target_space="nodes")
    with pytest.raises((IndexError, ValueError), match=r"\b[23]\b"):
        hace_loss(logits, fine.flip(1), tree, target_space="nodes")


def test_probabilities_have_no_ignore_index(tree: hace.Hierarchy, logits: torch.Tensor) -> None:
    """As in nn.CrossEntropyLoss, an index to ignore has no meaning for probabilities."""
    with pytest.raises(ValueError, match="ignore_index"):
        hace_loss(logits, torch.rand(4, 5), tree, ignore_index=2)


def test_not_a_hierarchy(logits: torch.Tensor, target: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="Hierarchy"):
        hace.HACELoss(PATHS)
    with pytest.raises(TypeError, match="Hierarchy"):
        hace_loss(logits, target, [-1, 0, 0])


def test_default_hierarchy_of_leaves() -> None:
    """Without `classes`, the classes are the leaves in the order of their node ids."""
    tree = hace.Hierarchy.from_parents(np.array([2, 2, -1, 2]))
    loss = hace_loss(torch.tensor([0.0, 1.0, 2.0]), torch.tensor(2), tree, 1.0)
    torch.testing.assert_close(loss, -torch.tensor([0.0, 1, 2]).log_softmax(0)[2])
