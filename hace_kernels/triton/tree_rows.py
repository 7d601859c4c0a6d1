"""How the tree ops divide rows among programs, and the scratch memory of their sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..tree_table import TreeTable
from .rows import l2_bytes
from .tree_sweeps import COLUMNS, LEVELS, NODES_OUT, Tile, Tree

__all__ = ["UP", "Shape", "Stage", "chunks_of_rows", "levels_on", "pointers"]

# A row of at most so many places has one program; a longer one has a program per part of a row.
_PLACES_PER_PROGRAM = 16384
_PLACES_PER_PART = 2048


def _options(num_warps: int) -> dict[str, int]:
    """Without a bound, NVIDIA's compiler spills a few registers to fit more programs."""
    registers = {"maxnreg": 104} if torch.version.hip is None else {}
    return {"num_warps": num_warps, **registers}


class Stage(NamedTuple):
    """A part of an op that waits for the one before it.

    Attributes:
        bit: its bit among the `STAGES` of the kernel.
        split: whether several programs per row may share it.
    """

    bit: int
    split: bool


#: The stages of an op that goes up the tree and writes nodes.
UP = (Stage(COLUMNS, True), Stage(LEVELS, False), Stage(NODES_OUT, True))


@dataclass(frozen=True)
class Shape:
    """How a tree is divided among programs. It gives few values, so that few kernels are compiled.

    It depends on the tree alone, so that a row's bits do not depend on the batch.
    """

    places: int
    inner: int

    @classmethod
    def of(cls, tree: TreeTable) -> Shape:
        """That of a tree."""
        return cls(tree.num_places, tree.num_inner)

    @property
    def kids(self) -> int:
        """Children per place of a tile, about as many as places have on average."""
        mean = self.places // self.inner
        return 2 if mean < 4 else 8 if mean < 16 else 32

    @property
    def block(self) -> int:
        """The number of children that a program handles together."""
        return 512 if self.places <= 2048 else 1024

    @property
    def nodes(self) -> int:
        """The number of places of a tile."""
        return self.block // self.kids

    @property
    def num_warps(self) -> int:
        """For 4 children per thread."""
        return self.block // 128

    @property
    def tile(self) -> Tile:
        """The tile, as constants of a kernel."""
        return self._tile(self.nodes, self.kids)

    @property
    def mixed_tile(self) -> Tile:
        """That of kernels over the nodes of a DAG, which have few children or parts each."""
        return self._tile(64, 4)

    def _tile(self, *sizes: int) -> Tile:
        return Tile(*map(tl.constexpr, (*sizes, self.span)))

    @property
    def options(self) -> dict[str, int]:
        """Options of a launch."""
        return _options(self.num_warps)

    @property
    def mixed_options(self) -> dict[str, int]:
        """Those of a launch with `mixed_tile`."""
        return _options(4)

    @property
    def span(self) -> int:
        """The places of one part of a row."""
        return _PLACES_PER_PROGRAM if self.places <= _PLACES_PER_PROGRAM else _PLACES_PER_PART

    @property
    def parts(self) -> int:
        """The number of programs per row."""
        return -(-self.places // self.span)

    def launches(self, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        """The launches of the stages: for each, its stages' bits and the programs per row.

        One launch does all stages unless rows are long: then each stage that is split has its own.
        """
        if self.parts == 1:
            return [(sum(stage.bit for stage in stages), 1)]
        found: list[tuple[int, int]] = []
        for stage in stages:
            if not stage.split and found and found[-1][1] == 1:
                found[-1] = (found[-1][0] + stage.bit, 1)
            else:
                found.append((stage.bit, self.parts if stage.split else 1))
        return found


def chunks_of_rows(num_rows: int, row_bytes: int, device: torch.device) -> Iterator[range]:
    """Rows in chunks whose scratch memory, `row_bytes` per row, fits in half of the L2 cache."""
    step = max(1, l2_bytes(device) // 2 // row_bytes)
    for first in range(0, num_rows, step):
        yield range(first, min(first + step, num_rows))


@cache  # without a limit, since captured graphs hold the addresses of what is in it
def _levels_on(device: torch.device, ptr: tuple[int, ...]) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([len(ptr) - 1, *ptr], dtype=torch.int32, device=device)


def levels_on(device: torch.device, ptr: Sequence[int]) -> Tensor:
    """The number of levels, and after it their bounds, copied to the device at the first call.

    A call that is captured in a CUDA graph cannot copy, but finds it there: calls to warm up come
    before any capture.
    """
    return _levels_on(device, tuple(ptr))


def pointers(tree: TreeTable) -> Tree:
    """A tree as an argument of kernels."""
    levels = levels_on(tree.device, tree.level_ptr)
    return Tree(tree.place, tree.parent, tree.child_ptr, tree.child, tree.num_columns, levels)
