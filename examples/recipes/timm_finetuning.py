"""Fine-tuning with timm: mixup, CutMix and an average of the weights.

    python -m examples.recipes.timm_finetuning --model resnet50 --pretrained

timm's `Mixup` gives targets as probabilities (N, C), which the losses take as they are. It smooths
labels by itself, so the loss does not.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import hace
from hace import metrics

from .data import images, tree


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, and returns the figures of the average model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    hierarchy, train, test = tree(), images(seed=0), images(seed=1)
    classes = hierarchy.num_classes
    model = timm.create_model(options.model, pretrained=options.pretrained, num_classes=classes)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=0.05)
    average = ModelEmaV3(model, decay=0.8)
    mixup = Mixup(
        mixup_alpha=0.2, cutmix_alpha=1.0, prob=0.5, label_smoothing=0.1, num_classes=classes
    )
    loss_fn = hace.HACELoss(hierarchy, dilution=0.7)
    for epoch in range(options.epochs):
        model.train()
        for inputs, labels in train.loader():
            inputs, targets = mixup(inputs, labels)
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    average.module.eval()
    with torch.no_grad():
        answers = average.module(test.inputs).argmax(1)
    figures = {
        "accuracy": metrics.accuracy(answers, test.labels, hierarchy).item(),
        "severity": metrics.mistake_severity(answers, test.labels, hierarchy).item(),
    }
    print(figures)
    return figures


if __name__ == "__main__":
    main()
