"""Layers for models over a hierarchy.

Examples:
    >>> import torch, hace
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> model = hace.nn.HierarchicalClassifier(16, tree)
    >>> features, target = torch.randn(8, 16), torch.randint(3, (8,))
    >>> log_prob, loss = model(features, target)
    >>> loss.backward()
    >>> model.predict(features).shape
    torch.Size([8])
"""

from .carry_over import CarriedOver, carry_over
from .classifier import HierarchicalClassifier, Prediction
from .tree_linear import TreeLinear

__all__ = ["CarriedOver", "HierarchicalClassifier", "Prediction", "TreeLinear", "carry_over"]
