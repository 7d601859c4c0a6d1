"""How the CPU's kernels of `dag_log_loss` add up values over a DAG without a list of children.

They pass the columns in their order, and every value is added to a *line* of memory. Inner places
of the spanning tree and mixed nodes have a line each, in the order of their places. Values of
further lines, *slots*, are added to a line later: so no line adds up more than a few values in the
working type, however many children a node has, and a column that is a part of a mixed node keeps
its value apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .spanning_tree import SpanningTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bool = NDArray[np.bool_]
    Int64 = NDArray[np.int64]

__all__ = ["build_dag_plan"]

# How many values are added up in the working type before their sum is added to a wider one.
_RUN = 32


def build_dag_plan(spanning: SpanningTree, parent_ptr: Int64, parent: Int64) -> Tensor:
    """The plan, int32, on the CPU: its sizes and eight arrays, one after the other.

    With C columns, I inner places and X mixed nodes, lines I + X, I + X + 1, … are slots. *Sources*
    are what hands mass to its parents: the columns, and the K nodes with a line, children before
    their parents.

    - (4): the number of slots of sums, K, the number of links, the number of slots of mass.
    - slot (C + I − 1): the line that each place but the root is added to, and where what pulls at
      it is found.
    - slot_ptr (I + 1): bounds of each inner place's slots.
    - part_line: the line of each part of `spanning`.
    - source (C + K): the node of each source, or −1.
    - line (K): the lines of the sources that are not columns.
    - link_ptr (C + K + 1): bounds of each source's links to its parents.
    - link: the line that each link adds to.
    - risen_ptr (K + 1): bounds of the slots of mass of each source that is not a column.

    Args:
        spanning: the spanning tree.
        parent_ptr, parent: int64 (N + 1) and int64 (E), the parents of each node.
    """
    place = spanning.place.numpy().astype(np.int64)
    by_height = spanning.by_height.numpy().astype(np.int64)
    part = spanning.part.numpy().astype(np.int64)
    num_classes, num_places = spanning.tree.num_classes, spanning.tree.num_places
    num_inner, num_nodes = num_places - num_classes, len(place)
    num_lines = num_inner + len(spanning.part_ptr) - 1

    above = spanning.tree.parent.numpy()[:-1].astype(np.int64) - num_classes
    is_part = np.zeros(num_places - 1, np.bool_)
    is_part[part[part < num_classes]] = True
    slot, slot_ptr = _slots(above, is_part, np.arange(num_inner), num_lines)
    part_line = np.where(part < num_classes, slot[part], part - num_classes)

    at_column = np.flatnonzero((place >= 0) & (place < num_classes))
    node_of_column = np.full(num_classes, -1, np.int64)
    node_of_column[place[at_column]] = at_column
    rising = by_height[place[by_height] >= num_classes]
    line = place[rising] - num_classes
    source = np.concatenate([node_of_column, rising])
    num_links = np.where(source < 0, 0, np.diff(parent_ptr)[source])
    links = np.repeat(parent_ptr[:-1][source], num_links)
    link_ptr = _bounds(num_links)
    links += np.arange(len(links)) - np.repeat(link_ptr[:-1], num_links)
    number = np.full(num_nodes, -1, np.int64)
    number[rising] = np.arange(len(rising))
    link, risen_ptr = _slots(number[parent[links]], np.zeros(len(links), np.bool_), line, num_lines)

    sizes = np.array([slot_ptr[-1], len(rising), len(link), risen_ptr[-1]])
    arrays = [sizes, slot, slot_ptr, part_line, source, line, link_ptr, link, risen_ptr]
    return torch.from_numpy(np.concatenate(arrays).astype(np.int32))


def _slots(owner: Int64, is_alone: Bool, line: Int64, num_lines: int) -> tuple[Int64, Int64]:
    """The lines that values are added to, and the bounds of each owner's slots.

    Args:
        owner: the owner of each value.
        is_alone: whether a value needs a slot of its own.
        line: the line of each owner.
        num_lines: the first slot.
    """
    count = len(owner) + 1
    has_slot = np.flatnonzero(is_alone | (np.bincount(owner, minlength=len(line))[owner] > _RUN))
    by_owner = has_slot[np.lexsort((has_slot, is_alone[has_slot], owner[has_slot]))]
    first = np.searchsorted(owner[by_owner], owner[by_owner])
    run = (np.arange(len(by_owner)) - first) // _RUN
    group = np.where(is_alone[by_owner], count + by_owner, run)
    groups, of_value = np.unique(owner[by_owner] * (2 * count) + group, return_inverse=True)
    slot = line[owner]
    slot[by_owner] = num_lines + of_value
    return slot, _bounds(np.bincount(groups // (2 * count), minlength=len(line)))


def _bounds(count: Int64) -> Int64:
    ptr = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=ptr[1:])
    return ptr
