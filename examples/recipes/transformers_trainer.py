"""Text classification with the Trainer of Hugging Face's transformers.

    python -m examples.recipes.transformers_trainer

`label2id` comes from the tree, so that a label means the same to the model and to the loss. With
gradient accumulation the Trainer says how many items a whole step has: a batch's sum is divided by
it.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import hace
from hace import metrics

from .data import tree

WORDS = ["a", "the", "fluffy", "fast", "small", "red"]


def sentences(hierarchy: hace.Hierarchy, count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids of a few words, among them one for each node on the path of the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in rng.integers(hierarchy.num_classes, size=count).tolist():
        said = [len(WORDS) + node for node in hierarchy.path(int(hierarchy.classes[label]))]
        tokens = rng.permutation([*said, *rng.integers(len(WORDS), size=3)])
        rows.append({"input_ids": torch.tensor(tokens), "labels": label})
    return rows


def main() -> dict[str, float]:
    """Trains, and returns the figures of the last evaluation."""
    hierarchy = tree()
    label2id = {hierarchy.names[node]: label for label, node in enumerate(hierarchy.classes)}
    config = BertConfig(
        vocab_size=len(WORDS) + hierarchy.num_nodes, hidden_size=32, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0.0, label2id=label2id,
        id2label={label: name for name, label in label2id.items()},
    )  # fmt: skip
    loss_fn = hace.HACELoss(hierarchy, dilution=0.7, reduction="sum")

    def loss_of(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return loss_fn(outputs.logits, labels) / items

    def figures_of(predictions: Any) -> dict[str, float]:
        answers = torch.from_numpy(predictions.predictions.argmax(1))
        of = answers, torch.from_numpy(predictions.label_ids), hierarchy
        return {"accuracy": metrics.accuracy(*of).item()}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            BertForSequenceClassification(config),
            TrainingArguments(
                folder, num_train_epochs=20, per_device_train_batch_size=16, learning_rate=5e-3,
                gradient_accumulation_steps=2, report_to=[], save_strategy="no", use_cpu=True,
                disable_tqdm=True, seed=0,
            ),
            train_dataset=sentences(hierarchy, 256, seed=0),
            eval_dataset=sentences(hierarchy, 128, seed=1),
            compute_loss_func=loss_of,
            compute_metrics=figures_of,
        )  # fmt: skip
        trainer.train()
        figures: dict[str, float] = trainer.evaluate()
    print(figures)
    return figures


if __name__ == "__main__":
    main()
