"""Sums that follow a DAG's plan are those of the DAG, and no line adds up many values."""

from __future__ import annotations

from itertools import pairwise

import dags
import numpy as np
import pytest
from dags import SHAPES, Dag
from hypothesis import given, settings

from hace_kernels.closure_table import ClosureTable, build_closure_table

RUN = 32


def table_of(dag: Dag) -> ClosureTable:
    return build_closure_table(dag.edge_array(), dag.num_nodes, np.array(dag.classes))


class Plan:
    """The arrays of a plan, and the sizes of the DAG."""

    def __init__(self, table: ClosureTable) -> None:
        spanning = table.spanning
        self.num_classes = table.num_classes
        self.num_inner = spanning.tree.num_places - self.num_classes
        self.num_lines = self.num_inner + len(spanning.part_ptr) - 1
        plan = table.plan.numpy()
        self.num_slots, num_rising, num_links, self.num_mass_slots = plan[:4].tolist()
        num_sources = self.num_classes + num_rising
        sizes = [
            self.num_classes + self.num_inner - 1, self.num_inner + 1, len(spanning.part),
            num_sources, num_rising, num_sources + 1, num_links, num_rising + 1,
        ]  # fmt: skip
        arrays = np.split(plan[4:], np.cumsum(sizes))
        self.slot, self.slot_ptr, self.part_line, self.source = arrays[:4]
        self.line, self.link_ptr, self.link, self.risen_ptr, rest = arrays[4:]
        assert len(rest) == 0


def assert_sums(dag: Dag) -> None:
    """Asserts that each node has the columns below it, each once."""
    table = table_of(dag)
    plan, spanning, reach = Plan(table), table.spanning, dag.reach()
    columns = np.zeros((plan.num_lines + plan.num_slots, dag.num_classes), int)
    added = np.zeros(len(columns), int)

    def add(line: int, value: np.ndarray) -> None:
        columns[line] += value
        added[line] += 1

    for column in range(dag.num_classes):
        add(plan.slot[column], np.eye(1, dag.num_classes, column, dtype=int)[0])
    for v in range(plan.num_inner):
        first, last = plan.num_lines + plan.slot_ptr[v : v + 2]
        columns[v] += columns[first:last].sum(0)
        if v < plan.num_inner - 1:
            add(plan.slot[dag.num_classes + v], columns[v])
    for x, (first, last) in enumerate(pairwise(spanning.part_ptr.tolist())):
        columns[plan.num_inner + x] = columns[plan.part_line[first:last]].sum(0)
    assert (columns[plan.num_inner - 1] == 1).all()
    for node, place in enumerate(spanning.place.tolist()):
        if place >= dag.num_classes:
            assert columns[place - dag.num_classes].tolist() == reach[node].tolist()
    assert added.max(initial=0) <= RUN
    # The columns that are parts have slots of their own.
    parts = set(spanning.part.tolist())
    for part in parts & set(range(dag.num_classes)):
        slot = plan.slot[part]
        assert slot >= plan.num_lines
        assert plan.slot.tolist().count(slot) == 1


def assert_mass(dag: Dag) -> None:
    """Asserts that mass on the nodes reaches the nodes above it."""
    table = table_of(dag)
    plan, place = Plan(table), table.spanning.place.numpy()
    mass = np.zeros(plan.num_lines + plan.num_mass_slots)
    added = np.zeros(len(mass), int)
    on_node = np.where(place >= 0, np.arange(1.0, dag.num_nodes + 1), 0)
    for node in range(dag.num_nodes):
        if place[node] >= dag.num_classes:
            mass[place[node] - dag.num_classes] = on_node[node]
    for i, node in enumerate(plan.source.tolist()):
        is_column = i < dag.num_classes
        if node < 0:
            assert is_column
            assert i not in place
            continue
        rising = i - dag.num_classes
        assert place[node] == (i if is_column else dag.num_classes + plan.line[rising])
        if not is_column:
            first, last = plan.num_lines + plan.risen_ptr[rising : rising + 2]
            mass[plan.line[rising]] += mass[first:last].sum()
        reached = on_node[node] if is_column else mass[plan.line[rising]]
        links = plan.link[plan.link_ptr[i] : plan.link_ptr[i + 1]]
        assert len(links) == len(dag.parents[node])
        for line in links:
            mass[line] += reached / len(links)
            added[line] += 1
    expected = on_node.astype(float)
    for node in reversed(dag.downwards):
        for parent in dag.parents[node]:
            expected[parent] += expected[node] / len(dag.parents[node])
    for node in np.flatnonzero(place >= dag.num_classes):
        assert mass[place[node] - dag.num_classes] == pytest.approx(expected[node], rel=1e-12)
    assert added.max(initial=0) <= RUN


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape: str) -> None:
    assert_sums(SHAPES[shape])
    assert_mass(SHAPES[shape])


@given(dags.dags())
@settings(max_examples=50, deadline=None)
def test_any_dag(dag: Dag) -> None:
    assert_sums(dag)
    assert_mass(dag)


@pytest.mark.parametrize("width", [31, 32, 33, 64, 65, 100])
def test_wide_nodes(width: int) -> None:
    """Two nodes with many children, leaves and others, some of which they share."""
    leaves = range(2, 2 + width)
    inner = range(2 + width, 2 + 2 * width)
    below = range(2 + 2 * width, 2 + 4 * width)
    edges = [(0, v) for v in (*leaves, *inner)] + [(1, v) for v in (*leaves[::3], *inner[::5])]
    edges += [(inner[i // 2], v) for i, v in enumerate(below)]
    dag = Dag(edges, 2 + 4 * width, [*leaves, *below])
    assert_sums(dag)
    assert_mass(dag)
