"""Which node each label of a data set is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

from .name_index import NameIndex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .links import Links

_SHOWN = 10  # labels that match nothing, with what is near them

_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("[name.replace('_', ' ') for name in labels]", lambda name: name.replace("_", " ")),
    ("[name.replace(' ', '_') for name in labels]", lambda name: name.replace(" ", "_")),
    ("[name.lower() for name in labels]", str.lower),
    ("[name.lower().replace(' ', '_') for name in labels]", lambda n: n.lower().replace(" ", "_")),
    ("[name.lower().replace('_', ' ') for name in labels]", lambda n: n.lower().replace("_", " ")),
    ("[name.split(',')[0] for name in labels]", lambda name: name.split(",")[0]),
    ("[name.strip() for name in labels]", str.strip),
)


def nodes_of_labels(
    labels: Sequence[str], index: NameIndex, links: Links, classes: NDArray[np.int64]
) -> list[int]:
    """The node of each label: the one with that full name, or the only one with that last part.

    If nodes on one path share that last part ("person" above "person"), the class is meant.

    Args:
        labels: names in label order.
        index: of the hierarchy's names.
        links: of the hierarchy.
        classes: the hierarchy's class nodes.

    Raises:
        ValueError: labels that match no node or several, or two labels that match the same one.
    """
    is_class = set(classes.tolist())
    nodes: list[int] = []
    unknown: list[int] = []
    ambiguous: list[int] = []
    for label, name in enumerate(labels):
        found = _one_of(name, index, links, is_class)
        nodes.append(-1 if found is None else found)
        if found is None:
            (ambiguous if index.candidates(name) else unknown).append(label)
    if unknown or ambiguous:
        _refuse_labels(labels, unknown, ambiguous, index)
    first: dict[int, int] = {}
    for label, node in enumerate(nodes):
        other = first.setdefault(node, label)
        if other != label:
            raise ValueError(
                f"label {other} ({labels[other]!r}) and label {label} ({labels[label]!r}) are both "
                f"{index.shown([node])}; give each label a node of its own, by full names where "
                f"last parts repeat"
            )
    return nodes


def _one_of(name: str, index: NameIndex, links: Links, is_class: set[int]) -> int | None:
    full = index.by_name.get(name)
    if full is not None and full in is_class:
        return full
    nodes = index.candidates(name)
    if len(nodes) == 1:
        return nodes[0]
    of_classes = [node for node in nodes if node in is_class]
    if not of_classes:
        return full
    if len(of_classes) == 1 and set(nodes) <= set(links.above(of_classes[0])):
        return of_classes[0]
    return None


def _refuse_labels(
    labels: Sequence[str], unknown: list[int], ambiguous: list[int], index: NameIndex
) -> NoReturn:
    bad = sorted(unknown + ambiguous)
    lines = [f"{len(bad)} of {len(labels)} labels are not one node of this hierarchy:"]
    for label in bad[:_SHOWN]:
        name = labels[label]
        if label in ambiguous:
            told = f"is {len(index.candidates(name))} nodes, {index.shown(index.candidates(name))}"
        else:
            near = index.near(name)
            told = f"is near {', '.join(map(repr, near))}" if near else "matches nothing"
        lines.append(f"  label {label}, {name!r}, {told}")
    if len(bad) > _SHOWN:
        rest = ", ".join(repr(labels[label]) for label in bad[_SHOWN:])
        lines.append(f"  and {len(bad) - _SHOWN} more: {rest}")
    if ambiguous:
        lines.append("Give full names where a last part repeats.")
    if unknown:
        lines.append(_advice(labels, unknown, index))
    raise ValueError("\n".join(lines))


def _advice(labels: Sequence[str], unknown: list[int], index: NameIndex) -> str:
    for code, spell in _SPELLINGS:
        if all(index.candidates(spell(labels[label])) for label in unknown):
            return f"All of them match as {code}."
    if len(unknown) == len(labels):
        sample = list(islice(index.by_name, 3))
        return (
            f"No label matches; this hierarchy's names are like {', '.join(map(repr, sample))}. "
            f"If these are ids and the labels names, with_names (or name= of from_csv) gives names."
        )
    return "Name every label as the hierarchy does."
