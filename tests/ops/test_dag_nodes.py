"""`tree_log_prob`, `tree_sum_up` and `tree_sum_down` on DAGs agree with the 80-bit oracle."""

from __future__ import annotations

from typing import Any

import dags
import numpy as np
import oracle
import pytest
import torch
from backend import Backend
from cases import DTYPES
from dags import SHAPES, Dag
from hypothesis import given
from hypothesis import strategies as st
from oracle import assert_grad_close, assert_log_probs_close, assert_sums_close, to_real
from test_hace_loss_properties import SEEDS, property_test

import hace_kernels
from hace_kernels import ClosureTable, build_closure_table

pytestmark = pytest.mark.parity

few_shapes = pytest.mark.sample(
    shape=["shared leaf", "empty nodes", "random", "nodes"], dtype=[torch.float32, torch.bfloat16]
)


def table_of(dag: Dag, backend: Backend) -> ClosureTable:
    table = build_closure_table(dag.edge_array(), dag.num_nodes, np.array(dag.classes))
    return table.to(backend.device)


def logits_of(dag: Dag, rng: np.random.Generator, rows: int, scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(scale * rng.normal(size=(rows, dag.num_classes)))


def check_log_probs(
    dag: Dag, logits: torch.Tensor, rng: np.random.Generator, backend: Backend
) -> None:
    """Checks values, and the gradient for a different incoming gradient at each node."""
    incoming = torch.from_numpy(rng.normal(size=(len(logits), dag.num_nodes)))
    z = logits.to(backend.device, copy=True).requires_grad_()
    log_p = hace_kernels.tree_log_prob(z, table_of(dag, backend), backend=backend.name)
    (grad,) = torch.autograd.grad(log_p, z, incoming.to(log_p))
    assert grad.dtype == logits.dtype
    roundings = 16 + len(dag.roots()) + max(dag.heights())
    exact = oracle.node_log_probs(logits, dag.reach())
    assert_log_probs_close(log_p, exact, logits.dtype, roundings=roundings)
    answer = oracle.node_log_probs_grad(logits, dag.reach(), incoming.to(log_p.dtype))
    assert_grad_close(grad, answer, roundings=roundings)


@few_shapes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_probs(
    backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype
) -> None:
    dag = SHAPES[shape]
    check_log_probs(dag, logits_of(dag, rng, 5).to(dtype), rng, backend)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(rows=[17])
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 33])
def test_numbers_of_rows(backend: Backend, rng: np.random.Generator, rows: int) -> None:
    dag = SHAPES["random"]
    check_log_probs(dag, logits_of(dag, rng, rows).float(), rng, backend)


@pytest.mark.not_on("triton-interpreted", reason="it has no time for hundreds of DAGs")
def test_log_probs_of_any_dag(backend: Backend) -> None:
    """Any DAG is right, with some logits far apart and some -inf."""

    @property_test
    @given(dags.dags(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
    def any_dag(dag: Dag, seed: int, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(seed)
        logits = torch.cat([logits_of(dag, rng, 3, scale) for scale in (1.0, 30.0, 1e4)])
        dead = rng.random(logits.shape) < rng.choice([0, 0.5])
        dead[np.arange(9), rng.integers(dag.num_classes, size=9)] = False
        logits[torch.from_numpy(dead)] = -torch.inf
        check_log_probs(dag, logits.to(dtype), rng, backend)

    any_dag()


def test_rows_without_softmax_are_nan(backend: Backend, rng: np.random.Generator) -> None:
    dag = SHAPES["random"]
    logits = logits_of(dag, rng, 4).float()
    logits[1], logits[2, 0], logits[3, 1] = -torch.inf, torch.nan, torch.inf
    table = table_of(dag, backend)
    log_p = hace_kernels.tree_log_prob(logits.to(backend.device), table, backend=backend.name)
    has_class = torch.from_numpy(dag.reach().any(axis=1))
    assert log_p[0, has_class].isfinite().all()
    assert log_p[1:, has_class].isnan().all()


@few_shapes
@pytest.mark.parametrize("op", ["up", "down"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums(
    backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype, op: str
) -> None:
    """Sums are products with the matrix, and their gradients with the transposed matrix."""
    dag = SHAPES[shape]
    function = hace_kernels.tree_sum_up if op == "up" else hace_kernels.tree_sum_down
    matrix = (dag.reach() if op == "up" else dag.reach().T).astype(np.longdouble)
    given = torch.from_numpy(rng.normal(size=(18, matrix.shape[1]))).to(dtype)
    incoming = torch.from_numpy(rng.normal(size=(18, matrix.shape[0]))).to(dtype)
    values = given.to(backend.device, copy=True).requires_grad_()
    sums = function(values, table_of(dag, backend), backend=backend.name)
    (grad,) = torch.autograd.grad(sums, values, incoming.to(backend.device))
    assert sums.dtype == grad.dtype == dtype
    x, g = to_real(given), to_real(incoming)
    assert_sums_close(sums, x @ matrix.T, np.abs(x) @ matrix.T)
    assert_sums_close(grad, g @ matrix, np.abs(g) @ matrix)


@pytest.mark.not_on("triton-interpreted", reason="it has no time for hundreds of DAGs")
def test_sums_over_any_dag(backend: Backend) -> None:
    @property_test
    @given(dags.dags(), SEEDS)
    def any_dag(dag: Dag, seed: int) -> None:
        rng = np.random.default_rng(seed)
        table, reach = table_of(dag, backend), torch.from_numpy(dag.reach()).double()
        of_columns = torch.from_numpy(rng.integers(-9, 9, (3, dag.num_classes))).double()
        of_nodes = torch.from_numpy(rng.integers(-9, 9, (3, dag.num_nodes))).double()
        for function, values, matrix in (
            (hace_kernels.tree_sum_up, of_columns, reach.T),
            (hace_kernels.tree_sum_down, of_nodes, reach),
        ):
            sums = function(values.to(backend.device), table, backend=backend.name)
            assert sums.cpu().equal(values @ matrix)

    any_dag()


@pytest.mark.parametrize("op", ["log_prob", "sum_up", "sum_down"])
def test_rows_may_have_any_strides(backend: Backend, rng: np.random.Generator, op: str) -> None:
    dag = SHAPES["nodes"]
    function, table = getattr(hace_kernels, f"tree_{op}"), table_of(dag, backend)
    width = dag.num_nodes if op == "sum_down" else dag.num_classes
    wide = torch.from_numpy(rng.normal(size=(2 * width, 34))).float().to(backend.device)
    strided = wide.t()[::2, ::2]
    plain = strided.clone(memory_format=torch.contiguous_format)
    found = function(strided, table, backend=backend.name)
    assert torch.equal(found, function(plain, table, backend=backend.name))


@pytest.mark.not_on("gpu", reason="it does not use the CPU's threads")
@pytest.mark.not_on("triton-interpreted", reason="its programs run one after the other")
def test_threads_do_not_matter(backend: Backend, rng: np.random.Generator, threads: Any) -> None:
    dag = SHAPES["random"]
    z, table = logits_of(dag, rng, 70).float().requires_grad_(), table_of(dag, backend)
    found = []
    for number in (1, 2):
        threads(number)
        log_p = hace_kernels.tree_log_prob(z, table, backend=backend.name)
        found.append((log_p.detach(), *torch.autograd.grad(log_p.square().sum(), z)))
    assert all(map(torch.equal, *found))


@pytest.mark.thorough_on("triton")
@pytest.mark.parametrize("op", ["log_prob", "sum_up", "sum_down"])
@pytest.mark.sample(op=["log_prob"])
def test_second_derivatives(backend: Backend, rng: np.random.Generator, op: str) -> None:
    small = dags.random_dag(rng, 12, extra=0.5, roots=2)
    function, table = getattr(hace_kernels, f"tree_{op}"), table_of(small, backend)
    width = small.num_nodes if op == "sum_down" else small.num_classes
    x = torch.from_numpy(rng.normal(size=(1, width))).to(backend.device).requires_grad_()

    def squared(x: torch.Tensor) -> torch.Tensor:
        values = function(x, table, backend=backend.name)
        return torch.where(values > -torch.inf, values, 0.0).square()

    assert torch.autograd.gradcheck(squared, x)
    assert torch.autograd.gradgradcheck(squared, x)


@pytest.mark.not_on(
    "reference",
    "cuda-emulated",
    "triton-interpreted",
    "gpu",
    reason="only the CPU's kernels check tables",
)
def test_bad_tables_are_refused(backend: Backend, rng: np.random.Generator) -> None:
    """Arrays that point out of the table are refused."""
    dag = SHAPES["random"]
    table = table_of(dag, backend)
    logits = logits_of(dag, rng, 2).float()
    spanning = table.spanning
    for name, entry in (("part", table.spanning.tree.num_places), ("part", -1), ("place", -2)):
        broken = getattr(spanning, name).clone()
        broken[0] = entry
        bad = table._replace(spanning=spanning._replace(**{name: broken}))
        for op in (hace_kernels.tree_log_prob, hace_kernels.tree_sum_up):
            with pytest.raises(RuntimeError, match="not those of a ClosureTable"):
                op(logits, bad, backend="cpu")
