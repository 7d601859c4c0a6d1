"""Classes spread over many processes, on torch.distributed.

Every process holds some columns of the logits, or some rows of the last layer, and all rows of the
batch. What they exchange are the rings of the targets' paths, O(B · depth) numbers, and the
gradient of the layer's input.

Logits that are DTensors, with their classes on a mesh dimension, need nothing from here: the losses
take them as they are. `ClassShard` is for plain tensors.
"""

from .class_shard import ClassShard, ShardedTopK
from .exchange import GroupExchange

__all__ = ["ClassShard", "GroupExchange", "ShardedTopK"]
