"""Layers for models over a hierarchy."""

from .classifier import HierarchicalClassifier, Prediction
from .tree_linear import TreeLinear

__all__ = ["HierarchicalClassifier", "Prediction", "TreeLinear"]
