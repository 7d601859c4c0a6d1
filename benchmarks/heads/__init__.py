"""Time and memory of a linear layer and its loss by tiles, beside whole logits and torch."""
