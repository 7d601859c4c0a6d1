"""The model that every loss trains: the mean of a phrase's embeddings, and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from .features import NUM_BUCKETS


class Coder(nn.Module):
    """A phrase's weighted bag of buckets to one vector, and that to a logit for every code."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(NUM_BUCKETS, width, mode="sum")
        self.classify = nn.Linear(width, num_classes)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, bucket: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
        """Logits (B, C) of the B bags that `Bags.batch` gives."""
        phrase: Tensor = self.embed(bucket, offsets, per_sample_weights=weight)
        logits: Tensor = self.classify(phrase)
        return logits
