"""A hierarchy drawn as text, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

import numpy as np

from .describe import summary
from .tree_view import TreeView

_LINES = 40  # of str(tree)
_CHILDREN = 8  # of one node, in str(tree) and in HTML
_HTML_NODES = 2_000


class _Line(NamedTuple):
    node: int  # -1 for what is left out
    text: str
    levels: tuple[bool, ...]  # from the root down: whether the node is the last child


def to_text(tree: TreeView, depth: int | None = None, max_children: int | None = None) -> str:
    """See `Hierarchy.to_text`."""
    _check_limit("depth", depth, 0)
    _check_limit("max_children", max_children, 1)
    return "\n".join(_rule(line) for line in _lines(tree, depth, max_children))


def summary_text(tree: TreeView) -> str:
    """What `str(tree)` gives: the `repr`, and as many levels as fit on a screen."""
    drawn = ""
    for depth in range(tree.depth + 1):
        lines = []
        for line in _lines(tree, depth, _CHILDREN):
            lines.append(_rule(line))
            if len(lines) > _LINES and depth:
                return f"{tree!r}\n{drawn}"
        drawn = "\n".join(lines)
    return f"{tree!r}\n{drawn}"


def to_html(tree: TreeView) -> str:
    """What notebooks show: the summary as a table, and the tree to be unfolded."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(what)}</th>"
        f"<td style='text-align:left'>{escape(found)}</td></tr>"
        for what, found in summary(tree)
    )
    return f"<table>{rows}</table>{''.join(_html(tree))}"


def _html(tree: TreeView) -> Iterator[str]:
    open_levels = 0
    for number, line in enumerate(_lines(tree, None, _CHILDREN)):
        while open_levels > len(line.levels):
            open_levels -= 1
            yield "</details>"
        if number >= _HTML_NODES:
            yield "<div>…</div>"
            break
        indent = f"style='margin-left:{1.2 * bool(line.levels)}em'"
        if line.node >= 0 and tree.children(line.node):
            is_open = " open" if not line.levels else ""
            yield f"<details {indent}{is_open}><summary>{escape(line.text)}</summary>"
            open_levels += 1
        else:
            yield f"<div {indent}>{escape(line.text)}</div>"
    yield "</details>" * open_levels


def _lines(tree: TreeView, depth: int | None, max_children: int | None) -> Iterator[_Line]:
    label_of = np.full(tree.num_nodes, -1)
    label_of[tree.classes] = np.arange(tree.num_classes)
    drawn: set[int] = set()

    def text(node: int) -> str:
        label = f"  [{label_of[node]}]" if label_of[node] >= 0 else ""
        return f"{tree.short_name(node)}{label}"

    def below(nodes: list[int], levels: tuple[bool, ...], is_top: bool) -> list[_Line]:
        shown = nodes if max_children is None else nodes[:max_children]
        rest = len(nodes) - len(shown)
        lines = [
            _Line(node, "", () if is_top else (*levels, not rest and place + 1 == len(shown)))
            for place, node in enumerate(shown)
        ]
        if rest:
            lines.append(_Line(-1, f"… {rest:,} more", () if is_top else (*levels, True)))
        return lines

    stack = below(tree.roots.tolist(), (), is_top=True)[::-1]
    while stack:
        line = stack.pop()
        if line.node < 0:
            yield line
            continue
        children = tree.children(line.node)
        if children and line.node in drawn:
            yield line._replace(text=f"{text(line.node)}  (drawn above)")
        elif children and depth is not None and len(line.levels) >= depth:
            number = len(children)
            yield line._replace(
                text=f"{text(line.node)}  … {number:,} {'child' if number == 1 else 'children'}"
            )
        else:
            yield line._replace(text=text(line.node))
            stack += below(children, line.levels, is_top=False)[::-1]
        drawn.add(line.node)


def _rule(line: _Line) -> str:
    if not line.levels:
        return line.text
    before = "".join("    " if is_last else "│   " for is_last in line.levels[:-1])
    return f"{before}{'└── ' if line.levels[-1] else '├── '}{line.text}"


def _check_limit(argument: str, value: int | None, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{argument} must be a whole number or None, got {value!r}")
    if value is not None and value < least:
        raise ValueError(f"{argument} must be at least {least}, got {value}")
