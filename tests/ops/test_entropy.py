"""The option `entropy` of `path_log_loss`, which adds lambda sum_c p_c log p_c to the loss.

With E = sum_c p_c log p_c, a row's loss grows by lambda E and dL/dz_j by lambda p_j (log p_j - E),
where 0 log 0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import DTYPES, Case, call, in_column_order, interval_case, tree_case
from rows import on_some_rows

from hace_kernels import native
from hace_kernels.ops import path_log_loss

pytestmark = pytest.mark.parity

needs_native = pytest.mark.skipif(
    native.load_error is not None,
    reason="the op torch.ops.hace_kernels.path_log_loss comes with the native library",
)

SHAPES: dict[str, Callable[[np.random.Generator], trees.Tree]] = {
    "one class": lambda rng: trees.flat(1, rooted=False),
    "flat": lambda rng: trees.flat(13),
    "chain": lambda rng: trees.chain(6),
    "caterpillar": lambda rng: trees.caterpillar(40),
    "star of stars": lambda rng: trees.balanced([5, 7], rooted=True),
    "forest": lambda rng: trees.random_tree(rng, 50, roots=6),
    "inner classes": lambda rng: trees.random_tree(rng, 40, roots=2, inner=0.5),
    "shuffled": lambda rng: trees.random_tree(rng, 50, roots=6, shuffle=True),
    "shuffled inner classes": lambda rng: trees.random_tree(rng, 40, inner=0.5, shuffle=True),
    "nodes": lambda rng: trees.random_tree(rng, 40, roots=2).in_node_mode(),
}


def negative_entropy(logits: torch.Tensor) -> oracle.Answer:
    """E and its gradient per row, in extended precision, from the formula.

    All terms of E have the same sign. log p_j has the rounding error of z_j - max, which is
    proportional to the gap.
    """
    z = oracle.below_largest(oracle.to_real(logits))
    with np.errstate(all="ignore"):
        log_p = z - oracle.log_sum_exp(z)[:, None]
        p = np.exp(log_p)
        masked = z == -np.inf
        log_p = np.where(masked, 0, log_p)
        e = np.where(masked, 0, p * log_p).sum(axis=1)
        grad = p * (log_p - e[:, None])
        size = p * (1 + np.abs(log_p) + np.abs(e)[:, None])
        gap = z.max(axis=1, keepdims=True) - z
    return oracle.Answer(e, grad, 1 + np.abs(e), size, gap, np.ones((len(z), 1)))


def expected(
    case: Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    entropy: float,
    *,
    reduction: str = "mean",
    target_weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    eps: float = 0.0,
    incoming: Any = 1.0,
) -> oracle.Answer:
    labels = target.cpu().numpy()
    kept = labels != ignore_index
    scale = np.ones(case.num_targets) if target_weight is None else oracle.to_real(target_weight)
    of_row = np.zeros(len(labels), dtype=oracle.REAL)
    of_row[kept] = scale[labels[kept]]
    mass = np.zeros((len(labels), len(case.reach)), dtype=oracle.REAL)
    mass[kept] = case.weights[labels[kept]] * of_row[kept, None]
    rows = oracle.node_log_loss(logits, case.reach, mass, eps)
    other = negative_entropy(logits)
    with np.errstate(all="ignore"):
        factor = np.where(of_row == 0, 0, of_row * entropy)
        both = replace(
            rows,
            loss=rows.loss + np.where(factor == 0, 0, factor * other.loss),
            grad=rows.grad + np.where(factor == 0, 0, (factor * other.grad.T)).T,
            loss_scale=rows.loss_scale + np.abs(factor) * other.loss_scale,
            grad_scale=rows.grad_scale + np.abs(factor)[:, None] * other.grad_scale,
        )
    return oracle.reduce(both, reduction, float(of_row.sum()), incoming)


@on_some_rows
def check(
    case: Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    backend: Backend,
    entropy: float = 0.4,
    *,
    roundings: float = 16,
    **options: Any,
) -> None:
    """Compares the op's loss and gradient with the oracle, and checks that logits are unchanged."""
    options.setdefault("reduction", "sum")
    before = logits.clone()
    loss, grad = call(case, logits, target, backend, entropy=entropy, **options)
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)
    assert grad.dtype == logits.dtype
    answer = expected(case, logits, target, entropy, **options)
    oracle.assert_loss_close(loss, answer, logits.dtype, roundings)
    # A gradient that the forward pass stored is rounded again when the incoming one multiplies it.
    plain = isinstance(options.get("incoming", 1.0), float) and options.get("incoming", 1.0) == 1.0
    oracle.assert_grad_close(grad, answer, roundings=roundings, output_roundings=1 if plain else 2)


def some_case(rng: np.random.Generator, leaves: int = 50, shuffle: bool = False) -> Case:
    return tree_case(trees.random_tree(rng, leaves, roots=3, shuffle=shuffle), 1.0)


# --- every kind of input --------------------------------------------------------------------------


@pytest.mark.sample(
    dtype=[torch.float32], shape=["flat", "caterpillar", "shuffled inner classes", "nodes"]
)
@pytest.mark.sample(dtype=[torch.bfloat16], shape=["forest"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(backend: Backend, rng: np.random.Generator, shape: str, dtype: torch.dtype) -> None:
    """The entropy is added to cross-entropy and to losses of whole paths."""
    tree = SHAPES[shape](rng)
    for dilution in (0.4, 1.0):
        case = tree_case(tree, dilution)
        check(case, case.logits(9, dtype), case.targets(9), backend)


@pytest.mark.sample(dtype=[torch.float32], entropy=[-1.0, 1e-8, 7.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("entropy", [-1.0, -1e-3, 1e-8, 0.1, 1.0, 7.0, 1e4])
def test_strengths(
    backend: Backend, rng: np.random.Generator, entropy: float, dtype: torch.dtype
) -> None:
    for shuffle in (False, True):
        case = some_case(rng, shuffle=shuffle)
        check(case, case.logits(9, dtype), case.targets(9), backend, entropy)


@pytest.mark.thorough_on("triton")
@pytest.mark.not_on("reference", reason="PyTorch vectorises its work")
@pytest.mark.sample(dtype=[torch.bfloat16], shuffle=[True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_widths(
    backend: Backend, rng: np.random.Generator, shuffle: bool, dtype: torch.dtype
) -> None:
    """Widths are around every vector size and its remainders."""
    for width in [*range(1, 20), 31, 32, 33, 63, 64, 65, 129, 1000]:
        case = tree_case(trees.random_tree(rng, width, roots=min(2, width), shuffle=shuffle), 1.0)
        check(case, case.logits(3, dtype), case.targets(3), backend)


def test_zero_is_the_default(backend: Backend, rng: np.random.Generator) -> None:
    """With strength 0, all bits are those without entropy."""
    case = some_case(rng)
    logits, target = case.logits(9, torch.float32), case.targets(9)
    for with_zero, without in zip(
        call(case, logits, target, backend, entropy=0.0),
        call(case, logits, target, backend),
        strict=True,
    ):
        assert torch.equal(with_zero, without)


def test_targets_without_an_entry(backend: Backend) -> None:
    """If log P = 0 on the whole path, as for a single root, only the entropy is left."""
    case = interval_case(5, [[], [(1, 3, 0.5)]])
    logits = case.logits(4, torch.float64)
    check(case, logits, torch.tensor([0, 1, 0, 1]), backend)
    loss, _ = call(case, logits, torch.zeros(4).long(), backend, entropy=2.0, reduction="sum")
    plogp = logits.softmax(1) * logits.log_softmax(1)
    torch.testing.assert_close(loss.cpu(), 2 * plogp.sum(), rtol=1e-14, atol=0)


def test_even_rows(backend: Backend) -> None:
    """If all classes are equally likely, E = -log C and its gradient is 0."""
    case = interval_case(24, [[]])
    for value in (0.0, -3.5, 1024.0):
        logits = torch.full((2, 24), value)
        loss, grad = call(case, logits, torch.zeros(2).long(), backend, entropy=0.5)
        assert abs(float(loss) + 0.5 * np.log(24)) < 4 * oracle.ROUNDOFF[torch.float32]
        assert grad.abs().max() <= 4 * oracle.ROUNDOFF[torch.float32] / 24


@pytest.mark.sample(dtype=[torch.float32], reduction=["none"], shuffle=[True])
@pytest.mark.sample(dtype=[torch.float16], reduction=["mean"], shuffle=[False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_options(
    backend: Backend,
    rng: np.random.Generator,
    dtype: torch.dtype,
    reduction: str,
    shuffle: bool,
    eps: float,
) -> None:
    """A weight multiplies both terms, and ignored rows have neither."""
    case = tree_case(trees.random_tree(rng, 50, shuffle=shuffle), keep_full=eps > 0)
    weight = torch.rand(case.num_targets).to(oracle.working_dtype(dtype))
    weight[::7] = 0
    for target_weight, ignore_index in ((None, -100), (weight, 3)):
        target = case.targets(20)
        target[::6] = ignore_index
        check(
            case,
            case.logits(20, dtype),
            target,
            backend,
            reduction=reduction,
            target_weight=target_weight,
            ignore_index=ignore_index,
            eps=eps,
            incoming=torch.randn(20) if reduction == "none" else 1.0,
        )


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second column": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "columns of a wider one": lambda x: torch.nn.functional.pad(x, (3, 5), value=9e3)[:, 3:-5],
    "storage offset": lambda x: torch.cat([x.new_full((1,), 9e3), x.flatten()])[1:].view_as(x),
    "rows all the same": lambda x: x[:1].expand_as(x),
}


@pytest.mark.sample(dtype=[torch.float32], shuffle=[True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_layouts(
    backend: Backend, rng: np.random.Generator, layout: str, shuffle: bool, dtype: torch.dtype
) -> None:
    """The gradient reads the logits again, so their strides matter twice."""
    for leaves in (7, 129):
        case = some_case(rng, leaves, shuffle)
        logits = LAYOUTS[layout](case.logits(6, dtype).to(backend.device))
        check(case, logits, case.targets(len(logits)), backend)


# --- where exponentials underflow, overflow or are zero -------------------------------------------

GAPS = [0, 10, 38, 42, 60, 87, 88, 89, 104, 150, 599, 601, 709, 745, 1000, 5000]


def rings(tree: trees.Tree, label: int) -> np.ndarray:
    """For each class, the number of nodes on the label's path that do not contain it."""
    return (~tree.reach()[tree.path(tree.classes[label])]).sum(axis=0)


@pytest.mark.sample(dtype=[torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_gaps_on_every_level(
    backend: Backend, rng: np.random.Generator, order: str, dtype: torch.dtype
) -> None:
    """Neighbouring rings of a target's path are `gap` apart: up, down, or both at random."""
    tree = trees.balanced([2, 3, 2, 2])
    if order == "shuffled":
        tree = trees.Tree(tree.parents, rng.permutation(tree.classes))
    case = tree_case(tree, dilution=0.6)
    offsets, targets = [], []
    for gap in GAPS:
        for label in (0, 11, 23):
            ring = rings(tree, label)
            steps = rng.integers(-1, 2, size=(2, ring.max() + 1))[:, ring]
            offsets += [gap * ring, -gap * ring, gap * (ring > 1), *(gap * steps)]
            targets += [label] * 5
    logits = case.logits(len(targets), torch.float64, scale=0.7)
    logits += torch.from_numpy(np.array(offsets, dtype=float))
    check(case, logits.to(dtype), torch.tensor(targets), backend)


@pytest.mark.sample(dtype=[torch.float32], shift=[1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("shift", [100.0, -1000.0, 1e4, -1e4])
def test_shifted_rows(
    backend: Backend, rng: np.random.Generator, order: str, shift: float, dtype: torch.dtype
) -> None:
    """log p_j - E is as large as the gaps, whatever the size of the logits."""
    case = some_case(rng, 40, order == "shuffled")
    logits = (case.logits(40, torch.float64) + shift).to(dtype)
    check(case, logits, torch.arange(40), backend)


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_huge_logits(
    backend: Backend, rng: np.random.Generator, order: str, dtype: torch.dtype
) -> None:
    """+-1e4 in every mix."""
    case = some_case(rng, 40, order == "shuffled")
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(40, 40)))
    noise = torch.randn(40, 40, dtype=torch.float64)
    alone = -torch.ones(40, 40).double() + 2 * torch.eye(40).double()
    rows = [1e4 * signs, 1e4 * alone, -1e4 * alone, 1e4 * noise.clamp(-1, 1)]
    check(case, torch.cat(rows).to(dtype), torch.arange(40).repeat(len(rows)), backend)


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
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


@pytest.mark.sample(dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
def test_lowest_and_highest_numbers(backend: Backend, order: str, dtype: torch.dtype) -> None:
    """Gaps overflow to infinity; classes that far below add nothing to the entropy."""
    case = interval_case(6, [[(3, 6, 1.0)], [(1, 2, 1.0)]])
    if order == "shuffled":
        case = in_column_order(case, np.array([3, 0, 1, 5, 2, 4]))
    finite = torch.finfo(dtype)
    logits = torch.full((2, 6), finite.max, dtype=dtype)
    columns = range(6) if case.table.order is None else case.table.order.tolist()
    for position, column in enumerate(columns):
        if position < 3:
            logits[0, column] = finite.min
        if position != 1:
            logits[1, column] = finite.min
    check(case, logits, torch.tensor([0, 1]), backend)


#: Masked columns of balanced([3, 2, 3]) for the target 7, whose siblings are 6-8, cousins 9-11.
MASKS = {
    "another class": [0],
    "another top": [*range(12, 18)],
    "all siblings": [6, 8],
    "all but the target": [c for c in range(18) if c != 7],
    "all but its parent": [c for c in range(18) if c not in (6, 7, 8)],
    "the target": [7],
    "its parent": [6, 7, 8],
    "its parent and a cousin": [6, 7, 8, 11],
    "all but one outside its top": [c for c in range(18) if c != 3],
    "everything": [*range(18)],
}


@pytest.mark.sample(
    dtype=[torch.float32],
    order=["shuffled"],
    mask=["the target", "all siblings", "its parent and a cousin", "everything"],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["ordered", "shuffled"])
@pytest.mark.parametrize("mask", MASKS)
def test_masked_classes(
    backend: Backend, rng: np.random.Generator, mask: str, order: str, dtype: torch.dtype
) -> None:
    """A class with logit -inf adds 0 log 0 = 0 to E, and gets no gradient from it."""
    case = tree_case(trees.balanced([3, 2, 3]), 0.7)
    if order == "shuffled":
        case = in_column_order(case, rng.permutation(18))
    columns = MASKS[mask]
    if case.table.order is not None:
        columns = case.table.order[columns].tolist()
    logits = case.logits(3, dtype)
    logits[1, columns] = -torch.inf
    targets = torch.full((3,), 7)
    check(case, logits, targets, backend, reduction="none", incoming=torch.ones(3))


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_rows_without_a_softmax(
    backend: Backend, rng: np.random.Generator, bad: float, shuffle: bool
) -> None:
    """They are NaN, whatever the target, and other rows are not affected."""
    case = some_case(rng, shuffle=shuffle)
    logits, target = case.logits(4, torch.float32), case.targets(4)
    clean = logits.clone()
    logits[2, 17] = bad
    loss, grad = call(case, logits, target, backend, entropy=0.4, reduction="none")
    clean_loss, clean_grad = call(case, clean, target, backend, entropy=0.4, reduction="none")
    assert loss[2].isnan()
    assert grad[2].isnan().any()
    for row in (0, 1, 3):
        assert torch.equal(loss[row], clean_loss[row])
        assert torch.equal(grad[row], clean_grad[row])


def test_ignored_rows_may_hold_anything(backend: Backend, rng: np.random.Generator) -> None:
    case = some_case(rng)
    logits, target = case.logits(6, torch.float32), case.targets(6)
    clean = logits.clone()
    logits[1], logits[3, 2], logits[4] = torch.nan, torch.inf, -torch.inf
    target[[1, 3, 4]] = -100
    loss, _ = call(case, logits, target, backend, entropy=0.4, reduction="mean")
    oracle.assert_loss_close(loss, expected(case, clean, target, 0.4), torch.float32)


# --- long rows ------------------------------------------------------------------------------------


def long_case(width: int, shuffle: bool, rng: np.random.Generator) -> Case:
    middle = width // 2
    case = interval_case(
        width,
        [
            [(middle, middle + 1, 0.5), (middle - 7, middle + 9, 0.3), (3, width - 5, 0.2)],
            [(0, 1, 0.5), (0, width - 1, 0.5)],
            [(width - 1, width, 1.0)],
        ],
    )
    return in_column_order(case, rng.permutation(width)) if shuffle else case


@pytest.mark.sample(dtype=[torch.float32], shuffle=[True], width=[16_385])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
@pytest.mark.parametrize("width", [16_383, 16_385, 50_001])
def test_long_rows(
    backend: Backend, rng: np.random.Generator, width: int, shuffle: bool, dtype: torch.dtype
) -> None:
    """Kernels work on long rows in parts, some of which are far below the others."""
    if backend.name == "reference" and width > 16_383:
        pytest.skip("the reference does not split rows")
    case = long_case(width, shuffle, rng)
    logits = case.logits(3, torch.float64)
    logits[1, : width // 3] -= 60
    logits[2, width // 5 : -9] -= 300
    check(case, logits.to(dtype), torch.arange(3), backend, roundings=32)


@pytest.mark.not_on("reference", reason="PyTorch distributes its work over threads")
@pytest.mark.sample(dtype=[torch.float32], shuffle=[False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["ordered", "shuffled"])
def test_rows_split_over_threads(
    backend: Backend,
    rng: np.random.Generator,
    threads: Callable[[int], None],
    shuffle: bool,
    dtype: torch.dtype,
) -> None:
    """A row is split over all threads, and any number of threads gives the same bits."""
    case = long_case(140_000, shuffle, rng)
    logits, target = case.logits(1, dtype), torch.tensor([0])
    found = []
    for count in (1, 2):
        threads(count)
        found.append(call(case, logits, target, backend, entropy=0.4, reduction="sum"))
    answer = expected(case, logits, target, 0.4, reduction="sum")
    for loss, grad in found:
        oracle.assert_loss_close(loss, answer, dtype, roundings=32)
        oracle.assert_grad_close(grad, answer, roundings=32)
        assert torch.equal(loss, found[0][0])
        assert torch.equal(grad, found[0][1])


@pytest.mark.thorough
@pytest.mark.not_on("reference", reason="PyTorch stores its results")
@many_rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_larger_than_the_caches(backend: Backend, dtype: torch.dtype) -> None:
    """Without entropy, kernels store a gradient of 40 MB and more in another way."""
    width, distinct = 10_007, 5
    case = interval_case(width, [[(50, 51, 0.5), (8, 9999, 0.2)], [(9000, 9001, 1.0)]])
    copies = 42 * 2**20 // (distinct * width * dtype.itemsize)
    few, target = case.logits(distinct, dtype), torch.arange(distinct) % 2
    loss, grad = call(
        case,
        few.repeat(copies, 1),
        target.repeat(copies),
        backend,
        reduction="none",
        entropy=0.4,
    )
    answer = expected(case, few, target, 0.4, reduction="none")
    grad = grad.view(copies, distinct, width)
    oracle.assert_loss_close(loss[-distinct:], answer, dtype, roundings=32)
    oracle.assert_grad_close(grad[-1], answer, roundings=32)
    # CUDA's order of summing depends on a row's alignment, which repeats every 16 rows.
    alike = grad[:: 16 if backend.name == "cuda" else 1]
    assert torch.equal(alike, alike[:1].expand_as(alike)), "equal rows have different gradients"


# --- autograd and dispatch ------------------------------------------------------------------------


@pytest.mark.sample(dtype=[torch.float16, torch.float32], reduction=["mean"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_second_backward(
    backend: Backend, rng: np.random.Generator, reduction: str, dtype: torch.dtype
) -> None:
    """Each backward pass of one graph is right for its own incoming factor."""
    case = some_case(rng, shuffle=True)
    logits = case.logits(6, dtype).to(backend.device).requires_grad_()
    target = case.targets(6).to(backend.device)
    loss = path_log_loss(
        logits,
        target,
        case.table.to(backend.device),
        reduction=reduction,
        entropy=0.4,
        backend=backend.name,
    )
    for factor in (3.0, 1.0, -0.25):
        incoming = torch.full_like(loss, factor)
        answer = expected(case, logits, target, 0.4, reduction=reduction, incoming=factor)
        (grad,) = torch.autograd.grad(loss, logits, incoming, retain_graph=True)
        oracle.assert_grad_close(grad, answer, output_roundings=2)
        grad.fill_(7)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(dtype=[torch.float16], reduction=["mean"], factor=[65536.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("factor", [65536.0, 2.0**-10, 0.0])
def test_scaled_loss(backend: Backend, reduction: str, factor: float, dtype: torch.dtype) -> None:
    """A GradScaler's factor applies before the gradient is rounded, so small entries survive."""
    case = tree_case(trees.balanced([4, 5]), 1.0)
    rows = 64
    logits = case.logits(rows, dtype, scale=1.0)
    logits[:, :5] -= 14
    factor = factor / rows if reduction != "mean" else factor
    target = torch.arange(rows) % 15 + 5
    options: dict[str, Any] = {"reduction": reduction, "incoming": factor}
    _, grad = call(case, logits, target, backend, entropy=0.4, **options)
    oracle.assert_grad_close(
        grad, expected(case, logits, target, 0.4, **options), output_roundings=2
    )
    if factor > 1:
        assert (grad != 0).all(), "entries were flushed to zero before they were scaled"


def test_incoming_gradients_differ_by_row(backend: Backend, rng: np.random.Generator) -> None:
    incoming = torch.tensor([1.0, 0.0, -2.0, 1e-3, 100.0, 1.0])
    for dtype in DTYPES:
        case = some_case(rng)
        logits, target = case.logits(6, dtype), case.targets(6)
        check(case, logits, target, backend, reduction="none", incoming=incoming)


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(reduction=["mean"])
@pytest.mark.parametrize(("reduction", "eps"), [("none", 0.0), ("mean", 1e-2)])
def test_gradcheck(backend: Backend, rng: np.random.Generator, reduction: str, eps: float) -> None:
    case = tree_case(trees.random_tree(rng, 5, roots=2, shuffle=True), keep_full=eps > 0)
    logits = case.logits(3, torch.float64).to(backend.device).requires_grad_()
    target = case.targets(3).to(backend.device)
    target[1] = -100
    weight = torch.rand(case.num_targets, dtype=torch.float64, device=backend.device) + 0.5
    table = case.table.to(backend.device)

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        return path_log_loss(
            x,
            target,
            table,
            target_weight=weight,
            reduction=reduction,
            entropy=-0.7,
            eps=eps,
            backend=backend.name,
        )

    assert torch.autograd.gradcheck(loss_of, (logits,))
    assert torch.autograd.gradgradcheck(loss_of, (logits,))


def test_gradient_penalty(backend: Backend, rng: np.random.Generator) -> None:
    """The gradient of the squared gradient norm is that of the dense formula.

    One class is -inf: its 0 log 0 has no second derivative either.
    """
    case = some_case(rng, 25, shuffle=True)
    target = torch.arange(1, 6)
    logits = case.logits(5, torch.float64)
    logits[:, 0] = -torch.inf
    logits = logits.to(backend.device).requires_grad_()

    def penalty(loss: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    found = penalty(
        path_log_loss(
            logits,
            target.to(backend.device),
            case.table.to(backend.device),
            reduction="sum",
            entropy=0.4,
            backend=backend.name,
        )
    )
    kept = logits[:, 1:]
    log_p = kept.log_softmax(1)
    dense = penalty(
        torch.nn.functional.cross_entropy(kept, target.to(backend.device) - 1, reduction="sum")
        + 0.4 * (log_p.exp() * log_p).sum()
    )
    torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-12 * float(dense.abs().max()))


@pytest.mark.thorough_on("reference", "triton")
@pytest.mark.sample(reduction=["none"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_compiled(backend: Backend, rng: np.random.Generator, reduction: str) -> None:
    torch._dynamo.reset()
    case = some_case(rng, shuffle=True)
    table = case.table.to(backend.device)

    def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return path_log_loss(
            logits, target, table, reduction=reduction, entropy=0.4, backend=backend.name
        )

    logits = case.logits(6, torch.float32).to(backend.device).requires_grad_()
    target = case.targets(6).to(backend.device)
    target[2] = -100
    loss = torch.compile(loss_of, fullgraph=True, backend="aot_eager")(logits, target)
    incoming = torch.linspace(-1, 2, loss.numel(), device=loss.device).view_as(loss)
    (grad,) = torch.autograd.grad(loss, logits, incoming)
    options: dict[str, Any] = {"reduction": reduction, "incoming": incoming.cpu().numpy()}
    answer = expected(case, logits, target, 0.4, **options)
    oracle.assert_loss_close(loss.detach(), answer, torch.float32)
    oracle.assert_grad_close(grad, answer, output_roundings=2)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(rng: np.random.Generator, dtype: torch.dtype) -> None:
    case = some_case(rng, 25, shuffle=True)
    table = case.table
    for reduction, with_grad in ((0, True), (1, True), (2, False)):
        arguments = (
            case.logits(5, dtype).requires_grad_(with_grad),
            case.targets(5),
            table.tensors,
            table.max_entries,
            torch.rand(case.num_targets, dtype=torch.float64),
            0.4,
            -100,
            reduction,
            0.0,
            with_grad,
        )
        torch.library.opcheck(torch.ops.hace_kernels.path_log_loss.default, arguments)


def test_loss_is_the_same_without_a_gradient(backend: Backend, rng: np.random.Generator) -> None:
    """Kernels may leave out what only the gradient needs, but the loss has the same bits."""
    for shuffle in (False, True):
        case = some_case(rng, 50, shuffle)
        logits, target = case.logits(6, torch.float32), case.targets(6)
        with_grad, _ = call(case, logits, target, backend, entropy=0.4)
        without = path_log_loss(
            logits.to(backend.device),
            target.to(backend.device),
            case.table.to(backend.device),
            entropy=0.4,
            backend=backend.name,
        )
        assert torch.equal(with_grad, without)
