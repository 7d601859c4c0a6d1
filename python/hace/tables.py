"""A hierarchy compiled into the tables that the ops take, cached on the hierarchy per device."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hace_kernels import (
    BoundPathLogLoss,
    BoundTreeLogLoss,
    ClosureTable,
    Layout,
    PathTable,
    PathWeights,
    TreeTable,
    build_closure_table,
    build_path_table,
    build_tree_table,
    lay_out,
)
from hace_kernels.linear import NodeShards, NodeSums, Spread, TreeOfClasses, build_node_sums

from .hierarchy import Hierarchy, check_hierarchy
from .label_tree import LabelTree, label_tree
from .options import LossOptions, TargetOptions
from .spaces import (
    LogitSpace,
    TargetSpace,
    check_logit_space,
    check_target_space,
    nodes_of_columns,
    nodes_of_targets,
)
from .table_cache import PerDevice, TableCache, outside_modes
from .targets import Targets, build_targets, check_targets
from .weights import HACEWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

__all__ = ["LossTables", "NodeTable", "Tables"]

T = TypeVar("T")

# A schedule of the dilution asks for a new table at each step; they must not fill the memory.
_MAX_LOSSES = 16

NodeTable = TreeTable | ClosureTable
"""What the ops over all nodes take: the table of a tree or of a DAG."""


class Tables:
    """The tables of one hierarchy, each built when it is first asked for; `Tables.of` returns them.

    They are built from the label tree, in which a class at an inner node is a leaf below it.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        # No reference to the hierarchy, which refers to its tables: so both are freed together.
        self.is_tree = hierarchy.is_tree
        self.labels: LabelTree = label_tree(hierarchy)
        self._columns = {
            space: nodes_of_columns(hierarchy, space) for space in ("classes", "nodes")
        }
        self._targets = {
            space: nodes_of_targets(hierarchy, space) for space in ("classes", "nodes")
        }
        self._layouts: dict[LogitSpace, Layout] = {}
        self._of_spaces = TableCache()
        self._of_losses = TableCache(_MAX_LOSSES)
        self._derived: dict[Hashable, Any] = {}

    @staticmethod
    def of(hierarchy: Hierarchy) -> Tables:
        """The tables of a hierarchy.

        Raises:
            TypeError: it is not a hierarchy.
        """
        check_hierarchy(hierarchy)
        tables: Tables | None = hierarchy._tables
        if tables is None:
            tables = hierarchy._tables = outside_modes(lambda: Tables(hierarchy))
        return tables

    def derived(self, key: Hashable, build: Callable[[], T]) -> T:
        """A cached value that another module computes from the hierarchy and that does not refer to
        it.

        The key holds everything that the value depends on, its kind, and the device of its tensors.
        """
        value: T | None = self._derived.get(key)
        if value is None:
            value = outside_modes(build)
            self._derived = {**self._derived, key: value}  # never changed: threads need no lock
        return value

    def layout(self, logit_space: LogitSpace = "classes") -> Layout:
        """A tree as flat arrays, over the label tree's nodes and these columns.

        Raises:
            ValueError: an unknown `logit_space`, or a DAG.
        """
        if not self.is_tree:
            raise ValueError("depth-first order needs a tree, and this hierarchy is a DAG")
        if logit_space not in self._layouts:
            columns = self._label_nodes_of_columns(logit_space)
            self._layouts[logit_space] = lay_out(self.labels.links.parents, columns)
        return self._layouts[logit_space]

    def paths(
        self,
        weights: PathWeights,
        logit_space: LogitSpace = "classes",
        target_space: TargetSpace = "classes",
        keep_full: bool = False,
        *,
        device: torch.device | str = "cpu",
    ) -> PathTable:
        """The path table of a loss on a tree, for `hace_kernels.path_log_loss`.

        Args:
            weights: gives each entry of a path its weight; hashable, for the cache.
            logit_space: what the columns of the logits are.
            target_space: what integer targets are an index of.
            keep_full: keep the entries of nodes that hold every class (with `eps` they add a
            constant). device: where the table is to lie.

        Raises:
            MemoryError: the table would not fit in memory.
            ValueError: an unknown space.
        """

        def build() -> PathTable:
            columns = self._label_nodes_of_columns(logit_space)
            return build_path_table(
                self.layout(logit_space),
                self.labels.links.parents,
                self._label_nodes_of_targets(target_space),
                len(columns),
                weights,
                keep_full,
            )

        key = ("paths", weights, logit_space, target_space, keep_full)
        return self._of_losses.get(key, device, build)

    def own_intervals(
        self, logit_space: LogitSpace = "classes", target_space: TargetSpace = "classes"
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Bounds of the class positions that each target of a tree stands for, int32 (T) each."""
        node, layout = self._label_nodes_of_targets(target_space), self.layout(logit_space)
        return layout.start[node], layout.stop[node]

    def nodes(
        self, logit_space: LogitSpace = "classes", *, device: torch.device | str = "cpu"
    ) -> NodeTable:
        """The table that the ops over the hierarchy's N nodes take.

        Args:
            logit_space: what the columns of the logits are.
            device: where the table is to lie.

        Raises:
            MemoryError: a DAG's table would not fit in memory.
            ValueError: an unknown space.
        """

        def build() -> NodeTable:
            if not self.is_tree:
                return self._closure(self.labels.num_nodes, self._nodes_of_columns(logit_space))
            table = self._label_tree(logit_space)
            return table._replace(place=table.place[: self.labels.num_nodes].clone())

        return self._of_spaces.get(("nodes", logit_space), device, build)

    def node_sums(self, *, device: torch.device | str = "cpu") -> NodeSums:
        """How the vectors of a tree's nodes add up to those of its classes, by class position.

        Raises:
            ValueError: a DAG.
        """

        def build() -> NodeSums:
            return build_node_sums(*self._nodes_and_positions())

        return self._of_spaces.get("node sums", device, build)

    def node_shards(self, count: int) -> NodeShards:
        """How the nodes of a tree are divided among `count` processes.

        Raises:
            ValueError: a DAG.
        """
        return NodeShards(count, *self._nodes_and_positions())

    def _nodes_and_positions(self) -> tuple[Any, ...]:
        """Bounds of class positions, parents and depths of nodes, and the nodes of positions."""
        layout, num_nodes = self.layout(), self.labels.num_nodes
        return (
            layout.start[:num_nodes],
            layout.stop[:num_nodes],
            self.labels.links.parents[:num_nodes],
            layout.depth[:num_nodes].astype(np.int64),
            self._columns["classes"][self._depth_first],
        )

    def label_nodes(
        self, logit_space: LogitSpace = "classes", *, device: torch.device | str = "cpu"
    ) -> NodeTable:
        """The table like `nodes` that `hace_kernels.tree_log_loss` takes beside `targets`.

        A tree has the same places either way; a DAG's are its nodes, and those of the label tree.
        """

        def build() -> NodeTable:
            columns = self._label_nodes_of_columns(logit_space)
            return self._closure(self.labels.links.num_nodes, columns)

        if self.is_tree or self.labels.num_nodes == self.labels.links.num_nodes:
            return self.nodes(logit_space, device=device)
        return self._of_spaces.get(("label nodes", logit_space), device, build)

    def tree_of_classes(
        self, logit_space: LogitSpace = "classes", device: torch.device | str = "cpu"
    ) -> TreeOfClasses:
        """A tree as losses by tiles of classes take it for targets that are spread over it.

        Raises:
            ValueError: an unknown `logit_space`, or a DAG.
        """

        def build() -> TreeOfClasses:
            order = self.layout(logit_space).column
            position = None if order is None else torch.from_numpy(np.argsort(order))
            tree = self.label_nodes(logit_space, device=device)
            assert isinstance(tree, TreeTable)
            return TreeOfClasses(tree, position)

        return self.derived(("tree of classes", logit_space, torch.device(device)), build)

    def targets(
        self,
        weights: HACEWeights,
        logit_space: LogitSpace,
        options: TargetOptions,
        *,
        device: torch.device | str = "cpu",
    ) -> Targets:
        """The target table of a loss, without class weights.

        Args:
            weights: gives each node's share of the mass that reaches it.
            logit_space: what the columns of the logits are.
            options: what targets stand for.
            device: where the table is to lie.
        """

        def build() -> Targets:
            table = self._label_tree(logit_space) if self.is_tree else self.label_nodes(logit_space)
            return build_targets(
                self.labels,
                table.place.numpy(),
                table.num_places,
                self._label_nodes_of_targets(options.target_space),
                weights.keep(self.labels.links.num_parents > 0),
                options,
            )

        return self._of_losses.get(("targets", weights, logit_space, options), device, build)

    def nodes_of_targets(
        self, target_space: TargetSpace = "classes", *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The hierarchy's node of each target, int64 (T)."""
        return self._of_spaces.get(
            ("nodes of targets", target_space),
            device,
            lambda: torch.from_numpy(self._targets[_checked(target_space)].copy()),
        )

    def depth_first_labels(self, *, device: torch.device | str = "cpu") -> Tensor:
        """`Hierarchy.depth_first_classes` as a tensor, int64 (C)."""
        return self._of_spaces.get(
            "depth-first labels", device, lambda: torch.from_numpy(self._depth_first.copy())
        )

    def depth_first_columns(self, *, device: torch.device | str = "cpu") -> Tensor:
        """Where each label is in depth-first order, int64 (C)."""
        return self._of_spaces.get(
            "depth-first columns", device, lambda: torch.from_numpy(np.argsort(self._depth_first))
        )

    @cached_property
    def _depth_first(self) -> Int64:
        column = self.layout().column
        num_classes = len(self.labels.classes)
        return np.arange(num_classes) if column is None else column.astype(np.int64)

    def _nodes_of_columns(self, logit_space: LogitSpace) -> Int64:
        check_logit_space(logit_space)
        if logit_space == "depth_first":
            return self._columns["classes"][self._depth_first]
        return self._columns[logit_space]

    def _label_nodes_of_columns(self, logit_space: LogitSpace) -> Int64:
        return self.labels.own_leaf[self._nodes_of_columns(logit_space)]

    def _label_nodes_of_targets(self, target_space: TargetSpace) -> Int64:
        if _checked(target_space) == "classes":
            return self.labels.classes
        return self._targets[target_space]

    def _label_tree(self, logit_space: LogitSpace) -> TreeTable:
        return self._of_spaces.get(
            ("label tree", logit_space),
            "cpu",
            lambda: build_tree_table(
                self.layout(logit_space),
                self.labels.links.parents,
                self._label_nodes_of_columns(logit_space),
            ),
        )

    def _closure(self, num_nodes: int, columns: Int64) -> ClosureTable:
        links = self.labels.links
        num_links = links.parent_ptr[num_nodes]
        edges = np.stack([links.parent[:num_links], links.child[:num_links]], 1)
        return build_closure_table(edges, num_nodes, columns)


class LossTables:
    """What one loss needs of its hierarchy, on the devices where it was needed.

    Args:
        hierarchy: of the classes.
        path_weights: the weights w_i of the loss.
        options: its keywords.
    """

    def __init__(
        self, hierarchy: Hierarchy, path_weights: PathWeights, options: LossOptions
    ) -> None:
        self.hierarchy, self.path_weights, self.options = hierarchy, path_weights, options
        tables = Tables.of(hierarchy)
        self._spaces = spaces = options.logit_space, options.targets.target_space
        self.paths = PerDevice(
            lambda device: tables.paths(path_weights, *spaces, options.eps > 0, device=device)
        )
        self.nodes = PerDevice(
            lambda device: tables.label_nodes(options.logit_space, device=device)
        )

        def targets(device: torch.device) -> Targets:
            assert isinstance(path_weights, HACEWeights)
            return tables.targets(path_weights, options.logit_space, options.targets, device=device)

        self.targets = PerDevice(targets)
        of_index = self._bind_tree if options.targets.spreads else self._bind_path
        self._bound_indices = PerDevice(of_index)
        self._bound_probabilities = PerDevice(self._bind_probabilities)
        self._bound_pairs = PerDevice(self._bind_pairs)
        self._tree_of_classes = PerDevice(
            lambda device: tables.tree_of_classes(options.logit_space, device)
        )

    def spread(
        self, weight: Tensor | None, target: Tensor | tuple[Tensor, Tensor], device: torch.device
    ) -> Spread | None:
        """How targets are spread over a tree, for losses by tiles; None where they are paths."""
        of_pairs = isinstance(target, tuple)
        is_mass = isinstance(target, Tensor) and target.is_floating_point()
        if not (self.options.targets.spreads or is_mass):
            return None
        table = self.targets.on(device).table_for(weight, of_pairs)
        return Spread(self._tree_of_classes.on(device), table)

    def own_paths(self, device: torch.device) -> PathTable | None:
        """The table whose paths are each target's own interval; None: `paths` begin with it."""
        if self._paths_begin_with_own:
            return None
        own = HACEWeights(1.0)
        return Tables.of(self.hierarchy).paths(own, *self._spaces, device=device)

    @cached_property
    def _paths_begin_with_own(self) -> bool:
        def compare() -> bool:
            own = Tables.of(self.hierarchy).own_intervals(*self._spaces)
            first = self.paths.on(torch.device("cpu")).innermost()
            return all(np.array_equal(x, y.numpy()) for x, y in zip(own, first, strict=True))

        return outside_modes(compare)

    def bound_loss(self, input: object, target: object) -> Tensor | None:
        """The loss without class weights, where a bound loss of hace_kernels takes the call."""
        if torch.compiler.is_compiling():  # a graph guards all that it looks up
            return None
        if type(input) is not Tensor:
            return None
        bound: BoundPathLogLoss | BoundTreeLogLoss | None
        if type(target) is tuple:
            bound = self._bound_pairs.on(input.device)
        elif type(target) is not Tensor:
            return None
        elif target.is_floating_point():
            bound = self._bound_probabilities.on(input.device)
        else:
            bound = self._bound_indices.on(input.device)
        return None if bound is None else bound(input, target)

    def _bind_path(self, device: torch.device) -> BoundPathLogLoss | BoundTreeLogLoss | None:
        options = self.options
        if not self.hierarchy.is_tree:
            return self._bind_tree(device)
        return BoundPathLogLoss(
            self.paths.on(device),
            ignore_index=options.ignore_index,
            reduction=options.reduction,
            entropy=options.entropy,
            eps=options.eps,
            backend=options.backend,
        )

    def _bind_tree(self, device: torch.device, of_pairs: bool = False) -> BoundTreeLogLoss | None:
        options = self.options
        if (
            not isinstance(self.path_weights, HACEWeights)
            or options.entropy
            or options.targets.spares_all
        ):
            return None
        check_targets(options.targets, self.hierarchy.is_tree, weighted=False)
        return BoundTreeLogLoss(
            self.nodes.on(device),
            self.targets.on(device).table_for(None, of_pairs),
            ignore_index=options.ignore_index,
            reduction=options.reduction,
            eps=options.eps,
            backend=options.backend,
        )

    def _bind_probabilities(self, device: torch.device) -> BoundTreeLogLoss | None:
        return self._bind_tree(device) if self.options.ignore_index < 0 else None

    def _bind_pairs(self, device: torch.device) -> BoundTreeLogLoss | None:
        return self._bind_tree(device, of_pairs=True) if self.options.ignore_index < 0 else None

    def prepare(self) -> None:
        """Makes the tables on the CPU, so that errors come at construction and nothing is traced.

        Raises:
            MemoryError: they would not fit.
        """
        cpu = torch.device("cpu")
        if self.hierarchy.is_tree:
            self.paths.on(cpu)
        if isinstance(self.path_weights, HACEWeights):
            self.nodes.on(cpu)
            self.targets.on(cpu)


def _checked(target_space: TargetSpace) -> TargetSpace:
    check_target_space(target_space)
    return target_space
