"""What launches compile, tested without a GPU: kernels are compiled and not launched."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import interval_case
from tree_cases import some_case

triton = pytest.importorskip("triton", reason="triton is not installed")

from dags import SHAPES  # noqa: E402
from test_dag_log_loss import Case  # noqa: E402
from test_tree_log_loss import targets_of  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from hace_kernels import triton as package  # noqa: E402
from hace_kernels.schemas import PathLogLossArguments, TreeLogLossArguments  # noqa: E402
from hace_kernels.triton import (  # noqa: E402
    dag_log_loss,
    path_log_loss,
    tree_log_loss,
    tree_log_prob,
    tree_rows,
    tree_sum,
)

pytestmark = pytest.mark.skipif(
    package.interpreted, reason="TRITON_INTERPRET is set: nothing can be compiled"
)

OPS = {
    name: op
    for module in (dag_log_loss, path_log_loss, tree_log_loss, tree_log_prob, tree_sum)
    for name, op in module.OPS.items()
}

#: Numbers of devices for which no test has compiled yet, and which no machine has.
_DEVICES = itertools.count(1000)


class _Driver:
    """Those properties of a GPU that compiling asks for."""

    def __init__(self, device: int) -> None:
        self.device = device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes launches compile for a GPU that does not exist, without launching anything."""
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, **options: Any) -> Any:
        return run(self, *arguments, **{**options, "warmup": True})

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", _Driver(next(_DEVICES)))


@pytest.fixture
def compiled(launched: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that would be compiled; compiling itself is left out."""
    names: list[str] = []

    def note(self: Any, key: Any, signature: Any, device: int, *rest: Any) -> object:
        names.append(self.fn.__name__)
        self.device_caches[device][0][key] = kernel = object()
        return kernel

    monkeypatch.setattr(JITFunction, "_do_compile", note)
    return names


def path_loss(
    columns: int = 100, rows: int = 3, targets: int = 5, ignore_index: int = -100, **options: Any
) -> None:
    """A loss and its backward pass; with `step` 2, of every second row of a larger batch."""
    step, reduction = options.pop("step", 1), options.pop("reduction", 1)
    options = {"target_weight": None, "entropy": 0.0, "eps": 0.0, **options}
    case = interval_case(columns, [[(i, i + 1, 0.7), (0, 9, 0.3)] for i in range(targets)])
    logits = case.logits(step * rows, torch.float32)[::step]
    arguments = PathLogLossArguments(
        logits, case.targets(rows), case.table.tensors, case.table.max_entries,
        ignore_index=ignore_index, reduction=reduction, **options,
    )  # fmt: skip
    OPS["path_log_loss"](*arguments, True)
    OPS["path_log_loss_backward"](torch.ones(() if reduction else rows), *arguments)


def tree_loss(
    columns: int = 20, rows: int = 3, kind: str = "soft pairs", seed: int = 0, **options: Any
) -> None:
    """The same for `tree_log_loss`."""
    case = some_case(np.random.default_rng(seed), columns)
    target, of_targets = targets_of(case, kind, rows)
    table = case.target_table(**of_targets)
    index, index_weight, mass = None, None, None
    if isinstance(target, tuple):
        index, index_weight = target
    elif target.is_floating_point():
        mass = target.float()
    else:
        index = target[:, None]
    arguments = TreeLogLossArguments(
        case.logits(rows, torch.float32), mass, index, index_weight, [*case.table.tensors],
        case.table.level_ptr, table.tensors, table.row_spread,
        **{"ignore_index": -100, "reduction": 1, "eps": 0.0, **options},
    )  # fmt: skip
    OPS["tree_log_loss"](*arguments, True)
    OPS["tree_log_loss_backward"](torch.ones(()), *arguments)


def tree_ops(columns: int = 20, rows: int = 3, seed: int = 0) -> None:
    """The ops over a tree other than the loss."""
    case = some_case(np.random.default_rng(seed), columns)
    tree, level_ptr = [*case.table.tensors], case.table.level_ptr
    logits, nodes = case.logits(rows, torch.float32), torch.randn(rows, case.num_nodes)
    OPS["tree_sum_up"](logits, tree, level_ptr)
    OPS["tree_sum_down"](nodes, tree, level_ptr)
    log_prob = OPS["tree_log_prob"](logits, tree, level_ptr)
    OPS["tree_log_prob_backward"](log_prob, logits, tree, level_ptr)


def dag_ops(shape: str = "shared leaf", rows: int = 3, eps: float = 0.0) -> None:
    """All ops over a DAG."""
    case = Case(SHAPES[shape], np.random.default_rng(0))
    dag, sizes, logits = case.table.tensors, case.table.sizes, case.logits(rows, torch.float32)
    OPS["dag_sum_up"](logits, dag, sizes)
    OPS["dag_sum_down"](torch.randn(rows, case.dag.num_nodes), dag, sizes)
    OPS["dag_log_prob_backward"](OPS["dag_log_prob"](logits, dag, sizes), logits, dag, sizes)
    arguments = TreeLogLossArguments(
        logits, None, case.indices(rows, 1), None, dag, sizes, case.targets.tensors,
        case.targets.row_spread, ignore_index=-100, reduction=1, eps=eps,
    )  # fmt: skip
    OPS["dag_log_loss"](*arguments, True)
    OPS["dag_log_loss_backward"](torch.ones(()), *arguments)


def test_levels_stay_where_captured_graphs_read_them() -> None:
    """A graph that was captured holds the address of a tree's levels, however many trees follow."""
    device = torch.device("cpu")
    levels = tree_rows.levels_on(device, (0, 1, 2))
    for size in range(3, 300):
        tree_rows.levels_on(device, (0, 1, size))
    assert tree_rows.levels_on(device, (0, 1, 2)) is levels


@pytest.mark.parametrize(
    ("call", "others"),
    [
        (path_loss, [{"rows": 16}, {"targets": 16}, {"ignore_index": 1}, {"ignore_index": 32},
                     {"columns": 116}, {"step": 2}]),
        (partial(path_loss, columns=70_000), [{"rows": 16}, {"columns": 80_000}, {"targets": 16}]),
        (tree_loss, [{"rows": 16}, {"columns": 22}, {"seed": 1}, {"ignore_index": 1}]),
        (tree_ops, [{"rows": 16}, {"columns": 21}, {"seed": 1}]),
        (dag_ops, [{"rows": 16}, {"shape": "diamonds"}]),
    ],
    ids=["path", "path, split rows", "tree loss", "tree", "DAG"],
)  # fmt: skip
def test_compiled_once_for_all_sizes(
    call: Callable[..., None], others: list[dict[str, int]], compiled: list[str]
) -> None:
    """Other numbers of rows, targets, places and levels do not compile a kernel again."""
    call()
    assert compiled
    compiled.clear()
    for sizes in others:
        call(**sizes)
        assert not compiled, sizes


class _Allocations(TorchDispatchMode):
    """The bytes of the tensors that are allocated meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.new_empty.default:
            self.bytes.append(found.nbytes)
        return found


def test_many_short_rows_take_little_memory(compiled: list[str]) -> None:
    """The rings of a million rows would take far more memory than the rows themselves."""
    rows, columns = 10**6, 16
    case = interval_case(columns, [[(5, 6, 0.5), *[(4, 7 + i, 0.1) for i in range(9)]]])
    arguments = PathLogLossArguments(
        torch.zeros(rows, columns), torch.zeros(rows, dtype=torch.long), case.table.tensors,
        case.table.max_entries, None, 0.0, -100, 1, 0.0,
    )  # fmt: skip
    with _Allocations() as allocations:
        OPS["path_log_loss"](*arguments, True)
    assert "row_kernel" in compiled
    gradient = 4 * rows * columns
    assert gradient in allocations.bytes
    assert sum(allocations.bytes) <= gradient + 4 * rows + 2**26 + 100


@pytest.mark.thorough
@pytest.mark.parametrize(
    "call",
    [
        path_loss,
        partial(path_loss, reduction=0),
        partial(path_loss, entropy=0.1, eps=1e-3, target_weight=torch.ones(5).double()),
        partial(path_loss, columns=70_000),
        tree_loss,
        partial(tree_loss, kind="smoothed", eps=1e-3),
        partial(tree_loss, kind="probabilities over others"),
        tree_ops,
        dag_ops,
        partial(dag_ops, eps=1e-3),
    ],
    ids=[
        *("path", "path, row by row", "path with everything", "split rows"),
        *("soft pairs", "smoothed", "probabilities", "tree", "DAG", "DAG with eps"),
    ],
)
def test_what_is_launched_compiles(call: Callable[..., None], launched: None) -> None:
    """Launchers' arguments compile; Triton's interpreter would treat them in another way."""
    call()
