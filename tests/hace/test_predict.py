"""`hace.predict`: from logits of any kind to labels or nodes."""

from __future__ import annotations

from typing import Any

import dags
import numpy as np
import pytest
import torch
import trees
from tree_cases import SHAPES, hierarchy_of

import hace


def columns_of(hierarchy: hace.Hierarchy, logits: str) -> np.ndarray:
    """The node that each column belongs to."""
    if logits == "nodes":
        return np.arange(hierarchy.num_nodes)
    if logits == "depth_first":
        return hierarchy.classes[hierarchy.depth_first_classes]
    return hierarchy.classes


def by_hand(hierarchy: hace.Hierarchy, row: torch.Tensor, logits: str) -> int:
    """The label of the class whose own logit is the largest."""
    of_node = dict(zip(columns_of(hierarchy, logits).tolist(), row.tolist(), strict=True))
    return max(range(hierarchy.num_classes), key=lambda c: of_node[int(hierarchy.classes[c])])


@pytest.mark.parametrize("logits", ["classes", "nodes", "depth_first"])
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(rng: np.random.Generator, shape: str, logits: str) -> None:
    """With a logit per node, only classes are compared, whatever the other logits are."""
    hierarchy = hierarchy_of(SHAPES[shape](rng))
    rows = torch.randn(20, len(columns_of(hierarchy, logits)))
    expected = [by_hand(hierarchy, row, logits) for row in rows]
    labels = hace.predict(rows, hierarchy, logit_space=logits)
    assert labels.dtype == torch.int64
    assert labels.tolist() == expected
    nodes = hace.predict(rows, hierarchy, logit_space=logits, target_space="nodes")
    assert nodes.dtype == torch.int64
    assert nodes.tolist() == hierarchy.classes[expected].tolist()


@pytest.mark.parametrize("logits", ["classes", "nodes"])
def test_dags(logits: str) -> None:
    for dag in dags.SHAPES.values():
        hierarchy = dags.hierarchy_of(dag)
        rows = torch.randn(20, len(columns_of(hierarchy, logits)))
        expected = [by_hand(hierarchy, row, logits) for row in rows]
        assert hace.predict(rows, hierarchy, logit_space=logits).tolist() == expected


@pytest.mark.parametrize("logits", ["classes", "nodes", "depth_first"])
@pytest.mark.parametrize("size", [(), (3,), (0,), (2, 4), (2, 0, 3), (2, 3, 4)], ids=str)
def test_shapes(rng: np.random.Generator, size: tuple[int, ...], logits: str) -> None:
    """(C), (N, C) and (N, C, d1, …) lose their class dimension, which is the second of several."""
    hierarchy = hierarchy_of(trees.random_tree(rng, 12, roots=2, inner=0.4, shuffle=True))
    width = len(columns_of(hierarchy, logits))
    rows = torch.randn(*size, width)
    input = rows if len(size) < 2 else rows.movedim(-1, 1)
    labels = hace.predict(input, hierarchy, logit_space=logits)
    assert labels.shape == size
    flat = [by_hand(hierarchy, row, logits) for row in rows.reshape(-1, width)]
    assert labels.flatten().tolist() == flat


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    hierarchy = hace.Hierarchy.from_parents([-1, 0, 0, 0])
    rows = torch.eye(3, dtype=dtype).requires_grad_()
    labels = hace.predict(rows, hierarchy)
    assert labels.tolist() == [0, 1, 2]
    assert not labels.requires_grad


def test_masked_classes_are_not_predicted() -> None:
    hierarchy = hace.Hierarchy.from_paths(["a/b", "a/c", "d"])
    rows = torch.tensor([[-torch.inf, -5.0, -torch.inf]])
    assert hace.predict(rows, hierarchy).item() == 1


def test_an_inner_class_is_compared_by_its_own_logit() -> None:
    """It is not compared by the mass of its subtree, which no class below it could exceed."""
    hierarchy = hace.Hierarchy.from_paths(["animal/dog", "animal", "car"])
    rows = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]])
    assert hace.predict(rows, hierarchy).tolist() == [0, 1]
    assert hace.predict(rows, hierarchy, target_space="nodes").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"logit_space": "leaves"},
            "logit_space must be 'classes', 'nodes' or 'depth_first', got 'leaves'",
        ),
        ({"target_space": "leaves"}, "target_space must be 'classes' or 'nodes', got 'leaves'"),
        (
            {"target_space": "depth_first"},
            "target_space must be 'classes' or 'nodes', got 'depth_first'",
        ),
    ],
    ids=str,
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    hierarchy = hace.Hierarchy.from_parents([-1, 0, 0, 0])
    with pytest.raises(ValueError, match=message):
        hace.predict(torch.randn(2, 3), hierarchy, **options)


@pytest.mark.parametrize("size", [(2, 4), (4,), (), (2, 1, 3)], ids=str)
def test_shapes_that_do_not_fit(size: tuple[int, ...]) -> None:
    """The error names the right size: the number of nodes if the logits are the nodes'."""
    hierarchy = hace.Hierarchy.from_parents([-1, 0, 0, 0])
    with pytest.raises(ValueError, match="C = 3"):
        hace.predict(torch.randn(size), hierarchy)
    with pytest.raises(ValueError, match=r"C = 4.*nodes"):
        hace.predict(torch.randn(2, 3), hierarchy, logit_space="nodes")


def test_wrong_types() -> None:
    hierarchy = hace.Hierarchy.from_parents([-1, 0, 0, 0])
    with pytest.raises(TypeError, match="int64"):
        hace.predict(torch.zeros(2, 3, dtype=torch.int64), hierarchy)
    with pytest.raises(TypeError, match="Hierarchy"):
        hace.predict(torch.zeros(2, 3), [-1, 0, 0, 0])


@pytest.mark.parametrize("logits", ["classes", "nodes", "depth_first"])
def test_compiled(rng: np.random.Generator, logits: str) -> None:
    """It compiles into one graph once the hierarchy has its tables."""
    torch._dynamo.reset()
    hierarchy = hierarchy_of(trees.random_tree(rng, 12, inner=0.4, shuffle=True))
    rows = torch.randn(5, len(columns_of(hierarchy, logits)))
    expected = hace.predict(rows, hierarchy, logit_space=logits)

    def predict(rows: torch.Tensor) -> torch.Tensor:
        return hace.predict(rows, hierarchy, logit_space=logits)

    compiled = torch.compile(predict, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(rows), expected)


@pytest.mark.parametrize("logits", ["classes", "nodes", "depth_first"])
def test_agrees_with_the_losses(rng: np.random.Generator, logits: str) -> None:
    """The predicted leaf is the class with the least loss, for all kinds of columns."""
    tree = trees.random_tree(rng, 12, roots=2, shuffle=True)
    hierarchy = hierarchy_of(tree)
    rows = torch.randn(6, len(columns_of(hierarchy, logits)), dtype=torch.float64)
    if logits == "nodes":
        inner = np.setdiff1d(np.arange(tree.num_nodes), tree.classes)
        rows[:, inner] = -torch.inf
    loss_fn = hace.CrossEntropyLoss(hierarchy, logit_space=logits, reduction="none")
    losses = torch.stack([loss_fn(rows, torch.full((6,), c)) for c in range(12)], 1)
    assert torch.equal(hace.predict(rows, hierarchy, logit_space=logits), losses.argmin(1))
