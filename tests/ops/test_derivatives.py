"""All of PyTorch's ways to differentiate agree with finite differences or with eager gradients.

The tests of each op compare the eager gradient itself with the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import tree_case
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from tree_cases import TreeCase, some_case

import hace
from hace_kernels import (
    TargetTable,
    path_log_loss,
    tree_log_loss,
    tree_log_prob,
    tree_sum_down,
    tree_sum_up,
)
from hace_kernels.closure_table import build_closure_table

pytestmark = pytest.mark.parity

ROWS = 4
Function = Callable[..., torch.Tensor]

LOSSES = [
    "path none", "path mean", "path sum entropy", "path mean weighted eps", "index mean",
    "index none smoothed", "index mean soft", "probabilities mean", "pairs none",
]  # fmt: skip
LINEAR = ["sum up", "sum down"]
ALL = [*LOSSES, "log-probabilities", *LINEAR]
#: One op of each kind.
DIFFERENT = ["path mean", "index none smoothed", "log-probabilities"]


def function(
    name: str, backend: Backend
) -> tuple[Function, torch.Tensor, tuple[torch.Tensor, ...]]:
    """An op as a function of logits and of other arguments with an entry per row, and values."""
    rng = np.random.default_rng(0)
    words = name.split()
    device, options = backend.device, {"backend": backend.name}
    if words[0] == "path":
        case = tree_case(
            trees.random_tree(rng, 6, roots=2, inner=0.2, shuffle=True), keep_full="eps" in words
        )
        table = case.table.to(device)
        options["reduction"] = words[1]
        if "entropy" in words:
            options["entropy"] = 0.3
        if "eps" in words:
            options["eps"] = 0.01
        if "weighted" in words:
            options["target_weight"] = torch.rand(case.num_targets, dtype=torch.float64).to(device)
        target = case.targets(ROWS)
        target[1] = -100

        def path(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return path_log_loss(x, target, table, **options)

        return path, case.logits(ROWS, torch.float64).to(device), (target.to(device),)

    case = some_case(rng, 6, shuffle=True)
    tree = case.table.to(device)
    logits = case.logits(ROWS, torch.float64).to(device)
    if words[0] in ("sum", "log-probabilities"):
        op: Any = {"up": tree_sum_up, "down": tree_sum_down}.get(words[-1], tree_log_prob)
        x = torch.randn(ROWS, case.num_nodes, dtype=torch.float64).to(device)
        return lambda x: op(x, tree, **options), (x if words[-1] == "down" else logits), ()

    table_options: dict[str, Any] = {"label_smoothing": 0.1} if "smoothed" in words else {}
    if "soft" in words:
        table_options = {"soft_label_beta": 2.0}
    table = case.target_table(weight=None, **table_options).to(device)
    options["reduction"] = words[1]
    if words[0] == "pairs":
        index, weight = case.pairs(ROWS, 3)

        def pairs(x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return tree_log_loss(x, (index, weight), tree, table, **options)

        return pairs, logits, (index.to(device), weight.double().to(device))
    target = (
        case.probabilities(ROWS).double() if words[0] == "probabilities" else case.targets(ROWS)
    )

    def soft(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return tree_log_loss(x, target, tree, table, **options)

    return soft, logits, (target.to(device),)


def jacobian(f: Function, x: torch.Tensor) -> torch.Tensor:
    """The Jacobian, by one ordinary backward pass per number."""
    x = x.detach().requires_grad_()
    y = f(x)
    rows = [torch.autograd.grad(one, x, retain_graph=True)[0] for one in y.reshape(-1)]
    return torch.stack(rows).reshape(*y.shape, *x.shape)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@many_rows
@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize("name", ALL)
def test_gradcheck(backend: Backend, name: str) -> None:
    """Both modes, also with batches of directions, agree with finite differences."""
    f, x, rows = function(name, backend)
    assert torch.autograd.gradcheck(
        lambda x: f(x, *rows),
        (x.requires_grad_(),),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@many_rows
@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in DIFFERENT else pytest.mark.thorough) for name in ALL],
)
def test_gradgradcheck(backend: Backend, name: str) -> None:
    f, x, rows = function(name, backend)
    assert torch.autograd.gradgradcheck(
        lambda x: f(x, *rows),
        (x.requires_grad_(),),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize("name", ALL)
def test_first_derivatives(backend: Backend, name: str) -> None:
    f, x, rows = function(name, backend)
    of_x = lambda x: f(x, *rows)  # noqa: E731
    wanted = jacobian(of_x, x)
    tangent = torch.randn_like(x)
    value, along = jvp(of_x, (x,), (tangent,))
    close(value, of_x(x))
    close(along, torch.einsum("...ij,ij->...", wanted, tangent))
    close(jacrev(of_x)(x), wanted)
    close(jacfwd(of_x)(x), wanted)
    _, pull = vjp(of_x, x)
    incoming = torch.randn_like(value)
    close(pull(incoming)[0], torch.tensordot(incoming, wanted, incoming.dim()))
    with forward_ad.dual_level():
        dual = of_x(forward_ad.make_dual(x, tangent))
        close(forward_ad.unpack_dual(dual).tangent, along)
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(of_x, x, vectorize=True, strategy=strategy)
        close(found, wanted)


class _InAnotherThread(torch.autograd.Function):
    """f(x), whose backward runs in a thread of its own, as a GPU's backward does."""

    @staticmethod
    def forward(ctx: Any, f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Any:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.value = f(ctx.x)
        return ctx.value.detach()

    @staticmethod
    def backward(ctx: Any, incoming: torch.Tensor) -> Any:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(torch.autograd.grad, ctx.value, ctx.x, incoming, retain_graph=True)
            return None, done.result()[0]


@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize("name", ALL)
def test_batches_of_gradients_in_another_thread(backend: Backend, name: str) -> None:
    f, x, rows = function(name, backend)
    value = f(x.requires_grad_(), *rows)
    incoming = torch.randn(3, *value.shape, dtype=value.dtype, device=value.device)
    wanted = [torch.autograd.grad(value, x, each, retain_graph=True)[0] for each in incoming]
    elsewhere = _InAnotherThread.apply(lambda x: f(x, *rows), x)
    (found,) = torch.autograd.grad(elsewhere, x, incoming, is_grads_batched=True)
    close(found, torch.stack(wanted))


@many_rows
@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize("name", ALL)
def test_second_derivatives(backend: Backend, name: str) -> None:
    """All orders of the modes agree; `test_gradgradcheck` checks one against differences."""
    f, x, rows = function(name, backend)
    of_x = lambda x: f(x, *rows).square().sum()  # noqa: E731
    wanted = torch.autograd.functional.hessian(of_x, x)
    for found in (
        hessian(of_x),
        jacrev(jacrev(of_x)),
        jacrev(jacfwd(of_x)),
        jacfwd(jacfwd(of_x)),
        jacfwd(grad(of_x)),
    ):
        close(found(x), wanted)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(name=DIFFERENT)
@pytest.mark.parametrize("name", ALL)
def test_batches(backend: Backend, name: str) -> None:
    """vmap works over any dimension of any argument."""
    f, x, rows = function(name, backend)
    xs = torch.stack([x, x.flip(1), x.flip(0)], 1)
    many = [torch.stack([row, row.flip(0), row], -1) for row in rows]
    in_dims = (1, *[-1] * len(rows))
    one_by_one = [f(xs[:, i], *(row[..., i].contiguous() for row in many)) for i in range(3)]
    close(vmap(f, in_dims)(xs, *many), torch.stack(one_by_one))
    close(vmap(lambda x: f(x, *rows), 1)(xs), torch.stack([f(xs[:, i], *rows) for i in range(3)]))
    if rows:
        alike = vmap(f, (None, *in_dims[1:]))(x, *many)
        close(alike[1], f(x, *(row.flip(0) for row in rows)))

    total = lambda x, *rows: f(x, *rows).square().sum()  # noqa: E731
    wanted = [jacobian(lambda x: total(x, *[r[..., i] for r in many]), xs[:, i]) for i in range(3)]  # noqa: B023
    close(vmap(grad(total), in_dims)(xs, *many), torch.stack(wanted))
    close(vmap(jacfwd(total), in_dims)(xs, *many), torch.stack(wanted))


@many_rows
@pytest.mark.sample(name=["path mean", "index none smoothed"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_each_sample(backend: Backend, name: str) -> None:
    """`vmap(grad(…))` over samples gives a model's gradients per sample."""
    f, x, rows = function(name, backend)
    model = torch.nn.Linear(5, x.shape[1], dtype=torch.float64).to(backend.device)
    features = torch.randn(ROWS, 5, dtype=torch.float64).to(backend.device)
    parameters = {key: value.detach() for key, value in model.named_parameters()}

    def loss_of(parameters: Any, features: torch.Tensor, *row: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, parameters, (features[None],))
        return f(logits, *(one[None] for one in row)).sum()

    used = [i for i in range(ROWS) if "path" not in name or i != 1]  # a mean of nothing is NaN
    features, rows = features[used], tuple(row[used] for row in rows)
    found = vmap(grad(loss_of), (None, 0, *[0] * len(rows)))(parameters, features, *rows)
    for i in range(len(used)):
        model.zero_grad()
        loss_of(dict(model.named_parameters()), features[i], *(row[i] for row in rows)).backward()
        close(found["weight"][i], model.weight.grad)
        close(found["bias"][i], model.bias.grad)


def test_forward_mode_of_a_module() -> None:
    """The derivative of log p of the first class by its own logit is 1 − p."""
    tree = hace.Hierarchy.from_paths(["a/x", "a/y", "b/z"])
    logits, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0])
    for backend in ("auto", "reference"):
        loss = hace.HACELoss(tree, 1.0, backend=backend)
        _, along = jvp(
            partial(loss, target=target),
            (logits,),
            (torch.tensor([[1.0, 0.0, 0.0]]),),
        )
        torch.testing.assert_close(along, torch.tensor(-0.90996945))


WAYS = ["forward", "batched", "reverse", "dual", "value"]


@pytest.mark.thorough_on("reference", "cuda", "triton")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(
            name,
            way,
            # A batch of gradients contains gradients, too.
            marks=()
            if name == "path mean" and way in ("forward", "batched")
            else pytest.mark.thorough,
        )
        for name in ("path mean", "index none smoothed", "log-probabilities", "sum up")
        for way in WAYS
    ],
)
def test_compiled(backend: Backend, name: str, way: str) -> None:
    """Transforms work inside a graph, and compiled functions work in forward mode."""
    f, x, rows = function(name, backend)
    of_x = lambda x: f(x, *rows)  # noqa: E731
    total = lambda x: of_x(x).sum()  # noqa: E731

    def compiled(function: Function) -> Function:
        torch._dynamo.reset()
        return torch.compile(function, backend="aot_eager", fullgraph=True)

    if way == "value":
        close(compiled(of_x)(x), of_x(x))
    elif way == "reverse":
        close(compiled(grad(total))(x), jacobian(total, x))
    elif way == "batched":
        close(compiled(vmap(grad(total)))(x[None])[0], jacobian(total, x))
    else:
        tangent = torch.randn_like(x)
        wanted = torch.einsum("...ij,ij->...", jacobian(of_x, x), tangent)
        if way == "forward":
            along = compiled(lambda x, tangent: jvp(of_x, (x,), (tangent,))[1])(x, tangent)
        else:
            with forward_ad.dual_level():
                dual = compiled(of_x)(forward_ad.make_dual(x, tangent))
                along = forward_ad.unpack_dual(dual).tangent
        close(along, wanted)


@pytest.mark.not_on(
    "reference",
    "cuda-emulated",
    "triton-interpreted",
    "gpu",
    reason="the names are those of the CPU's ops",
)
@pytest.mark.parametrize("name", ["path_log_loss", "tree_log_prob", "tree_sum_down"])
def test_an_op_called_itself_drops_no_tangent(backend: Backend, name: str) -> None:
    """The registered op has only reverse mode; others are refused, never silently dropped."""
    op = getattr(torch.ops.hace_kernels, name)
    if name == "path_log_loss":
        case = tree_case(trees.balanced((2, 2)))
        paths = case.table
        rest = (case.targets(ROWS), paths.tensors, paths.max_entries, None, 0.0, -100, 0, 0.0, True)
        x, call = torch.randn(ROWS, case.num_classes), lambda x: op(x, *rest)[0]
    else:
        nodes = some_case(np.random.default_rng(0), 6)
        tree = nodes.table
        width = nodes.num_nodes if name == "tree_sum_down" else tree.num_classes
        x, call = torch.randn(ROWS, width), lambda x: op(x, tree.tensors, [*tree.level_ptr])
    call(x)
    (grad_x,) = torch.autograd.grad(call(x.requires_grad_()).sum(), x)
    assert grad_x.abs().sum() > 0
    for requires_grad in (False, True):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward mode"):
            call(forward_ad.make_dual(x.detach().requires_grad_(requires_grad), torch.ones_like(x)))
    x = x.detach()
    with pytest.raises(NotImplementedError, match=rf"call hace_kernels\.{name}"):
        jvp(call, (x,), (x,))
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        grad(lambda x: call(x).sum())(x)
    with forward_ad.dual_level():  # a level that has nothing to do with the op
        call(x)


@pytest.mark.parametrize("name", ["path mean", "index mean", "probabilities mean"])
def test_logits_may_change_before_the_first_backward(backend: Backend, name: str) -> None:
    """The first backward pass needs no logits; the second needs them to compute again."""
    if backend.name == "reference":
        pytest.skip("autograd needs the logits here")
    f, x, rows = function(name, backend)
    wanted = jacobian(lambda x: f(x, *rows), x)
    logits = x.clone().requires_grad_()
    loss = f(logits, *rows)
    logits.detach().zero_()
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    close(found, wanted)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, logits)


def test_targets_that_change_are_noticed(backend: Backend) -> None:
    f, x, (target,) = function("path none", backend)
    loss = f(x.requires_grad_(), target)
    target.fill_(0)
    if backend.name != "reference":
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.sum().backward()


@pytest.mark.sample(reduction=["mean"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_target_weight_has_a_gradient(backend: Backend, reduction: str) -> None:
    rng = np.random.default_rng(0)
    case = tree_case(trees.random_tree(rng, 6))
    table = case.table.to(backend.device)
    logits = case.logits(ROWS, torch.float64).to(backend.device)
    target = case.targets(ROWS).to(backend.device)
    weight = torch.rand(case.num_targets, dtype=torch.float64).to(backend.device).requires_grad_()

    def loss_of(weight: torch.Tensor) -> torch.Tensor:
        return path_log_loss(
            logits, target, table, target_weight=weight, reduction=reduction, backend=backend.name
        )

    assert torch.autograd.gradcheck(loss_of, (weight,), check_forward_ad=True)
    with torch.no_grad():
        assert not loss_of(weight).requires_grad


def test_probabilities_have_a_gradient(backend: Backend) -> None:
    f, x, (target,) = function("probabilities mean", backend)
    of_target = lambda target: f(x, target)  # noqa: E731
    assert torch.autograd.gradcheck(of_target, (target.requires_grad_(),), check_forward_ad=True)
    close(grad(of_target)(target.detach()), jacobian(of_target, target))


def test_types_are_kept() -> None:
    case = TreeCase(trees.balanced([3, 2]))
    x = case.logits(3, torch.bfloat16)
    _, along = jvp(lambda x: tree_log_prob(x, case.table), (x,), (torch.ones_like(x),))
    assert along.dtype == torch.float32
    assert vmap(grad(lambda x: tree_log_prob(x[None], case.table).sum()))(x).dtype == x.dtype


# --- DAGs -----------------------------------------------------------------------------------------


def dag_function(name: str) -> tuple[Function, torch.Tensor]:
    """An op over a DAG that has a diamond, a class at an inner node, and a node without classes."""
    links = [[0, 1], [0, 2], [1, 3], [2, 3], [1, 4], [2, 5], [0, 6], [3, 7]]
    table = build_closure_table(np.array(links), 8, np.array([4, 3, 5, 7]))
    x = torch.randn(3, 8 if name == "sum down" else 4, dtype=torch.float64)
    if name in LINEAR:
        return partial(tree_sum_up if name == "sum up" else tree_sum_down, tree=table), x
    if name == "log-probabilities":
        used = torch.tensor([0, 1, 2, 3, 4, 5, 7])  # the others have log P = −inf
        return lambda x: tree_log_prob(x, table)[:, used], x
    keep = torch.full((8,), 0.7, dtype=torch.float64)
    keep[0] = 1
    target = TargetTable(
        place=torch.tensor([4, 3, 5, 7], dtype=torch.int32),
        keep=keep,
        unit=torch.tensor([0, 0, 0, 1, 1, 1, 0, 1], dtype=torch.float64),
        share=torch.full((4,), 0.9, dtype=torch.float64),
        weight=None,
        spread=None,
        row_spread=0.025,
        soft_labels=None,
    )
    return lambda x: tree_log_loss(x, torch.tensor([0, 1, 3]), table, target), x


@pytest.mark.parametrize("name", ["log-probabilities", *LINEAR, "loss"])
def test_dags(name: str) -> None:
    f, x = dag_function(name)
    wanted, tangent = jacobian(f, x), torch.randn_like(x)
    assert torch.autograd.gradcheck(f, (x.clone().requires_grad_(),), check_forward_ad=True)
    value, along = jvp(f, (x,), (tangent,))
    close(value, f(x))
    close(along, torch.einsum("...ij,ij->...", wanted, tangent))
    close(jacrev(f)(x), wanted)
    close(vmap(f)(torch.stack([x, -x])), torch.stack([f(x), f(-x)]))
    total = lambda x: f(x).square().sum()  # noqa: E731
    of_square = torch.autograd.functional.hessian(total, x)
    for found in (hessian(total), jacfwd(jacfwd(total)), jacrev(jacrev(total))):
        close(found(x), of_square)


def test_dags_without_mass() -> None:
    """At a node with log P = −inf, a loss's gradient is spread evenly; that of log P is 0."""
    f, x = dag_function("loss")
    x[:, 1] = x[:, 3] = -torch.inf  # the classes at and below node 3
    close(grad(f)(x[:1].expand(3, -1)), jacobian(f, x[:1].expand(3, -1)))
    table = build_closure_table(np.array([[0, 1], [0, 2]]), 3, np.array([1, 2]))
    z = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)
    of_log_prob = lambda z: tree_log_prob(z, table)[0, 2]  # noqa: E731
    assert of_log_prob(z) == -torch.inf
    close(grad(of_log_prob)(z), torch.zeros_like(z))
