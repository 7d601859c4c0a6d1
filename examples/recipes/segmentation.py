"""Segmentation with a tree of classes, some pixels of which are labelled coarsely.

    python -m examples.recipes.segmentation

Logits are (N, C, H, W) and labels (N, H, W), as for `nn.CrossEntropyLoss`. With
`target_space="nodes"` a label may be any node: "an animal" teaches what it says and no more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hace
from hace import decode

from .data import Examples, tree, vectors

VOID = 255
SIDE = 16


def scenes(hierarchy: hace.Hierarchy, count: int, seed: int) -> Examples:
    """Images of four quarters with a class each, and the node of each pixel."""
    quarters = vectors(8, 4 * count, seed)
    colours = quarters.inputs.view(count, 2, 2, 8).permute(0, 3, 1, 2)
    pixels = nn.functional.interpolate(colours, size=(SIDE, SIDE))
    pixels = pixels + 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    labels = hace.functional.class_nodes(hierarchy)[quarters.labels].view(count, 1, 2, 2)
    nodes = nn.functional.interpolate(labels.double(), size=(SIDE, SIDE))[:, 0].long()
    return Examples(pixels, nodes)


def coarsened(nodes: Tensor, hierarchy: hace.Hierarchy) -> Tensor:
    """The labels of a hasty annotator: a third of the images has groups, and borders are void."""
    parents = torch.from_numpy(hierarchy.parents.copy())
    coarse = nodes.clone()
    coarse[::3] = parents[nodes[::3]]
    coarse[:, SIDE // 2 - 1 : SIDE // 2 + 1] = VOID
    return coarse


def main() -> dict[str, float]:
    """Trains, and returns shares of right pixels."""
    torch.manual_seed(0)
    hierarchy = tree()
    train, test = scenes(hierarchy, 48, seed=0), scenes(hierarchy, 16, seed=1)
    targets = coarsened(train.labels, hierarchy)
    model = nn.Sequential(
        nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, hierarchy.num_classes, 1)
    )
    loss_fn = hace.HACELoss(hierarchy, target_space="nodes", ignore_index=VOID)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(40):
        loss = loss_fn(model(train.inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step}: loss {loss.item():.3f}")
    with torch.no_grad():
        logits = model(test.inputs)
    exact = hace.predict(logits, hierarchy, target_space="nodes")
    sure = decode.deepest_node(logits, hierarchy, 0.9)  # a coarser node where it is not sure
    on_path = hace.metrics.ancestor_or_descendant_accuracy(
        sure.flatten(), test.labels.flatten(), hierarchy, pred_space="nodes", target_space="nodes"
    )
    figures = {
        "exact": (exact == test.labels).double().mean().item(),
        "sure node on the path": on_path.item(),
    }
    print(figures)
    return figures


if __name__ == "__main__":
    main()
