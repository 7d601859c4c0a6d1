"""How good answers are on a hierarchy, and how bad the mistakes.

Every function takes whole tensors, on any device, and returns a tensor there. `pred` and `target`
are integer tensors of one shape: class labels by default, node ids with `target_space="nodes"`, as
in `hace.HACELoss`; `pred_space="nodes"` is for answers of `hace.decode` beside class labels. They
are checked, for which the host waits for an accelerator.

A class label means that class alone, as if it were a leaf below its node, and a node id means the
node's subtree. A forest is treated as one tree under a virtual root, whose height is 1 + the
largest height of its trees; so its roots are siblings. Depth counts from 0 at the roots, height
from 0 at the nodes with nothing below. Metrics that several parents would leave undefined raise
ValueError on a DAG.

Examples:
    >>> import torch, hace
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> pred, target = torch.tensor([0, 2]), torch.tensor([1, 2])  # a cat for a dog; a car
    >>> hace.metrics.accuracy(pred, target, tree)
    tensor(0.5000)
    >>> hace.metrics.level_accuracy(pred, target, tree, 0)  # both are right about the superclass
    tensor(1.)
"""

from .answers import (
    accuracy,
    ancestor_or_descendant_accuracy,
    coverage,
    deficient_depth,
    excess_depth,
)
from .calibration import Reliability, level_calibration_error, reliability
from .compare import Comparison, Labels, Spaces, compare
from .distances import Distance, edge_distance, lca_height, mean_distance, mistake_severity
from .levels import level_accuracies, level_accuracy, sibling_accuracy
from .nodes import NodeCounts, node_accuracy, node_counts
from .operating import OperatingCurve, operating_curve
from .rankings import best_distance_at_k, distance_at_k, top_k_accuracy
from .scored import LogitLabels
from .sets import Average, hierarchical_f1, hierarchical_precision, hierarchical_recall

__all__ = [
    "Average",
    "Comparison",
    "Distance",
    "Labels",
    "LogitLabels",
    "NodeCounts",
    "OperatingCurve",
    "Reliability",
    "Spaces",
    "accuracy",
    "ancestor_or_descendant_accuracy",
    "best_distance_at_k",
    "compare",
    "coverage",
    "deficient_depth",
    "distance_at_k",
    "edge_distance",
    "excess_depth",
    "hierarchical_f1",
    "hierarchical_precision",
    "hierarchical_recall",
    "lca_height",
    "level_accuracies",
    "level_accuracy",
    "level_calibration_error",
    "mean_distance",
    "mistake_severity",
    "node_accuracy",
    "node_counts",
    "operating_curve",
    "reliability",
    "sibling_accuracy",
    "top_k_accuracy",
]
