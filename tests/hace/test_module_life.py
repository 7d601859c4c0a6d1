"""Modules between construction and use: devices, checkpoints, options, workers."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dags
import numpy as np
import pytest
import torch
from selection import thoroughly
from torch.optim.swa_utils import AveragedModel

import hace
from hace.nn import HierarchicalClassifier, TreeLinear, carry_over

PATHS = [
    "animal/dog/husky",
    "vehicle/car",
    "animal/cat/siamese",
    "animal/dog/pug",
    "vehicle/bus",
    "animal/dog",
]
TARGET = torch.tensor([0, 5, 2, 3])

Layer = HierarchicalClassifier | TreeLinear
LAYERS: dict[str, Callable[..., Layer]] = {
    "classifier": HierarchicalClassifier,
    "TreeLinear": TreeLinear,
}


def animals() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


def answers(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    return layer.log_prob(x) if isinstance(layer, HierarchicalClassifier) else layer(x)


# Devices and state


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_from_meta(name: str, assign: bool) -> None:
    """FSDP and accelerate make models without memory and then load a checkpoint."""
    tree, x = animals(), torch.randn(9, 7)
    trained = LAYERS[name](7, tree)
    model = LAYERS[name](7, tree, device="meta")
    if not assign:
        model = model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict(), assign=assign)
    torch.testing.assert_close(answers(model, x), answers(trained, x), rtol=0, atol=0)
    if isinstance(model, HierarchicalClassifier):
        assert torch.equal(model.predict(x), trained.predict(x))
        torch.testing.assert_close(model(x[:4], TARGET), trained(x[:4], TARGET), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_to_empty_leaves_nothing_that_decides(name: str) -> None:
    layer = LAYERS[name](7, animals())
    assert not list(layer.buffers()), "a buffer may be erased, averaged or moved"
    parameters = dict(layer.named_parameters())
    assert {key.rpartition(".")[2] for key in parameters} == {"weight", "bias"}
    kept = copy.deepcopy(layer.state_dict())
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
    layer.load_state_dict(kept)
    assert answers(layer, torch.randn(3, 7)).isfinite().all()


def test_averaged_model() -> None:
    """Averaging a model must not average labels."""
    model, x = HierarchicalClassifier(7, animals()), torch.randn(50, 7)
    averaged = AveragedModel(model, use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.predict(x), model.predict(x))


def test_loss_modules_from_meta() -> None:
    tree, logits = animals(), torch.randn(4, 6)
    for make in (hace.HACELoss, hace.CrossEntropyLoss):
        with torch.device("meta"):
            loss_fn = make(tree)
        loss_fn.to_empty(device="cpu")
        torch.testing.assert_close(loss_fn(logits, TARGET), make(tree)(logits, TARGET))
    layered = hace.LayeredCrossEntropyLoss(tree)
    rows = torch.randn(4, tree.num_nodes)
    expected = layered(rows, TARGET)
    torch.testing.assert_close(layered.to_empty(device="cpu")(rows, TARGET), expected)


# Checkpoints


@pytest.mark.parametrize("name", LAYERS)
def test_state_of_the_same_hierarchy(name: str) -> None:
    """An equal hierarchy that was built again, also from a file, is accepted."""
    layer, again = LAYERS[name](7, animals()), LAYERS[name](7, animals())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file))
    x = torch.randn(3, 7)
    torch.testing.assert_close(answers(again, x), answers(layer, x), rtol=0, atol=0)
    assert all(isinstance(value, torch.Tensor) for value in layer.state_dict().values())


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda h: hace.Hierarchy.from_paths(PATHS[::-1]), "with other links, names, so"),
        (
            lambda h: hace.Hierarchy.from_parents(h.parents, h.names, h.classes[::-1]),
            "with other order of classes, so",
        ),
        (
            lambda h: hace.Hierarchy.from_paths([p.replace("pug", "poodle") for p in PATHS]),
            "with other names, so",
        ),
        (
            lambda h: hace.Hierarchy.from_paths([*PATHS, "animal/cat/persian"]),
            "with other links, names, order of classes, so",
        ),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_state_of_another_hierarchy_is_refused(
    name: str, change: Callable[[hace.Hierarchy], hace.Hierarchy], differing: str
) -> None:
    layer = LAYERS[name](7, animals())
    other = LAYERS[name](7, change(animals()))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match=r"another hierarchy .*carry_over") as caught:
        torch.nn.Sequential(other).load_state_dict(torch.nn.Sequential(layer).state_dict())
    assert differing in str(caught.value)
    with pytest.raises(RuntimeError, match="another hierarchy"):
        other.load_state_dict(layer.state_dict(), strict=False)
    for key, value in other.state_dict().items():
        assert torch.equal(value, before[key]), "a part of the state was loaded"


@pytest.mark.parametrize("name", LAYERS)
def test_edges_in_another_order_are_refused(name: str) -> None:
    """The tree is the same by its names, but rows would belong to other nodes."""
    edges = [("r", "a"), ("r", "b"), ("a", "x"), ("a", "y"), ("b", "z"), ("b", "w")]
    layer = LAYERS[name](5, hace.Hierarchy.from_edges(edges))
    other = LAYERS[name](5, hace.Hierarchy.from_edges(edges[::-1]))
    with pytest.raises(RuntimeError, match="another hierarchy"):
        other.load_state_dict(layer.state_dict())
    told = carry_over(layer, other)
    assert (told.moved, told.added, told.dropped) == ((), (), ())
    x = torch.randn(4, 5)
    found, expected = answers(other, x), answers(layer, x)
    names = layer.hierarchy.class_names
    assert names is not None
    order = [names.index(name) for name in other.hierarchy.class_names or ()]
    torch.testing.assert_close(found, expected[:, order], rtol=1e-5, atol=1e-5)


def test_digest() -> None:
    """The digest depends on links, names and class order, and is the same in every process."""
    assert animals().digest == animals().digest
    assert len(animals().digest) == 64
    trees = [
        hace.Hierarchy.from_parents([-1, 0, 0]),
        hace.Hierarchy.from_parents([-1, 0, 0], classes=[2, 1]),
        hace.Hierarchy.from_parents([-1, 0, 0], names=["a", "b", "c"]),
        hace.Hierarchy.from_parents([-1, 0, 0], names=["a", "bc", ""]),
        hace.Hierarchy.from_parents([-1, 0, 1]),
        hace.Hierarchy([0, 0, 0, 2], [0, 1]),
    ]
    assert len({tree.digest for tree in trees}) == len(trees)


# Carrying over


def test_carrying_over_a_classifier() -> None:
    old = HierarchicalClassifier(7, animals())
    revised = [
        "vehicle/bus",
        "animal/dog/husky",
        "animal/dog/poodle",  # new, beside other dogs
        "plant/rose",  # new, with no known node above it
        "animal/dog",
        "pet/siamese",  # moved, with the same name
        "animal/cat/persian",  # new, where the only cat was
    ]
    new = HierarchicalClassifier(7, hace.Hierarchy.from_paths(revised))
    drawn = new.to_linear().weight[3].clone()
    told = carry_over(old, new, sep="/")
    assert told.kept == ("vehicle/bus", "animal/dog/husky", "animal/dog")
    assert told.moved == ("pet/siamese",)
    assert told.added == ("animal/dog/poodle", "plant/rose", "animal/cat/persian")
    assert told.dropped == ("vehicle/car", "animal/dog/pug")
    assert str(told) == "3 kept, 1 moved, 3 added, 2 dropped"
    before, after = old.to_linear(), new.to_linear()
    for attribute in ("weight", "bias"):
        was, now = getattr(before, attribute), getattr(after, attribute)
        for label, source in ((0, 4), (1, 0), (4, 5), (5, 2), (6, 2)):
            assert torch.equal(now[label], was[source])
        torch.testing.assert_close(now[2], was[[0, 3, 5]].mean(0))
    assert torch.equal(after.weight[3], drawn)
    without_last_parts = carry_over(old, HierarchicalClassifier(7, new.hierarchy))
    assert "pet/siamese" in without_last_parts.added
    assert "animal/cat/siamese" in without_last_parts.dropped


def test_carrying_over_tree_linear() -> None:
    """A class of both trees has the same logit; a new class has that of its parent."""
    edges = [("root", "a"), ("root", "b"), ("a", "x"), ("a", "y"), ("b", "z")]
    old = TreeLinear(5, hace.Hierarchy.from_edges(edges), dtype=torch.float64)
    revised = [("root", "b"), ("b", "x"), ("b", "new"), ("b", "z"), ("root", "a"), ("a", "y")]
    new = TreeLinear(5, hace.Hierarchy.from_edges(revised), dtype=torch.float64)
    told = carry_over(old, new)
    assert set(told.kept) == {"root", "a", "b", "y", "z"}
    assert (told.moved, told.added, told.dropped) == (("x",), ("new",), ())
    x = torch.randn(6, 5, dtype=torch.float64)
    before = dict(zip(old.hierarchy.class_names or (), old(x).T, strict=True))
    after = dict(zip(new.hierarchy.class_names or (), new(x).T, strict=True))
    for name in "xyz":
        torch.testing.assert_close(after[name], before[name])
    of_b = old.hierarchy.ancestors(old.hierarchy.index("b"))
    weight, bias = old.weight[of_b].sum(0), old.bias[of_b].sum(0)
    torch.testing.assert_close(after["new"], x @ weight + bias)


def test_carrying_over_refused() -> None:
    tree = animals()
    with pytest.raises(TypeError, match="two HierarchicalClassifiers or two TreeLinears, got Tree"):
        carry_over(TreeLinear(3, tree), HierarchicalClassifier(3, tree))
    with pytest.raises(ValueError, match="as many features"):
        carry_over(TreeLinear(3, tree), TreeLinear(4, tree))
    with pytest.raises(ValueError, match="a bias"):
        carry_over(TreeLinear(3, tree), TreeLinear(3, tree, bias=False))
    nameless = hace.Hierarchy.from_parents([-1, 0, 0])
    with pytest.raises(ValueError, match="without names"):
        carry_over(TreeLinear(3, tree), TreeLinear(3, nameless))


# What torch.load accepts by default

MODULES: dict[str, Callable[[hace.Hierarchy], torch.nn.Module]] = {
    "HACE": lambda h: hace.HACELoss(h, 0.4, label_smoothing=0.1, weight=torch.rand(6)),
    "CE": hace.CrossEntropyLoss,
    "r-CE": hace.RegularizedCrossEntropyLoss,
    "HXE": hace.HXELoss,
    "soft labels": hace.SoftLabelLoss,
    "h-CE": hace.LayeredCrossEntropyLoss,
    "classifier": lambda h: HierarchicalClassifier(7, h),
    "TreeLinear": lambda h: TreeLinear(7, h),
}


def loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)  # weights_only=True


@pytest.mark.parametrize("names", [None, ["ä", "b", ""]])
def test_a_hierarchy_in_a_checkpoint(names: list[str] | None) -> None:
    """Lightning's `save_hyperparameters` puts hierarchies into checkpoints."""
    tree = hace.Hierarchy.from_parents([-1, 0, 0], names, classes=[2, 1])
    found = loaded({"hyper_parameters": {"tree": tree, "dag": dags.hierarchy_of(dags.diamond())}})
    assert found["hyper_parameters"]["tree"] == tree
    assert found["hyper_parameters"]["dag"] == dags.hierarchy_of(dags.diamond())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_in_a_checkpoint(name: str) -> None:
    module = MODULES[name](animals())
    found = loaded(module)
    assert type(found) is type(module)
    assert repr(found) == repr(module)
    for key, value in module.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_a_hierarchy_of_a_hostile_checkpoint() -> None:
    """Its state is checked like a caller's arguments."""
    good = animals().__getstate__()
    bad = [
        {**good, "parent": np.array([99] * 8).tobytes()},
        {**good, "classes": np.array([0, 0]).tobytes()},
        {**good, "parent_ptr": np.array([0, 5]).tobytes()},
        {**good, "names": ("a", "a")},
    ]
    for state in bad:
        with pytest.raises((ValueError, TypeError)):
            hace.Hierarchy.__new__(hace.Hierarchy).__setstate__(state)


# Options as attributes


def test_options_can_be_read_and_set() -> None:
    tree, logits = animals(), torch.randn(4, 6, dtype=torch.float64)
    loss_fn = hace.HACELoss(tree, 0.6)
    assert (loss_fn.reduction, loss_fn.ignore_index) == ("mean", -100)
    assert (loss_fn.label_smoothing, loss_fn.dilution) == (0.0, 0.6)
    changes: list[tuple[str, Any]] = [
        ("reduction", "none"),
        ("ignore_index", 5),
        ("label_smoothing", 0.2),
        ("dilution", 0.9),
        ("reduction", "sum"),
        ("label_smoothing", 0),
    ]
    options: dict[str, Any] = {"dilution": 0.6}
    for name, value in changes:
        setattr(loss_fn, name, value)
        options[name] = value
        assert getattr(loss_fn, name) == value
        fresh = hace.HACELoss(tree, **options)
        torch.testing.assert_close(loss_fn(logits, TARGET), fresh(logits, TARGET), rtol=0, atol=0)
        for duplicate in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))):
            assert repr(duplicate) == repr(fresh)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("reduction", "avg", ValueError),
        ("ignore_index", 1.5, TypeError),
        ("label_smoothing", 2.0, ValueError),
        ("label_smoothing", "0.1", TypeError),
        ("dilution", 0.0, ValueError),
        ("dilution", None, TypeError),
    ],
)
def test_an_option_that_is_refused_changes_nothing(
    name: str, value: object, error: type[Exception]
) -> None:
    loss_fn = hace.HACELoss(animals(), 0.6)
    before = repr(loss_fn)
    with pytest.raises(error, match=name):
        setattr(loss_fn, name, value)
    assert repr(loss_fn) == before


def test_options_of_layered_cross_entropy() -> None:
    tree, rows = animals(), torch.randn(4, animals().num_nodes)
    loss_fn = hace.LayeredCrossEntropyLoss(tree)
    loss_fn.reduction, loss_fn.ignore_index = "none", 5
    fresh = hace.LayeredCrossEntropyLoss(tree, reduction="none", ignore_index=5)
    torch.testing.assert_close(loss_fn(rows, TARGET), fresh(rows, TARGET), rtol=0, atol=0)
    assert loss_fn(rows, TARGET)[1] == 0


def test_options_of_a_classifiers_loss() -> None:
    """The log-probabilities leave out the rows that the loss ignores."""
    model, x = HierarchicalClassifier(7, animals()), torch.randn(4, 7)
    model.loss.ignore_index = 5
    output, _ = model(x, TARGET)
    assert output is not None
    assert output[1] == 0
    assert (output[[0, 2, 3]] < 0).all()


def test_options_set_in_compiled_code_count() -> None:
    loss_fn = hace.HACELoss(animals())
    logits = torch.randn(4, 6)
    torch._dynamo.reset()
    compiled = torch.compile(loss_fn, backend="eager")
    assert compiled(logits, TARGET).shape == ()
    loss_fn.reduction = "none"
    assert compiled(logits, TARGET).shape == (4,)


# Workers and threads


def _loss_in_a_worker(module: torch.nn.Module, logits: torch.Tensor, queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(module(logits, TARGET).item())


@pytest.mark.parametrize("method", ["fork", *thoroughly("spawn")])
def test_workers(method: str) -> None:
    context = multiprocessing.get_context(method)
    module, logits = hace.HACELoss(animals(), label_smoothing=0.1), torch.randn(4, 6)
    queue = context.SimpleQueue()
    worker = context.Process(target=_loss_in_a_worker, args=(module, logits, queue))
    worker.start()
    found = queue.get()
    worker.join()
    assert found == pytest.approx(module(logits, TARGET).item(), rel=1e-6)


def test_threads_share_a_hierarchy() -> None:
    """Each thread asks for tables that have not been made yet."""
    tree, logits = animals(), torch.randn(4, 6)
    dilutions = [random.Random(0).choice([0.2, 0.5, 0.9]) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda d: hace.HACELoss(tree, d)(logits, TARGET).item(), dilutions))
    expected = {d: hace.HACELoss(animals(), d)(logits, TARGET).item() for d in set(dilutions)}
    assert found == [expected[d] for d in dilutions]
