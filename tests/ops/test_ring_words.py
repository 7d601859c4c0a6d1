"""The columns of rings as words: which are listed, and `path_log_loss` with such lists.

test_column_orders.py tests `path_log_loss` of tables without words, which works by position.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trees
from backend import Backend
from cases import Case, check, in_column_order, interval_case, tree_case
from test_column_orders import in_order, nested, rows_with_rings_apart

from hace_kernels import layout, native, path_log_loss
from hace_kernels.path_table import PathTable
from hace_kernels.ring_words import RingWords, list_rings, list_rings_that_pay

pytestmark = pytest.mark.skipif(
    layout.cpu_capability() is None, reason="the native module hace_kernels._layout is not built"
)

of_processors = pytest.mark.not_on(
    "reference",
    "cuda-emulated",
    "triton-interpreted",
    "gpu",
    reason="only the CPU's kernels use words",
)


def listed(case: Case) -> Case:
    """The same case with a list of its rings' words, whether or not that is worth it."""
    table = case.table
    order = None if table.order is None else table.order.numpy()
    path = table.ptr.numpy(), table.start.numpy(), table.stop.numpy()
    rings = list_rings(*path, order, table.num_classes)
    assert rings is not None
    return Case(table._replace(rings=rings), case.reach, case.weights)


def columns_of(words: np.ndarray) -> np.ndarray:
    """The columns of a ring's words, one by one."""
    number, mask = words.astype(np.int64) >> 16, words.astype(np.int64) & 0xFFFF
    chosen = mask[:, None] >> np.arange(16) & 1
    return (16 * number[:, None] + np.arange(16))[chosen == 1]


@pytest.mark.parametrize("order", ["identity", "random"])
def test_words_are_the_columns_of_each_ring(order: str, rng: np.random.Generator) -> None:
    for columns in (1, 15, 16, 17, 40, 700):
        paths = [nested(columns, depth, rng) for depth in (0, 1, 2, 3, 5, 2, 12)]
        case = listed(in_order(interval_case(columns, paths), order, rng))
        rings = case.table.rings
        assert rings is not None
        ring, ptr, words = (tensor.numpy() for tensor in rings)
        assert (np.diff(ptr) % 4 == 0).all()
        entry = 0
        for path in range(len(paths)):
            inner = np.zeros(columns, np.bool_)
            reach = case.reach[entry : entry + len(paths[path])]
            entry += len(paths[path])
            for outer in (*reach, np.ones(columns, np.bool_)):
                here = words[ptr[ring[0]] : ptr[ring[0] + 1]].view(np.uint32)
                ring = ring[1:]
                used = here[(here & 0xFFFF) > 0]
                assert (np.diff(used >> 16) > 0).all()
                assert (here[len(used) :] == here[-1:] >> 16 << 16).all()
                assert columns_of(used).tolist() == np.flatnonzero(outer & ~inner).tolist()
                inner = outer
        assert len(ring) == 0


def test_a_ring_is_listed_once() -> None:
    """All leaves below a node share the rings from that node upwards."""
    tree = trees.balanced([4, 5, 6])
    weights = np.ones((tree.num_classes, len(tree.parents)))
    case = listed(Case(trees.path_table(tree, weights, tree.classes), tree.reach(), weights))
    assert case.table.rings is not None
    assert len(case.table.rings.ptr) - 1 == tree.num_classes * 2 + 4 * 5 + 4


def test_no_more_than_a_table_may_take() -> None:
    """With 3,000 shuffled children, each child has a ring of 188 words, which is too much."""
    order = np.random.default_rng(0).permutation(3000).astype(np.int32)
    path = np.arange(3001), np.arange(3000, dtype=np.int32), np.arange(1, 3001, dtype=np.int32)
    assert list_rings(*path, order, 3000) is None


@pytest.mark.parametrize(("run", "pays"), [(1024, True), (16, True), (1, False)])
def test_rings_that_pay(run: int, pays: bool) -> None:
    """Words are worth it in a deep tree if columns come in runs, but not in a random order."""
    table = tree_case(trees.balanced([4] * 5)).table
    runs = np.random.default_rng(0).permutation(np.arange(1024, dtype=np.int32).reshape(-1, run))
    path = table.ptr.numpy(), table.start.numpy(), table.stop.numpy()
    rings = list_rings_that_pay(*path, None if run == 1024 else runs.ravel(), 1024)
    assert (rings is not None) == pays


def test_tensors_there_and_back() -> None:
    case = interval_case(6, [[(1, 2, 0.5), (0, 3, 0.5)]])
    for plain in (case, in_column_order(case, np.arange(6)[::-1].copy())):
        for table in (plain.table, listed(plain).table):
            again = PathTable.of_tensors(table.tensors, table.num_classes, table.max_entries)
            assert again == table
        assert listed(plain).table.to("meta").rings is None
        assert listed(plain).table.to("cpu").rings is not None


@pytest.mark.parity
@of_processors
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("order", ["identity", "random"])
def test_every_width(
    backend: Backend, rng: np.random.Generator, order: str, dtype: torch.dtype
) -> None:
    for columns in (*range(1, 36), 47, 48, 49, 64, 65):
        paths = [nested(columns, depth, rng) for depth in (0, 1, 2, 3, 5, 9)]
        case = listed(in_order(interval_case(columns, paths), order, rng))
        check(case, case.logits(len(paths), dtype), torch.arange(len(paths)), backend)


@pytest.mark.parity
@of_processors
@pytest.mark.parametrize("columns", [300, 17000])
@pytest.mark.parametrize("order", ["random"])
def test_rings_apart(backend: Backend, rng: np.random.Generator, columns: int, order: str) -> None:
    """Rows with rings far from each other are computed without words."""
    case, rows = rows_with_rings_apart(columns, order, rng)
    check(listed(case), rows.float(), torch.zeros(len(rows), dtype=torch.long), backend)


@pytest.mark.skipif(native.load_error is not None, reason="this needs the C++ kernels")
@pytest.mark.parametrize("shuffled", [False, True])
def test_words_that_are_none_of_the_row(shuffled: bool) -> None:
    """Words that do not fit the row are not used; a missing list is an error."""
    case = interval_case(40, [[(1, 2, 0.5), (0, 30, 0.5)]])
    if shuffled:
        case = in_column_order(case, np.random.default_rng(0).permutation(40))
    logits, target = case.logits(2, torch.float32), torch.zeros(2, dtype=torch.long)
    right = listed(case).table
    assert right.rings is not None
    loss = path_log_loss(logits, target, case.table)
    for word in (3 << 16 | 1, 2 << 16 | 1 << 8, -1, 0x7FFFFFFF, -(2**31)):
        words = torch.full_like(right.rings.words, word)
        table = right._replace(rings=right.rings._replace(words=words))
        assert path_log_loss(logits, target, table) == loss
    for change in (
        {"ring": right.rings.ring + 3},
        {"ring": right.rings.ring - 3},
        {"ptr": right.rings.ptr + 4},
        {"ptr": right.rings.ptr - 4},
        {"ptr": right.rings.ptr // 2},
        {"ptr": right.rings.ptr.flip(0).contiguous()},
    ):
        wrong: RingWords = right.rings._replace(**change)
        with pytest.raises(RuntimeError, match="lists no words"):
            path_log_loss(logits, target, right._replace(rings=wrong))
