"""Losses of a linear layer whose logits need never be whole."""

from .linear_path_log_loss import linear_path_log_loss

__all__ = ["linear_path_log_loss"]
