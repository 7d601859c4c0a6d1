"""`path_log_loss` on a GPU: sizes, scratch memory and launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import path_table
from ..rows import loss_dtype
from ..schemas import PathLogLossArguments
from .path_log_loss_kernel import (
    PathTable,
    Rows,
    Scratch,
    measure_kernel,
    resolve_kernel,
    row_kernel,
    write_kernel,
)
from .path_pieces import Cut
from .path_rings import RING_FIELDS, Settings
from .rows import Results, bits, incoming, l2_bytes, loss_ops, total_weight
from .rows_kernel import Targets

__all__ = ["OPS", "Shape"]

# Rows of more bytes (in the working type) are split, since the registers of one program hold no
# more. The limits hold in general; with entropy, eps or in float64; and where the columns are not
# in depth-first order.
_ROW_BYTES, _ROW_BYTES_WITH_MORE, _ROW_BYTES_SHUFFLED = 65536, 32768, 16384

# The most memory for the rings of the rows of one launch, of rows that are not split.
_RING_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Shape:
    """How a row is divided among programs. It takes few values, so that few kernels are compiled.

    Attributes:
        columns: C.
        wide: whether the working type is float64.
        shuffled: whether the columns are in another order than the class positions.
        more: whether there is entropy or eps.
        max_entries: the number of entries of the longest path.
    """

    columns: int
    wide: bool
    shuffled: bool
    more: bool
    max_entries: int

    @property
    def _work_item(self) -> int:
        return 8 if self.wide else 4

    @property
    def splits(self) -> bool:
        """Whether a row is too long for one program."""
        limit = _ROW_BYTES_WITH_MORE if self.more or self.wide else _ROW_BYTES
        if self.shuffled:
            limit = _ROW_BYTES_SHUFFLED
        return self.columns * self._work_item > limit

    @cached_property
    def block(self) -> int:
        """The number of columns that a program holds at once."""
        if self.splits:
            return 4096
        return max(64, 1 << (self.columns - 1).bit_length())

    @cached_property
    def strip(self) -> int:
        """Columns per strip: few enough for cheap pieces, and never many strips per program."""
        if self.splits:
            return 512
        return min(max(32, self.block // 128), 256)

    @property
    def strips(self) -> int:
        """The number of strips that a program holds at once."""
        return self.block // self.strip

    @property
    def num_strips(self) -> int:
        """The number of strips of a whole row."""
        return -(-self.columns // self.strip)

    @property
    def num_warps(self) -> int:
        """For 32 floats per thread, or 16 where pieces or the columns' order need registers too."""
        few = self.shuffled or self.block <= 2048
        return min(max(1, self.block * self._work_item // (2048 if few else 4096)), 16)

    @property
    def registers(self) -> dict[str, int]:
        """The largest register count that lets two programs share a multiprocessor, no spills."""
        bounded = not (self.wide or self.more or self.shuffled) and self.num_warps > 1
        if not bounded or torch.version.hip is not None:
            return {}
        return {"maxnreg": 128 if self.num_warps >= 8 else 152}

    @property
    def steps(self) -> int:
        """The steps of a bisection among the intervals of the longest path."""
        return max(2, self.max_entries.bit_length())

    @property
    def rings(self) -> int:
        """The number of rings that are handled together."""
        return min(1 << self.steps, 16)

    def cut(self, vector: int, fields: int) -> Cut:
        """The same as constants of a kernel."""
        sizes = (vector, self.strip, self.strips, fields, self.rings, self.steps)
        return Cut(*map(tl.constexpr, sizes))

    @property
    def ring_numbers(self) -> int:
        """The numbers that a row needs memory for: for each ring several, for the row four."""
        numbers: int = RING_FIELDS << self.steps
        return numbers


def _divisor_of(call: PathLogLossArguments) -> Tensor:
    """What `mean` divides by."""
    num_targets = len(call.table[0]) - 1
    return total_weight(call.target, call.target_weight, num_targets, call.ignore_index)


def _launch(call: PathLogLossArguments, results: Results) -> None:
    logits, num_rows, grad = call.logits, len(call.logits), results.grad
    if num_rows == 0:
        return
    paths = path_table.PathTable.of_tensors(call.table, logits.shape[1], call.max_entries)
    table = PathTable(*paths[: len(PathTable._fields)])
    settings = Settings(bits(call.entropy), bits(call.eps))
    rows = Rows(logits, grad, results.row_loss)
    targets = Targets(
        call.target, call.target_weight, results.divisor, **incoming(results.grad_loss)
    )
    shape = Shape(
        logits.shape[1],
        wide=logits.dtype == torch.float64,
        shuffled=table.order is not None,
        more=settings != Settings(),
        max_entries=call.max_entries,
    )
    vector = _vector(logits, grad)
    sizes = {
        "row_vectors": logits.stride(0) // vector,
        "column_vectors": shape.columns // vector,
        "ignore_index": call.ignore_index,
    }
    num_targets = len(call.table[0]) - 1
    cut = shape.cut(vector, 3 if settings.entropy is not None else 2)
    work = loss_dtype(logits.dtype)
    if not shape.splits:
        at_once = min(num_rows, max(1, _RING_BYTES // (shape.ring_numbers * work.itemsize)))
        rings = logits.new_empty(at_once * shape.ring_numbers, dtype=work)
        for first in range(0, num_rows, at_once):
            row_kernel[(min(at_once, num_rows - first),)](
                rows, targets, table, rings, **sizes, num_targets=num_targets, first_row=first,
                settings=settings, cut=cut, num_warps=shape.num_warps,
                **(shape.registers if vector > 1 else {}),
            )  # fmt: skip
        return

    row_bytes = shape.columns * logits.element_size()
    at_once = min(num_rows, max(1, l2_bytes(logits.device) // 2 // row_bytes))
    scratch = Scratch(
        rings=logits.new_empty(at_once * shape.ring_numbers, dtype=work),
        strips=logits.new_empty(at_once * cut.fields.value * shape.num_strips, dtype=work),
    )
    programs = triton.cdiv(shape.num_strips, shape.strips)
    for first in range(0, num_rows, at_once):
        count = min(at_once, num_rows - first)
        measure_kernel[(programs, count)](
            rows, call.target, table.order, scratch.strips, **sizes, first_row=first, cut=cut,
            num_warps=shape.num_warps,
        )  # fmt: skip
        resolve_kernel[(count,)](
            rows, targets, table, scratch, **sizes, num_targets=num_targets, first_row=first,
            settings=settings, cut=cut._replace(strips=tl.constexpr(256)), num_warps=8,
        )  # fmt: skip
        if grad is not None:
            write_kernel[(programs, count)](
                rows, Targets(call.target), table, scratch, **sizes, num_targets=num_targets,
                first_row=first, cut=cut, num_warps=shape.num_warps,
            )  # fmt: skip


def _vector(logits: Tensor, grad: Tensor | None) -> int:
    """How many columns 16 bytes hold, if all rows begin at multiples of 16 bytes; otherwise 1."""
    vector = 16 // logits.element_size()
    buffers = [logits] if grad is None else [logits, grad]
    aligned = all(x.data_ptr() % 16 == 0 and x.stride(0) % vector == 0 for x in buffers)
    return vector if aligned and logits.shape[1] % vector == 0 else 1


#: Ops by name.
OPS = loss_ops("path_log_loss", PathLogLossArguments, _divisor_of, _launch)
