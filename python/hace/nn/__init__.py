"""Layers for models over a hierarchy."""

from .carry_over import CarriedOver, carry_over
from .classifier import HierarchicalClassifier, Prediction
from .tree_linear import TreeLinear

__all__ = ["CarriedOver", "HierarchicalClassifier", "Prediction", "TreeLinear", "carry_over"]
