"""HACE with d = 1 passes PyTorch's own samples for `cross_entropy` and `nn.CrossEntropyLoss`.

These are the samples with which `torch.testing` tests the losses themselves. They run over a flat
hierarchy and over a deep one with classes at inner nodes, on every backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import trees
from backend import Backend
from cases import DTYPES
from oracle import ROUNDOFF, UNDERFLOW
from tree_cases import hierarchy_of

import hace
from hace.functional import hace_loss

pytest.importorskip("expecttest", reason="torch.testing's samples need the package expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

pytestmark = pytest.mark.parity

OP = next(op for op in op_db if op.name == "nn.functional.cross_entropy")
MODULE = next(info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss)

HIERARCHIES = {
    "flat": lambda rng, classes: trees.flat(classes, rooted=False),
    "deep": lambda rng, classes: trees.random_tree(rng, classes, inner=0.5, shuffle=True),
}


def hierarchy(kind: str, input: torch.Tensor) -> hace.Hierarchy:
    return hierarchy_over(kind, input.shape[min(1, input.dim() - 1)])


@cache  # keeps the hierarchy's tables, too
def hierarchy_over(kind: str, classes: int) -> hace.Hierarchy:
    leaves, found = classes, None
    while found is None or found.num_classes > classes:  # inner classes add to the leaves
        found = HIERARCHIES[kind](np.random.default_rng(0), leaves)
        leaves -= 1
    missing = classes - found.num_classes
    parents = np.concatenate([found.parents, np.full(missing, found.num_nodes - 1)])
    nodes = np.concatenate([found.classes, found.num_nodes + np.arange(missing)])
    return hierarchy_of(trees.Tree(parents, nodes))


def assert_same(
    ours: torch.Tensor, input: torch.Tensor, target: torch.Tensor, options: dict[str, Any]
) -> None:
    """Compares with F.cross_entropy in float64, since its half-precision losses are rounded."""
    exact = input.detach().double().requires_grad_()
    double = {
        name: value.double() if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    wanted = target.double() if target.is_floating_point() else target
    plain = torch.nn.functional.cross_entropy(exact, wanted, **double)
    (grad,) = torch.autograd.grad(ours.sum(), input)
    (plain_grad,) = torch.autograd.grad(plain.sum(), exact)
    rtol = 1e-13 if input.dtype == torch.float64 else 4e-6
    size = float(exact.detach().abs().max()) + 1 if exact.numel() else 1.0
    torch.testing.assert_close(ours.double(), plain, rtol=rtol, atol=rtol * size, equal_nan=True)
    rounding = ROUNDOFF[input.dtype]
    largest = float(plain_grad.abs().nan_to_num(0).max()) if plain_grad.numel() else 0.0
    weight = options.get("weight")
    heaviest = 1.0 if weight is None else max(1.0, float(weight.abs().max()))
    # PyTorch's p - 1 has the rounding errors of p, however small the difference is.
    of_plain = 8 * ROUNDOFF[torch.float64] * heaviest
    torch.testing.assert_close(
        grad.double(),
        plain_grad,
        rtol=2 * rounding + rtol,
        atol=rtol * size * largest + UNDERFLOW[input.dtype] + of_plain,
        equal_nan=True,
    )


def op_samples(backend: Backend, dtype: torch.dtype) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    for sample in OP.sample_inputs(str(backend.device), dtype, requires_grad=True):
        yield sample.input, sample.args[0], sample.kwargs


@pytest.mark.sample(kind=["deep"], dtype=[torch.float32, torch.float16])
@pytest.mark.parametrize("kind", HIERARCHIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_op_samples(backend: Backend, dtype: torch.dtype, kind: str) -> None:
    count = 0
    for input, target, options in op_samples(backend, dtype):
        tree = hierarchy(kind, input)
        ours = hace_loss(input, target, tree, 1.0, backend=backend.name, **options)
        assert_same(ours, input, target, options)
        count += 1
    assert count >= 20


@pytest.mark.thorough_on("triton")
@pytest.mark.sample(kind=["deep"], dtype=[torch.float32], reduction=["mean"])
@pytest.mark.parametrize("kind", HIERARCHIES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_module_samples(backend: Backend, dtype: torch.dtype, reduction: str, kind: str) -> None:
    samples = MODULE.module_inputs_func(
        MODULE, device=str(backend.device), dtype=dtype, requires_grad=True, training=True
    )
    count = 0
    for sample in samples:
        arguments, options = sample.constructor_input.args, sample.constructor_input.kwargs
        assert not arguments
        if options.get("reduction", "mean") != reduction:
            continue
        input, target = sample.forward_input.args
        module = hace.HACELoss(hierarchy(kind, input), 1.0, backend=backend.name, **options)
        assert_same(module(input, target), input, target, options)
        count += 1
    assert count >= 20
