"""A training loop of one's own, in the manner of torchvision's reference scripts.

    python -m examples.recipes.training_loop

Only the line that makes the criterion differs from one with `nn.CrossEntropyLoss`: label smoothing,
class weights, mixed precision and clipped gradients are as there.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

import hace
from hace import metrics

from .data import images, tree

EPOCHS, WARM_UP = 8, 2


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    loader: DataLoader[tuple[torch.Tensor, ...]],
    optimizer: torch.optim.Optimizer,
) -> float:
    """Returns the mean loss of the batches."""
    model.train()
    losses = []
    for inputs, labels in loader:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]], hierarchy: hace.Hierarchy
) -> dict[str, float]:
    """Top-1 accuracy, and how far off the mistakes are."""
    model.eval()
    answers, labels = zip(*((model(x).argmax(1), y) for x, y in loader), strict=True)
    of = torch.cat(answers), torch.cat(labels), hierarchy
    accuracy, severity = metrics.accuracy(*of), metrics.mistake_severity(*of)
    return {"accuracy": accuracy.item(), "severity": severity.item()}


def main() -> dict[str, float]:
    """Trains, and returns the figures of held-out images."""
    torch.manual_seed(0)
    hierarchy, train, test = tree(), images(seed=0), images(seed=1)
    model = nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 64), nn.ReLU(),
        nn.Linear(64, hierarchy.num_classes),
    )  # fmt: skip
    criterion = hace.HACELoss(hierarchy, dilution=0.7, label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=WARM_UP)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS - WARM_UP)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [WARM_UP])
    for epoch in range(EPOCHS):
        loss = train_one_epoch(model, criterion, train.loader(), optimizer)
        schedule.step()
        print(f"epoch {epoch}: loss {loss:.3f}")
    figures = evaluate(model, test.loader(shuffle=False), hierarchy)
    print(figures)
    return figures


if __name__ == "__main__":
    main()
