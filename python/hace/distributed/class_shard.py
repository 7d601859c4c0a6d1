"""The columns of the logits that one process holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from hace_kernels import loss_dtype
from hace_kernels.eager import eager
from hace_kernels.linear import Shard, TopK

from ..hierarchy import Hierarchy
from ..spaces import LogitSpace, num_columns
from ..tables import Tables
from .exchange import GroupExchange

__all__ = ["ClassShard", "ShardedTopK"]


class ShardedTopK(NamedTuple):
    """The most probable classes of each row, the same in all processes.

    Attributes:
        log_prob: (N, k), largest first.
        label: int64 (N, k).
    """

    log_prob: Tensor
    label: Tensor


class ClassShard:
    """Columns `first` … `last − 1` of the logits, which this process holds; others hold the rest.

    Every process has all rows of the batch, and the targets of all. Making a shard is a collective
    call: all processes of the group make theirs at the same time.

    Args:
        hierarchy: of all classes; a tree or forest.
        group: the processes that share the classes; None: all.
        first, last: left out in all processes, columns are distributed evenly, as `Shard(1)` of a
            DTensor does: ⌈C/p⌉ to each, and what is left to the last ones.
        logit_space: what the columns are, as in `hace.HACELoss`.

    Attributes:
        first: the first column of this shard.
        last: the column after its last.
        hierarchy: as given.
        logit_space: as given.

    Raises:
        ValueError: in all processes: the hierarchy is a DAG, or the shards do not hold each column
            once.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        group: dist.ProcessGroup | None = None,
        first: int | None = None,
        last: int | None = None,
        *,
        logit_space: LogitSpace = "classes",
    ) -> None:
        hierarchy.require_tree("ClassShard")
        self.hierarchy, self.logit_space, self.group = hierarchy, logit_space, group
        columns = num_columns(hierarchy, logit_space)
        if first is None and last is None:
            each = -(-columns // dist.get_world_size(group))
            first = min(columns, each * dist.get_rank(group))
            last = min(columns, first + each)
        self.first, self.last, self._borders = _checked(first, last, columns, group)
        self.exchange = GroupExchange(group)

    @property
    def shard(self) -> Shard:
        """As `hace_kernels` takes it."""
        return Shard(self.first, self.last, self.exchange, self._borders)

    def topk(self, local_logits: Tensor, k: int) -> ShardedTopK:
        """The k most probable classes of each row: (N, k) log-probabilities and labels.

        A collective call; it moves O(N · k) numbers.

        Args:
            local_logits: (N, C'), the columns of this process.
            k: how many, at most the hierarchy's classes.

        Raises:
            ValueError: there are not k classes, or the columns are nodes.
        """
        if self.logit_space == "nodes":
            raise ValueError("topk ranks classes, and the columns are nodes: use logits of classes")
        if not 1 <= k <= self.hierarchy.num_classes:
            raise ValueError(
                f"k must be between 1 and the {self.hierarchy.num_classes} classes, got {k}"
            )
        if local_logits.dim() != 2 or local_logits.shape[1] != self.last - self.first:
            raise ValueError(
                f"local_logits must be (N, {self.last - self.first}), the columns of this process; "
                f"got {tuple(local_logits.shape)}"
            )
        z = local_logits.detach().to(loss_dtype(local_logits.dtype))
        log_sum = z.logsumexp(1)
        value, column = z.topk(min(k, z.shape[1]), 1)
        return self.merged(TopK(value - log_sum[:, None], column, log_sum), k)

    def predict(self, local_logits: Tensor) -> Tensor:
        """The label of the most probable class of each row, int64 (N); a collective call."""
        return self.topk(local_logits, 1).label[:, 0]

    @eager
    def merged(self, here: TopK, k: int) -> ShardedTopK:
        """The k best of all processes, each of which has found its own; a collective call.

        Args:
            here: the best columns of this process, counted from `first`; at most k.
            k: how many of all.
        """
        value, column, log_sum = here
        value = (value.double() + log_sum[:, None]).nan_to_num(nan=-torch.inf)
        missing = k - value.shape[1]
        value, column = pad(value, (0, missing), value=-torch.inf), pad(column, (0, missing))
        packed = torch.cat([value, (column + self.first).double(), log_sum[:, None].double()], 1)
        all_packed = [torch.empty_like(packed) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(all_packed, packed, group=self.group)
        values, columns, sums = torch.split(torch.stack(all_packed, 1), [k, k, 1], 2)
        best, chosen = values.flatten(1).topk(k, 1)
        label = columns.flatten(1).gather(1, chosen).long()
        if self.logit_space == "depth_first":
            label = Tables.of(self.hierarchy).depth_first_labels(device=label.device)[label]
        log_prob = best - sums.flatten(1).logsumexp(1, keepdim=True)
        return ShardedTopK(log_prob.to(log_sum.dtype), label)


def _checked(
    first: int | None, last: int | None, columns: int, group: dist.ProcessGroup | None
) -> tuple[int, int, tuple[int, ...]]:
    """The bounds, once all processes have seen all bounds, and where columns change hands."""
    own = torch.tensor([-1 if end is None else end for end in (first, last)])
    bounds = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(bounds, own, group=group)
    held = sorted((int(a), int(b)) for a, b in bounds)
    ends = [0, *(b for a, b in held if a < b)]
    starts = [*(a for a, b in held if a < b), columns]
    if any(a < 0 or b < a for a, b in held) or starts != ends:
        raise ValueError(
            f"the shards must hold each of the {columns} columns once, and both bounds must be "
            f"given in all processes or in none; got {', '.join(f'{a}:{b}' for a, b in held)}"
        )
    return int(own[0]), int(own[1]), tuple(ends)
