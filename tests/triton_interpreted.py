"""The parity suite of `path_log_loss` on the Triton kernels, in Triton's interpreter.

`test_triton.py` runs this file in processes of its own, for the interpreter is chosen when triton
is imported. It takes about 0.1 s a row, so that the tests are those of the other backends on a few
of their rows.
"""

from __future__ import annotations

from typing import Any

import cases
import oracle
import pytest
import test_path_log_loss
import test_path_log_loss_autograd
import test_path_log_loss_numerics
import torch
import trees
from cases import DTYPES, Case, in_column_order, interval_case
from conftest import Backend
from test_path_log_loss import (  # noqa: F401
    test_any_weights,
    test_coarse_targets,
    test_deep_path,
    test_eps_where_it_decides,
    test_ignored_rows_may_hold_anything,
    test_nothing_to_average,
    test_options,
    test_trees,
    test_widths,
)
from test_path_log_loss_autograd import (
    case as case,
)
from test_path_log_loss_numerics import (  # noqa: F401
    test_a_row_without_a_softmax_is_nan_even_at_the_root,
    test_as_exact_as_cross_entropy,
    test_gap_in_a_wide_row,
    test_gaps_on_every_level,
    test_half_precision_loss_is_not_rounded_to_half,
    test_huge_logits,
    test_infinity_and_nan,
    test_leading_and_trailing_columns_masked,
    test_masking_with_the_lowest_number,
    test_minus_infinity,
    test_minus_infinity_inside_a_far_away_interval,
)
from tree_cases import TreeCase

import hace_kernels
from hace_kernels import triton
from hace_kernels.ops import path_log_loss

pytestmark = [
    pytest.mark.skipif(not triton.interpreted, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, of -inf and NaN
]

ROWS = 4


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `check` take ROWS rows of what it is given, by chance."""
    check = cases.check

    def check_some(
        case: Case, logits: torch.Tensor, target: torch.Tensor, backend: Backend, **options: Any
    ) -> None:
        rows = torch.randperm(len(logits))[:ROWS].sort().values
        incoming = options.get("incoming", 1.0)
        if isinstance(incoming, torch.Tensor) and incoming.dim():
            options["incoming"] = incoming[rows]
        check(case, logits[rows], target[rows], backend, **options)

    for module in (test_path_log_loss, test_path_log_loss_autograd, test_path_log_loss_numerics):
        if hasattr(module, "check"):
            monkeypatch.setattr(module, "check", check_some)


@pytest.fixture(autouse=True)
def quick_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter patches triton.language at every call on the device: once will do."""
    from triton.runtime.interpreter import InterpretedFunction

    call, patched = InterpretedFunction.__call__, set()

    def call_patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = self.fn.__module__
        if module in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(module)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", call_patched)


@pytest.fixture
def backend() -> Backend:
    return Backend("triton", torch.device("cpu"))


# The interpreter cuts bits off where it should round to bfloat16: that is twice a rounding.
@pytest.fixture(autouse=True)
def truncation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(oracle.ROUNDOFF, torch.bfloat16, 2.0**-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("entropy", [0.0, -0.3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_split_rows(
    backend: Backend, order: str, dtype: torch.dtype, entropy: float, reduction: str
) -> None:
    """Rows of several programs, in chunks of rows, against the reference in float64."""
    from hace_kernels.triton import path_log_loss as launcher

    width = 20_011
    paths = [
        [(12_345, 12_346, 0.5), (10_001, 18_003, 0.3), (5, 20_000, 0.2)],
        [(20_010, 20_011, 0.5), (19_968, 20_011, 0.5)],
        [(0, 1, 0.7), (0, 14_999, 0.3)],
    ]
    case = interval_case(width, paths)
    if order == "shuffled":
        case = in_column_order(case, torch.randperm(width).numpy())
    logits, target = case.logits(4, dtype), torch.tensor([0, 1, -100, 2])
    logits[1, :9000] -= 300
    logits[3, 3:200] = -torch.inf
    x = logits.requires_grad_()
    launcher._L2_BYTES, before = 2 * 3 * width * dtype.itemsize, launcher._L2_BYTES
    try:
        loss = path_log_loss(
            x, target, case.table, entropy=entropy, reduction=reduction, backend="triton"
        )
        (grad,) = torch.autograd.grad(loss.sum(), x)
    finally:
        launcher._L2_BYTES = before
    exact = logits.detach().double().requires_grad_()
    wanted = path_log_loss(
        exact, target, case.table, entropy=entropy, reduction=reduction, backend="reference"
    )
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), exact)
    rtol = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(loss.double(), wanted, rtol=rtol, atol=0)
    rounding = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(dtype, 0.0)
    bound = (2 * rtol + rounding) * wanted_grad.abs() + 2.0**-24 * (dtype == torch.float16)
    bound += rtol * wanted_grad.abs().amax(1, keepdim=True)
    assert ((grad.double() - wanted_grad).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_entropy(backend: Backend, order: str, eps: float, dtype: torch.dtype) -> None:
    case = interval_case(50, [[(20, 21, 0.4), (18, 23, 0.3), (10, 40, 0.3)]])
    if order == "shuffled":
        case = in_column_order(case, torch.randperm(50).numpy())
    logits = case.logits(5, dtype)
    logits[1] += 1e4
    logits[2, 5:35] = -torch.inf
    logits[3, 15:] -= 200
    found = []
    for name in ("triton", "reference"):
        x = logits.double() if name == "reference" else logits.clone()
        x.requires_grad_()
        loss = path_log_loss(
            x, torch.zeros(5, dtype=torch.long), case.table, entropy=0.7, eps=eps,
            reduction="none", backend=name,
        )  # fmt: skip
        (grad,) = torch.autograd.grad(loss[loss.isfinite()].sum(), x)
        found.append((loss.double(), grad.double()))
    rtol = 1e-11 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found[0][0], found[1][0], rtol=rtol, atol=rtol)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=rtol, atol=rtol * 0.1)


@pytest.mark.parametrize("bad", [-1, 50, 2**40, -(2**63)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_wrong_target_gives_nan(backend: Backend, bad: int, reduction: str) -> None:
    """A kernel cannot raise: its row is NaN, and no other row's gradient is touched."""
    case = interval_case(9, [[(i, i + 1, 0.7)] for i in range(9)] + [[(3, 3, 1.0)]])
    logits = case.logits(4, torch.float32).requires_grad_()
    for wrong in (bad, 9):
        target = torch.tensor([3, 1, wrong, 0])
        loss = path_log_loss(logits, target, case.table, reduction=reduction, backend="triton")
        (grad,) = torch.autograd.grad(loss, logits, torch.ones_like(loss))
        assert loss[2].isnan() if reduction == "none" else loss.isnan()
        assert grad[2].isnan().all()
        assert grad[[0, 1, 3]].isfinite().all()


def test_opcheck(backend: Backend) -> None:
    case = interval_case(9, [[(i, i + 1, 0.7), (0, 8, 0.3)] for i in range(8)])
    table = case.table
    for reduction, with_grad in ((0, True), (1, True), (2, False)):
        arguments = (
            case.logits(3, torch.float32).requires_grad_(with_grad), case.targets(3), table.ptr,
            table.start, table.stop, table.weight, table.order, table.max_entries, None, 0.0, -100,
            reduction, 0.0, with_grad,
        )  # fmt: skip
        torch.library.opcheck(torch.ops.hace_kernels.triton_path_log_loss.default, arguments)


def test_same_bits_again(backend: Backend) -> None:
    case = interval_case(300, [[(7, 8, 0.5), (3, 99, 0.5)]])
    logits, target = case.logits(3, torch.bfloat16), torch.zeros(3, dtype=torch.long)
    first = cases.call(case, logits, target, backend)
    for found, wanted in zip(cases.call(case, logits, target, backend), first, strict=True):
        assert torch.equal(found, wanted)


def test_other_ops_are_refused(backend: Backend) -> None:
    case = TreeCase(trees.balanced([2, 3]))
    logits = case.logits(2, torch.float32)
    with pytest.raises(hace_kernels.BackendError, match="auto"):
        hace_kernels.tree_log_prob(logits, case.table, backend="triton")
    assert hace_kernels.tree_log_prob(logits, case.table).shape == (2, case.num_nodes)
