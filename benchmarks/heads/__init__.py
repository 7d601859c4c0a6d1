"""What a linear layer and its loss take by tiles of classes, beside whole logits and torch."""
