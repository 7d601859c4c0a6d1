"""The stages of `path_log_loss` on tiles of columns give the same as whole rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cases
import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, many_rows

from hace_kernels.backends import backends
from hace_kernels.ops.path_stages import path_measure, path_resolve, path_write, select_paths
from hace_kernels.row_paths import empty_rings

# tests/triton_kernels/test_interpreted.py tests a few rows there.
pytestmark = [pytest.mark.parity, many_rows]


def by_tiles(
    case: cases.Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    backend: Backend,
    borders: Sequence[int],
    eps: float = 0.0,
    entropy: float = 0.0,
    again: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, log P of the innermost interval, and gradient.

    The pass that writes the gradient gets the logits `again`.
    """
    device = backend.device
    table, logits, target = case.table.to(device), logits.to(device), target.to(device)
    z = logits if table.order is None else logits[:, table.order.long()].contiguous()
    paths, _ = select_paths(table, target, target != -100)
    rings = empty_rings(paths, oracle.working_dtype(z.dtype), with_moment=entropy != 0)
    ends = [0, *borders, z.shape[1]]
    spans = list(itertools.pairwise(ends))
    for first, last in spans:
        path_measure(z[:, first:last], paths, first, rings, backend.name)
    found = path_resolve(rings, paths, eps=eps, entropy=entropy)
    z = z if again is None else again.to(device)
    grad = z.clone()
    for first, last in spans:
        tile = grad[:, first:last]
        path_write(tile, paths, first, found.gradient, tile, backend.name)
    if table.order is not None:
        grad = torch.empty_like(grad).index_copy_(1, table.order.long(), grad)
    return found.loss.cpu(), found.log_prob.cpu(), grad.cpu()


def check(
    case: cases.Case,
    logits: torch.Tensor,
    target: torch.Tensor,
    backend: Backend,
    borders: Sequence[int],
    eps: float = 0.0,
) -> None:
    answer = cases.expected(case, logits, target, reduction="none", eps=eps)
    loss, _, grad = by_tiles(case, logits, target, backend, borders, eps)
    oracle.assert_loss_close(loss.to(oracle.working_dtype(logits.dtype)), answer, logits.dtype)
    oracle.assert_grad_close(grad, answer)


def every(width: int, num_classes: int) -> list[int]:
    return list(range(width, num_classes, width))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_the_width_of_tiles_does_not_matter(
    backend: Backend, dtype: torch.dtype, eps: float, rng: np.random.Generator
) -> None:
    tree = trees.random_tree(rng, 40, roots=3, inner=0.3, shuffle=True)
    case = cases.tree_case(tree, keep_full=eps > 0)
    logits, target = case.logits(12, dtype, scale=4.0), case.targets(12)
    num_classes = case.num_classes
    for width in (1, 7, num_classes - 1, num_classes, num_classes + 5):
        check(case, logits, target, backend, every(width, num_classes), eps)


def test_borders_on_and_beside_interval_ends(backend: Backend) -> None:
    paths = [[(5, 6, 0.5), (4, 9, 0.3), (2, 17, 0.2)], [(0, 3, 1.0)], [(17, 20, 0.4), (3, 20, 0.6)]]
    case = cases.interval_case(20, paths)
    logits, target = case.logits(3, torch.float32), torch.arange(3)
    ends = sorted(
        {end + by for path in paths for entry in path for end in entry[:2] for by in (-1, 0, 1)}
        & set(range(1, 20))
    )
    for end in ends:
        check(case, logits, target, backend, [int(end)])
    check(case, logits, target, backend, [int(end) for end in ends])


def test_wide_tiles_use_whole_vectors(backend: Backend) -> None:
    case = cases.interval_case(
        20011, [[(9000, 9001, 0.5), (8000, 17000, 0.3)], [(3, 20000, 0.7)], []]
    )
    logits = case.logits(6, torch.float32, scale=5.0)
    check(case, logits, torch.tensor([0, 1, 2, 0, 1, 2]), backend, [4096, 12288, 19999])


@pytest.mark.skipif(not backends()["cpu"].available, reason="the cpu backend is not built")
def test_threads_do_not_matter(threads: Callable[[int], None]) -> None:
    """Bits are the same for tiles that are large enough to distribute their rows over threads."""
    case = cases.interval_case(20011, [[(9000, 9001, 0.5), (8000, 17000, 0.3)], []])
    logits, target = case.logits(15, torch.float32), torch.arange(15) % 2
    backend = Backend("cpu", torch.device("cpu"))
    threads(1)
    alone = by_tiles(case, logits, target, backend, [8192], entropy=0.3)
    for count in (2, 5):
        threads(count)
        found = by_tiles(case, logits, target, backend, [8192], entropy=0.3)
        torch.testing.assert_close(found, alone, rtol=0, atol=0)


@pytest.mark.parametrize(
    "tree",
    [trees.flat(30), trees.flat(30, rooted=False), trees.chain(6), trees.caterpillar(25),
     trees.balanced([3, 4, 5]), trees.flat(1)],
    ids=["flat", "no root", "chain", "caterpillar", "balanced", "one class"],
)  # fmt: skip
def test_shapes_of_trees(backend: Backend, tree: trees.Tree) -> None:
    case = cases.tree_case(tree, nodes=np.arange(tree.num_nodes))
    target = torch.arange(case.num_targets)
    check(
        case,
        case.logits(len(target), torch.float32, 30.0),
        target,
        backend,
        every(7, case.num_classes),
    )


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits_and_tiny_subtrees(backend: Backend, scale: float) -> None:
    case = cases.tree_case(trees.balanced([4, 4, 4]))
    logits = case.logits(16, torch.float32, scale)
    logits[:8, :16] -= 5 * scale
    check(case, logits, case.targets(16), backend, every(7, 64))


def test_minus_infinity(backend: Backend) -> None:
    case = cases.tree_case(trees.balanced([4, 4]))
    logits = case.logits(16, torch.float32)
    for row in range(16):
        logits[row, row] = -torch.inf  # only the target
        if row % 2:
            logits[row, row // 4 * 4 : row // 4 * 4 + 4] = -torch.inf  # the target's whole subtree
    logits[3, 8:12] = -torch.inf  # columns outside the path
    logits[7] = -torch.inf
    for width in (1, 3, 4, 16):
        check(case, logits, torch.arange(16), backend, every(width, 16))


def test_nan_and_infinity_spoil_their_rows_alone(backend: Backend) -> None:
    case = cases.tree_case(trees.balanced([4, 4]))
    logits, target = case.logits(5, torch.float32), case.targets(5)
    clean = by_tiles(case, logits, target, backend, every(5, 16))
    logits[1, 3], logits[3, 15] = torch.nan, torch.inf
    spoilt = by_tiles(case, logits, target, backend, every(5, 16))
    for was, now in zip(clean, spoilt, strict=True):
        assert now[[1, 3]].isnan().all()
        torch.testing.assert_close(now[[0, 2, 4]], was[[0, 2, 4]], rtol=0, atol=0)


def test_logits_that_were_rounded_up_the_second_time(backend: Backend) -> None:
    case = cases.tree_case(trees.balanced([4, 4]))
    logits, target = case.logits(16, torch.float32, 50.0), torch.arange(16)
    up = torch.nextafter(logits, torch.full_like(logits, torch.inf))
    _, _, grad = by_tiles(case, logits, target, backend, every(5, 16), again=up)
    _, _, plain = by_tiles(case, logits, target, backend, every(5, 16))
    scale = plain.abs().amax(1, keepdim=True)
    assert (((grad - plain).abs() / scale) < 4 * 2.0**-23 * logits.abs().max()).all()


def test_a_row_times_zero_is_zero_whatever_it_holds(backend: Backend) -> None:
    case, device = cases.tree_case(trees.balanced([4, 4])), backend.device
    logits, target = case.logits(2, torch.float32).to(device), case.targets(2).to(device)
    logits[0] = torch.nan
    paths, _ = select_paths(case.table.to(device), target, target != -100)
    rings = empty_rings(paths, torch.float32)
    path_measure(logits, paths, 0, rings, backend.name)
    gradient = path_resolve(rings, paths).gradient.times(torch.tensor([0.0, 2.0], device=device))
    path_write(logits, paths, 0, gradient, logits, backend.name)
    assert (logits[0] == 0).all()
    assert logits[1].isfinite().all()


@pytest.mark.parametrize("borders", [[], [16, 40], [1, 2, 63]])
def test_entropy_and_the_target_log_probability(backend: Backend, borders: list[int]) -> None:
    case = cases.tree_case(trees.balanced([4, 4, 4]), dilution=1.0)
    z = case.logits(8, torch.float64, 6.0).requires_grad_()
    target = case.targets(8)
    log_p = z.log_softmax(1)
    own = log_p.gather(1, target[:, None])[:, 0]
    expected = -own + 0.3 * (log_p.exp() * log_p).sum(1)
    (grad,) = torch.autograd.grad(expected.sum(), z)
    found = by_tiles(case, z.detach(), target, backend, borders, entropy=0.3)
    for actual, wanted in zip(found, (expected, own, grad), strict=True):
        torch.testing.assert_close(actual, wanted.detach(), rtol=1e-12, atol=1e-14)


def test_a_row_without_a_path_and_one_with_a_bad_target() -> None:
    table = cases.tree_case(trees.balanced([4, 4])).table
    target = torch.tensor([3, -100])
    paths, is_right = select_paths(table, target, target != -100)
    assert is_right.all()
    assert (paths.start[1] == 0).all()
    assert (paths.stop[1] == 16).all()
    assert (paths.weight[1] == 0).all()
    with pytest.raises(IndexError, match=r"target 16 of row 1 is out of range"):
        select_paths(table, torch.tensor([3, 16]), torch.tensor([True, True]))
