"""HACE agrees with the oracle for any valid options, on any hierarchy, dtype and shape.

`make test` tries a few dozen examples and `make test-all` 1,500 per backend, always the same ones.
`make fuzz`, which sets HACE_FUZZ_SECONDS, tries random ones for an hour. Hypothesis makes failing
examples as small as it can.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import numpy as np
import oracle
import pytest
import torch
import trees
from backend import Backend, many_rows
from cases import DTYPES, REDUCTIONS, SPACES
from hypothesis import strategies as st
from test_hace_loss_properties import SEEDS, hierarchies
from tree_cases import hierarchy_of

import hace

pytestmark = [
    pytest.mark.parity,
    pytest.mark.not_on("gpu", reason="the tensors are made on the CPU"),
    many_rows,
]

SECONDS = float(os.environ.get("HACE_FUZZ_SECONDS", "0"))

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (17,), (0,), (3, 2), (2, 0), (2, 1, 3)]


@dataclass(frozen=True)
class Case:
    """The arguments of a call; `shape` is the shape of the rows, starting with the batch."""

    tree: trees.Tree
    dilution: float
    shape: tuple[int, ...]
    form: str
    dtype: torch.dtype
    scale: float
    masked: bool
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    form = draw(st.sampled_from(["index", "index", "probabilities", "pairs"]))
    options: dict[str, Any] = {
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "logit_space": draw(st.sampled_from(SPACES)),
        "target_space": draw(st.sampled_from(SPACES)),
        "eps": draw(st.sampled_from([0.0, 0.0, 1e-6])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.1, 0.6])),
        "smoothing": draw(st.sampled_from(["uniform", "others"])),
        "weight": draw(st.booleans()),
        "ignore_index": draw(st.sampled_from([-100, -1, 0, 3])) if form == "index" else -100,
    }
    if form != "probabilities" and draw(st.booleans()):
        options["soft_label_beta"] = draw(st.sampled_from([0.0, 4.0, 50.0]))
        options["soft_label_distance"] = draw(st.sampled_from(["height", "depth"]))
    return Case(
        tree=draw(hierarchies()),
        dilution=draw(st.sampled_from([0.05, 0.5, 0.7, 1.0])),
        shape=draw(st.sampled_from(SHAPES)),
        form=form,
        dtype=draw(st.sampled_from(DTYPES)),
        # With eps, an exponent's error is proportional to its gap; the ops' own tests try large
        # gaps.
        scale=draw(st.sampled_from([0.0, 2.0] if options["eps"] else [0.0, 2.0, 30.0, 300.0])),
        masked=draw(st.booleans()),
        seed=draw(SEEDS),
        options=options,
    )


def targets(case: Case, rows: int, generator: np.random.Generator) -> Any:
    """Targets of rows: indices (B), pairs of shape (B, 3) each, or probabilities (B, T)."""
    space = case.options["target_space"]
    labels = np.arange(case.tree.num_classes)
    width = case.tree.num_classes
    if space == "nodes":
        labels, width = np.flatnonzero(case.tree.reach().any(axis=1)), case.tree.num_nodes
    if case.form == "probabilities":
        mass = np.zeros((rows, width))
        mass[:, labels] = generator.random((rows, len(labels)))
        return torch.from_numpy(mass / mass.sum(1, keepdims=True))
    index = labels[generator.integers(0, len(labels), (rows, 3))]
    if case.form == "pairs":
        index[generator.random(index.shape) < 0.1] = -100
        return torch.from_numpy(index), torch.from_numpy(generator.random((rows, 3)))
    index = torch.from_numpy(index[:, 0])
    index[generator.random(rows) < 0.2] = case.options["ignore_index"]
    return index


def in_shape(rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Reshapes (rows, …) to (N, …, d1, …), with the last dimension of rows after the batch."""
    together = rows.reshape((*shape, *rows.shape[1:]))
    return together.movedim(-1, min(1, len(shape))) if rows.dim() > 1 else together


def check(case: Case, backend: str) -> None:
    generator = np.random.default_rng(case.seed)
    options, rows = dict(case.options), math.prod(case.shape)
    nodes = case.tree.num_nodes
    width = nodes if options["logit_space"] == "nodes" else case.tree.num_classes
    logits = torch.from_numpy(case.scale * generator.standard_normal((rows, width))).to(case.dtype)
    if case.masked:
        logits[torch.from_numpy(generator.random((rows, width)) < 0.1)] = -torch.inf
    count = nodes if options["target_space"] == "nodes" else case.tree.num_classes
    weight = torch.from_numpy(generator.random(count)) if options.pop("weight") else None
    options["weight"] = weight
    target = targets(case, rows, generator)
    reduction = options.pop("reduction")

    shaped = in_shape(logits, case.shape).requires_grad_()
    given: Any = target
    if isinstance(target, tuple):
        given = tuple(in_shape(part, case.shape) for part in target)
    else:
        given = in_shape(target, case.shape)
    module = hace.HACELoss(
        hierarchy_of(case.tree), case.dilution, reduction=reduction, backend=backend, **options
    )
    loss = module(shaped, given)
    incoming = torch.from_numpy(generator.standard_normal(tuple(loss.shape))).to(loss.dtype)
    (grad,) = torch.autograd.grad(loss, shaped, incoming)

    answers, divisor = oracle.hace(case.tree, logits, target, case.dilution, **options)
    factor = incoming.reshape(-1).numpy() if reduction == "none" else float(incoming)
    answer = oracle.reduce(answers, reduction, divisor, factor)
    roundings = 24 + 2 * max(len(case.tree.path(node)) for node in range(nodes))
    # Soft labels are exp(-beta * distance) in float64, relative to the largest one. So the relative
    # error of a mass is its exponent's error, and a row's gradient may consist of just one mass.
    exponent = options.get("soft_label_beta", 0.0)
    roundings += exponent * oracle.ROUNDOFF[torch.float64] / oracle.ROUNDOFF[loss.dtype]
    found = loss.detach().reshape(-1) if reduction == "none" else loss.detach()
    oracle.assert_loss_close(found, answer, case.dtype, roundings)
    grad = grad.movedim(min(1, len(case.shape)), -1).reshape(rows, width)
    oracle.assert_grad_close(grad, answer, roundings=roundings, output_roundings=2)


def run(backend: Backend, examples: int, seed: int | None) -> None:
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=seed is None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @settings
    @hypothesis.given(cases())
    def any_case(case: Case) -> None:
        check(case, backend.name)

    (any_case if seed is None else hypothesis.seed(seed)(any_case))()


def test_some_cases(backend: Backend) -> None:
    run(backend, 60, None)


@pytest.mark.thorough
def test_many_cases(backend: Backend) -> None:
    start, seed = time.monotonic(), int(os.environ.get("HACE_FUZZ_SEED", "0"))
    for done in itertools.count(1):
        run(backend, 500, seed + done)
        if done >= 3 and time.monotonic() - start >= SECONDS:
            break
