"""`tree_log_loss` on DAGs agrees with the 80-bit oracle, on every backend."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import dags
import numpy as np
import pytest
import torch
from backend import Backend
from cases import DTYPES
from dags import SHAPES, Dag
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    Answer,
    assert_grad_close,
    assert_loss_close,
    node_log_loss,
    reduce,
    to_real,
    working_dtype,
)
from test_hace_loss_properties import SEEDS, property_test

import hace_kernels
from hace_kernels import TargetTable, build_closure_table

pytestmark = [
    pytest.mark.parity,
    pytest.mark.not_on("triton-interpreted", reason="test_interpreted.py has some of the cases"),
]


class Case:
    """A loss whose targets are all nodes with a class; `options` are those of the target table."""

    def __init__(
        self,
        dag: Dag,
        rng: np.random.Generator,
        dilution: float | None = None,
        **options: Any,
    ) -> None:
        self.dag, self.rng = dag, rng
        self.table = build_closure_table(dag.edge_array(), dag.num_nodes, np.array(dag.classes))
        self.keep = rng.random(dag.num_nodes) if dilution is None else dag.dilution(dilution)
        has_class = dag.reach().any(axis=1)
        self.targets = TargetTable(
            place=torch.from_numpy(np.where(has_class, np.arange(dag.num_nodes), -1)).int(),
            keep=torch.from_numpy(self.keep),
            unit=torch.zeros(dag.num_nodes, dtype=torch.float64),
            share=torch.ones(dag.num_nodes, dtype=torch.float64),
            weight=None,
            spread=None,
            row_spread=0.0,
            soft_labels=None,
        )._replace(**options)
        self.nodes = np.flatnonzero(has_class)

    def logits(self, rows: int, dtype: torch.dtype, scale: float = 2.0) -> torch.Tensor:
        z = scale * self.rng.normal(size=(rows, self.dag.num_classes))
        return torch.from_numpy(z).to(dtype)

    def indices(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.choice(self.nodes, shape))

    def probabilities(self, rows: int) -> torch.Tensor:
        """Probabilities of nodes, most of which are 0."""
        mass = self.rng.random((rows, self.dag.num_nodes)) * (self.rng.random(rows)[:, None] > 0.1)
        mass[self.rng.random(mass.shape) < 0.5] = 0
        mass[:, self.targets.place.numpy() < 0] = 0
        return torch.from_numpy(mass)

    def mass(self, target: Any, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        """The mass of the targets on each node before it rises, and what all classes get, (B, N).

        Their sum is what counts. What smoothing leaves out at a target is negative.
        """
        table = self.targets
        if isinstance(target, torch.Tensor) and target.is_floating_point():
            put = to_real(target.to(working_dtype(dtype)))
        else:
            index, weight = target if isinstance(target, tuple) else (target[:, None], None)
            weight = torch.ones(index.shape).double() if weight is None else weight
            put = np.zeros((len(index), self.dag.num_nodes), np.longdouble)
            for row, k in np.argwhere(index.numpy() != -100):
                put[row, index[row, k]] += np.longdouble(weight[row, k].item())
        everywhere = np.full((len(put), 1), np.longdouble(table.row_spread))
        if table.spread is not None:
            everywhere += (put * to_real(table.spread)).sum(1, keepdims=True)
        own, spread = put * to_real(table.share), everywhere * to_real(table.unit)
        if isinstance(target, torch.Tensor) and not target.is_floating_point():
            ignored = target.numpy() == -100
            own[ignored] = spread[ignored] = 0
        return own, spread

    def check(
        self,
        logits: torch.Tensor,
        target: Any,
        backend: Backend,
        eps: float = 0.0,
        roundings: float = 24,
    ) -> None:
        """Checks the loss and the gradient of each row, with its own incoming gradient."""
        own, spread = self.mass(target, logits.dtype)

        def answer_for(mass: np.ndarray) -> Answer:
            return node_log_loss(logits, self.dag.reach(), self.dag.kept_mass(mass, self.keep), eps)

        answer = answer_for(own + spread)
        if (own * spread < 0).any():  # roundings are those of the terms, however much cancels
            terms = answer_for(np.where(own + spread == 0, 0, np.abs(own) + np.abs(spread)))
            answer = replace(answer, loss_scale=terms.loss_scale, grad_scale=terms.grad_scale)
        device = backend.device
        z = logits.to(device, copy=True).requires_grad_()
        given = (
            tuple(part.to(device) for part in target)
            if isinstance(target, tuple)
            else target.to(device)
        )
        loss = hace_kernels.tree_log_loss(
            z, given, self.table.to(device), self.targets.to(device),
            reduction="none", eps=eps, backend=backend.name,
        )  # fmt: skip
        assert_loss_close(loss, answer, logits.dtype, roundings)
        incoming = torch.from_numpy(self.rng.normal(size=len(logits))).to(loss.dtype)
        (grad,) = torch.autograd.grad(loss, z, incoming.to(device))
        answer = reduce(answer, "none", len(logits), incoming.numpy())
        assert_grad_close(grad, answer, roundings=roundings)


class ClassCase(Case):
    """A loss whose targets are the classes, in their order; their probabilities are its targets."""

    def __init__(self, dag: Dag, rng: np.random.Generator, **options: Any) -> None:
        super().__init__(dag, rng, **options)
        self.of_nodes, node = self.targets, torch.tensor(list(dag.classes))
        spread = self.targets.spread
        self.targets = self.targets._replace(
            place=self.targets.place[node],
            share=self.targets.share[node],
            spread=None if spread is None else spread[node],
        )

    def probabilities(self, rows: int) -> torch.Tensor:
        mass = self.rng.random((rows, self.dag.num_classes))
        mass[self.rng.random(mass.shape) < 0.5] = 0
        return torch.from_numpy(mass)

    def mass(self, target: Any, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
        by_node = torch.zeros(len(target), self.dag.num_nodes, dtype=target.dtype)
        by_node[:, list(self.dag.classes)] = target
        of_classes, self.targets = self.targets, self.of_nodes
        found = super().mass(by_node, dtype)
        self.targets = of_classes
        return found


def smoothing(dag: Dag, rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Options of a target table: smoothing of a kind, and class weights.

    Smoothing adds ε/C to every class, to every node, or to all classes but the target.
    """
    epsilon, unit = 0.1, np.zeros(dag.num_nodes)
    on = dag.reach().any(axis=1) if kind == "nodes" else np.isin(range(dag.num_nodes), dag.classes)
    unit[on] = rng.random(int(on.sum())) if kind == "weights" else 1
    options: dict[str, Any] = {"unit": torch.from_numpy(unit)}
    share = np.full(dag.num_nodes, 1 - epsilon)
    if kind in ("others", "all on others"):
        epsilon = 1.0 if kind == "all on others" else epsilon
        to_each = epsilon / max(1, on.sum() - 1)
        share = np.where(on, 1 - epsilon - to_each, 1 - epsilon)
        options["spread"] = torch.from_numpy(np.where(on, to_each, epsilon / on.sum()))
    else:
        options["row_spread"] = epsilon / on.sum()
    return {**options, "share": torch.from_numpy(share)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(
    backend: Backend, rng: np.random.Generator, shape: str, eps: float, dtype: torch.dtype
) -> None:
    case = Case(SHAPES[shape], rng)
    for rows in FEW_AND_MANY:
        case.check(case.logits(rows, dtype), case.indices(rows), backend, eps)


def test_any_dag(backend: Backend) -> None:
    """Any DAG is right, with some logits far apart and some -inf."""

    @property_test
    @given(dags.dags(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
    def any_dag(dag: Dag, seed: int, dtype: torch.dtype) -> None:
        case = Case(dag, np.random.default_rng(seed), 0.7)
        logits = torch.cat([case.logits(3, dtype, scale) for scale in (1.0, 30.0, 1e4)])
        dead = case.rng.random(logits.shape) < case.rng.choice([0, 0.5])
        dead[np.arange(9), case.rng.integers(dag.num_classes, size=9)] = False
        logits[torch.from_numpy(dead)] = -torch.inf
        case.check(logits, case.indices(9), backend)
        case.check(logits.repeat(2, 1), case.indices(18), backend)

    any_dag()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pairs(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Some entries are ignored, in one row all; a target occurs twice; weights have any sign."""
    case = Case(SHAPES["random"], rng)
    for rows in FEW_AND_MANY:
        index = case.indices(rows, 3)
        index[rng.random((rows, 3)) < 0.3] = -100
        index[0], index[1] = index[1, 0], -100
        weight = torch.from_numpy(rng.normal(size=(rows, 3)))
        weight[1] = 1
        case.check(case.logits(rows, dtype), (index, weight), backend)


#: Numbers of rows that fill a part of a block on the CPU, and more than one block.
FEW_AND_MANY = [9, 20]

SMOOTHING = ["uniform", "nodes", "others", "all on others", "weights"]


@pytest.mark.sample(shape=["random", "nodes"], dtype=[torch.float32], eps=[0.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("kind", SMOOTHING)
@pytest.mark.parametrize("shape", ["shared leaf", "empty nodes", "random", "nodes"])
def test_smoothing(
    backend: Backend,
    rng: np.random.Generator,
    shape: str,
    kind: str,
    eps: float,
    dtype: torch.dtype,
) -> None:
    """Indices, pairs and probabilities can be smoothed."""
    dag = SHAPES[shape]
    case = Case(dag, rng, **smoothing(dag, rng, kind))
    case.check(case.logits(9, dtype), case.indices(9), backend, eps)
    index, weight = case.indices(9, 3), torch.from_numpy(rng.random((9, 3)))
    index[rng.random((9, 3)) < 0.2] = -100
    index[:, 0] = case.indices(9)
    case.check(case.logits(9, dtype), (index, weight), backend, eps)
    case.check(case.logits(9, dtype), case.probabilities(9), backend, eps)


@pytest.mark.sample(shape=["two roots"], dtype=[torch.float32], rows=[35])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("rows", [0, 1, 35])
@pytest.mark.parametrize("shape", ["random", "two roots"])
def test_probabilities(
    backend: Backend,
    rng: np.random.Generator,
    shape: str,
    rows: int,
    eps: float,
    dtype: torch.dtype,
) -> None:
    case = Case(SHAPES[shape], rng)
    case.check(case.logits(rows, dtype), case.probabilities(rows), backend, eps)


@pytest.mark.sample(dtype=[torch.float32], kind=[None, "others"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [None, "uniform", "others", "weights"])
@pytest.mark.parametrize("shape", ["random", "two roots", "wide"])
def test_probabilities_of_classes(
    backend: Backend, rng: np.random.Generator, shape: str, kind: str | None, dtype: torch.dtype
) -> None:
    dag = wide() if shape == "wide" else SHAPES[shape]
    case = ClassCase(dag, rng, **(smoothing(dag, rng, kind) if kind else {}))
    for rows in (1, 35):
        case.check(case.logits(rows, dtype), case.probabilities(rows), backend)


def wide() -> Dag:
    """Two nodes with 70 leaves each, 30 of which they share."""
    edges = [(0, v) for v in range(2, 72)] + [(1, v) for v in range(42, 112)]
    return Dag(edges, 112, range(2, 112))


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offsets(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """The logits of a row may all be far from 0."""
    dag = SHAPES["random"]
    kinds = {}, smoothing(dag, rng, "uniform")
    largest = 5e4 if dtype == torch.float16 else 1e30
    offset = [0.3, -0.3, 80, -80, 300, -300, 5e3, -2e4, 1.2e5, -1.4e5, 1e6, largest, -largest]
    offsets = torch.tensor(offset).clamp(-largest, largest)
    for options in kinds:
        case = Case(dag, rng, **options)
        logits = (case.logits(len(offsets), torch.float64, 3.0) + offsets[:, None]).to(dtype)
        case.check(logits, case.indices(len(offsets)), backend)
        case.check(logits, case.probabilities(len(offsets)), backend)


@pytest.mark.parametrize("kind", [None, "uniform", "others"])
def test_soft_targets_on_any_dag(backend: Backend, kind: str | None) -> None:
    """Any DAG is right, with some logits far apart and some -inf."""

    @property_test
    @given(dags.dags(), SEEDS, st.sampled_from([torch.float32, torch.float64]))
    def any_dag(dag: Dag, seed: int, dtype: torch.dtype) -> None:
        rng = np.random.default_rng(seed)
        case = Case(dag, rng, 0.7, **(smoothing(dag, rng, kind) if kind else {}))
        logits = torch.cat([case.logits(3, dtype, scale) for scale in (1.0, 30.0, 1e4)])
        dead = case.rng.random(logits.shape) < case.rng.choice([0, 0.5])
        dead[np.arange(9), case.rng.integers(dag.num_classes, size=9)] = False
        logits[torch.from_numpy(dead)] = -torch.inf
        case.check(logits, case.probabilities(9), backend)
        case.check(logits, case.indices(9), backend)

    any_dag()


def test_all_mass_on_others(backend: Backend) -> None:
    """A class that smoothing leaves without mass adds nothing, even if its logit is -inf."""
    dag = SHAPES["shared leaf"]
    rng = np.random.default_rng(0)
    case = Case(dag, rng, 1.0, **smoothing(dag, rng, "all on others"))
    logits = case.logits(3, torch.float32)
    logits[:, 2] = -torch.inf  # column 2 is the class at node 2
    case.check(logits, torch.full((3,), 2), backend)
    case.check(logits, (torch.full((3, 1), 2), torch.full((3, 1), 0.7)), backend)
    one = torch.eye(dag.num_nodes)[[2, 2, 2]]
    case.check(logits, one, backend)


def test_class_without_mass_alone(backend: Backend) -> None:
    """With only one class, smoothing over the others leaves no mass at all."""
    dag = Dag([(0, 1), (2, 1)], 3, [1])
    case = Case(
        dag,
        np.random.default_rng(0),
        0.3,
        **smoothing(dag, np.random.default_rng(0), "all on others"),
    )
    case.check(torch.zeros(3, 1), torch.tensor([0, 1, 2]), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairs_that_smoothing_nearly_cancels(
    backend: Backend, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    """All of a target's mass goes to others, so that the heaviest target of a row keeps little."""
    dag = SHAPES["shared leaf"]
    case = Case(dag, rng, 0.7, **smoothing(dag, rng, "all on others"))
    weight = torch.from_numpy(rng.random((200, 2))) ** 8
    case.check(case.logits(200, dtype, 5.0), (case.indices(200, 2), weight), backend)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gaps_with_eps(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """Gradients are as exact as P where nodes are 20 or more below the largest logit."""
    dag = dags.random_dag(rng, 60, extra=0.5, roots=2)
    case = Case(dag, rng, 1.0)
    logits = case.logits(len(case.nodes), dtype)
    for row, node in enumerate(case.nodes):
        logits[row, torch.from_numpy(dag.reach()[node])] -= 20 + row
    # The reference has log P as one number, in float64 at most: beyond 64, half a unit in the last
    # place is 64 roundings; and P is on both sides of a fraction.
    of_log_p = 2 * 64 if backend.name == "reference" and dtype == torch.float64 else 0
    case.check(logits, torch.from_numpy(case.nodes), backend, eps=1e-6, roundings=24 + of_log_p)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gaps(backend: Backend, rng: np.random.Generator, dtype: torch.dtype) -> None:
    """The columns below a node are far below, or far above, all others."""
    dag = dags.random_dag(rng, 60, extra=0.5, roots=2)
    case = Case(dag, rng, 0.6)
    logits = case.logits(len(case.nodes), dtype)
    for row, node in enumerate(case.nodes):
        logits[row, torch.from_numpy(dag.reach()[node])] += (-50, 50, -200, -2000, 700)[row % 5]
    target = torch.from_numpy(case.nodes)
    case.check(logits, target, backend)
    for first in range(0, len(target), 15):
        case.check(logits[first : first + 15], target[first : first + 15], backend)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 33, 17_000])
def test_widths(backend: Backend, rng: np.random.Generator, width: int) -> None:
    """A wide node and another one that shares every third of its columns, in any column order."""
    leaves = 3 + rng.permutation(width)
    edges = [(0, 1), (0, 2), *((1, int(v)) for v in leaves), *((2, int(v)) for v in leaves[::3])]
    dag = _Wide(edges, width + 3, leaves.tolist())
    case = Case(dag, rng, 0.5)
    target = torch.tensor([1, 2, int(leaves[-1])])
    case.check(case.logits(3, torch.float32), target, backend)
    if width < 1000:
        case.check(case.logits(18, torch.float32), target.repeat(6), backend)


class _Wide(Dag):
    """The DAG of `test_widths`, whose properties are known without walking its edges."""

    @cached_property
    def parents(self) -> list[list[int]]:
        shared = set(self.classes[::3])
        rest = ([1, 2] if v in shared else [1] for v in range(3, self.num_nodes))
        return [[], [0], [0], *rest]

    @cached_property
    def downwards(self) -> list[int]:
        return [*range(self.num_nodes)]

    def reach(self) -> np.ndarray:
        reach = np.zeros((self.num_nodes, self.num_classes), bool)
        reach[:2], reach[2, ::3] = True, True
        reach[self.classes, np.arange(self.num_classes)] = True
        return reach


def test_rows_that_do_not_count(backend: Backend, rng: np.random.Generator) -> None:
    case = Case(SHAPES["random"], rng)
    logits, target = case.logits(6, torch.float32), case.indices(6)
    target[[0, 3]], logits[0], logits[3] = -100, torch.nan, -torch.inf
    z, kept = logits.to(backend.device).requires_grad_(), target != -100
    tables = case.table.to(backend.device), case.targets.to(backend.device)
    target = target.to(backend.device)
    for reduction in ("sum", "mean"):
        given_all = hace_kernels.tree_log_loss(
            z, target, *tables, reduction=reduction, backend=backend.name
        )
        alone = hace_kernels.tree_log_loss(
            z[kept], target[kept], *tables, reduction=reduction, backend=backend.name
        )
        torch.testing.assert_close(given_all, alone)
        (grad,) = torch.autograd.grad(given_all, z)
        assert grad.isfinite().all()
        assert (grad[~kept] == 0).all()


def test_mass_where_no_class_is(backend: Backend, rng: np.random.Generator) -> None:
    case = Case(SHAPES["empty nodes"], rng)
    mass = torch.zeros(20, case.dag.num_nodes)
    nowhere = int(np.flatnonzero(case.targets.place.numpy() < 0)[0])
    mass[17:, nowhere] = 0.5
    assert_refused(case, mass, rf"target {nowhere} of row 17 has no class", backend)


def test_bad_targets(backend: Backend, rng: np.random.Generator) -> None:
    case = Case(SHAPES["empty nodes"], rng)
    nothing_below = int(np.flatnonzero(case.targets.place.numpy() < 0)[0])
    for target, message in (
        (case.dag.num_nodes, "out of range"),
        (-1, "out of range"),
        (nothing_below, "no class"),
    ):
        assert_refused(case, torch.tensor([target]), message, backend)


@pytest.mark.not_on(
    "reference", "cuda-emulated", "triton-interpreted", "gpu", reason="only the CPU takes the plan"
)
@pytest.mark.parametrize("kind", ["index", "probabilities"])
def test_bad_plans_are_refused(backend: Backend, rng: np.random.Generator, kind: str) -> None:
    """No array of a plan may point out of the lines."""
    case = Case(SHAPES["random"], rng)
    logits = case.logits(2, torch.float32)
    target = torch.tensor([0, 1])
    if kind == "probabilities":
        target = torch.rand(2, case.targets.num_targets).softmax(1)
        target[:, case.targets.place < 0] = 0
    plan = case.table.plan

    def message(plan: torch.Tensor) -> str:
        table = case.table._replace(plan=plan)
        try:
            hace_kernels.tree_log_loss(logits, target, table, case.targets, backend="cpu")
        except RuntimeError as error:
            return str(error)
        return ""

    refused = 0
    for i in range(len(plan)):
        for entry in (-7, 1 << 20):
            bad = plan.clone()
            bad[i] = entry
            found = message(bad)
            assert found == "" or "not those of a ClosureTable" in found
            refused += found != ""
    assert refused > len(plan) / 2  # for indices, what lets mass rise is not read
    assert "not those of a ClosureTable" in message(plan[:-1])


def assert_refused(case: Case, target: torch.Tensor, message: str, backend: Backend) -> None:
    """Asserts an error that names the target or, on GPU backends, a NaN for the last row."""
    device = backend.device
    logits, tables = case.logits(len(target), torch.float32), (case.table, case.targets)

    def loss() -> torch.Tensor:
        return hace_kernels.tree_log_loss(
            logits.to(device), target.to(device), *(table.to(device) for table in tables),
            reduction="none", backend=backend.name,
        )  # fmt: skip

    if backend.names_bad_targets:
        with pytest.raises(IndexError, match=message):
            loss()
    else:
        assert loss()[-1].isnan()


@pytest.mark.not_on(
    "reference", reason="the last bits of PyTorch's sums depend on the rows' places"
)
@pytest.mark.parametrize("kind", [None, "uniform"])
def test_rows_do_not_depend_on_each_other(
    backend: Backend, rng: np.random.Generator, kind: str | None
) -> None:
    """Some rows have masses so far apart that kernels may treat them in another way."""
    dag = dags.random_dag(rng, 60, extra=0.5, roots=2)
    case = Case(dag, rng, 0.6, **(smoothing(dag, rng, kind) if kind else {}))
    logits, target = case.logits(40, torch.float32), case.indices(40)
    for row in range(0, 40, 3):
        logits[row, torch.from_numpy(dag.reach()[target[row]])] -= 200
    logits[5, 0] = -torch.inf
    logits[7] = torch.nan
    found = []
    for order in (torch.arange(40), torch.from_numpy(rng.permutation(40))):
        z = logits[order].to(backend.device).requires_grad_()
        tables = case.table.to(backend.device), case.targets.to(backend.device)
        loss = hace_kernels.tree_log_loss(
            z, target[order].to(backend.device), *tables, reduction="none", backend=backend.name
        )
        (grad,) = torch.autograd.grad(loss.sum(), z)
        found.append([x.detach().cpu()[order.argsort()] for x in (loss, grad)])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first.nan_to_num(-7), second.nan_to_num(-7))
    assert found[0][0].isnan().nonzero().flatten().tolist() == [7]


@pytest.mark.not_on("gpu", reason="it does not use the CPU's threads")
def test_threads_do_not_matter(backend: Backend, rng: np.random.Generator, threads: Any) -> None:
    case = Case(SHAPES["random"], rng)
    logits, target = case.logits(40, torch.float32).requires_grad_(), case.indices(40)
    found = []
    for number in (1, 2):
        threads(number)
        loss = hace_kernels.tree_log_loss(
            logits, target, case.table, case.targets, backend=backend.name
        )
        found.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    assert all(map(torch.equal, *found))
