"""`hace.tables`: what is compiled from a hierarchy, in which mode, and how long it is cached."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import dags
import numpy as np
import pytest
import torch
from test_hierarchy import ANIMALS
from torch._subclasses.fake_tensor import FakeTensorMode
from trees import Tree

import hace
from hace import Hierarchy, spaces
from hace.options import TargetOptions
from hace.spaces import LogitSpace, TargetSpace
from hace.tables import Tables
from hace.weights import HACEWeights

WEIGHTS = HACEWeights(0.7)

# Five classes, two of them at inner nodes.
WASPS = ["wasp", "wasp/hornet", "wasp/paper", "bee/honey", "bee"]


def animals() -> Hierarchy:
    return Hierarchy.from_paths(ANIMALS)


# What is compiled


def test_layout_for_classes_and_for_nodes() -> None:
    tree = animals()
    tables = Tables.of(tree)
    layout, nodes = tables.layout(), tables.layout("nodes")
    assert layout.column is None
    assert (layout.stop - layout.start).tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert (nodes.stop - nodes.start).tolist() == [1, 1, 1, 5, 2, 2, 2]
    assert tables.layout("nodes") is nodes
    assert (spaces.num_targets(tree, "classes"), spaces.num_targets(tree, "nodes")) == (3, 7)


@pytest.mark.parametrize("logit_space", ["classes", "nodes"])
@pytest.mark.parametrize("target_space", ["classes", "nodes"])
def test_path_table_of_each_space(logit_space: LogitSpace, target_space: TargetSpace) -> None:
    """The tree has a class at an inner node, and a node without a class at or below it."""
    tree = Tree(np.array([-1, 0, 1, 0, -1]), np.array([3, 2, 1]))
    labels = tree.labels()
    hierarchy = Hierarchy.from_parents(tree.parents, classes=tree.classes)
    table = Tables.of(hierarchy).paths(HACEWeights(0.6), logit_space, target_space)
    assert table.num_targets == (3 if target_space == "classes" else 5)
    columns = labels.columns(logit_space)
    assert table.num_classes == len(columns)
    order = np.arange(len(columns)) if table.order is None else table.order.numpy()
    for target, node in enumerate(labels.targets(target_space)):
        # Each interval as the set of nodes whose columns it contains, with its weight.
        found = {}
        for i in range(int(table.ptr[target]), int(table.ptr[target + 1])):
            held = columns[order[int(table.start[i]) : int(table.stop[i])]]
            found[frozenset(held.tolist())] = float(table.weight[i])
        path = labels.path(node)
        weight = [0.6 * 0.4**i for i in range(len(path) - 1)] + [0.4 ** (len(path) - 1)]
        expected: dict[frozenset[int], float] = {}
        for above, w in zip(path, weight, strict=True):
            below = frozenset(int(column) for column in columns if above in labels.path(column))
            expected[below] = expected.get(below, 0.0) + w
        if frozenset() in expected:
            expected = {frozenset(): 1.0}
        expected.pop(frozenset(columns.tolist()), None)
        assert found == pytest.approx(expected)


def test_closure_table_of_each_space() -> None:
    dag = dags.shortcut()
    tables = Tables.of(dags.hierarchy_of(dag))
    for logit_space, described in (("classes", dag), ("nodes", dag.in_node_mode())):
        table: Any = tables.nodes(logit_space)  # type: ignore[arg-type]
        assert table.column_node.tolist() == list(described.classes)
        found = np.zeros((table.num_nodes, table.num_classes), dtype=bool)
        for node in range(table.num_nodes):
            found[node, table.column[table.ptr[node] : table.ptr[node + 1]]] = True
        assert found.tolist() == described.reach().tolist()


def test_labels_of_inner_classes_are_leaves() -> None:
    """The nodes are the classes 0 to 3 and "bee", 4. A leaf is added under "wasp" and "bee"."""
    labels = Tables.of(Hierarchy.from_paths(WASPS)).labels
    assert labels.links.parents.tolist() == [-1, 0, 0, 4, -1, 0, 4]
    assert labels.classes.tolist() == [5, 1, 2, 3, 6]
    assert labels.own_leaf.tolist() == [5, 1, 2, 3, 6]
    assert labels.node.tolist() == [0, 1, 2, 3, 4, 0, 4]
    assert labels.num_nodes == 5


def test_nodes_of_targets() -> None:
    tree = Hierarchy.from_parents([-1, 0, 0], classes=[2, 1])
    tables = Tables.of(tree)
    assert tables.nodes_of_targets().tolist() == [2, 1]
    assert tables.nodes_of_targets("nodes").tolist() == [0, 1, 2]
    assert tables.nodes_of_targets().dtype == torch.int64
    tables.nodes_of_targets()[0] = 9  # a caller's change does not affect the hierarchy
    assert tree.classes.tolist() == [2, 1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda tree: Tables.of(tree).layout("leaves"),
        lambda tree: spaces.num_targets(tree, "leaves"),
        lambda tree: spaces.num_columns(tree, "leaves"),
        lambda tree: spaces.nodes_of_columns(tree, "leaves"),
        lambda tree: Tables.of(tree).nodes_of_targets("leaves"),
        lambda tree: Tables.of(tree).paths(WEIGHTS, target_space="leaves"),
        lambda tree: Tables.of(tree).paths(WEIGHTS, logit_space="leaves"),
        lambda tree: Tables.of(tree).nodes("leaves"),
    ],
)
def test_unknown_space(ask: Callable[[Hierarchy], object]) -> None:
    with pytest.raises(ValueError, match=r"_space must be 'classes'.* got 'leaves'"):
        ask(animals())


@pytest.mark.parametrize(
    "ask",
    [
        lambda tables: tables.layout(),
        lambda tables: tables.paths(WEIGHTS),
        lambda tables: tables.nodes("depth_first"),
        lambda tables: tables.depth_first_labels(),
    ],
)
def test_a_dag_has_no_intervals(ask: Callable[[Tables], object]) -> None:
    with pytest.raises(ValueError, match="needs a tree, and this hierarchy is a DAG"):
        ask(Tables.of(dags.hierarchy_of(dags.diamond())))


# How long it is cached


def test_tables_are_cached_by_what_they_depend_on() -> None:
    tables = Tables.of(animals())
    table = tables.paths(WEIGHTS)
    assert tables.paths(HACEWeights(0.7), device=torch.device("cpu")) is table
    assert tables.paths(WEIGHTS, device="cpu:0") is table  # the same device
    for other in (
        tables.paths(HACEWeights(0.6)),
        tables.paths(WEIGHTS, logit_space="nodes"),
        tables.paths(WEIGHTS, target_space="nodes"),
        tables.paths(WEIGHTS, keep_full=True),
    ):
        assert other is not table
    on_meta = tables.paths(WEIGHTS, device="meta")
    assert {tensor.device.type for tensor in on_meta[:4]} == {"meta"}
    assert on_meta.position is None
    assert (on_meta.num_classes, on_meta.max_entries) == (table.num_classes, table.max_entries)
    assert on_meta.rings is None  # only the CPU's kernels use them
    assert tables.paths(WEIGHTS, device="meta") is on_meta
    assert tables.paths(WEIGHTS) is table
    assert tables.nodes_of_targets() is tables.nodes_of_targets(device="cpu")
    assert tables.nodes() is tables.nodes(device="cpu")


def test_closure_tables_are_cached_by_what_they_depend_on() -> None:
    tables = Tables.of(dags.hierarchy_of(dags.diamond()))
    table = tables.nodes()
    assert tables.nodes("classes", device=torch.device("cpu")) is table
    assert tables.nodes("nodes") is not table
    assert tables.nodes("nodes") is tables.nodes("nodes")
    on_meta: Any = tables.nodes(device="meta")
    assert on_meta.column.device.type == "meta"
    assert tables.nodes(device="meta") is on_meta


def test_every_option_of_a_target_makes_a_table_of_its_own() -> None:
    """The options themselves are the cache's key, so a new option cannot be forgotten."""
    tables = Tables.of(animals())
    some = [
        TargetOptions(),
        TargetOptions(target_space="nodes"),
        TargetOptions(label_smoothing=0.1),
        TargetOptions(label_smoothing=0.1, smoothing="others"),
        TargetOptions(label_smoothing=0.1, smoothing="nodes"),
        TargetOptions(soft_label_beta=2.0),
        TargetOptions(soft_label_beta=2.0, soft_label_distance="depth"),
        TargetOptions(soft_label_beta=0.0),
    ]
    found = [tables.targets(WEIGHTS, "classes", options) for options in some]
    assert len({id(table) for table in found}) == len(some)
    again = [tables.targets(WEIGHTS, "classes", options) for options in some]
    assert all(one is two for one, two in zip(found, again, strict=True))


def test_integers_and_floats_are_one_key() -> None:
    """An integer option once made a table of integers, which losses with floats then used."""
    tree, logits = animals(), torch.randn(2, 3)
    probabilities = torch.rand(2, 3)
    for zero in (0, 0.0, np.float32(0), np.int64(0)):
        loss = hace.HACELoss(tree, label_smoothing=zero, eps=zero)(logits, probabilities)
        torch.testing.assert_close(loss, hace.HACELoss(animals())(logits, probabilities))
    for one in (1, np.int32(1)):
        loss = hace.HACELoss(tree, dilution=one, label_smoothing=one)(logits, torch.tensor([0, 1]))
        torch.testing.assert_close(loss, -logits.log_softmax(1).mean())


def test_cache_does_not_grow_with_a_schedule() -> None:
    tables = Tables.of(animals())
    nodes = tables.nodes()
    found = [tables.paths(HACEWeights(1 / (step + 1))) for step in range(100)]
    assert tables.paths(HACEWeights(1 / 100)) is found[-1]
    assert tables.paths(HACEWeights(1 / 90)) is found[89]
    assert tables.paths(HACEWeights(1 / 50)) is not found[49]
    assert tables.nodes() is nodes


def test_a_module_keeps_its_tables() -> None:
    """Compiled or not, a module still works when the cache has dropped its tables."""
    tree, logits, target = animals(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss_fn = hace.HACELoss(tree, 0.3)
    expected = loss_fn(logits, target)
    for step in range(40):
        hace.HACELoss(tree, 1 / (step + 2))
    compiled = torch.compile(loss_fn, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(logits, target), expected)


def test_new_tables_do_not_recompile_a_module() -> None:
    tree, logits, target = animals(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    torch._dynamo.reset()
    graphs = []

    def count(module: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(module)
        return module.forward

    loss_fn = hace.HACELoss(tree, 0.3)
    compiled = torch.compile(loss_fn, fullgraph=True, backend=count)
    compiled(logits, target)
    for step in range(10):
        hace.HACELoss(tree, 1 / (step + 2), label_smoothing=0.1)
        compiled(logits, target)
    assert len(graphs) == 1


def test_tables_go_with_their_hierarchy() -> None:
    tree = animals()
    table = weakref.ref(Tables.of(tree).paths(WEIGHTS).ptr)
    gc.disable()
    try:
        del tree
        assert table() is None
    finally:
        gc.enable()


# The mode in which it is made


def losses_of(tree: Hierarchy, logits: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Losses that need each kind of table, as functions, which look up the tables when called."""
    return [
        hace.functional.hace_loss(logits, target, tree),
        hace.functional.hace_loss(logits, target, tree, label_smoothing=0.1),
        hace.functional.node_log_probs(logits, tree),
        hace.metrics.lca_height(target, target.flip(0), tree),
        hace.predict(logits, tree, target_space="nodes"),
    ]


def assert_trains(tree: Hierarchy) -> None:
    """Asserts right losses and a backward pass with tables that were made before."""
    logits, target = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    found = losses_of(tree, logits, target)
    for one, other in zip(found, losses_of(animals(), logits, target), strict=True):
        assert type(one) is torch.Tensor
        torch.testing.assert_close(one, other)
    sum(loss.sum() for loss in found[:3]).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_made_under_inference_mode() -> None:
    """This happens if validation runs before the first training step."""
    tree = animals()
    with torch.inference_mode():
        losses_of(tree, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert_trains(tree)


def test_made_under_fake_tensors() -> None:
    tree = animals()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits = mode.from_tensor(torch.randn(4, 3))
        hace.functional.node_log_probs(logits, tree)
        hace.functional.hace_loss(logits, mode.from_tensor(torch.tensor([0, 1, 2, 0])), tree)
    assert_trains(tree)


def test_made_under_another_default_device() -> None:
    tree = animals()
    with torch.device("meta"):
        modules = [hace.HACELoss(tree, label_smoothing=0.1), hace.nn.TreeLinear(4, tree)]
    assert modules[1].weight.device.type == "meta"
    assert_trains(tree)


class LogProbs(torch.nn.Module):
    def __init__(self, tree: Hierarchy) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 3)
        self.tree = tree

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return hace.functional.node_log_probs(self.linear(x), self.tree)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_before_the_first_call(strict: bool) -> None:
    """The eager model and a second export then find tables with real numbers."""
    model, x = LogProbs(animals()), torch.randn(2, 5)
    if strict:
        Tables.of(model.tree).nodes()  # they cannot be made within a full graph
    exported = torch.export.export(model, (x,), strict=strict).module()
    torch.testing.assert_close(model(x), exported(x))
    again = torch.export.export(model, (x,), strict=strict).module()
    torch.testing.assert_close(model(x), again(x))
    assert_trains(model.tree)


def test_compiled_before_the_first_call() -> None:
    """At the first call the table is made between two graphs; later it is found within one."""
    tree, x = animals(), torch.randn(2, 3)
    torch._dynamo.reset()

    def use(x: torch.Tensor) -> torch.Tensor:
        return hace.functional.node_log_probs(x, tree).sum(0)

    torch.testing.assert_close(torch.compile(use, backend="eager")(x), use(x))
    assert_trains(tree)


def test_cached_tables_are_traced() -> None:
    tree, x, target = animals(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    losses_of(tree, x, target)
    torch._dynamo.reset()

    def use(x: torch.Tensor) -> torch.Tensor:
        found = losses_of(tree, x, target)
        return sum(part.double().sum() for part in (*found[:3], found[4]))

    # Metrics read values, which breaks a graph, so they are left out.
    def without_metrics(x: torch.Tensor) -> torch.Tensor:
        loss = hace.functional.hace_loss(x, target, tree, label_smoothing=0.1)
        return loss + hace.functional.node_log_probs(x, tree).exp().sum()

    compiled = torch.compile(without_metrics, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), without_metrics(x))


def test_cached_table_of_a_dag_is_traced() -> None:
    dag, x = dags.hierarchy_of(dags.diamond()), torch.randn(2, 2)
    Tables.of(dag).nodes()
    torch._dynamo.reset()

    def use(x: torch.Tensor) -> torch.Tensor:
        table: Any = Tables.of(dag).nodes(device=x.device)
        return x * table.num_parents.sum()

    compiled = torch.compile(use, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), use(x))


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.hessian, torch.func.vmap])
def test_tables_made_inside_a_transform(transform: Any) -> None:
    """They are kept, and serve calls after it."""
    tree = hace.Hierarchy.from_paths([f"{transform.__name__}/cat", "animal/dog", "car"])
    target, logits = torch.tensor([0, 2]), torch.randn(2, 3, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return hace.functional.hace_loss(logits, target, tree)

    transform(loss)(logits[None] if transform is torch.func.vmap else logits)
    expected = hace.functional.hace_loss(logits, target, tree, backend="reference")
    torch.testing.assert_close(loss(logits), expected)
