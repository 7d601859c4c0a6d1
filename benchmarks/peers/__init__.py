"""The contestants, by name: this package's losses, and what each is measured against.

Every peer is written from its formula. Before it is timed, its loss and gradient have to agree with
ours.
"""

from .hxe import HXE_MASKS
from .levels import INDEX_ADD, MASKED
from .ours import (
    HACE,
    HACE_CUDA,
    HACE_MASKED,
    HACE_ORDERED,
    HACE_SHUFFLED,
    HACE_SPREAD,
    HACE_TREE,
    HACE_TREE_MASKED,
    HACE_TREE_SPREAD,
    HACE_TRITON,
    HXE,
)
from .peer import Peer, Step, WrongAnswerError, check_answer, training_step
from .plain import CLONE, COMPILED, CROSS_ENTROPY, LIGER, QUACK
from .published import DENSE, SPARSE

__all__ = ["PEERS", "Peer", "Step", "WrongAnswerError", "check_answer", "training_step"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        CLONE,
        CROSS_ENTROPY,
        COMPILED,
        LIGER,
        QUACK,
        HACE,
        HACE_CUDA,
        HACE_TRITON,
        HACE_ORDERED,
        HACE_SHUFFLED,
        HACE_MASKED,
        HACE_SPREAD,
        HACE_TREE,
        HACE_TREE_MASKED,
        HACE_TREE_SPREAD,
        INDEX_ADD,
        SPARSE,
        MASKED,
        DENSE,
        HXE,
        HXE_MASKS,
    )
}
