"""From logits to decisions: a class, a coarser node, a set with a guarantee, or words.

Every function takes logits (C), (N, C) or (N, C, d1, …) on any device, and takes O(N) time per row
(except for sorting the k best), without a C × C matrix. Answers are labels of classes or ids of
nodes; −1 stands for the whole forest.

Examples:
    >>> import torch, hace
    >>> tree = hace.Hierarchy.from_paths(["animal/cat", "animal/dog", "vehicle/car"])
    >>> logits = torch.tensor([[2.0, 1.9, 0.0]])  # a cat or a dog
    >>> node = hace.decode.deepest_node(logits, tree, 0.9)
    >>> tree.names[node[0]]
    'animal'
"""

from ..predict import predict as most_probable
from .calibrate import calibrate_bonus, calibrate_threshold
from .conformal import conformal_node, conformal_threshold
from .cost import expected_cost, minimum_expected_cost
from .explain import Explanation, Named, explain
from .greedy import top_down_greedy
from .information import expected_information
from .levels import LevelRanking, top_k_per_level
from .pareto import ParetoNodes, pareto_nodes
from .threshold import deepest_node, majority_subtree

__all__ = [
    "Explanation",
    "LevelRanking",
    "Named",
    "ParetoNodes",
    "calibrate_bonus",
    "calibrate_threshold",
    "conformal_node",
    "conformal_threshold",
    "deepest_node",
    "expected_cost",
    "expected_information",
    "explain",
    "majority_subtree",
    "minimum_expected_cost",
    "most_probable",
    "pareto_nodes",
    "top_down_greedy",
    "top_k_per_level",
]
