"""Log-probabilities of chosen nodes, computed by tiles, are those of whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import hace
from hace.functional import linear_node_log_probs, node_log_probs
from hace.nn import HierarchicalClassifier

ROWS, FEATURES = 6, 8
PATHS = [f"{a}/{b}/{c}" for c in range(3) for a in range(4) for b in range(5)]


@pytest.fixture
def tree() -> hace.Hierarchy:
    """Classes at a root, at inner nodes and at leaves, whose label order is not the tree's."""
    return hace.Hierarchy.from_paths([*PATHS, "alone", "0", "1/2"])


def layer(columns: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Input, weight and bias."""
    return [torch.randn(*s).to(dtype) for s in ((ROWS, FEATURES), (columns, FEATURES), (columns,))]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("width", [1, 7, 1000])
@pytest.mark.parametrize("space", ["classes", "nodes", "depth_first"])
def test_the_same_as_of_whole_logits(
    tree: hace.Hierarchy, space: Any, width: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hace_kernels.linear.interval_log_prob.tile_width", lambda *shape: width)
    columns = tree.num_nodes if space == "nodes" else tree.num_classes
    x, weight, bias = layer(columns)
    of_all_nodes = node_log_probs(linear(x, weight, bias), tree, logit_space=space)
    options: dict[str, Any] = {"linear_bias": bias, "logit_space": space, "backend": backend}

    nodes = torch.arange(tree.num_nodes)[::2].flip(0)
    nodes = torch.cat([nodes, nodes[:3]])  # in any order, some of them twice
    found = linear_node_log_probs(x, weight, nodes, tree, **options)
    torch.testing.assert_close(found, of_all_nodes[:, nodes])

    of_rows = torch.randint(tree.num_nodes, (ROWS, 3))
    found = linear_node_log_probs(x, weight, of_rows, tree, **options)
    torch.testing.assert_close(found, of_all_nodes.gather(1, of_rows))

    found = linear_node_log_probs(x[2], weight, nodes.tolist(), tree, **options)
    torch.testing.assert_close(found, of_all_nodes[2, nodes])
    assert linear_node_log_probs(x, weight, [], tree, **options).shape == (ROWS, 0)


@pytest.mark.parametrize("shape", [(4,), (ROWS, 2)])
def test_classes_without_mass(tree: hace.Hierarchy, shape: tuple[int, ...]) -> None:
    x, weight, bias = layer(tree.num_classes)
    dead = tree.index("0/0")
    bias[torch.tensor([PATHS.index(f"0/0/{c}") for c in range(3)])] = -torch.inf
    nodes = torch.randint(tree.num_nodes, shape)
    nodes[..., 0] = dead
    wanted = node_log_probs(linear(x, weight, bias), tree)
    wanted = wanted.gather(1, nodes.expand(ROWS, -1))
    assert (wanted[:, 0] == -torch.inf).all()
    found = linear_node_log_probs(x, weight, nodes, tree, linear_bias=bias)
    torch.testing.assert_close(found, wanted)
    bias.fill_(-torch.inf)
    assert linear_node_log_probs(x, weight, nodes, tree, linear_bias=bias).isnan().all()


@pytest.mark.parametrize("scale", [1.0, 5000.0])
def test_half_precision_layers_lose_nothing_more(tree: hace.Hierarchy, scale: float) -> None:
    """Sums are not rounded to the dtype of the logits."""
    x, weight, bias = layer(tree.num_classes, torch.bfloat16)
    weight *= scale
    wanted = node_log_probs(linear(x, weight, bias).float(), tree)
    nodes = torch.arange(tree.num_nodes)
    for each in (nodes, nodes.expand(ROWS, -1)):
        found = linear_node_log_probs(x, weight, each, tree, linear_bias=bias)
        torch.testing.assert_close(found, wanted)
    model = HierarchicalClassifier(FEATURES, tree, dtype=torch.bfloat16, fused=True)
    best = model.topk(x, 5)
    exact = model.linear(x).float().log_softmax(1).topk(5).values
    torch.testing.assert_close(best.log_prob, exact)


def test_under_autocast(tree: hace.Hierarchy) -> None:
    x, weight, bias = layer(tree.num_classes)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = node_log_probs(linear(x, weight, bias), tree)
        nodes = torch.arange(tree.num_nodes)
        found = linear_node_log_probs(x, weight, nodes, tree, linear_bias=bias)
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, wanted)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an op makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return out


def test_the_classifier_makes_no_whole_logits(
    tree: hace.Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hace_kernels.linear.interval_log_prob.tile_width", lambda *shape: 7)
    model = HierarchicalClassifier(FEATURES, tree)
    x, nodes = torch.randn(32, FEATURES), [3, 0, 17]
    with Largest() as seen:
        found = model.node_log_probs(x, nodes)
    assert seen.largest <= 32 * 17
    logits = model.linear(x)
    wanted = node_log_probs(logits, tree, logit_space="depth_first")[:, nodes]
    torch.testing.assert_close(found, wanted.detach())
    assert not found.requires_grad


def test_arguments_are_checked(tree: hace.Hierarchy) -> None:
    x, weight, bias = layer(tree.num_classes)
    for bad in (tree.num_nodes, -1):
        with pytest.raises(IndexError, match=f"there is no node {bad}; node ids are 0 to"):
            linear_node_log_probs(x, weight, [0, bad], tree)
    with pytest.raises(TypeError, match="nodes must be integers"):
        linear_node_log_probs(x, weight, [0.5], tree)
    for shape in ((), (ROWS + 1, 2)):
        with pytest.raises(ValueError, match="nodes must be"):
            linear_node_log_probs(x, weight, torch.zeros(shape, dtype=torch.int64), tree)
    with pytest.raises(ValueError, match="linear_weight must be"):
        linear_node_log_probs(x, weight[1:], [0], tree)
    with pytest.raises(ValueError, match="bias must be"):
        linear_node_log_probs(x, weight, [0], tree, linear_bias=bias[1:])
    dag = hace.Hierarchy.from_edges(
        [("a", "c"), ("b", "c"), ("a", "d")], allow_multiple_parents=True
    )
    with pytest.raises(ValueError, match="node_log_probs of whole logits"):
        linear_node_log_probs(x, weight[: dag.num_classes], [0], dag)
