"""Checks that parents, names and classes make a hierarchy, with errors that name the node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]

# An error shows this many nodes from the start and from the end of a long cycle.
_CYCLE_ENDS = 4


def checked_ids(values: Any, argument: str) -> NDArray[np.integer[Any]]:
    """A one-dimensional, non-empty array of integers from a list, array or tensor.

    Raises:
        TypeError: the values are not integers.
        ValueError: none are given, or they are not one-dimensional.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
            raise TypeError(f"{argument} must be integers, not {type(values).__name__}")
        values = list(values)
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{argument} must be one-dimensional: {error}") from None
    if array.size == 0:
        raise ValueError(f"{argument} is empty; a hierarchy needs at least one node and one class")
    if array.ndim != 1:
        raise ValueError(f"{argument} must be one-dimensional, got shape {array.shape}")
    if array.dtype.kind not in "iub":
        raise TypeError(f"{argument} must be integers, got dtype {array.dtype}")
    return array


def describe(node: int, names: Sequence[str] | None) -> str:
    """A node in an error message: its id, and its name if it has one."""
    return f"node {node}" if names is None else f"node {node} ({names[node]!r})"


def checked_parents(values: Any, names: Sequence[str] | None) -> Int64:
    """Parents of a forest as int64; `names`, where given, have been checked already.

    Raises:
        TypeError: the values are not integers.
        ValueError: none are given, a parent is out of range, or there is a cycle.
    """
    array = checked_ids(values, "parents")
    num_nodes = len(array)
    if names is not None and len(names) != num_nodes:
        raise ValueError(
            f"{len(names)} names for {num_nodes} nodes; give every node exactly one name"
        )
    bad = np.flatnonzero((array < -1) | (array >= num_nodes))
    if len(bad):
        raise ValueError(
            f"{describe(int(bad[0]), names)} has parent {array[bad[0]]}, which is out of range; "
            f"parents are node ids from 0 to {num_nodes - 1}, or -1 for a root"
        )
    parents = array.astype(np.int64)
    own = np.flatnonzero(parents == np.arange(num_nodes))
    if len(own):
        refuse_own_parent(int(own[0]), names)
    return parents


def refuse_cycle(
    parents: Int64, behind_cycle: NDArray[np.bool_], names: Sequence[str] | None
) -> NoReturn:
    """Raises ValueError that names a cycle; every given node is on a cycle or below one."""
    step: dict[int, int] = {}
    node = int(np.flatnonzero(behind_cycle)[0])
    while node not in step:
        step[node] = len(step)
        node = int(parents[node])
    cycle = list(islice(step, step[node], None))
    parts = [describe(node, names) for node in cycle]
    if len(parts) > 2 * _CYCLE_ENDS:
        hidden = len(parts) - 2 * _CYCLE_ENDS
        parts[_CYCLE_ENDS:-_CYCLE_ENDS] = [f"... {hidden} more ..."]
    raise ValueError(
        f"the parents of {len(cycle)} nodes form a cycle: {' -> '.join([*parts, parts[0]])}; "
        f"remove one of these parents"
    )


def refuse_own_parent(node: int, names: Sequence[str] | None) -> NoReturn:
    raise ValueError(
        f"{describe(node, names)} is its own parent; a root has no parent (-1 in from_parents, no "
        f"edge from itself in from_edges)"
    )


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names as a tuple.

    Raises:
        TypeError: a name is not a string.
        ValueError: two nodes have the same name.
    """
    if isinstance(names, (str, bytes)):
        raise TypeError(f"names must be a list of strings, one per node; got the string {names!r}")
    names = tuple(names)
    for node, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"the name of node {node} must be a string, got {name!r}")
    if len(set(names)) < len(names):
        first, second = _first_repetition(names)
        raise ValueError(
            f"node {first} and node {second} have the same name {names[second]!r}; make names "
            f"unique, for instance full paths"
        )
    return names


def checked_classes(classes: Any, num_nodes: int, names: Sequence[str] | None) -> Int64:
    """Class nodes, given all by id or, where the nodes have names, all by name, as int64 ids.

    Raises:
        TypeError: neither ids nor names.
        ValueError: none are given, one is unknown, or one is given twice.
    """
    if isinstance(classes, (str, bytes)):
        raise TypeError(f"classes must be a list of nodes, got the string {classes!r}")
    if not isinstance(classes, (np.ndarray, torch.Tensor)):
        classes = list(classes)
    if any(isinstance(name, str) for name in classes[:1]):
        array: NDArray[np.integer[Any]] = np.asarray(_ids_of(classes, names), np.int64)
    else:
        array = checked_ids(classes, "classes")
        if array.dtype.kind == "b":
            raise TypeError("classes must be node ids, not a mask; give np.flatnonzero(mask)")
    bad = np.flatnonzero((array < 0) | (array >= num_nodes))
    if len(bad):
        raise ValueError(
            f"classes[{bad[0]}] is {array[bad[0]]}, an unknown node; node ids are 0 to "
            f"{num_nodes - 1}"
        )
    is_class = np.zeros(num_nodes, np.bool_)
    is_class[array] = True
    if np.count_nonzero(is_class) < len(array):
        first, second = _first_repetition(array.tolist())
        raise ValueError(
            f"{describe(int(array[second]), names)} is given as class {first} and as class "
            f"{second}; list every class once"
        )
    return array.astype(np.int64)


def _ids_of(classes: Sequence[Any], names: Sequence[str] | None) -> list[int]:
    if names is None:
        raise ValueError("classes are given by name, but the nodes have no names; give node ids")
    ids = {name: node for node, name in enumerate(names)}
    for label, name in enumerate(classes):
        if not isinstance(name, str):
            raise TypeError(f"classes[{label}] is {name!r}; give either only names or only ids")
        if name not in ids:
            raise ValueError(
                f"classes[{label}] is {name!r}, an unknown node; no node has this name"
            )
    return [ids[name] for name in classes]


def _first_repetition(values: Iterable[Any]) -> tuple[int, int]:
    """The positions of the first value that repeats, and of its first occurrence before."""
    seen: dict[Any, int] = {}
    for place, value in enumerate(values):
        if value in seen:
            return seen[value], place
        seen[value] = place
    raise AssertionError("no value is repeated")
