"""The ops in plain PyTorch: any device, any floating dtype, gradients by autograd.

This is the specification that the kernels are tested against. It is written to be read rather than
to be fast, but is exact in log space: a sum of exponentials is always relative to its own maximum.

Notation: `P_v` is the softmax mass of the classes at or below node v; a path a_0 .. a_D leads from
a target to its root and gives each node a weight w_i. The loss of one row is
`L = -sum_i w_i log P_{a_i}` (Chan, D'Ascenzo, Cultrera di Montesano, arXiv 2605.06274, section 3).
"""

from .path_log_loss import path_log_loss
from .path_stages import path_measure, path_resolve, path_write
from .tree_log_loss import tree_log_loss
from .tree_log_prob import tree_log_prob
from .tree_sum import tree_sum_down, tree_sum_up

__all__ = [
    "path_log_loss",
    "path_measure",
    "path_resolve",
    "path_write",
    "tree_log_loss",
    "tree_log_prob",
    "tree_sum_down",
    "tree_sum_up",
]
