"""Classes spread over many processes, on torch.distributed.

Every process holds some columns of the logits, or some rows of the last layer, and all rows of the
batch. They exchange the rings of the targets' paths (docs/design.md), O(B · depth) numbers, and the
gradient of the layer's input.

Logits that are DTensors, with their classes on a mesh dimension, need nothing from this module: the
losses take them as they are. `ClassShard` is for plain tensors.
"""

from .class_shard import ClassShard, ShardedTopK
from .exchange import GroupExchange
from .spread_rows import SpreadRows

__all__ = ["ClassShard", "GroupExchange", "ShardedTopK", "SpreadRows"]
