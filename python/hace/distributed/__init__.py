"""Classes spread over many processes, on torch.distributed.

Every process holds some columns of the logits, or some rows of the last layer, and all rows of the
batch. What they exchange are the rings of the targets' paths, O(B · depth) numbers, and the
gradient of the layer's input.
"""

from .exchange import GroupExchange

__all__ = ["GroupExchange"]
