"""A linear layer whose class weights are sums of node vectors, by tiles of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..rows import loss_dtype
from .node_sums import NodeSums, Tile
from .tiles import Layer, OnWeightGrad, TileGradient

__all__ = ["Above", "TreeLayer", "layer_of"]

Above: TypeAlias = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class TreeLayer(Layer):
    """A `Layer` whose `weight` and `bias` are those of nodes, (N, F) and (N).

    Attributes:
        sums: adds them up to those of the classes.
        above: vectors (A, F) and biases (A) of nodes that other processes hold; None if none do.
    """

    sums: NodeSums
    above: Above | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return self.sums.num_classes

    def tile(self, first: int) -> Tile:
        """The nodes above the tile that begins at this class position."""
        return self.sums.tiles(self.width)[first // self.width]

    def part(self, array: Tensor, first: int, last: int) -> Tensor:
        """The sums of classes first .. last, rounded once to the products' dtype."""
        above = None
        if self.above is not None:
            above = self.above[0] if array.dim() == 2 else self.above[1]
        return self.sums.down(array, self.tile(first), above).to(self.dtype)

    def gradient(self, array: Tensor, update: OnWeightGrad | None = None) -> NodeGradient:
        """The object that takes the gradient of `weight` or `bias` by tiles."""
        return NodeGradient(self, array, update)


def layer_of(
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor | None,
    dtype: torch.dtype,
    width: int,
    sums: NodeSums | None,
    above: Above | None = None,
) -> Layer:
    """A layer of class weights or, if `sums` are given, of node vectors.

    If processes share some of these, this is a collective call unless `above` is given.
    """
    if sums is None:
        return Layer(weight, bias, order, dtype, width)
    if above is None and sums.shared is not None:
        above = sums.shared.gathered(weight.detach(), None if bias is None else bias.detach())
    return TreeLayer(weight, bias, None, dtype, width, sums, above)


class NodeGradient(TileGradient):
    """The gradient of node vectors. That of nodes above several tiles adds up in its own buffer.

    That of nodes above tiles of several processes is added up between these after the last tile.
    """

    def __init__(self, layer: TreeLayer, array: Tensor, update: OnWeightGrad | None) -> None:
        self._layer, self._update = layer, update
        # Nodes without a class do not get a gradient.
        self._grad = torch.zeros_like(array) if update is None else None
        crossing = layer.sums.crossing(layer.width)
        self._crossing = crossing
        shared = layer.sums.shared
        num_above = 0 if shared is None else len(shared.above)
        self._slot = crossing.new_full((layer.sums.num_nodes + num_above,), -1)
        self._slot[crossing] = torch.arange(len(crossing), device=array.device)
        shape = (len(crossing), *array.shape[1:])
        self._sums = array.new_zeros(shape, dtype=loss_dtype(array.dtype))

    def put(self, first: int, last: int, part: Tensor) -> None:
        """Takes the gradient (T, …) of classes first .. last."""
        part = part.to(self._sums.dtype)
        for node, sums, inner in self._layer.sums.up(part, self._layer.tile(first)):
            self._store(node[inner], sums[inner])
            for ends in (slice(0, inner.start), slice(inner.stop, None)):
                self._sums.index_add_(0, self._slot[node[ends]], sums[ends])

    def finish(self) -> Tensor | None:
        """The gradient; None if an update took it."""
        shared = self._layer.sums.shared
        if shared is None:
            self._store(self._crossing, self._sums)
            return self._grad
        slot = shared.slots()[self._crossing]
        is_shared = slot >= 0
        total = self._sums.new_zeros(shared.size, *self._sums.shape[1:])
        total.index_copy_(0, slot[is_shared], self._sums[is_shared])
        shared.exchange.add_up(total)
        self._store(self._crossing[~is_shared], self._sums[~is_shared])
        self._store(shared.row, total[shared.slot])
        return self._grad

    def _store(self, node: Tensor, grad: Tensor) -> None:
        if self._grad is not None:
            self._grad.index_copy_(0, node, grad.to(self._grad.dtype))
        elif self._update is not None and len(node):
            self._update(node, grad)
