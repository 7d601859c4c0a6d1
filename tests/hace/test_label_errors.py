"""The error of a label that is out of range, and its hint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hace


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"backend": "reference"}])
def test_a_node_id_in_place_of_a_label(options: dict[str, Any]) -> None:
    tree = hace.Hierarchy.from_paths(["dog/husky", "dog/pug", "car"])
    logits = torch.randn(2, 3)
    loss = hace.HACELoss(tree, **options)
    with pytest.raises(IndexError, match=r"target 3 of row 1 is out of range") as caught:
        loss(logits, torch.tensor([0, 3]))
    assert "(3 is the node 'dog'), give target_space='nodes'" in str(caught.value)
    for label in (4, -1):  # not a node id either
        with pytest.raises(IndexError, match=rf"target {label} of row 1 is out of range") as caught:
            loss(logits, torch.tensor([0, label]))
        assert "node" not in str(caught.value)
    nodes = hace.HACELoss(tree, target_space="nodes", **options)
    assert nodes(logits, torch.tensor([0, 3])).isfinite()
    with pytest.raises(IndexError, match=r"target 4 of row 1 .*\[0, 4\)$"):
        nodes(logits, torch.tensor([0, 4]))
