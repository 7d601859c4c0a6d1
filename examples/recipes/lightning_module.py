"""A Lightning module, with metrics that add up over batches and processes.

python -m examples.recipes.lightning_module
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

import hace
from hace.torchmetrics import Accuracy, LevelAccuracies, MistakeSeverity

from .data import tree, vectors


class Classifier(lightning.LightningModule):
    """A small network over a hierarchy, which its checkpoints keep as a hyperparameter."""

    def __init__(self, hierarchy: hace.Hierarchy, features: int, dilution: float = 0.7) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(features, 32), nn.ReLU())
        self.head = nn.Linear(32, hierarchy.num_classes)
        self.loss_fn = hace.HACELoss(hierarchy, dilution)
        self.metrics = nn.ModuleDict(
            {"accuracy": Accuracy(hierarchy), "severity": MistakeSeverity(hierarchy)}
        )
        self.levels = LevelAccuracies(hierarchy)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.body(inputs))
        return logits

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        inputs, labels = batch
        loss: Tensor = self.loss_fn(self(inputs), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Adds one batch to the metrics."""
        inputs, labels = batch
        answers = self(inputs).argmax(1)
        for name, metric in self.metrics.items():
            metric(answers, labels)
            self.log(name, metric)
        self.levels.update(answers, labels)

    def on_validation_epoch_end(self) -> None:
        """A vector, which the logger takes one by one."""
        for level, accuracy in enumerate(self.levels.compute()):
            self.log(f"accuracy at depth {level}", accuracy)
        self.levels.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(**options: Any) -> dict[str, float]:
    """Trains, with more options of `lightning.Trainer`; returns the last validation's figures."""
    lightning.seed_everything(0, verbose=False)
    model = Classifier(tree(), features=16)
    trainer = lightning.Trainer(max_epochs=8, logger=False, **options)
    trainer.fit(model, vectors(seed=0).loader(), vectors(seed=1).loader(shuffle=False))
    figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
    print(figures)
    return figures


if __name__ == "__main__":
    main()
