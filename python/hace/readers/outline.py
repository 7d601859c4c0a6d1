"""A hierarchy from indented text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import takewhile

from .named_links import NamedLinks
from .paths import checked_sep, read_paths

_MARKS = "-*+.•>|#"


def read_outline(
    lines: Iterable[str],
    *,
    indent: str | None,
    sep: str,
    missing: Collection[str] | None = None,
) -> NamedLinks:
    """See `Hierarchy.from_outline`."""
    checked_sep(sep)
    if indent is not None and (not isinstance(indent, str) or not indent):
        raise ValueError(f"indent must be the text that stands for one level, got {indent!r}")
    if isinstance(lines, str):
        if "\n" not in lines:
            raise TypeError(
                f"lines must be lines or a text of several, got {lines!r}; read a file by open(…)"
            )
        lines = lines.splitlines()
    entries = _entries(lines, indent)
    if not entries:
        raise ValueError("lines has no text; a hierarchy needs at least one node")
    _check_marks(entries, indent)

    leaves: list[tuple[str, ...]] = []
    seen: set[tuple[str, ...]] = set()
    widths: list[int] = []  # of the open levels
    path: list[str] = []
    for place, (number, width, text) in enumerate(entries):
        if not widths or width > widths[-1]:
            if indent is not None and widths and width > widths[-1] + 1:
                raise ValueError(
                    f"line {number}, {text!r}, is at level {width}, and the line before is at "
                    f"level {widths[-1]}; a level is missing between"
                )
            widths.append(width)
        else:
            while widths and widths[-1] > width:
                widths.pop()
            if not widths or widths[-1] != width:
                raise ValueError(
                    f"line {number}, {text!r}, is indented by {width}, which is not a level that "
                    f"is open: {widths or [entries[0][1]]}"
                )
        del path[len(widths) - 1 :]
        path.append(text)
        node = tuple(path)
        if node in seen:
            raise ValueError(f"line {number}: {' > '.join(path)!r} is given twice")
        seen.add(node)
        if place + 1 == len(entries) or entries[place + 1][1] <= width:
            leaves.append(node)
    return read_paths(leaves, sep, missing)


def _entries(lines: Iterable[str], indent: str | None) -> list[tuple[int, int, str]]:
    """Number, width and text of each line that has text."""
    entries = []
    characters: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise TypeError(f"line {number} must be a string, got {line!r}")
        text = line.lstrip("\ufeff").rstrip()
        if not text.strip():
            continue
        if indent is None:
            blanks = "".join(takewhile(str.isspace, text))
            characters.update(blanks)
            if len(characters) > 1:
                raise ValueError(
                    f"line {number}, {text.strip()!r}, and the lines before are indented by tabs "
                    f"and by blanks; use one of them (str.expandtabs)"
                )
            entries.append((number, len(blanks), text[len(blanks) :]))
        else:
            level = 0
            while text.startswith(indent):
                text, level = text[len(indent) :], level + 1
            if not text.strip():
                raise ValueError(f"line {number} has {level} times {indent!r} and no text")
            if text[0].isspace() and indent.isspace():
                raise ValueError(
                    f"line {number}, {text.strip()!r}, is not indented by whole {indent!r}"
                )
            entries.append((number, level, text.strip()))
    return entries


def _check_marks(entries: list[tuple[int, int, str]], indent: str | None) -> None:
    """Raises ValueError if the lines begin with marks that `indent` does not name."""
    marks = ["".join(takewhile(_MARKS.__contains__, text)) for _, _, text in entries]
    some = [mark for mark in marks if mark]
    if len(some) * 2 < len(entries) or len(some) < 2:
        return
    shortest = min(some, key=len)
    if indent is None and len(set(marks)) > 1 and all(width == 0 for _, width, _ in entries):
        raise ValueError(
            f"no line is indented by blanks, and most begin with {shortest!r}; give "
            f"indent={shortest!r} if that stands for one level"
        )
    if all(text[len(shortest) : len(shortest) + 1] == " " for _, _, text in entries):
        raise ValueError(
            f"every line begins with {shortest + ' '!r}, which would be a part of every name; cut "
            f"it off first: line.replace({shortest + ' '!r}, '', 1)"
        )
