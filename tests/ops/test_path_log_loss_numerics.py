"""`path_log_loss` is exact, also where exponentials underflow, overflow or are zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trees
from backend import Backend
from cases import DTYPES, Case, call, check, expected, in_column_order, interval_case, tree_case
from oracle import ROUNDOFF, to_real, working_dtype

from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.parity

GAPS = [0, 10, 40, 60, 80, 87, 88, 89, 100, 103, 104, 150, 300, 700, 709, 745, 1000, 5000]

SHAPES = {
    "forest": trees.balanced([2, 3, 2, 2]),
    "rooted": trees.balanced([3, 2, 4], rooted=True),
    "caterpillar": trees.caterpillar(6),
    "nodes": trees.balanced([2, 2, 3]).in_node_mode(),
}


def shuffled(tree: trees.Tree, rng: np.random.Generator) -> trees.Tree:
    return trees.Tree(tree.parents, rng.permutation(tree.classes))


def rings(tree: trees.Tree, label: int) -> np.ndarray:
    """For each class, the number of intervals on the label's path that do not contain it."""
    path = tree.path(tree.classes[label])
    return (~tree.reach()[path]).sum(axis=0)


def levels_apart(tree: trees.Tree, gap: float, rng: np.random.Generator) -> tuple[list, list]:
    """Rows of offsets, with `gap` between neighbouring rings of a target's path.

    There is a gap at each level alone (everything outside is higher), at all levels in steps, in
    the other direction (a confident prediction), and in random directions.
    """
    offsets, targets = [], []
    for label in (0, tree.num_classes // 2, tree.num_classes - 1):
        ring = rings(tree, label)
        heights = [gap * (ring > level) for level in range(ring.max())]
        heights += [gap * ring, -gap * ring]
        for _ in range(3):
            heights.append(gap * rng.integers(-1, 2, size=ring.max() + 1)[ring])
        offsets += heights
        targets += [label] * len(heights)
    return offsets, targets


@pytest.mark.sample(dtype=[torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gaps_on_every_level(
    backend: Backend, rng: np.random.Generator, shape: str, order: str, dtype: torch.dtype
) -> None:
    tree = SHAPES[shape] if order == "ordered" else shuffled(SHAPES[shape], rng)
    case = tree_case(tree, dilution=0.6)
    offsets, targets = [], []
    for gap in GAPS:
        more_offsets, more_targets = levels_apart(tree, gap, rng)
        offsets += more_offsets
        targets += more_targets
    logits = case.logits(len(targets), torch.float64, scale=0.7) + torch.from_numpy(
        np.array(offsets, dtype=float)
    )
    check(case, logits.to(dtype), torch.tensor(targets), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gap_in_a_wide_row(backend: Backend, dtype: torch.dtype) -> None:
    """The far-away interval spans many vectors, and starts and ends inside a vector."""
    paths = [[(200, 201, 0.4), (150, 420, 0.3), (101, 777, 0.2), (3, 999, 0.1)]] * len(GAPS)
    case = interval_case(1000, paths)
    for inner, outer in ((150, 420), (101, 777)):
        logits = case.logits(len(GAPS), torch.float64)
        logits[:, inner:outer] -= torch.tensor(GAPS)[:, None]
        check(case, logits.to(dtype), torch.arange(len(GAPS)), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_huge_logits(
    backend: Backend, rng: np.random.Generator, order: str, dtype: torch.dtype
) -> None:
    """Rows mix logits of +-1e4, where neighbouring fp32 numbers are 1e-3 apart."""
    tree = trees.random_tree(rng, 40, roots=3, shuffle=order == "shuffled")
    case = tree_case(tree)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(40, 40)))
    noise = torch.randn(40, 40, dtype=torch.float64)
    alone = -torch.ones(40, 40).double() + 2 * torch.eye(40).double()
    rows = [1e4 * signs, 1e4 + noise, -1e4 + noise, 1e4 * alone, -1e4 * alone]
    rows += [torch.full((40, 40), 1e4).double(), 1e4 * noise.clamp(-1, 1)]
    logits = torch.cat(rows).to(dtype)
    check(case, logits, torch.arange(40).repeat(len(rows)), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masking_with_the_lowest_number(backend: Backend, dtype: torch.dtype) -> None:
    """Many models leave classes out by masked_fill(mask, finfo.min)."""
    case = tree_case(trees.balanced([3, 2, 3]))
    lowest = torch.finfo(dtype).min
    logits = case.logits(4, dtype)
    logits[0, 9:] = lowest
    logits[1, :6] = lowest
    logits[1, 8:] = lowest
    logits[2, 7] = lowest
    check(case, logits, torch.tensor([1, 7, 8, 7]), backend)


# --- infinities -----------------------------------------------------------------------------------

#: Masked columns of balanced([3, 2, 3]) for the target 7, whose siblings are 6-8, cousins 9-11.
MASKS = {
    "another class": [0],
    "the last class": [17],
    "another top": [*range(12, 18)],
    "a sibling": [6],
    "all siblings": [6, 8],
    "cousins": [9, 10, 11],
    "all but the target": [c for c in range(18) if c != 7],
    "all but its parent": [c for c in range(18) if c not in (6, 7, 8)],
    "the target": [7],
    "the target and a sibling": [7, 8],
    "its parent": [6, 7, 8],
    "its parent and a cousin": [6, 7, 8, 11],
    "its top": [*range(6, 12)],
    "all but one outside its top": [c for c in range(18) if c != 3],
    "everything": [*range(18)],
}


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_minus_infinity(
    backend: Backend, rng: np.random.Generator, order: str, eps: float, dtype: torch.dtype
) -> None:
    """Each masked row is between two ordinary rows, which it must not affect."""
    tree = trees.balanced([3, 2, 3])
    columns = np.arange(18) if order == "ordered" else rng.permutation(18)
    tree = trees.Tree(tree.parents, tree.classes[np.argsort(columns)])
    case = tree_case(tree, keep_full=eps > 0)
    logits = case.logits(2 * len(MASKS) + 1, dtype)
    for row, mask in enumerate(MASKS.values()):
        logits[2 * row + 1, torch.from_numpy(columns[mask])] = -torch.inf
    target = torch.full((len(logits),), int(columns[7]))
    answer = expected(case, logits, target, reduction="none", eps=eps)
    assert np.isnan(answer.loss).sum() == 1
    assert np.isinf(answer.loss).sum() == (6 if eps == 0 else 0)
    check(case, logits, target, backend, reduction="none", eps=eps)


@pytest.mark.sample(dtype=[torch.float32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_leading_and_trailing_columns_masked(backend: Backend, dtype: torch.dtype) -> None:
    """Whole vectors and blocks are -inf before the first finite logit and after the last."""
    width = 1000
    counts = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 512, 990]
    case = interval_case(width, [[(995, 996, 0.7), (991, 998, 0.3)], [(4, 5, 0.7), (2, 9, 0.3)]])
    logits = case.logits(2 * len(counts), dtype)
    for row, count in enumerate(counts):
        logits[row, :count] = -torch.inf
        logits[len(counts) + row, width - count :] = -torch.inf
    target = torch.arange(2).repeat_interleave(len(counts))
    check(case, logits, target, backend)


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("base", [0, 1000])
def test_minus_infinity_inside_a_far_away_interval(
    backend: Backend, dtype: torch.dtype, base: int
) -> None:
    """The path is 500 below the other logits, and some or all of it is -inf.

    A constant that is added to all logits costs no precision.
    """
    case = interval_case(64, [[(20, 21, 0.4), (18, 23, 0.3), (10, 40, 0.3)]])
    logits = case.logits(6, dtype) + base
    logits[:, 10:40] -= 500
    logits[1, 21:23] = -torch.inf
    logits[2, 20] = -torch.inf
    logits[3, 18:23] = -torch.inf
    logits[4, 10:40] = -torch.inf
    logits[5, 10:18] = -torch.inf
    logits[5, 18:23] -= 500
    check(case, logits, torch.zeros(6, dtype=torch.long), backend)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float32], bad=[torch.nan], order=["ordered"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.inf, torch.nan], ids=["inf", "nan"])
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_infinity_and_nan(
    backend: Backend, rng: np.random.Generator, order: str, bad: float, dtype: torch.dtype
) -> None:
    """As in F.cross_entropy, loss and gradient of the row are NaN, and no other row is affected."""
    tree = trees.random_tree(rng, 37, roots=2, shuffle=order == "shuffled")
    case = tree_case(tree)
    logits = case.logits(2 * 37, dtype)
    logits[torch.arange(1, 74, 2), torch.arange(37)] = bad
    target = torch.full((74,), 11)
    check(case, logits, target, backend, reduction="none")
    plain, plain_grad = call_cross_entropy(logits.float(), target)
    loss, grad = call(case, logits, target, backend, reduction="none")
    assert torch.equal(loss.isnan().cpu(), plain.isnan())
    assert torch.equal(grad.isnan().cpu(), plain_grad.isnan())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
def test_a_row_without_a_softmax_is_nan_even_at_the_root(
    backend: Backend, bad: float, dtype: torch.dtype
) -> None:
    """The root's log P is 0 for any softmax, so as a target it has an empty path."""
    tree = trees.flat(9)
    case = tree_case(tree, nodes=[0])
    logits = case.logits(3, dtype)
    logits[1] = bad
    check(case, logits, torch.zeros(3, dtype=torch.long), backend, reduction="none")


# --- exactness ------------------------------------------------------------------------------------


def call_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x = logits.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad


def cross_entropy_case(width: int, labels: torch.Tensor) -> Case:
    """The case of dilution 1, in which only the target's own column counts."""
    return interval_case(width, [[(label, label + 1, 1.0)] for label in labels.tolist()])


@pytest.mark.sample(dtype=[torch.float32, torch.float16], width=[1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [10, 1000, 30_000])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_as_exact_as_cross_entropy(
    backend: Backend, width: int, scale: float, dtype: torch.dtype
) -> None:
    """The largest errors over 16 rows, against float64, are like those of F.cross_entropy."""
    labels = torch.randint(width, (16,))
    case = cross_entropy_case(width, labels)
    logits = case.logits(16, dtype, scale).to(backend.device)
    answer = expected(case, logits, torch.arange(16), reduction="none")
    loss, grad = call(case, logits, torch.arange(16), backend, reduction="none")
    plain, plain_grad = call_cross_entropy(logits, labels.to(backend.device))

    def loss_error(found: torch.Tensor) -> float:
        return float((np.abs(to_real(found) - answer.loss) / answer.loss_scale).max())

    def grad_error(found: torch.Tensor) -> float:
        error = np.abs(to_real(found) - answer.grad)
        return float((error / np.abs(answer.grad).max(axis=1, keepdims=True)).max())

    unit = ROUNDOFF[working_dtype(dtype)]
    assert loss_error(loss) <= 4 * loss_error(plain) + 2 * unit
    assert grad_error(grad) <= 4 * grad_error(plain_grad) + 2 * unit


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(rows=[1], count=[1], order=["shuffled"], dtype=[torch.float32])
@pytest.mark.parametrize("rows", [1, pytest.param(3, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_few_huge_rows(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    rows: int,
    count: int,
    order: str,
    dtype: torch.dtype,
) -> None:
    """Rows that are split over threads have ends, far-away intervals and -inf in every part."""
    threads(count)
    width = 150_000  # a little more than the CPU splits among threads
    columns = rng.permutation(width) if order == "shuffled" else np.arange(width)
    paths = [
        [(61_728, 61_729, 0.5), (50_001, 90_003, 0.3), (5, 145_000, 0.2)],
        [(149_999, 150_000, 0.5), (149_000, 150_000, 0.5)],
        [(0, 1, 0.7), (0, 74_999, 0.3)],
    ]
    case = interval_case(width, paths)
    if order == "shuffled":
        case = in_column_order(case, columns)
    logits, target = case.logits(rows, dtype), torch.arange(rows)
    check(case, logits, target, backend, reduction="mean", roundings=32)
    logits[:, torch.from_numpy(columns[:100_000])] -= 300
    check(case, logits, target, backend, roundings=32)
    logits[:, torch.from_numpy(columns[:75_000])] = -torch.inf
    check(case, logits, target, backend, reduction="none", roundings=32)


def test_half_precision_loss_is_not_rounded_to_half(
    backend: Backend, rng: np.random.Generator
) -> None:
    case = tree_case(trees.random_tree(rng, 30))
    for dtype in (torch.bfloat16, torch.float16):
        loss = path_log_loss(
            case.logits(8, dtype).to(backend.device),
            case.targets(8).to(backend.device),
            case.table.to(backend.device),
            reduction="none",
            backend=backend.name,
        )
        assert loss.dtype == torch.float32
        assert not torch.equal(loss, loss.to(dtype).float())
