"""A loop with Accelerate: the same program on a CPU, a GPU or several.

    python -m examples.recipes.accelerate_loop
    accelerate launch -m examples.recipes.accelerate_loop

Accelerate divides the loss by the number of accumulated batches itself. Metrics are of what all
processes gathered.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import hace
from hace import metrics

from .data import tree, vectors


def main() -> dict[str, float]:
    """Trains, and returns the figures of held-out examples."""
    set_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    hierarchy = tree()
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, hierarchy.num_classes))
    model, optimizer, train, test = accelerator.prepare(
        model,
        torch.optim.Adam(model.parameters(), lr=1e-2),
        vectors(seed=0).loader(batch_size=16),
        vectors(seed=1).loader(shuffle=False),
    )
    loss_fn = hace.HACELoss(hierarchy, dilution=0.7)
    for epoch in range(8):
        model.train()
        for inputs, labels in train:
            with accelerator.accumulate(model):
                loss = loss_fn(model(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}")

    model.eval()
    answers, truths = [], []
    for inputs, labels in test:
        with torch.no_grad():
            answer = model(inputs).argmax(1)
        answer, label = accelerator.gather_for_metrics((answer, labels))
        answers.append(answer.cpu())
        truths.append(label.cpu())
    of = torch.cat(answers), torch.cat(truths), hierarchy
    figures = {
        "accuracy": metrics.accuracy(*of).item(),
        "severity": metrics.mistake_severity(*of).item(),
    }
    accelerator.print(figures)
    return figures


if __name__ == "__main__":
    main()
