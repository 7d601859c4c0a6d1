"""The ops over DAGs agree with dense matrices: tables, sums, log-probabilities, rising mass."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import dags
import numpy as np
import oracle
import pytest
import torch
import trees
from cases import DTYPES
from dags import SHAPES, Dag
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    Answer,
    assert_grad_close,
    assert_log_probs_close,
    assert_sums_close,
    log_sum_exp,
    node_log_loss,
    node_log_probs,
    to_real,
)
from selection import thoroughly
from torch.utils._python_dispatch import TorchDispatchMode

from hace_kernels import closure_table
from hace_kernels.closure_table import ClosureTable, Ragged, build_closure_table, longest_paths
from hace_kernels.reference import dag as reference_of_dags
from hace_kernels.reference.dag import (
    dag_kept_mass,
    dag_log_prob,
    dag_sum_down,
    dag_sum_up,
)

examples = settings(max_examples=100, deadline=None)

ROWS = 5

every_shape = pytest.mark.parametrize("shape", SHAPES)
THOROUGH = pytest.mark.thorough
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def table_of(dag: Dag) -> ClosureTable:
    return build_closure_table(dag.edge_array(), dag.num_nodes, np.array(dag.classes))


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.item[first:last].tolist() for first, last in pairwise(ragged.ptr.tolist())]


# Tables


def assert_lists(ragged: Ragged, incidence: np.ndarray) -> None:
    """Asserts that the lists are the rows of `incidence`, each in one bucket of its length."""
    assert lists(ragged) == [np.flatnonzero(row).tolist() for row in incidence]
    assert (ragged.ptr.dtype, ragged.item.dtype) == (torch.int64, torch.int32)
    length = ragged.ptr.diff()
    assert ragged.num_lists == len(length)
    assert ragged.place[ragged.by_length].tolist() == list(range(len(length)))
    in_bucket = torch.zeros_like(length)
    for first, last, longest in ragged.buckets:
        chosen = ragged.by_length[first:last]
        in_bucket[chosen] += 1
        assert int(length[chosen].max()) == longest
    assert in_bucket.tolist() == (length > 0).int().tolist()


def assert_table(dag: Dag, table: ClosureTable) -> None:
    reach = dag.reach()
    assert (table.num_nodes, table.num_classes) == reach.shape
    assert_lists(table.below, reach)
    assert_lists(table.above, reach.T)
    assert table.ptr is table.below.ptr
    assert table.column is table.below.item
    assert table.column_node.tolist() == list(dag.classes)
    assert table.num_parents.tolist() == [len(parents) for parents in dag.parents]

    edges = list(zip(table.edge_parent.tolist(), table.edge_child.tolist(), strict=True))
    assert sorted(edges) == sorted(dag.edges)
    level_of_edge: dict[tuple[int, int], int] = {}
    for level, (first, last) in enumerate(pairwise(table.edge_level_ptr)):
        level_of_edge.update(dict.fromkeys(edges[first:last], level))
    for parent, child in edges:
        handed_on = [level_of_edge[parent, above] for parent, above in edges if parent == child]
        assert all(level < level_of_edge[parent, child] for level in handed_on)


def assert_spanning_tree(dag: Dag, table: ClosureTable) -> None:
    """Asserts that each node's parts have its columns, each once, and the orders of the arrays."""
    spanning, reach = table.spanning, dag.reach()
    tree = spanning.tree
    columns: list[list[int]] = [[] for _ in range(tree.num_places)]
    for column in range(dag.num_classes):
        place = column
        while place >= 0:
            columns[place].append(column)
            place = int(tree.parent[place])
    parts = np.split(spanning.part.numpy(), spanning.part_ptr.numpy()[1:-1])
    for node, place in enumerate(spanning.place.tolist()):
        if place >= tree.num_places:
            of_node = [c for part in parts[place - tree.num_places] for c in columns[part]]
        else:
            of_node = columns[place] if place >= 0 else []
        assert sorted(of_node) == np.flatnonzero(reach[node]).tolist()
    taken = [place for place in spanning.place.tolist() if place >= 0]
    assert len(set(taken)) == len(taken)
    held = np.split(spanning.holder.numpy(), spanning.holder_ptr.numpy()[1:-1])
    for place, holders in enumerate(held):
        assert holders.tolist() == [x for x, of_x in enumerate(parts) if place in of_x]

    children = np.split(spanning.child.numpy(), spanning.child_ptr.numpy()[1:-1])
    assert [of_node.tolist() for of_node in children] == list(map(sorted, dag.children))
    heights = np.array(dag.heights())
    assert sorted(spanning.by_height.tolist()) == list(range(dag.num_nodes))
    for height, (first, last) in enumerate(pairwise(spanning.height_ptr)):
        assert (heights[spanning.by_height[first:last].numpy()] == height).all()


@given(dags.dags())
@examples
def test_table_of_any_dag(dag: Dag) -> None:
    assert_table(dag, table_of(dag))
    assert_spanning_tree(dag, table_of(dag))


@every_shape
def test_spanning_tree(shape: str) -> None:
    assert_spanning_tree(SHAPES[shape], table_of(SHAPES[shape]))


@every_shape
@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_merging_in_chunks(shape: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure_table, "_CHUNK_ENTRIES", chunk)
    assert_table(SHAPES[shape], table_of(SHAPES[shape]))


def test_table_moves() -> None:
    table = table_of(dags.diamond())
    moved = table.to("meta")
    tensors = [*moved.below[:4], *moved.above[:4], *moved[2:6]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.edge_level_ptr == table.edge_level_ptr
    assert (moved.below.buckets, moved.above.buckets) == (table.below.buckets, table.above.buckets)


@given(dags.dags())
@examples
def test_longest_paths_of_any_dag(dag: Dag) -> None:
    parent, child = dag.edge_array().T
    assert longest_paths(parent, child, dag.num_nodes).tolist() == dag.depths()
    assert longest_paths(child, parent, dag.num_nodes).tolist() == dag.heights()


def test_cycles_are_seen() -> None:
    # Node 3 is behind the cycle of 1 and 2, node 4 is not.
    edges = np.array([(0, 1), (1, 2), (2, 1), (2, 3), (0, 4)])
    assert longest_paths(*edges.T, 5).tolist() == [0, -1, -1, -1, 1]
    with pytest.raises(ValueError, match="edges contain a cycle"):
        build_closure_table(edges, 5, np.array([3]))


# Memory


def chains(count: int, length: int, leaves: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Several long chains, each of which ends at all leaves: few edges but many entries."""
    node = np.arange(count * length).reshape(length, count)
    leaf = np.arange(leaves) + count * length
    along = np.stack([node[:-1].ravel(), node[1:].ravel()], 1)
    ends = np.stack(np.meshgrid(node[-1], leaf), -1).reshape(-1, 2)
    return np.concatenate([along, ends]), count * length + leaves, leaf


@pytest.mark.parametrize(
    ("count", "length", "classes", "seen"),
    [(1, 2_000, 1_000, "before"), (10, 200, 1_000, "while building")],
)
def test_table_beyond_memory(
    count: int, length: int, classes: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is too large is refused long before a table of that size exists.

    The entries of one chain are known from its length, those of several chains only by merging.
    """
    edges, num_nodes, leaf = chains(count, length, classes)
    num_entries, capacity = classes * (count * length + 1), 400_000
    peak_bytes = closure_table._PEAK_BYTES_PER_ENTRY
    monkeypatch.setattr(closure_table, "memory_bytes", lambda: capacity * peak_bytes)
    monkeypatch.setattr(closure_table, "_CHUNK_ENTRIES", 5_000)
    message = rf"{num_nodes:,} nodes over {classes:,} columns .* GB \(([\d,]+) entries"
    tracemalloc.start()
    with pytest.raises(MemoryError, match=message) as caught:
        build_closure_table(edges, num_nodes, leaf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    named = int(str(caught.value).split("(")[1].split(" ")[0].replace(",", ""))
    assert named == num_entries if seen == "before" else capacity < named < num_entries
    assert peak < capacity * peak_bytes + 2e6 < num_entries * peak_bytes / 3

    monkeypatch.setattr(closure_table, "memory_bytes", lambda: num_entries * peak_bytes)
    assert len(build_closure_table(edges, num_nodes, leaf).column) == num_entries


def test_peak_of_building_is_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure_table, "_CHUNK_ENTRIES", 5_000)
    edges, num_nodes, leaf = chains(10, 200, 1_000)
    tracemalloc.start()
    table = build_closure_table(edges, num_nodes, leaf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(table.column) * closure_table._PEAK_BYTES_PER_ENTRY + 2e6


# Sums


@every_shape
@every_dtype
@pytest.mark.parametrize("op", ["up", "down"])
def test_sums(shape: str, dtype: torch.dtype, op: str) -> None:
    """Sums are products with the matrix, and their gradients with the transposed matrix."""
    dag, table = SHAPES[shape], table_of(SHAPES[shape])
    matrix = dag.reach() if op == "up" else dag.reach().T
    function = dag_sum_up if op == "up" else dag_sum_down
    values = torch.randn(ROWS, matrix.shape[1]).to(dtype).requires_grad_()
    incoming = torch.randn(ROWS, matrix.shape[0]).to(dtype)
    sums = function(values, table)
    (grad,) = torch.autograd.grad(sums, values, incoming)
    assert sums.dtype == grad.dtype == dtype
    x, g, ones = to_real(values), to_real(incoming), matrix.astype(np.longdouble)
    assert_sums_close(sums, x @ ones.T, np.abs(x) @ ones.T)
    assert_sums_close(grad, g @ ones, np.abs(g) @ ones)


@given(dags.dags(), st.integers(1, 4), st.integers(1, 20))
@examples
def test_sums_over_any_dag_in_any_tiles(dag: Dag, rows: int, tile: int) -> None:
    values = torch.randint(-9, 9, (3, dag.num_classes)).double()
    of_nodes = torch.randint(-9, 9, (3, dag.num_nodes)).double()
    reach = torch.from_numpy(dag.reach()).double()
    with tiles(tile, rows):
        assert dag_sum_up(values, table_of(dag)).equal(values @ reach.T)
        assert dag_sum_down(of_nodes, table_of(dag)).equal(of_nodes @ reach)


@pytest.mark.parametrize("shape", ["diamonds", "empty nodes", "random"])
def test_sums_differentiate_twice(shape: str) -> None:
    table = table_of(SHAPES[shape])
    for op, width in ((dag_sum_up, table.num_classes), (dag_sum_down, table.num_nodes)):
        values = torch.randn(2, width, dtype=torch.float64, requires_grad=True)

        def squared(x: torch.Tensor, op: Callable[..., torch.Tensor] = op) -> torch.Tensor:
            return op(x, table).square()

        assert torch.autograd.gradcheck(squared, values)
        assert torch.autograd.gradgradcheck(squared, values)


# Log-probabilities: against the oracle


def log_probs(dag: Dag, logits: torch.Tensor) -> np.ndarray:
    return node_log_probs(logits, dag.reach())


def gradient(dag: Dag, logits: torch.Tensor, incoming: torch.Tensor, spread: bool) -> Answer:
    """The gradient of `sum(incoming * log_prob)`; incoming must be 0 at nodes without columns."""
    mass = -to_real(incoming)
    if not spread:
        mass = np.where(log_probs(dag, logits) == -np.inf, 0, mass)
    return node_log_loss(logits, dag.reach(), mass)


def check(dag: Dag, logits: torch.Tensor, incoming: torch.Tensor | None = None) -> None:
    """Checks values and both kinds of gradient; only nodes with columns get incoming gradients."""
    table, before = table_of(dag), logits.clone()
    if incoming is None:
        incoming = torch.randn(len(logits), dag.num_nodes)
    incoming = torch.where(torch.from_numpy(dag.reach().any(axis=1)), incoming, 0.0)
    for spread in (False, True):
        z = logits.clone().requires_grad_()
        log_p = dag_log_prob(z, table, spread_dead=spread)
        assert_log_probs_close(log_p, log_probs(dag, logits), logits.dtype)
        (grad,) = torch.autograd.grad(log_p, z, incoming.to(log_p))
        assert grad.dtype == logits.dtype
        expected = gradient(dag, logits, incoming, spread)
        assert_grad_close(grad, expected)
    assert logits.equal(before)


@every_shape
@every_dtype
def test_log_prob(shape: str, dtype: torch.dtype) -> None:
    dag = SHAPES[shape]
    check(dag, (2 * torch.randn(ROWS, dag.num_classes)).to(dtype))


@given(dags.dags(), st.integers(0, 1000), st.sampled_from([torch.float64, torch.float32]))
@examples
def test_log_prob_of_any_dag(dag: Dag, seed: int, dtype: torch.dtype) -> None:
    """Any DAG is right, with some logits far apart and some -inf."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([1.0, 30.0, 1e4], size=(3, 1))
    logits = scale * rng.normal(size=(3, dag.num_classes))
    dead = rng.random(logits.shape) < rng.choice([0, 0.5])
    dead[np.arange(3), rng.integers(dag.num_classes, size=3)] = False
    logits[dead] = -np.inf
    incoming = torch.from_numpy(rng.normal(size=(3, dag.num_nodes)))
    check(dag, torch.from_numpy(logits).to(dtype), incoming)


def test_worked_example() -> None:
    """A class counts once at the top of a diamond, and once under each of two roots."""
    p = torch.tensor([[0.125, 0.875]], dtype=torch.float64)
    found = dag_log_prob(p.log(), table_of(dags.diamond()), spread_dead=True).exp()
    np.testing.assert_allclose(found, [[1, 0.125, 1, 0.125, 0.875]], rtol=1e-15)
    p = torch.tensor([[0.5, 0.375, 0.125]], dtype=torch.float64)
    found = dag_log_prob(p.log(), table_of(dags.shared_leaf()), spread_dead=True).exp()
    np.testing.assert_allclose(found, [[0.5, 0.875, 0.125, 0.375, 0.5]], rtol=1e-15)


@pytest.mark.parametrize("tree", [trees.balanced([2, 3, 2]), trees.caterpillar(7)])
def test_a_dag_without_shared_nodes_is_a_tree(tree: trees.Tree) -> None:
    """HACE from the ops over DAGs agrees with the oracle's HACE on the tree."""
    dag, table = dags.from_tree(tree), table_of(dags.from_tree(tree))
    assert dag.reach().tolist() == tree.reach().tolist()
    z = torch.randn(6, tree.num_classes, dtype=torch.float64, requires_grad=True)
    target = torch.arange(6)
    expected, _ = oracle.hace(tree, z.detach(), target, 0.6)

    mass = torch.zeros(6, dag.num_nodes).double()
    mass[torch.arange(6), table.column_node[target]] = 1
    q = dag_kept_mass(mass, torch.from_numpy(dag.dilution(0.6)), table)
    log_p = dag_log_prob(z, table, spread_dead=True)
    loss = -torch.where(q != 0, q * log_p, 0.0).sum(1)
    oracle.assert_loss_close(loss, expected, z.dtype)
    assert_grad_close(torch.autograd.grad(loss.sum(), z)[0], expected)


@pytest.mark.parametrize(
    ("shape", "spread", "dead"),
    [
        *(("shortcut", spread, dead) for spread in (False, True) for dead in (False, True)),
        *(("small", dead, dead) for dead in (False, True)),
        *(("empty nodes", dead, dead) for dead in (False, True)),
        *thoroughly(
            *((shape, not dead, dead) for shape in ("small", "empty nodes")
              for dead in (False, True))
        ),
    ],
)  # fmt: skip
def test_derivatives_of_all_orders(shape: str, spread: bool, dead: bool) -> None:
    """Derivatives by the finite logits are right; the loss does not depend on those of -inf."""
    small = dags.random_dag(np.random.default_rng(0), 12, extra=0.5, roots=2)
    table = table_of(small if shape == "small" else SHAPES[shape])
    alive = torch.ones(table.num_classes, dtype=torch.bool)
    alive[1] = not dead
    weight = torch.randn(1, table.num_nodes, dtype=torch.float64)
    num_alive = dag_sum_up(alive.double()[None], table)

    def weighted(z: torch.Tensor) -> torch.Tensor:
        log_p = dag_log_prob(torch.where(alive, z, -torch.inf), table, spread)
        log_p = torch.where(num_alive > 0, log_p, 0.0)
        return weight * log_p + log_p.square()

    def gradient(z: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(weighted(z).sum(), z, create_graph=True)[0]

    z = torch.randn(1, table.num_classes, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted, z)
    assert torch.autograd.gradgradcheck(weighted, z)
    assert torch.autograd.gradgradcheck(gradient, z)


def test_gradient_is_no_constant_where_what_comes_in_is() -> None:
    """A gradient penalty works on a plain sum of log-probabilities."""
    table = table_of(SHAPES["nodes"])
    z = torch.randn(2, table.num_classes, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(dag_log_prob(z, table, True).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), z)
    dense = torch.from_numpy(SHAPES["nodes"].reach())
    below = torch.where(dense, z[:, None], -torch.inf)
    log_p = below.logsumexp(2) - z.logsumexp(1, keepdim=True)
    (expected,) = torch.autograd.grad(log_p.sum(), z, create_graph=True)
    (expected,) = torch.autograd.grad(expected.square().sum(), z)
    torch.testing.assert_close(second, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spread", [False, True])
def test_gradient_differentiates_by_what_comes_in(spread: bool) -> None:
    table = table_of(dags.empty_nodes())
    z = torch.tensor([[-torch.inf, 0.5], [0.1, 0.5]], dtype=torch.float64, requires_grad=True)

    def gradient(incoming: torch.Tensor) -> torch.Tensor:
        log_p = dag_log_prob(z, table, spread)
        return torch.autograd.grad(log_p, z, incoming, create_graph=True)[0]

    incoming = torch.randn(2, table.num_nodes, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gradient, incoming)


def test_logits_of_minus_infinity_have_no_second_derivative() -> None:
    dag, table = dags.shared_leaf(), table_of(dags.shared_leaf())
    z = torch.tensor([[-torch.inf, -torch.inf, 1.0], [-torch.inf, 0.3, 1.0]], requires_grad=True)
    log_p = torch.where(dag_log_prob(z, table, True) > -torch.inf, 0.0, 1.0)
    assert log_p.sum(1).tolist() == [3, 1]  # the nodes 1, 3 and 4, or 4 alone
    incoming = torch.ones(2, dag.num_nodes)
    (grad,) = torch.autograd.grad(dag_log_prob(z, table, True), z, incoming, create_graph=True)
    (second,) = torch.autograd.grad((grad * torch.tensor([1.0, 2.0, 3.0])).sum(), z)
    assert bool((second[z.isinf()] == 0).all())
    assert bool(second.isfinite().all())
    assert float(second.detach()[1, 1]) != 0


def test_backward_runs_again() -> None:
    table = table_of(SHAPES["random"])
    z = torch.randn(ROWS, table.num_classes, requires_grad=True)
    loss = dag_log_prob(z, table, True).square().sum()
    first = torch.autograd.grad(loss, z, retain_graph=True)[0]
    assert torch.autograd.grad(loss, z)[0].equal(first)


# Log-probabilities: extremes

GAPS = [10, 40, 87, 88, 104, 150, 745, 5000]


@every_dtype
@pytest.mark.parametrize(
    "shape",
    ["diamonds", *(pytest.param(name, marks=THOROUGH) for name in ("two roots", "nodes"))],
)
def test_gaps_between_nested_nodes(shape: str, dtype: torch.dtype) -> None:
    """The logits below each node in turn are far below, and far above, all others."""
    dag = SHAPES[shape]
    offsets = [sign * gap * ~row for row in dag.reach() for gap in GAPS for sign in (1.0, -1.0)]
    logits = 0.7 * torch.randn(len(offsets), dag.num_classes) + torch.tensor(np.array(offsets))
    check(dag, logits.to(dtype))


@every_dtype
def test_huge_logits(rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Rows mix logits of +-1e4, where neighbouring fp32 numbers are 1e-3 apart."""
    dag = SHAPES["two roots"]
    shape = (20, dag.num_classes)
    signs, noise = rng.choice([-1.0, 1.0], size=shape), rng.normal(size=shape)
    logits = np.concatenate([1e4 * signs, 1e4 + noise, -1e4 + noise, 1e4 * signs + noise])
    check(dag, torch.from_numpy(logits).to(dtype))


def test_lowest_logits() -> None:
    """Many models leave classes out by masked_fill(mask, finfo.min)."""
    dag, lowest = SHAPES["random"], torch.finfo(torch.float32).min
    logits = torch.randn(3, dag.num_classes)
    logits[0, 1:] = lowest
    logits[1, ::2] = lowest
    check(dag, logits)


def test_log_of_a_mass_that_no_float_holds() -> None:
    found = dag_log_prob(torch.tensor([[0.0, -700.0]]), table_of(dags.diamond()), True)
    assert found[0, 4] == -700
    found = dag_log_prob(torch.tensor([[0.0, -1e4]]).double(), table_of(dags.diamond()), True)
    assert found[0, 4] == -10_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_probabilities_near_one_keep_their_distance_from_it(dtype: torch.dtype) -> None:
    """log P = -1e-6 is as exact as log P = -1, so confident predictions still learn."""
    dag = SHAPES["random"]
    reach = dag.reach()
    node = int(np.argmin(np.where(reach.sum(1) > 3, reach.sum(1), 99)))
    for gap in (1, 3, 10, 14):
        logits = torch.linspace(-1, 1, dag.num_classes, dtype=dtype)[None]
        logits = torch.where(torch.from_numpy(reach[node]), logits, logits - gap)
        z = to_real(logits)
        outside = log_sum_exp(z[:, ~reach[node]]) - log_sum_exp(z[:, reach[node]])
        expected = -np.log1p(np.exp(outside))
        found = dag_log_prob(logits, table_of(dag), True)[:, node]
        error = np.abs(to_real(found) / expected - 1)
        assert error < (1e-5 if dtype == torch.float32 else 1e-8)
        assert bool((dag_log_prob(logits, table_of(dag), True) <= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_probabilities_are_at_most_one(dtype: torch.dtype) -> None:
    """This holds even if a sum of all columns is taken in another order than the row's."""
    dag = dags.chain_of_diamonds(40)
    logits = torch.randn(50, dag.num_classes, dtype=dtype)
    with tiles(300, 30):
        log_p = dag_log_prob(logits, table_of(dag), True)
    assert bool((log_p <= 0).all())
    np.testing.assert_allclose(log_p[:, 0], 0, atol=4 * torch.finfo(dtype).eps)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_minus_infinity(shape: str, dtype: torch.dtype) -> None:
    """The logits below each node in turn, and then all others, are -inf."""
    dag = SHAPES[shape]
    for dead in (dag.reach(), ~dag.reach()):
        dead = dead[~dead.all(axis=1)]
        logits = torch.randn(dead.shape)
        logits[torch.from_numpy(dead)] = -torch.inf
        check(dag, logits.to(dtype))


@pytest.mark.parametrize("spread", [False, True])
def test_gradient_of_dead_and_of_empty_nodes(spread: bool) -> None:
    """Where P is 0, the gradient is dropped, or spread as a log-loss's gradient is."""
    dag, g = dags.shared_leaf(), 0.5
    z = torch.tensor([[-torch.inf, -torch.inf, 1.0]], requires_grad=True)  # of the nodes 4, 3, 2
    log_p = dag_log_prob(z, table_of(dag), spread)
    assert log_p[0, 1] == log_p[0, 3] == -torch.inf
    (grad,) = torch.autograd.grad(g * log_p[0, 1], z)
    assert grad.tolist() == ([[g / 2, g / 2, -g]] if spread else [[0, 0, 0]])

    dag = dags.empty_nodes()
    z = torch.zeros(1, 2, requires_grad=True)
    log_p = dag_log_prob(z, table_of(dag), spread)
    assert (log_p == -torch.inf)[0].tolist() == [False, True, False, False, True, True]
    (grad,) = torch.autograd.grad(g * log_p[0, 5], z)
    assert grad.tolist() == ([[-g / 2, -g / 2]] if spread else [[0, 0]])


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, -torch.inf])
def test_rows_without_a_softmax(bad: float) -> None:
    """They are NaN, also in the gradient unless nothing depends on them; other rows are right."""
    dag = SHAPES["empty nodes"]
    logits = torch.randn(3, dag.num_classes)
    logits[1, 0 if bad != -torch.inf else slice(None)] = bad
    for spread in (False, True):
        z = logits.clone().requires_grad_()
        log_p = dag_log_prob(z, table_of(dag), spread)
        assert bool(log_p[1].isnan().all())
        expected = log_probs(dag, logits[::2])
        assert_log_probs_close(log_p[::2], expected, logits.dtype)
        incoming = torch.zeros_like(log_p)
        incoming[:, 0] = 1
        (grad,) = torch.autograd.grad(log_p, z, incoming, retain_graph=True)
        assert bool(grad[1].isnan().all())
        assert bool(grad[::2].isfinite().all())
        incoming[1] = 0
        (grad,) = torch.autograd.grad(log_p, z, incoming)
        assert grad[1].tolist() == [0] * dag.num_classes


# Tiles


class tiles:  # noqa: N801, a context manager
    """Within it, ops work in tiles of at most this many logits and at most this many rows."""

    def __init__(self, tile: int, rows: int):
        self.patch, self.tile, self.rows = pytest.MonkeyPatch(), tile, rows

    def __enter__(self) -> None:
        self.patch.setattr(reference_of_dags, "_TILE", self.tile)
        self.patch.setattr(reference_of_dags, "_ROWS", self.rows)

    def __exit__(self, *error: object) -> None:
        self.patch.undo()


@pytest.mark.parametrize(
    ("tile", "rows"),
    [(1, 1), (5, 2), (64, 100), *thoroughly((1, 2), (1, 100), (5, 1), (5, 100), (64, 1), (64, 2))],
)
@pytest.mark.parametrize("shape", ["empty nodes", "two roots", "nodes"])
def test_log_prob_in_small_tiles(shape: str, rows: int, tile: int) -> None:
    dag = SHAPES[shape]
    logits = 30 * torch.randn(ROWS, dag.num_classes)
    logits[:, ::3] = -torch.inf
    logits[:, 1] = 4.0
    with tiles(tile, rows):
        check(dag, logits)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that an operation makes."""

    num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num_bytes = max(self.num_bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.thorough
def test_nothing_of_batch_times_entries_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered, gather = [], reference_of_dags._gather

    def noted(x: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        gathered.append(gather(x, items))
        return gathered[-1]

    monkeypatch.setattr(reference_of_dags, "_gather", noted)
    table = build_closure_table(*chains(10, 60, 70))
    batch, num_entries = 64, len(table.column)
    assert num_entries > 40 * table.num_nodes
    z = torch.randn(batch, table.num_classes, requires_grad=True)
    with tiles(1 << 12, 32), LargestTensor() as largest:
        loss = dag_log_prob(z, table, True).sum() + dag_sum_up(z, table).sum()
        loss.backward()
    nodes_bytes = 4 * batch * table.num_nodes
    assert max(tile.numel() for tile in gathered) == 1 << 12
    assert nodes_bytes <= largest.num_bytes <= max(nodes_bytes, 8 << 12)
    assert largest.num_bytes < 4 * batch * num_entries / 20
    assert 4 * 8 * reference_of_dags._TILE <= 64 << 20


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 130])
def test_any_number_of_rows(rows: int) -> None:
    dag = SHAPES["random"]
    check(dag, torch.randn(rows, dag.num_classes))


def test_strided_rows() -> None:
    dag, table = SHAPES["random"], table_of(SHAPES["random"])
    logits = torch.randn(dag.num_classes, 6).t()
    spaced = torch.randn(6, 2 * dag.num_classes)[:, ::2]
    for x in (logits, spaced):
        assert dag_log_prob(x, table, True).equal(dag_log_prob(x.contiguous(), table, True))
        assert dag_sum_up(x, table).equal(dag_sum_up(x.contiguous(), table))


# Rising mass


@every_shape
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kept_mass(shape: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Any mass and any shares: all terms are positive, so each entry has full precision."""
    dag = SHAPES[shape]
    mass = torch.from_numpy(rng.random((ROWS, dag.num_nodes))).to(dtype)
    keep = rng.random(dag.num_nodes).astype(np.float32)
    expected = dag.kept_mass(to_real(mass), keep)
    for shares in (torch.from_numpy(keep), torch.from_numpy(keep).double()):
        found = dag_kept_mass(mass, shares, table_of(dag))
        assert found.dtype == oracle.working_dtype(dtype)
        assert_sums_close(found, expected, expected, roundings=32)


def test_kept_mass_worked_example() -> None:
    """Node 3 keeps d and its two parents share the rest; node 4 has one parent."""
    table, d = table_of(dags.diamond()), 0.75
    keep = torch.tensor([1, d, d, d, d])
    found = dag_kept_mass(torch.eye(5)[3:], keep, table)
    up = (1 - d) / 2
    assert found.tolist() == [[2 * up * (1 - d), up * d, up * d, d, 0], [1 / 16, 0, 3 / 16, 0, d]]


@given(dags.dags(), st.floats(0.01, 1))
@examples
def test_mass_is_conserved(dag: Dag, dilution: float) -> None:
    keep = torch.from_numpy(dag.dilution(dilution))
    found = dag_kept_mass(torch.eye(dag.num_nodes).double(), keep, table_of(dag))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)
    assert bool((found >= 0).all())
    assert (
        (found > 0).numpy()
        <= [[v in dag.ancestors(u) for v in range(dag.num_nodes)] for u in range(dag.num_nodes)]
    ).all()


def test_gradient_of_kept_mass() -> None:
    dag = SHAPES["shortcut"]
    keep = torch.rand(dag.num_nodes, dtype=torch.float64)
    mass = torch.rand(2, dag.num_nodes, dtype=torch.float64, requires_grad=True)

    def squared(mass: torch.Tensor) -> torch.Tensor:
        return dag_kept_mass(mass, keep, table_of(dag)).square()

    assert torch.autograd.gradcheck(squared, mass)
    assert torch.autograd.gradgradcheck(squared, mass)


# Calls


def test_refusals() -> None:
    table = table_of(dags.diamond())
    ones = torch.ones
    with pytest.raises(ValueError, match=r"logits must be \(B, 2\), .* got \(3, 5\)"):
        dag_log_prob(ones(3, 5), table, True)
    with pytest.raises(ValueError, match=r"values must be \(B, 2\), one column per .* \(2,\)"):
        dag_sum_up(ones(2), table)
    with pytest.raises(ValueError, match=r"values must be \(B, 5\), one column per node"):
        dag_sum_down(ones(3, 2), table)
    with pytest.raises(ValueError, match=r"mass must be \(B, 5\)"):
        dag_kept_mass(ones(3, 2), ones(5), table)
    with pytest.raises(ValueError, match=r"keep must be \(5,\), one share per node; got \(2,\)"):
        dag_kept_mass(ones(3, 5), ones(2), table)
    with pytest.raises(ValueError, match="keep requires grad"):
        dag_kept_mass(ones(3, 5), ones(5, requires_grad=True), table)
    for call in (dag_sum_up, lambda x, table: dag_log_prob(x, table, False)):
        with pytest.raises(TypeError, match=r"must be floating point, got torch\.int64"):
            call(torch.ones(3, 2, dtype=torch.int64), table)


def test_compiles_into_one_graph() -> None:
    dag, table = dags.shared_leaf(), table_of(dags.shared_leaf())
    keep = torch.from_numpy(dag.dilution(0.5))

    def loss(z: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        log_p = dag_log_prob(z, table, True) + dag_sum_up(z, table)
        return (dag_kept_mass(mass, keep, table) * log_p).sum()

    mass = torch.rand(4, 5)
    z = torch.randn(4, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(z, mass), z)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(z, mass), z)
    assert found.equal(expected)


def test_threads_do_not_matter(threads: Callable[[int], None]) -> None:
    dag = dags.random_dag(np.random.default_rng(0), 300)
    table = table_of(dag)
    logits, results = torch.randn(70, dag.num_classes), []
    for count in (1, 2, 3):
        threads(count)
        z = logits.clone().requires_grad_()
        log_p = dag_log_prob(z, table, True)
        finite = torch.where(log_p > -torch.inf, log_p, 0.0)
        results.append((log_p, *torch.autograd.grad(finite.square().sum(), z)))
    assert all(x.equal(y) for other in results[1:] for x, y in zip(results[0], other, strict=True))


# Sizes


def large_dag(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and leaves of a DAG about ten levels deep.

    Each node has a parent whose number is about a tenth of its own; some nodes have two parents.
    """
    rng = np.random.default_rng(0)
    child = np.arange(1, num_nodes)
    further = rng.choice(child[num_nodes // 2 :], num_nodes // 20, replace=False)
    edges = np.concatenate(
        [
            np.stack([(child * rng.random(len(child)) * 0.6).astype(np.int64), child], 1),
            np.stack([(further * rng.random(len(further)) * 0.6).astype(np.int64), further], 1),
        ]
    )
    edges = np.unique(edges, axis=0)
    return edges, np.setdiff1d(np.arange(num_nodes), edges[:, 0])


def ancestors(edges: np.ndarray, node: int) -> Iterator[int]:
    parents: dict[int, list[int]] = {}
    for u, v in edges.tolist():
        parents.setdefault(v, []).append(u)
    found, reached = {node}, [node]
    while reached:
        reached = [u for v in reached for u in parents.get(v, []) if u not in found]
        found.update(reached)
    return iter(sorted(found))


@pytest.mark.thorough
def test_as_large_as_wordnet() -> None:
    edges, leaves = large_dag(82_000)
    started = time.process_time()
    table = build_closure_table(edges, 82_000, leaves)
    assert time.process_time() - started < 20
    above = lists(table.above)
    assert 8 < len(table.column) / len(leaves) < 20
    for label in (0, 777, len(leaves) - 1):
        assert above[label] == list(ancestors(edges, int(leaves[label])))


def test_twenty_thousand_nodes() -> None:
    edges, leaves = large_dag(20_000)
    table = build_closure_table(edges, 20_000, leaves)
    z = torch.randn(16, len(leaves), requires_grad=True)
    started = time.process_time()
    log_p = dag_log_prob(z, table, True)
    (grad,) = torch.autograd.grad(log_p[:, table.column_node.long()].sum(), z)
    assert time.process_time() - started < 20
    # On the leaves, this is the log-softmax.
    expected = to_real(z) - log_sum_exp(to_real(z))[:, None]
    found = log_p.detach()[:, table.column_node.long()]
    assert_log_probs_close(found, expected, z.dtype)
    pull = len(leaves) * np.exp(expected)
    assert_sums_close(grad, 1 - pull, 1 + pull)


@pytest.mark.parametrize("levels", [5_000, *thoroughly(20_000)])
def test_mass_up_a_long_chain(levels: int) -> None:
    """The chain's leaf is also directly below the root."""
    nodes = np.arange(levels)
    edges = np.concatenate([np.stack([nodes[:-1], nodes[1:]], 1), [[0, nodes[-1]]]])
    started = time.process_time()
    table = build_closure_table(edges, len(nodes), nodes[-1:])
    mass = torch.zeros(1, len(nodes), dtype=torch.float64, requires_grad=True)
    share = 2 / levels
    keep = torch.full((levels,), share, dtype=torch.float64)
    keep[0] = 1
    kept = dag_kept_mass(mass + torch.from_numpy(nodes == nodes[-1]), keep, table)
    (grad,) = torch.autograd.grad(kept.sum(), mass)
    assert time.process_time() - started < 20
    rest = 1 - share
    expected = rest / 2 + rest ** (levels - 1) / 2
    assert float(kept[0, 0].detach()) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(grad, 1, rtol=1e-10)  # all mass is kept at some node
