"""Nodes by name: the full name, or the last part of a path where only one node has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .links import Links

_SEPARATORS = (" > ", " / ", " | ", " -> ", "; ", "::", "->", "/", ">", "|", "\\", ";", "\t", ".")
_MANY = 20_000  # a name that is not found is compared with at most this many names


class NameIndex:
    """The nodes of each name and of each last part.

    Names are paths where each one begins with its parent's, and the same separator follows.
    """

    def __init__(self, names: Sequence[str], links: Links) -> None:
        self._names = names
        self._links = links
        self.by_name = {name: node for node, name in enumerate(names)}

    @cached_property
    def sep(self) -> str | None:
        """The separator of the parts of the names; None where names are not paths."""
        if not self._links.is_tree:
            return None
        names, low, high = self._names, "", ""
        for name, parent in zip(names, self._links.parents.tolist(), strict=True):
            if parent < 0:
                continue
            if not name.startswith(names[parent]):
                return None
            rest = name[len(names[parent]) :]
            low, high = min(low or rest, rest), max(high, rest)
            if not _common_start(low, high):
                return None
        common = _common_start(low, high)
        for sep in _SEPARATORS:
            if common.startswith(sep):
                return None if sep == "." and self._are_codes() else sep
        end = next((i for i, letter in enumerate(common) if letter.isalnum()), len(common))
        return common[:end] or None

    def _are_codes(self) -> bool:
        """Whether the names are codes, of which the part after a point means nothing alone."""
        return all(name.rpartition(".")[2].isdecimal() for name in self._names if "." in name)

    @cached_property
    def last_parts(self) -> Sequence[str]:
        """Each node's name without those of the nodes above it."""
        if self.sep is None:
            return self._names
        names, skip = self._names, len(self.sep)
        parents = self._links.parents.tolist()
        return [
            name if parent < 0 else name[len(names[parent]) + skip :]
            for name, parent in zip(names, parents, strict=True)
        ]

    @cached_property
    def _by_last_part(self) -> dict[str, list[int]]:
        nodes: dict[str, list[int]] = {}
        for node, part in enumerate(self.last_parts):
            nodes.setdefault(part, []).append(node)
        return nodes

    def candidates(self, name: str) -> list[int]:
        """The nodes of that full name or last part, ascending."""
        nodes = self._by_last_part.get(name, [])
        full = self.by_name.get(name)
        return nodes if full is None or full in nodes else sorted([*nodes, full])

    def find(self, name: str) -> int:
        """The node of that full name, or the only one of that last part.

        Raises:
            ValueError: no node has it, or several have it as the last part of their names.
        """
        if name in self.by_name:
            return self.by_name[name]
        nodes = self.candidates(name)
        if len(nodes) == 1:
            return nodes[0]
        if nodes:
            raise ValueError(
                f"{name!r} is the last part of {len(nodes)} names, {self.shown(nodes)}; give the "
                f"full name"
            )
        near = self.near(name)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"no node is named {name!r}{hint}")

    @cached_property
    def _known(self) -> tuple[str, ...]:
        if self.sep is None:
            return tuple(self.by_name)
        return tuple(dict.fromkeys([*self._by_last_part, *self.by_name]))

    def near(self, name: str, number: int = 3) -> list[str]:
        """Names and last parts that resemble a name that was not found."""
        known: Iterable[str] = self._known
        if len(self._names) > _MANY:
            # Comparing with all names of a large taxonomy takes a second: only those that may be a
            # misspelling are compared.
            start = name[:1].casefold()
            known = [
                other
                for other in known
                if abs(len(other) - len(name)) <= 2 and other[:1].casefold() == start
            ][:_MANY]
        folded: dict[str, str] = {}
        for other in known:
            folded.setdefault(plain(other), other)
        found = get_close_matches(plain(name), folded, number, cutoff=0.7)
        return [folded[other] for other in found]

    def shown(self, nodes: Sequence[int], at_most: int = 3) -> str:
        """The names of the first few of some nodes, for an error message."""
        names = ", ".join(repr(self._names[node]) for node in nodes[:at_most])
        return names if len(nodes) <= at_most else f"{names}, …"


def plain(name: str) -> str:
    """A name in lower case, with blanks where file names have other characters in their place."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _common_start(a: str, b: str) -> str:
    end = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        end += 1
    return a[:end]
