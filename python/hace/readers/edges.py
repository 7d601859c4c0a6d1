"""A hierarchy from (parent, child) names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn

from .cells import checked_missing, name_of, rows_of
from .named_links import ROOT, NamedLinks
from .suspicions import (
    refuse_look_alikes,
    refuse_stringified_nothing,
    refuse_words_for_nothing,
    warn_no_branch,
)


def read_edges(
    edges: Iterable[Any],
    *,
    allow_multiple_parents: bool,
    child_first: bool = False,
    missing: Collection[str] | None = None,
) -> NamedLinks:
    """See `Hierarchy.from_edges`."""
    if isinstance(edges, dict):
        raise TypeError(
            "edges must be pairs (parent, child), got a mapping; from_parents takes one from each "
            "node to its parent"
        )
    columns = [str(name).casefold() for name in getattr(edges, "columns", ())]
    if columns == ["child", "parent"] and not child_first:
        raise ValueError("the columns are (child, parent); give child_first=True, or turn them")
    place = -1

    def pairs() -> Iterable[tuple[str, str]]:
        nonlocal place
        for edge in rows_of(edges):
            place += 1
            pair = _names(place, edge)
            yield pair[::-1] if child_first else pair

    return read_name_pairs(
        pairs(),
        lambda: f"edge {place}",
        allow_multiple_parents=allow_multiple_parents,
        missing=missing,
        turn_round=f"child_first={not child_first} reads them so",
    )


def _names(place: int, edge: Any) -> tuple[str, str]:
    if type(edge) is tuple and len(edge) == 2 and type(edge[0]) is type(edge[1]) is str:
        return edge
    if isinstance(edge, (str, bytes)) or not isinstance(edge, Iterable):
        raise TypeError(f"edge {place} must be a pair (parent, child), got {edge!r}")
    pair = tuple(rows_of(edge))
    if len(pair) != 2:
        raise ValueError(f"edge {place} must be a pair (parent, child), got {pair!r}")
    try:
        return name_of(pair[0]), name_of(pair[1])
    except (TypeError, ValueError) as error:
        raise type(error)(f"edge {place}: {error}") from None


def read_name_pairs(
    pairs: Iterable[tuple[str, str]],
    place: Callable[[], str],
    *,
    allow_multiple_parents: bool,
    missing: Collection[str] | None,
    turn_round: str,
    two_levels: str = "",
    own_parent: bool = False,
) -> NamedLinks:
    """Nodes by first appearance, parent before child.

    Args:
        pairs: (parent, child) names; an empty parent says that the child is a root.
        place: says where the last pair was, for errors.
        allow_multiple_parents: whether a child may have several.
        missing: the words that mean "no value".
        turn_round: for messages, how to say that parent and child are the other way round.
        two_levels: for messages, how to say that the columns are levels, on which a name may
            repeat.
        own_parent: whether a root may be its own parent, as it is where every node has a pair of
            its own as a child; otherwise such a pair is taken for one name on two levels.
    """
    words = checked_missing(missing) or frozenset()
    ids: dict[str, int] = {}
    parents: list[int] = []
    more: dict[tuple[int, int], None] = {}  # the edges from further parents, each once
    declared: set[int] = set()  # nodes that were given as roots
    own: dict[int, str] = {}  # nodes that are their own parents, and where this was said
    num_edges, second_at = 0, ""
    for parent_name, child_name in pairs:
        if not child_name or child_name in words:
            raise ValueError(
                f"{place()} has no child, only the parent {parent_name!r}; a node that stands "
                f"alone is written as a child without a parent"
            )
        if not parent_name or parent_name in words:
            child = ids.setdefault(child_name, len(ids))
            if child == len(parents):
                parents.append(ROOT)
            declared.add(child)
            continue
        parent = ids.setdefault(parent_name, len(ids))
        if parent == len(parents):
            parents.append(ROOT)
        child = ids.setdefault(child_name, len(ids))
        if child == len(parents):
            parents.append(ROOT)
        if parent == child:
            own[child] = place()
            if not own_parent:
                _refuse_self_loop(parent_name, own[child], two_levels)
            continue
        num_edges += 1
        if parents[child] == ROOT:
            parents[child] = parent
        elif parents[child] != parent:
            if not more:
                second_at = place()
            more[parent, child] = None
    names = list(ids)
    if not names:
        raise ValueError("edges is empty; a hierarchy needs at least one (from_parents needs none)")

    with_parent = {child for child, parent in enumerate(parents) if parent != ROOT}
    if own and len(with_parent | declared | own.keys()) < len(names):
        node, at = next(iter(own.items()))
        _refuse_self_loop(names[node], at, two_levels)
    for node, said in ((node, "is a root") for node in sorted(declared)):
        if parents[node] != ROOT:
            _refuse_two_words(names[node], said, names[parents[node]])
    for node in own:
        if parents[node] != ROOT:
            _refuse_two_words(names[node], "is its own parent", names[parents[node]])

    inner = set(parents).union(parent for parent, _ in more) - {ROOT}
    has_branch = len(inner) < len(with_parent) + len(more)
    if more and not allow_multiple_parents:
        _refuse_second_parents(
            names, parents, more, second_at, turn_round if not has_branch else ""
        )
    shown = declared | own.keys() | with_parent
    refuse_stringified_nothing(names, missing)
    refuse_words_for_nothing(
        [names[node] for node in sorted(inner)], missing, lambda name: ids[name] in shown
    )
    refuse_look_alikes(names)
    warn_no_branch(num_edges, has_branch, turn_round)
    return NamedLinks(names, parents, list(more))


def _refuse_self_loop(name: str, at: str, two_levels: str) -> NoReturn:
    two_levels = two_levels or f"paths, from_paths([({name!r}, {name!r}), …])"
    raise ValueError(
        f"{at} is from {name!r} to itself: one name on two levels. In edges a name is one node; "
        f"give {two_levels}, where it may stand on both, or ids that differ"
    )


def _refuse_two_words(name: str, said: str, parent: str) -> NoReturn:
    raise ValueError(f"{name!r} {said} in one place, and below {parent!r} in another; keep one")


def _refuse_second_parents(
    names: list[str],
    parents: list[int],
    more: Iterable[tuple[int, int]],
    at: str,
    turn_round: str,
) -> NoReturn:
    children = list(dict.fromkeys(child for _, child in more))
    second, child = next(iter(more))
    others = f" (so have {len(children) - 1} more nodes)" if len(children) > 1 else ""
    if turn_round:
        advice = (
            f"No node has two children here, so parent and child are probably the other way round: "
            f"{turn_round}"
        )
    else:
        advice = "Keep one of them, or give allow_multiple_parents=True for a DAG"
    raise ValueError(
        f"{names[child]!r} has two parents, {names[parents[child]]!r} and {names[second]!r}, the "
        f"second one from {at}{others}. {advice}"
    )
