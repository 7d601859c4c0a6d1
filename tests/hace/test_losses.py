"""The losses other than HACE agree with their literal formulas, and work as modules.

A loss over paths is defined by its weights `weights[y, v]` of -log P_v for each target y and node
v. These are written down here by walking parents; the oracle does the rest.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dags
import numpy as np
import oracle
import pytest
import torch
import trees
from cases import DTYPES, REDUCTIONS, evaluate
from torch.nn.functional import cross_entropy
from tree_cases import SHAPES, hierarchy_of

import hace
from hace.tables import Tables
from hace.weights import SuperclassWeights
from hace_kernels.path_table import PathEntries

REAL = oracle.REAL

# --- the formulas ---------------------------------------------------------------------------------


def depths_of(tree: trees.Tree) -> np.ndarray:
    """The number of edges from each node to its root."""
    return np.array([len(tree.path(node)) - 1 for node in range(tree.num_nodes)])


def heights_of(tree: trees.Tree) -> np.ndarray:
    """The number of edges from each node to the deepest leaf below it."""
    heights = np.zeros(tree.num_nodes, dtype=int)
    for node in range(tree.num_nodes):
        for steps, above in enumerate(tree.path(node)):
            heights[above] = max(heights[above], steps)
    return heights


def is_forest(tree: trees.Tree) -> bool:
    return int((tree.parents < 0).sum()) > 1


def own_node(tree: trees.Tree) -> np.ndarray:
    """-log P_y."""
    return np.eye(tree.num_nodes, dtype=REAL)


def steps_down(
    tree: trees.Tree, alpha: float, depth: str = "node", normalize: bool = False
) -> np.ndarray:
    """-sum_v lambda_v (log P_v - log P_parent(v)) over y's path, with 1 above a root."""
    step = np.exp(-REAL(alpha) * (depths_of(tree) - int(depth == "parent")))
    if normalize:
        step = step / step.sum()
    weights = np.zeros((tree.num_nodes, tree.num_nodes), dtype=REAL)
    for target in range(tree.num_nodes):
        for node in tree.path(target):
            weights[target, node] += step[node]
            if tree.parents[node] >= 0:
                weights[target, tree.parents[node]] -= step[node]
    return weights


def handed_down(tree: trees.Tree, share: Callable[[REAL, int], REAL]) -> np.ndarray:
    """Mass 1 goes down the path to y; each node takes a share, and y takes what is left."""
    height = heights_of(tree)
    weights = np.zeros((tree.num_nodes, tree.num_nodes), dtype=REAL)
    for target in range(tree.num_nodes):
        downwards = tree.path(target)[::-1]
        mass = REAL(1)
        for node in downwards[:-1] if is_forest(tree) else downwards[1:-1]:
            weights[target, node] = share(mass, height[node])
            mass -= weights[target, node]
        weights[target, target] = mass
    return weights


def balanced(mass: REAL, height: int) -> REAL:
    return mass / (height + 1)


def power(q: float) -> Callable[[REAL, int], REAL]:
    q = REAL(q)
    return lambda mass, height: abs(1 - q) * mass / abs(1 - q ** (height + 1))


def lazy(tree: trees.Tree) -> np.ndarray:
    """1/H at each inner node below the root, where H is the tree's height."""
    whole = depths_of(tree).max() + is_forest(tree)
    return handed_down(tree, lambda mass, height: REAL(1) / whole)


def soft_labels(tree: trees.Tree, beta: float, distance: str = "height") -> np.ndarray:
    """-sum_c q_c log P_c with q_c proportional to exp(-beta dist(c, y))."""
    root = -1  # the virtual root of a forest
    depth, height = depths_of(tree), heights_of(tree)
    whole = max(1, depth.max() + is_forest(tree))
    paths = [tree.path(node) for node in range(tree.num_nodes)]

    def far(y: int, c: int) -> REAL:
        lca = next((v for v in paths[c] if v in paths[y]), root)
        if distance == "height":
            return REAL(whole if lca == root else height[lca]) / whole
        if c == y:
            return REAL(0)
        return 1 - REAL(0 if lca == root else depth[lca] + is_forest(tree)) / whole

    weights = np.zeros((tree.num_nodes, tree.num_nodes), dtype=REAL)
    for y in range(tree.num_nodes):
        near = np.array([np.exp(-REAL(beta) * far(y, int(c))) for c in tree.classes])
        weights[y, tree.classes] = near / near.sum()
    return weights


def of_nodes(num_nodes: int) -> np.ndarray:
    """One weight per node, with both signs."""
    return np.cos(np.arange(num_nodes)) + 0.3


def on_paths(tree: trees.Tree) -> np.ndarray:
    """Whether node v is on the path of y: (T, V)."""
    on_path = np.zeros((tree.num_nodes, tree.num_nodes), dtype=bool)
    for target in range(tree.num_nodes):
        on_path[target, tree.path(target)] = True
    return on_path


def some_function(target: Any, node: Any, depth: Any, height: Any) -> Any:
    return 1.0 / (1 + target) + 0.1 * node - depth / (2.0 + height)


def by_function(tree: trees.LabelTree, targets: np.ndarray) -> np.ndarray:
    """The weights of `some_function`, where target y of the loss is the node `targets[y]`."""
    depth, height = depths_of(tree), heights_of(tree)
    weights = np.zeros((tree.num_nodes, tree.num_nodes), dtype=REAL)
    for label, target in enumerate(targets):
        for node in tree.path(target):
            own = tree.node[node]
            weights[target, node] = some_function(label, own, depth[node], height[node])
    return weights


@dataclass(frozen=True)
class Loss:
    """A loss over paths: the module, its weights at the nodes, and lambda of its entropy.

    `takes_targets` says whether the weights depend on the targets' indices. `spreads` says whether
    a target is spread over several ones, each of which is multiplied by its own class weight.
    """

    make: Callable[..., torch.nn.Module]
    weights: Callable[..., np.ndarray]
    entropy: float = 0.0
    takes_targets: bool = False
    spreads: bool = False


def path_log_loss(hierarchy: hace.Hierarchy, **options: Any) -> torch.nn.Module:
    return hace.PathLogLoss(hierarchy, of_nodes(hierarchy.num_nodes), **options)


LOSSES = {
    "CE": Loss(hace.CrossEntropyLoss, own_node),
    "r-CE": Loss(hace.RegularizedCrossEntropyLoss, own_node, entropy=0.1),
    "r-CE, -0.5": Loss(
        lambda h, **options: hace.RegularizedCrossEntropyLoss(h, -0.5, **options),
        own_node,
        entropy=-0.5,
    ),
    "HXE": Loss(hace.HXELoss, lambda tree: steps_down(tree, 0.1)),
    "HXE, 0": Loss(lambda h, **o: hace.HXELoss(h, 0.0, **o), lambda tree: steps_down(tree, 0.0)),
    "HXE, parent": Loss(
        lambda h, **options: hace.HXELoss(h, 0.6, depth="parent", **options),
        lambda tree: steps_down(tree, 0.6, "parent"),
    ),
    "HXE, normalized": Loss(
        lambda h, **options: hace.HXELoss(h, 0.4, normalize=True, **options),
        lambda tree: steps_down(tree, 0.4, normalize=True),
    ),
    "HXE, -0.3": Loss(
        lambda h, **options: hace.HXELoss(h, -0.3, **options), lambda tree: steps_down(tree, -0.3)
    ),
    "balanced": Loss(
        lambda h, **options: hace.PathLogLoss(h, "balanced", **options),
        lambda tree: handed_down(tree, balanced),
    ),
    "power": Loss(
        lambda h, **options: hace.PathLogLoss(h, "power", **options),
        lambda tree: handed_down(tree, power(2.0)),
    ),
    "power, 0.3": Loss(
        lambda h, **options: hace.PathLogLoss(h, "power", q=0.3, **options),
        lambda tree: handed_down(tree, power(0.3)),
    ),
    "lazy": Loss(lambda h, **options: hace.PathLogLoss(h, "lazy", **options), lazy),
    "node weights": Loss(
        path_log_loss, lambda tree: on_paths(tree) * of_nodes(tree.num_own)[tree.node]
    ),
    "function": Loss(
        lambda h, **options: hace.PathLogLoss(h, some_function, **options),
        by_function,
        takes_targets=True,
    ),
    "soft labels": Loss(
        lambda h, **options: hace.SoftLabelLoss(h, 4.0, **options),
        lambda tree: soft_labels(tree, 4.0),
        spreads=True,
    ),
    "soft labels, depth": Loss(
        lambda h, **options: hace.SoftLabelLoss(h, 9.0, distance="depth", **options),
        lambda tree: soft_labels(tree, 9.0, "depth"),
        spreads=True,
    ),
}

#: One loss per module and kind of weights, for tests that need not try every loss.
FEW = ["CE", "r-CE", "HXE", "balanced", "node weights", "function", "soft labels"]

#: The losses that accept only target indices, and only trees.
INDEX_ONLY = ["r-CE", "HXE", "balanced", "node weights", "function"]


def columns_of(tree: trees.Tree, logits: str) -> np.ndarray:
    """The node that each column belongs to."""
    if logits == "nodes":
        return np.arange(tree.num_nodes)
    if logits == "depth_first":
        return tree.classes[hierarchy_of(tree).depth_first_classes]
    return tree.classes


def targets_of(tree: trees.Tree, targets: str) -> np.ndarray:
    """The node that each target stands for."""
    return tree.classes if targets == "classes" else np.arange(tree.num_nodes)


def expected(
    loss: Loss,
    tree: trees.Tree,
    input: torch.Tensor,
    target: torch.Tensor,
    *,
    logit_space: str = "classes",
    target_space: str = "classes",
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    eps: float = 0.0,
    incoming: Any = 1.0,
) -> oracle.Answer:
    labels = tree.labels()
    space = labels.targets(target_space)
    on_nodes = loss.weights(labels, space) if loss.takes_targets else loss.weights(labels)
    index = target.numpy()
    kept = index != ignore_index
    node = space[np.where(kept, index, 0)]
    of_target = np.ones(len(space)) if weight is None else oracle.to_real(weight)
    factor = np.where(kept, of_target[np.where(kept, index, 0)], 0).astype(REAL)
    if loss.spreads:
        of_node = np.zeros(labels.num_nodes, dtype=REAL)
        of_node[space] = of_target
        if target_space == "nodes":
            of_node = of_target[labels.node]
        mass = on_nodes[node] * of_node * kept[:, None]
    else:
        mass = on_nodes[node] * factor[:, None]
    columns = labels.columns(logit_space)
    if logit_space == "depth_first":
        columns = columns[hierarchy_of(tree).depth_first_classes]
    reach = trees.Tree(labels.parents, columns).reach()
    rows = oracle.node_log_loss(input, reach, mass, eps)
    if loss.entropy:
        rows = with_entropy(rows, input, loss.entropy * factor)
    return oracle.reduce(rows, reduction, float(factor.sum()), incoming)


def with_entropy(rows: oracle.Answer, input: torch.Tensor, strength: np.ndarray) -> oracle.Answer:
    """Adds strength * sum_c p_c log p_c to each row."""
    z = oracle.below_largest(oracle.to_real(input))
    log_p = z - oracle.log_sum_exp(z)[:, None]
    p = np.exp(log_p)
    e = (p * log_p).sum(axis=1)
    column = strength[:, None]
    return replace(
        rows,
        loss=rows.loss + strength * e,
        grad=rows.grad + column * p * (log_p - e[:, None]),
        loss_scale=rows.loss_scale + np.abs(strength * (1 - e)),
        grad_scale=rows.grad_scale + np.abs(column) * p * (1 - log_p - e[:, None]),
    )


def check(
    loss: Loss,
    tree: trees.Tree,
    input: torch.Tensor,
    target: torch.Tensor,
    *,
    reduction: str = "mean",
    backend: str = "auto",
    **options: Any,
) -> None:
    """Compares the module with its formula on rows, and checks that the input is unchanged."""
    incoming = torch.randn(len(target)) if reduction == "none" else 1.0
    module = loss.make(hierarchy_of(tree), reduction=reduction, backend=backend, **options)
    before = input.clone()
    found, grad = evaluate(module, input, target, incoming)
    assert torch.equal(input, before)
    answer = expected(loss, tree, input, target, reduction=reduction, incoming=incoming, **options)
    # Weights are sums and products along a path, rounded once per level.
    roundings = 16 + depths_of(tree).max()
    oracle.assert_loss_close(found, answer, input.dtype, roundings)
    oracle.assert_grad_close(
        grad, answer, roundings=roundings, output_roundings=1 if reduction != "none" else 2
    )


def input_for(
    tree: trees.Tree, rows: int, logits: str = "classes", dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return (2 * torch.randn(rows, len(columns_of(tree, logits)))).to(dtype)


def indices_for(
    tree: trees.Tree, rows: int, targets: str = "classes", logits: str = "classes"
) -> torch.Tensor:
    """Targets; among nodes those with a column at or below them, at every depth."""
    if targets == "classes":
        return torch.randint(tree.num_classes, (rows,))
    reach = trees.Tree(tree.parents, columns_of(tree, logits)).reach()
    valid = np.flatnonzero(reach.any(axis=1))
    return torch.from_numpy(np.resize(np.random.default_rng(1).permutation(valid), rows))


@pytest.fixture(params=[pytest.param("reference", marks=pytest.mark.thorough), "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backends that run on the CPU. Losses are the same on all; the ops' tests try all."""
    found = hace.backends()[request.param]
    if not found.available:
        pytest.skip(found.reason)
    return found.name


# --- against the formulas -------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(rng: np.random.Generator, name: str, shape: str) -> None:
    """Every class of every shape is right and, with `target_space="nodes"`, every node."""
    tree = SHAPES[shape](rng)
    check(
        LOSSES[name],
        tree,
        input_for(tree, tree.num_classes),
        torch.arange(tree.num_classes),
        reduction="sum",
    )
    check(
        LOSSES[name],
        tree,
        input_for(tree, 12),
        indices_for(tree, 12, "nodes"),
        target_space="nodes",
        reduction="sum",
    )


@pytest.mark.parametrize("targets", ["classes", "nodes"])
@pytest.mark.parametrize("logits", ["classes", "nodes", "depth_first"])
@pytest.mark.parametrize("name", LOSSES)
def test_options(tree: trees.Tree, name: str, logits: str, targets: str) -> None:
    """Class weights, ignored rows and reductions work for all kinds of columns and targets."""
    weight = torch.rand(len(targets_of(tree, targets)), dtype=torch.float64)
    weight[::5] = 0
    target = indices_for(tree, 20, targets, logits)
    input = input_for(tree, 20, logits)
    for reduction, weighted, ignore_index in itertools.product(
        REDUCTIONS, (None, weight), (-100, 3)
    ):
        if (weighted is None) != (ignore_index == 3):
            continue
        target[::9] = ignore_index
        check(
            LOSSES[name],
            tree,
            input,
            target,
            logit_space=logits,
            target_space=targets,
            reduction=reduction,
            weight=weighted,
            ignore_index=ignore_index,
        )
        target[target == ignore_index] = 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_dtypes(backend: str, tree: trees.Tree, name: str, dtype: torch.dtype) -> None:
    input, target = input_for(tree, 20, dtype=dtype), indices_for(tree, 20)
    check(LOSSES[name], tree, input, target, backend=backend)
    check(LOSSES[name], tree, 8 * input, target, reduction="none", backend=backend)


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("r-CE")])
def test_eps(backend: str, tree: trees.Tree, name: str) -> None:
    check(
        LOSSES[name],
        tree,
        input_for(tree, 12),
        indices_for(tree, 12),
        eps=1e-3,
        backend=backend,
    )


@pytest.mark.parametrize("gap", [60.0, 100.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FEW)
def test_far_below_the_maximum(name: str, dtype: torch.dtype, gap: float) -> None:
    """The loss stays in log space, since no float can hold these conditional probabilities."""
    tree = trees.balanced([2, 3, 2])
    input = input_for(tree, 12)
    input[:4, :6] -= gap
    input[4:8, 2:4] -= gap
    input[8:, 11] -= gap
    check(LOSSES[name], tree, input.to(dtype), torch.arange(12), reduction="sum")


@pytest.mark.parametrize("shape", ["C", "N C d1", "N C d1 d2", "0 C", "N C 0"])
@pytest.mark.parametrize("name", [*LOSSES, "h-CE"])
def test_dimensions_are_rows(leafy: trees.Tree, name: str, shape: str) -> None:
    """(N, C, d1, …) gives the same as its rows one by one."""
    hierarchy = hierarchy_of(leafy)
    width = leafy.num_nodes if name == "h-CE" else leafy.num_classes
    size = tuple({"C": width, "N": 3, "0": 0, "d1": 4, "d2": 2}[part] for part in shape.split())
    make = hace.LayeredCrossEntropyLoss if name == "h-CE" else LOSSES[name].make
    input = torch.randn(size, dtype=torch.float64)
    batch = size[:1] + size[2:] if len(size) > 1 else ()
    target = torch.randint(leafy.num_classes, batch)
    rows = input.movedim(1, -1).reshape(-1, width) if batch else input[None]
    for reduction in REDUCTIONS:
        module = make(hierarchy, reduction=reduction)
        loss, grad = evaluate(module, input, target)
        of_rows, grad_of_rows = evaluate(module, rows, target.reshape(-1))
        assert loss.shape == (torch.Size(batch) if reduction == "none" else torch.Size())
        torch.testing.assert_close(
            loss.reshape(-1), of_rows.reshape(-1), rtol=1e-13, atol=0, equal_nan=True
        )
        as_rows = grad.movedim(1, -1).reshape(grad_of_rows.shape) if batch else grad[None]
        torch.testing.assert_close(as_rows, grad_of_rows, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", LOSSES)
def test_depth_first_columns(rng: np.random.Generator, name: str) -> None:
    """Columns in depth-first order give the same numbers, without a table of their order."""
    tree = trees.random_tree(rng, 30, roots=2, inner=0.4, shuffle=True)
    hierarchy = hierarchy_of(tree)
    order = torch.from_numpy(hierarchy.depth_first_classes.copy())
    assert sorted(order.tolist()) == list(range(tree.num_classes))
    for row in tree.reach()[:, order]:
        columns = np.flatnonzero(row)
        assert len(columns) == 0 or len(columns) == columns[-1] - columns[0] + 1
    assert Tables.of(hierarchy).layout("depth_first").column is None, (
        "the columns would be gathered nevertheless"
    )
    input, target = input_for(tree, 8), indices_for(tree, 8)
    loss, grad = evaluate(LOSSES[name].make(hierarchy), input, target)
    same, same_grad = evaluate(
        LOSSES[name].make(hierarchy, logit_space="depth_first"), input[:, order], target
    )
    torch.testing.assert_close(same, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(same_grad, grad[:, order], rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(backend: str, rng: np.random.Generator, name: str) -> None:
    tree = trees.random_tree(rng, 5, roots=2, inner=0.5, shuffle=True)
    module = LOSSES[name].make(hierarchy_of(tree), backend=backend)
    target = indices_for(tree, 3)
    input = input_for(tree, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, target), (input,))
    assert torch.autograd.gradgradcheck(lambda x: module(x, target), (input,))


# --- h-CE -----------------------------------------------------------------------------------------


def along_path_loss(
    ancestors: np.ndarray,
    is_internal: np.ndarray,
    input: torch.Tensor,
    nodes: np.ndarray,
    factor: np.ndarray,
) -> oracle.Answer:
    """-sum_{j in path(y)} log p_j + sum_{i internal} prod_{j in path(i)} p_j, per row.

    With S_i = sum_{j in path(i)} log p_j, dS_i/dz_k is [k in path(i)] - |path(i)| p_k.

    Args:
        ancestors: (N, N), whether j is on the path of i.
        is_internal: (N), whether i has children.
        nodes: (B), the target of each row.
        factor: (B), the weight of each row.
    """
    z = oracle.below_largest(oracle.to_real(input))
    path = ancestors.astype(REAL)
    log_p = z - oracle.log_sum_exp(z)[:, None]
    p = np.exp(log_p)
    log_path = log_p @ path.T
    product = np.where(is_internal, np.exp(log_path), 0)
    rows = np.arange(len(z))
    weight = factor[:, None]
    length = path.sum(1)
    steps = length[nodes][:, None]
    # The relative error of a product is the absolute error of its logarithm.
    of_product = product * (1 + length - log_path)
    return oracle.Answer(
        factor * (product.sum(1) - log_path[rows, nodes]),
        weight * (steps * p - path[nodes] + product @ path - (product @ length)[:, None] * p),
        np.abs(factor) * (of_product.sum(1) + length[nodes] - log_path[rows, nodes]),
        np.abs(weight)
        * (steps * p + path[nodes] + of_product @ path + (of_product @ length)[:, None] * p),
        z.max(axis=1, keepdims=True) - z,
        np.abs(weight) * steps,
    )


def check_along_path(
    hierarchy: hace.Hierarchy,
    ancestors: np.ndarray,
    is_internal: np.ndarray,
    input: torch.Tensor,
    target: torch.Tensor,
    *,
    reduction: str = "sum",
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    target_space: str = "classes",
    backend: str = "auto",
) -> None:
    incoming = torch.randn(len(target)) if reduction == "none" else 1.0
    module = hace.LayeredCrossEntropyLoss(
        hierarchy,
        target_space=target_space,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        backend=backend,
    )
    loss, grad = evaluate(module, input, target, incoming)
    index = target.numpy()
    kept = index != ignore_index
    space = hierarchy.classes if target_space == "classes" else np.arange(hierarchy.num_nodes)
    of_target = np.ones(len(space)) if weight is None else oracle.to_real(weight)
    factor = np.where(kept, of_target[np.where(kept, index, 0)], 0).astype(REAL)
    rows = along_path_loss(ancestors, is_internal, input, space[np.where(kept, index, 0)], factor)
    answer = oracle.reduce(rows, reduction, float(factor.sum()), incoming)
    roundings = 32 + ancestors.sum(1).max()
    oracle.assert_loss_close(loss, answer, input.dtype, roundings)
    oracle.assert_grad_close(
        grad, answer, roundings=roundings, output_roundings=1 if reduction != "none" else 2
    )


def has_children(tree: trees.Tree) -> np.ndarray:
    return np.isin(np.arange(tree.num_nodes), tree.parents)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_along_paths(
    backend: str, rng: np.random.Generator, shape: str, dtype: torch.dtype
) -> None:
    """Every node can be a target, even without a class, since each has a logit of its own."""
    tree = SHAPES[shape](rng)
    hierarchy, arguments = hierarchy_of(tree), (on_paths(tree), has_children(tree))
    input = input_for(tree, tree.num_nodes, "nodes", dtype)
    check_along_path(
        hierarchy,
        *arguments,
        input,
        torch.arange(tree.num_nodes),
        target_space="nodes",
        backend=backend,
    )
    target = torch.arange(tree.num_classes)
    check_along_path(hierarchy, *arguments, input[target], target, backend=backend)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("targets", ["classes", "nodes"])
def test_options_along_paths(backend: str, tree: trees.Tree, targets: str, reduction: str) -> None:
    weight = torch.rand(len(targets_of(tree, targets)), dtype=torch.float64)
    weight[::5] = 0
    target = indices_for(tree, 20, targets, "nodes")
    for weighted, ignore_index in ((None, -100), (weight, 3)):
        target[::9] = ignore_index
        check_along_path(
            hierarchy_of(tree),
            on_paths(tree),
            has_children(tree),
            input_for(tree, 20, "nodes"),
            target,
            reduction=reduction,
            weight=weighted,
            ignore_index=ignore_index,
            target_space=targets,
            backend=backend,
        )
        target[target == ignore_index] = 1


def ancestors_in(dag: dags.Dag) -> np.ndarray:
    found = np.zeros((dag.num_nodes, dag.num_nodes), dtype=bool)
    for node in range(dag.num_nodes):
        found[node, list(dag.ancestors(node))] = True
    return found


@pytest.mark.parametrize("shape", dags.SHAPES)
def test_along_paths_of_a_dag(shape: str) -> None:
    """path(i) contains i and every node above it, each once."""
    dag = dags.SHAPES[shape]
    check_along_path(
        dags.hierarchy_of(dag),
        ancestors_in(dag),
        np.array(dag.heights()) > 0,
        2 * torch.randn(dag.num_nodes, dag.num_nodes, dtype=torch.float64),
        torch.arange(dag.num_nodes),
        target_space="nodes",
    )


@pytest.mark.parametrize("gap", [100.0, 1000.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_along_paths_far_below_the_maximum(dtype: torch.dtype, gap: float) -> None:
    tree = trees.balanced([2, 3, 2])
    input = input_for(tree, tree.num_nodes, "nodes")
    input[::2, :5] -= gap
    input[1::2, 5:] -= gap
    check_along_path(
        hierarchy_of(tree),
        on_paths(tree),
        has_children(tree),
        input.to(dtype),
        torch.arange(tree.num_nodes),
        target_space="nodes",
    )


def test_along_paths_with_masked_nodes(backend: str) -> None:
    """If a node's logit is -inf, its products are 0 and targets below have an infinite loss."""
    tree = trees.balanced([2, 2], rooted=True)
    input = input_for(tree, 3, "nodes")
    masked = int(tree.parents[tree.classes[0]])
    input[:, masked] = -torch.inf
    module = hace.LayeredCrossEntropyLoss(hierarchy_of(tree), reduction="none", backend=backend)
    loss, grad = evaluate(module, input, torch.tensor([0, 3, -100]))
    assert loss[0] == torch.inf
    kept = [node for node in range(tree.num_nodes) if node != masked]
    log_p = input[1, kept].log_softmax(0)
    of_node = dict(zip(kept, log_p, strict=True))
    path = tree.path(tree.classes[3])
    other = int(tree.parents[tree.classes[3]])
    root = int(np.flatnonzero(tree.parents < 0)[0])
    products = of_node[root].exp() + (of_node[root] + of_node[other]).exp()
    expected = products - sum(of_node[node] for node in path)
    torch.testing.assert_close(loss[1], expected, rtol=1e-13, atol=0)
    assert loss[2] == 0
    assert grad[1].isfinite().all()
    assert (grad[1:, masked] == 0).all()


def test_along_paths_gradcheck(backend: str, rng: np.random.Generator) -> None:
    tree = trees.random_tree(rng, 4, roots=2, inner=0.5, shuffle=True)
    module = hace.LayeredCrossEntropyLoss(hierarchy_of(tree), backend=backend)
    target = indices_for(tree, 3)
    input = input_for(tree, 3, "nodes").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, target), (input,))
    assert torch.autograd.gradgradcheck(lambda x: module(x, target), (input,))


# --- identities -----------------------------------------------------------------------------------


def assert_same(
    found: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
    factor: float = 1.0,
) -> None:
    """Asserts that losses and gradients agree up to float64's rounding of the largest entry."""
    torch.testing.assert_close(found[0], factor * expected[0], rtol=1e-13, atol=0)
    largest = abs(factor) * float(expected[1].abs().max())
    torch.testing.assert_close(found[1], factor * expected[1], rtol=0, atol=1e-13 * largest)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "make",
    [
        hace.CrossEntropyLoss,
        lambda h, **options: hace.HXELoss(h, 0.0, **options),
        lambda h, **options: hace.HXELoss(h, 0.0, depth="parent", **options),
        lambda h, **options: hace.HACELoss(h, 1.0, **options),
        lambda h, **options: hace.RegularizedCrossEntropyLoss(h, 0.0, **options),
        lambda h, **options: hace.SoftLabelLoss(h, 1e4, **options),
        lambda h, **options: hace.PathLogLoss(h, (h.heights == 0) * 1.0, **options),
    ],
    ids=["CE", "HXE", "HXE parent", "HACE", "r-CE", "soft labels", "leaves' weights"],
)
def test_leaves_give_cross_entropy(
    backend: str, make: Callable[..., torch.nn.Module], reduction: str
) -> None:
    """With leaf targets."""
    rng = np.random.default_rng(2)
    for tree in (
        trees.random_tree(rng, 20, shuffle=True),
        trees.random_tree(rng, 20, roots=4),
        trees.caterpillar(9),
        trees.flat(100, rooted=False),
    ):
        weight = torch.rand(tree.num_classes, dtype=torch.float64) + 0.1
        options: dict[str, Any] = {"weight": weight, "reduction": reduction, "ignore_index": 2}
        module = make(hierarchy_of(tree), backend=backend, **options)
        input, target = input_for(tree, 12), indices_for(tree, 12)
        target[3] = 2
        incoming = torch.randn(12, dtype=torch.float64) if reduction == "none" else 1.0
        plain = torch.nn.CrossEntropyLoss(**options)
        assert_same(
            evaluate(module, input, target, incoming), evaluate(plain, input, target, incoming)
        )


def test_cross_entropy_of_a_node_is_that_of_its_subtree(backend: str, tree: trees.Tree) -> None:
    """The loss is -log of the softmax summed over the subtree, computed by hand."""
    module = hace.CrossEntropyLoss(
        hierarchy_of(tree), target_space="nodes", reduction="none", backend=backend
    )
    input, target = input_for(tree, 20), indices_for(tree, 20, "nodes")
    reach = torch.from_numpy(tree.reach()[target])
    by_hand = -(input.softmax(1) * reach).sum(1).log()
    torch.testing.assert_close(module(input, target), by_hand, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["smoothed", "probabilities", "pairs"])
def test_cross_entropy_is_hace_with_dilution_1(tree: trees.Tree, kind: str) -> None:
    """They accept the same targets and give the same bits."""
    options: dict[str, Any] = {"weight": torch.rand(tree.num_classes, dtype=torch.float64)}
    target: Any = indices_for(tree, 8)
    if kind == "smoothed":
        options.update(label_smoothing=0.1, smoothing="others", eps=1e-4)
    elif kind == "probabilities":
        target = torch.rand(8, tree.num_classes, dtype=torch.float64)
    else:
        target = (indices_for(tree, 16).view(8, 2), torch.rand(8, 2))
    input = input_for(tree, 8)
    found = evaluate(hace.CrossEntropyLoss(hierarchy_of(tree), **options), input, target)
    same = evaluate(hace.HACELoss(hierarchy_of(tree), 1.0, **options), input, target)
    assert all(map(torch.equal, found, same))


def test_cross_entropy_of_a_dag(rng: np.random.Generator) -> None:
    """The loss is -log P_y for every node with a class, where each class counts once."""
    for dag in dags.SHAPES.values():
        reach = dag.reach()
        valid = np.flatnonzero(reach.any(axis=1))
        input = 2 * torch.randn(len(valid), dag.num_classes, dtype=torch.float64)
        module = hace.CrossEntropyLoss(
            dags.hierarchy_of(dag), target_space="nodes", reduction="sum"
        )
        loss, grad = evaluate(module, input, torch.from_numpy(valid))
        answer = oracle.node_log_loss(input, reach, np.eye(dag.num_nodes)[valid])
        oracle.assert_loss_close(loss, oracle.reduce(answer, "sum"), torch.float64)
        oracle.assert_grad_close(grad, answer)


def test_hxe_telescopes(backend: str, leafy: trees.Tree) -> None:
    """The conditional probabilities of a path multiply to the leaf's, computed by hand."""
    hierarchy, alpha, depth = hierarchy_of(leafy), 0.35, depths_of(leafy)
    input, target = input_for(leafy, 10), indices_for(leafy, 10)
    prob = input.softmax(1) @ torch.from_numpy(leafy.reach().T.astype(float))
    by_hand = torch.zeros(10, dtype=torch.float64)
    for row, label in enumerate(target.tolist()):
        for node in leafy.path(leafy.classes[label]):
            above = 1.0 if leafy.parents[node] < 0 else prob[row, leafy.parents[node]]
            by_hand[row] -= np.exp(-alpha * depth[node]) * (prob[row, node] / above).log()
    module = hace.HXELoss(hierarchy, alpha, reduction="none", backend=backend)
    torch.testing.assert_close(module(input, target), by_hand, rtol=1e-12, atol=0)


def test_hxe_conventions(tree: trees.Tree) -> None:
    """`depth="parent"` means a factor of exp(alpha), which `normalize` removes again."""
    hierarchy, input, target = hierarchy_of(tree), input_for(tree, 9), indices_for(tree, 9)
    plain = evaluate(hace.HXELoss(hierarchy, 0.5), input, target)
    later = evaluate(hace.HXELoss(hierarchy, 0.5, depth="parent"), input, target)
    assert_same(later, plain, float(np.exp(0.5)))
    total = np.exp(-0.5 * depths_of(tree.labels())).sum()
    for depth in ("node", "parent"):
        module = hace.HXELoss(hierarchy, 0.5, depth=depth, normalize=True)
        assert_same(evaluate(module, input, target), plain, 1 / total)


def test_hxe_far_out(leafy: trees.Tree) -> None:
    """With a large alpha only the topmost step counts; a very negative one gives cross-entropy."""
    hierarchy, input, target = hierarchy_of(leafy), input_for(leafy, 9), indices_for(leafy, 9)
    plain = evaluate(cross_entropy, input, target)
    assert_same(evaluate(hace.HXELoss(hierarchy, 1e-300), input, target), plain)
    forest = trees.Tree(np.array([-1, -1, 0, 0, 1]), np.array([2, 3, 4]))
    input = input_for(forest, 3)
    found = hace.HXELoss(hierarchy_of(forest), 1e3, reduction="none")(
        input, torch.tensor([0, 2, 2])
    )
    top = torch.stack([input[0, :2].logsumexp(0), input[1, 2], input[2, 2]]) - input.logsumexp(1)
    torch.testing.assert_close(found, -top, rtol=1e-12, atol=0)


def test_soft_labels_from_even_to_hard(leafy: trees.Tree) -> None:
    """With beta = 0 all classes are equally right; with a large beta only the target is."""
    hierarchy, input, target = hierarchy_of(leafy), input_for(leafy, 9), indices_for(leafy, 9)
    even = torch.full((9, leafy.num_classes), 1 / leafy.num_classes, dtype=torch.float64)
    assert_same(
        evaluate(hace.SoftLabelLoss(hierarchy, 0.0), input, target),
        evaluate(cross_entropy, input, even),
    )
    for beta in (1e4, 1e300):
        for distance in ("height", "depth"):
            module = hace.SoftLabelLoss(hierarchy, beta, distance=distance)
            assert_same(evaluate(module, input, target), evaluate(cross_entropy, input, target))


def test_soft_labels_are_haces(tree: trees.Tree) -> None:
    """The loss has the same bits as HACE with dilution 1 and soft_label_beta."""
    options: dict[str, Any] = {
        "label_smoothing": 0.1,
        "smoothing": "others",
        "target_space": "nodes",
    }
    input, target = input_for(tree, 9), indices_for(tree, 9, "nodes")
    for distance in ("height", "depth"):
        found = hace.SoftLabelLoss(hierarchy_of(tree), 7.0, distance=distance, **options)
        same = hace.HACELoss(
            hierarchy_of(tree), 1.0, soft_label_beta=7.0, soft_label_distance=distance, **options
        )
        assert torch.equal(found(input, target), same(input, target))


def test_entropy_of_a_confident_and_of_an_even_row() -> None:
    """r-CE subtracts lambda log C from the loss of an even row, and nothing for a certain row."""
    hierarchy = hace.Hierarchy.from_parents([-1] * 8)
    module = hace.RegularizedCrossEntropyLoss(hierarchy, 0.3, reduction="none")
    rows = torch.zeros(2, 8, dtype=torch.float64)
    rows[1, 5] = 800
    found = module(rows, torch.tensor([5, 5]))
    expected = torch.tensor([0.7 * np.log(8), 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


# --- superclass weights ---------------------------------------------------------------------------


def every_path(tree: trees.Tree) -> PathEntries:
    """The paths of all nodes as targets, concatenated."""
    entries = [
        (target, node, index)
        for target in range(tree.num_nodes)
        for index, node in enumerate(tree.path(target))
    ]
    target, node, index = np.array(entries).T
    depth, height = depths_of(tree), heights_of(tree)
    return PathEntries(target, node, index, depth[target], depth[node], height[node])


def superclass_weights(tree: trees.Tree, scheme: Any, q: float = 2.0) -> np.ndarray:
    """The library's weights as a matrix `weights[y, v]`."""
    entries = every_path(tree)
    weights = np.zeros((tree.num_nodes, tree.num_nodes))
    links = hierarchy_of(tree)
    found = SuperclassWeights(links.parents, links.depths, links.heights, scheme, q)(entries)
    weights[entries.target, entries.node] = found
    return weights


def many_trees() -> list[trees.Tree]:
    rng = np.random.default_rng(5)
    some = [trees.random_tree(rng, int(rng.integers(1, 25)), roots=1) for _ in range(15)]
    some += [trees.random_tree(rng, int(rng.integers(4, 25)), roots=3) for _ in range(15)]
    return [
        *some,
        trees.flat(1, rooted=False),
        trees.flat(4),
        trees.chain(7),
        trees.caterpillar(12),
    ]


@pytest.mark.parametrize("scheme", ["balanced", "power", "lazy"])
def test_superclass_weights_sum_to_1(scheme: str) -> None:
    """This holds for every target of every tree, and no weight is negative."""
    for tree in many_trees():
        for q in (0.5, 1.0, 3.0) if scheme == "power" else (2.0,):
            weights = superclass_weights(tree, scheme, q)
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
            assert (weights >= 0).all()
            assert (weights[~on_paths(tree)] == 0).all()


@pytest.mark.parametrize("scheme", ["balanced", "power", "lazy"])
def test_a_root_takes_nothing_of_what_passes_to_its_leaves(scheme: str) -> None:
    """A tree's root has weight 0; a forest's roots are below a virtual root and take a share."""
    tree = trees.balanced([3, 2], rooted=True)
    weights = superclass_weights(tree, scheme)
    root = int(np.flatnonzero(tree.parents < 0)[0])
    assert (np.delete(weights[:, root], root) == 0).all()
    forest = trees.balanced([3, 2])
    weights = superclass_weights(forest, scheme)
    assert (weights[on_paths(forest)] > 0).all()


def test_power_with_q_1_is_balanced() -> None:
    for tree in many_trees():
        balanced_weights = superclass_weights(tree, "balanced")
        np.testing.assert_array_equal(superclass_weights(tree, "power", 1.0), balanced_weights)
        for nearly in (1 - 1e-9, 1 + 1e-9, 1 + 2**-52):
            np.testing.assert_allclose(
                superclass_weights(tree, "power", nearly), balanced_weights, rtol=1e-7
            )


@pytest.mark.parametrize("q", [5e-324, 1e-300, 1e-10, 1e10, 1e300, 1.7e308])
def test_power_far_out(q: float) -> None:
    """For q near 0 the topmost superclass gets all weight, for a large q the target does."""
    for tree in many_trees():
        weights = superclass_weights(tree, "power", q)
        assert np.isfinite(weights).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
        for target in range(tree.num_nodes):
            path = tree.path(target)
            below_root = path if is_forest(tree) or len(path) == 1 else path[:-1]
            favoured = below_root[-1] if q < 1 else target
            assert weights[target, favoured] == pytest.approx(1, rel=1e-9)
        module = hace.PathLogLoss(hierarchy_of(tree), "power", q=q)
        assert module(input_for(tree, 3), indices_for(tree, 3)).isfinite()


def test_lazy_gives_a_deepest_leaf_what_its_superclasses_have() -> None:
    """H levels below the root, each has 1/H."""
    weights = superclass_weights(trees.balanced([2, 2, 2], rooted=True), "lazy")
    assert set(np.round(weights[weights > 0], 12)) >= {round(1 / 3, 12)}
    leaf = trees.balanced([2, 2, 2], rooted=True)
    rows = weights[leaf.classes]
    np.testing.assert_allclose(rows[rows > 0], 1 / 3, rtol=1e-15)


# --- weights of one's own -------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_kinds_of_node_weights(leafy: trees.Tree) -> None:
    """Anything with one number per node is accepted, and later changes to it have no effect."""
    hierarchy, weights = hierarchy_of(leafy), of_nodes(leafy.num_nodes)
    input, target = input_for(leafy, 5), indices_for(leafy, 5)
    modules = [
        hace.PathLogLoss(hierarchy, kind)
        for kind in (
            weights,
            weights.tolist(),
            tuple(weights),
            weights[::-1].copy()[::-1],
            weights.astype(">f8"),
            torch.from_numpy(weights),
            torch.tensor(weights, requires_grad=True),
        )
    ]
    before = modules[0](input, target)
    weights *= 2
    for module in modules:
        assert torch.equal(module(input, target), before)
    assert torch.equal(copy.deepcopy(modules[0])(input, target), before)


@pytest.mark.filterwarnings("error")
def test_integers_as_node_weights(leafy: trees.Tree) -> None:
    """The hierarchy's own arrays, which are read-only, are accepted too."""
    hierarchy = hierarchy_of(leafy)
    input, target = input_for(leafy, 5), indices_for(leafy, 5)
    expected = hace.PathLogLoss(hierarchy, heights_of(leafy) * 1.0)(input, target)
    for kind in (hierarchy.heights, hierarchy.heights.tolist(), torch.tensor(heights_of(leafy))):
        assert torch.equal(hace.PathLogLoss(hierarchy, kind)(input, target), expected)


def test_function_sees_every_entry_of_every_path(leafy: trees.Tree) -> None:
    """It gets int64 arrays of equal length (target, node, depth, height) for all labels."""
    seen: set[tuple[int, ...]] = set()

    def function(*entries: np.ndarray) -> np.ndarray:
        assert all(entry.dtype == np.int64 and entry.ndim == 1 for entry in entries)
        seen.update(zip(*(entry.tolist() for entry in entries), strict=True))
        return np.ones(len(entries[0]))

    hace.PathLogLoss(hierarchy_of(leafy), function)
    depth, height = depths_of(leafy), heights_of(leafy)
    assert seen == {
        (label, node, int(depth[node]), int(height[node]))
        for label, leaf in enumerate(leafy.classes)
        for node in leafy.path(leaf)
    }


def test_negative_weights_reward(backend: str) -> None:
    """A loss may be negative, and the gradient's sign changes."""
    hierarchy = hace.Hierarchy.from_parents([-1] * 4)
    input, target = torch.randn(5, 4, dtype=torch.float64), torch.randint(4, (5,))
    module = hace.PathLogLoss(hierarchy, [-1.0] * 4, backend=backend)
    assert_same(evaluate(module, input, target), evaluate(cross_entropy, input, target), -1.0)


# --- modules --------------------------------------------------------------------------------------

PATHS = ["animal/dog/husky", "animal/dog/pug", "animal/cat/siamese", "vehicle/car", "vehicle/bus"]

MODULES: dict[str, Callable[..., torch.nn.Module]] = {
    **{name: LOSSES[name].make for name in FEW},
    "h-CE": hace.LayeredCrossEntropyLoss,
}


@pytest.fixture
def animals() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


def rows_for(name: str, hierarchy: hace.Hierarchy, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, hierarchy.num_nodes if name == "h-CE" else hierarchy.num_classes)


TARGET = torch.tensor([0, 2, 3, 4])


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
@pytest.mark.parametrize("name", MODULES)
def test_copies(
    animals: hace.Hierarchy,
    name: str,
    duplicate: Callable[[torch.nn.Module], torch.nn.Module],
) -> None:
    input = rows_for(name, animals)
    module = MODULES[name](animals, weight=torch.rand(5), reduction="none", ignore_index=3)
    expected = module(input, TARGET)
    copied = duplicate(module)
    assert torch.equal(copied(input, TARGET), expected)
    assert repr(copied) == repr(module)


@pytest.mark.parametrize("name", MODULES)
def test_state_dict(animals: hace.Hierarchy, name: str) -> None:
    """The class weight is in the state, as in nn.CrossEntropyLoss; tables and options are not."""
    input = rows_for(name, animals)
    module = MODULES[name](animals, weight=torch.rand(5) + 0.1)
    state = module.state_dict()
    assert list(state) == ["weight"]
    other = MODULES[name](animals, weight=torch.ones(5))
    assert other(input, TARGET) != module(input, TARGET)
    other.load_state_dict(state)
    assert torch.equal(other(input, TARGET), module(input, TARGET))
    assert list(MODULES[name](animals).state_dict()) == []
    assert list(module.parameters()) == []


@pytest.mark.parametrize("name", MODULES)
def test_moved_modules(animals: hace.Hierarchy, name: str) -> None:
    """A module accepts every dtype of logits, before and after its own dtype is changed."""
    module = MODULES[name](animals, weight=torch.tensor([1, 0.5, 0.25, 2, 1]))
    exact = rows_for(name, animals).to(torch.bfloat16).double()
    expected = module(exact, TARGET)
    assert expected.dtype == torch.float64
    for moved in (module, module.to(torch.float64), module.half()):
        for dtype in (torch.float32, torch.bfloat16):
            found = moved(exact.to(dtype), TARGET)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", MODULES)
def test_compiled(animals: hace.Hierarchy, name: str) -> None:
    torch._dynamo.reset()
    module = MODULES[name](animals, weight=torch.rand(5))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    input, target = rows_for(name, animals), torch.tensor([0, -100, 3, 4])
    loss, grad = evaluate(module, input, target)
    same, same_grad = evaluate(compiled, input, target)
    torch.testing.assert_close(same, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(same_grad, grad, rtol=0, atol=1e-6 * float(grad.abs().max()))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "function"])
def test_compiled_after_pickling(animals: hace.Hierarchy, name: str) -> None:
    """This happens in a worker process, which compiles before its first call."""
    torch._dynamo.reset()
    module = MODULES[name](animals)
    input = rows_for(name, animals)
    compiled = torch.compile(through_pickle(module), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input, TARGET), module(input, TARGET), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MODULES)
def test_autocast(animals: hace.Hierarchy, name: str) -> None:
    """Layers return bfloat16, the loss is float32, and gradients reach float32 parameters."""
    layer = torch.nn.Linear(8, rows_for(name, animals).shape[1])
    loss_fn = MODULES[name](animals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(torch.randn(4, 8))
        assert logits.dtype == torch.bfloat16
        loss = loss_fn(logits, TARGET)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_fn(logits.double(), TARGET).float(), rtol=2e-6, atol=0)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        (lambda h: hace.CrossEntropyLoss(h, label_smoothing=0.05), ["0.05"]),
        (lambda h: hace.RegularizedCrossEntropyLoss(h, 0.35, reduction="sum"), ["0.35", "sum"]),
        (
            lambda h: hace.HXELoss(h, 0.35, depth="parent", normalize=True),
            ["alpha=0.35", "depth='parent'", "normalize=True"],
        ),
        (lambda h: hace.PathLogLoss(h, "balanced", ignore_index=-1), ["balanced", "-1"]),
        (lambda h: hace.PathLogLoss(h, "power", q=3.5), ["power", "3.5"]),
        (lambda h: hace.PathLogLoss(h, np.linspace(0, 1, h.num_nodes)), ["weights"]),
        (lambda h: hace.PathLogLoss(h, some_function), ["some_function"]),
        (lambda h: hace.SoftLabelLoss(h, 12.5, distance="depth"), ["12.5", "depth"]),
        (lambda h: hace.LayeredCrossEntropyLoss(h, target_space="nodes"), ["nodes"]),
    ],
    ids=["CE", "r-CE", "HXE", "balanced", "power", "node weights", "function", "soft", "h-CE"],
)
def test_repr_shows_what_was_asked_for(
    module: Callable[[hace.Hierarchy], torch.nn.Module], parts: list[str]
) -> None:
    hierarchy = hace.Hierarchy.from_parents([-1] * 400)
    text = repr(module(hierarchy))
    assert "400 nodes" in text
    for part in parts:
        assert part in text
    assert len(text) < 300, "the repr contains one number per node"


def test_attributes(animals: hace.Hierarchy) -> None:
    assert hace.HXELoss(animals, 0.25).alpha == 0.25
    assert hace.RegularizedCrossEntropyLoss(animals, 0.25).strength == 0.25
    assert hace.HXELoss(animals, 1).alpha == 1.0


def test_schedule_of_losses(animals: hace.Hierarchy) -> None:
    """With more losses than a hierarchy caches tables for, each loss stays right."""
    input = rows_for("HXE", animals)
    modules = [hace.HXELoss(animals, 0.1 * i) for i in range(20)]
    modules += [hace.PathLogLoss(animals, "power", q=0.5 + i) for i in range(20)]
    first = [module(input, TARGET) for module in modules]
    assert len({float(loss) for loss in first}) == 40
    assert [module(input, TARGET) for module in modules] == first


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*INDEX_ONLY, "h-CE"])
@pytest.mark.parametrize("kind", ["probabilities", "pair"])
def test_losses_of_indices_refuse_other_targets(
    animals: hace.Hierarchy, name: str, kind: str
) -> None:
    """The error says what is expected, without internals of the loss."""
    module = MODULES[name](animals)
    target: Any = torch.rand(4, 5)
    if kind == "pair":
        target = (torch.zeros(4, 2, dtype=torch.long), torch.rand(4, 2))
    with pytest.raises(ValueError, match="indices") as caught:
        module(rows_for(name, animals), target)
    assert "max_entries" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", MODULES)
def test_target_that_is_no_tensor(animals: hace.Hierarchy, name: str) -> None:
    with pytest.raises(TypeError, match="target must be a tensor"):
        MODULES[name](animals)(rows_for(name, animals), [0, 1, 2, 3])


@pytest.mark.parametrize("name", [*INDEX_ONLY, "soft labels"])
def test_dag_where_a_tree_is_needed(name: str) -> None:
    """The constructor refuses a DAG and says that the loss needs a tree."""
    dag = dags.hierarchy_of(dags.diamond())
    with pytest.raises((ValueError, TypeError), match="DAG"):
        MODULES[name](dag)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("hierarchy", [[-1, 0, 0], "animal/dog", None], ids=str)
def test_not_a_hierarchy(name: str, hierarchy: Any) -> None:
    makers: dict[str, Callable[..., Any]] = {
        **MODULES,
        "HXE": lambda h: hace.HXELoss(h, normalize=True),
        "node weights": lambda h: hace.PathLogLoss(h, [1.0, 1.0, 1.0]),
    }
    with pytest.raises(TypeError, match="Hierarchy"):
        makers[name](hierarchy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda h: hace.PathLogLoss(h, "balancd"), "balancd"),
        (lambda h: hace.PathLogLoss(h, "balancd"), "weights"),
        (lambda h: hace.PathLogLoss(h, np.ones(5)), "(5,)"),
        (lambda h: hace.PathLogLoss(h, np.ones(5)), "9"),
        (lambda h: hace.PathLogLoss(h, np.ones((9, 1))), "(9, 1)"),
        (lambda h: hace.PathLogLoss(h, 1.0), "()"),
        (lambda h: hace.PathLogLoss(h, np.full(9, np.nan)), "nan"),
        (lambda h: hace.PathLogLoss(h, np.full(9, np.inf)), "inf"),
        (lambda h: hace.PathLogLoss(h, lambda t, n, d, h: np.ones(3)), "(3,)"),
        (lambda h: hace.PathLogLoss(h, lambda t, n, d, h: d / 0.0), "finite"),
        (lambda h: hace.PathLogLoss(h, "power", q=0.0), "0.0"),
        (lambda h: hace.PathLogLoss(h, "power", q=-2.0), "-2.0"),
        (lambda h: hace.PathLogLoss(h, "power", q=float("inf")), "inf"),
        (lambda h: hace.PathLogLoss(h, "power", q=float("nan")), "nan"),
        (lambda h: hace.HXELoss(h, float("nan")), "alpha"),
        (lambda h: hace.HXELoss(h, float("inf")), "alpha"),
        (lambda h: hace.HXELoss(h, depth="leaf"), "leaf"),
        (lambda h: hace.HXELoss(h, eps=-1.0), "eps"),
        (lambda h: hace.RegularizedCrossEntropyLoss(h, float("nan")), "strength"),
        (lambda h: hace.RegularizedCrossEntropyLoss(h, float("inf")), "strength"),
        (lambda h: hace.SoftLabelLoss(h, -1.0), "beta"),
        (lambda h: hace.SoftLabelLoss(h, float("inf")), "beta"),
        (lambda h: hace.SoftLabelLoss(h, distance="width"), "width"),
        (lambda h: hace.LayeredCrossEntropyLoss(h, reduction="avg"), "avg"),
        (lambda h: hace.LayeredCrossEntropyLoss(h, target_space="leaf"), "leaf"),
        (lambda h: hace.CrossEntropyLoss(h, logit_space="leaves"), "leaves"),
        *(
            (lambda h, make=make: make(h, weight=torch.ones(4)), "(4,)")
            for make in MODULES.values()
        ),
        *(
            (lambda h, make=make: make(h, target_space="nodes", weight=torch.ones(5)), "(9,)")
            for make in MODULES.values()
        ),
    ],
)
def test_option_out_of_range(
    animals: hace.Hierarchy, make: Callable[[hace.Hierarchy], Any], message: str
) -> None:
    """The constructor raises an error that names the caller's argument or the value."""
    assert animals.num_nodes == 9
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=re.escape(message)) as caught:
        make(animals)
    assert "max_entries" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda h, value: hace.HXELoss(h, value), "alpha"),
        (lambda h, value: hace.RegularizedCrossEntropyLoss(h, value), "strength"),
        (lambda h, value: hace.SoftLabelLoss(h, value), "beta"),
        (lambda h, value: hace.PathLogLoss(h, "power", q=value), "q"),
    ],
    ids=["alpha", "strength", "beta", "q"],
)
@pytest.mark.parametrize("value", ["a", None, [0.1]], ids=str)
def test_option_of_a_wrong_type(
    animals: hace.Hierarchy, make: Callable[..., Any], name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=rf"\b{name}\b"):
        make(animals, value)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("bad", [-1, 5, 10**12])
def test_target_out_of_range(animals: hace.Hierarchy, name: str, bad: int) -> None:
    target = TARGET.clone()
    target[1] = bad
    with pytest.raises(IndexError, match=rf"{bad}\b"):
        MODULES[name](animals)(rows_for(name, animals), target)


@pytest.mark.parametrize("name", MODULES)
def test_shapes_and_dtypes_that_do_not_fit(animals: hace.Hierarchy, name: str) -> None:
    module, input = MODULES[name](animals), rows_for(name, animals)
    width = input.shape[1]
    for wrong in (torch.randn(4, width + 1), torch.randn(4, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=str(width)):
            module(wrong, TARGET)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        module(input, TARGET[:3])
    with pytest.raises(TypeError, match="int32"):
        module(input, TARGET.int())
    with pytest.raises(TypeError, match="int64"):
        module(input.long(), TARGET)


def test_target_with_no_class_below_it() -> None:
    """Only h-CE accepts it, since it has a logit for the node."""
    hierarchy = hace.Hierarchy.from_parents([-1, 0, 0, 2], classes=[1])
    for name, make in MODULES.items():
        module = make(hierarchy, target_space="nodes")
        if name == "h-CE":
            assert module(torch.randn(1, 4), torch.tensor([3])).isfinite()
            continue
        assert module(torch.randn(1, 1), torch.tensor([0])).isfinite()
        with pytest.raises((IndexError, ValueError), match=r"\b3\b"):
            module(torch.randn(1, 1), torch.tensor([3]))


@pytest.mark.parametrize("name", MODULES)
def test_backends(animals: hace.Hierarchy, name: str) -> None:
    """Each named backend runs or says why not."""
    input = rows_for(name, animals).double()
    expected = MODULES[name](animals, backend="reference")(input, TARGET)
    for backend in hace.backends().values():
        module = MODULES[name](animals, backend=backend.name)
        if backend.available and backend.name not in ("triton", "cuda"):
            torch.testing.assert_close(module(input, TARGET), expected, rtol=1e-13, atol=0)
        else:
            with pytest.raises(hace.BackendError, match=backend.name):
                module(input, TARGET)
    with pytest.raises(ValueError, match="fortran"):
        MODULES[name](animals, backend="fortran")(input, TARGET)
