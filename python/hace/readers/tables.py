"""A hierarchy from a table in a text file: CSV, TSV and the like."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import NoReturn

from .cells import checked_missing
from .edges import read_name_pairs
from .named_links import ROOT, NamedLinks
from .paths import read_paths
from .rows import RowFormat, Rows, fitting

Column = str | int

_HEADER_WORD = re.compile(
    r"(parent|child|source|target|from|to|node|name|id|label|class|category|super\w*|sub\w*"
    r"|level|tier|rank|coarse|fine|kingdom|phylum|order|family|genus|species|taxon\w*"
    r"|.*[ _]?(id|name|parent|child|class|category|label)|(level|tier|rank)[ _]?\d+|l\d)",
    re.IGNORECASE,
)
_LINES_TO_COMPARE = 100


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the hierarchy: parent, child and perhaps name, or levels."""

    parent: Column
    child: Column
    name: Column | None
    levels: Sequence[Column] | Column | None
    sep: str | None

    def wanted(self) -> list[Column]:
        """The columns that are read."""
        if self.levels is None:
            return [self.parent, self.child] + ([] if self.name is None else [self.name])
        return [self.levels] if isinstance(self.levels, (str, int)) else list(self.levels)

    @property
    def is_path(self) -> bool:
        """Whether one column holds whole paths."""
        return isinstance(self.levels, (str, int))

    def check(self) -> None:
        """Raises TypeError or ValueError for columns that are neither names nor positions."""
        wanted = self.wanted()
        if not wanted:
            raise ValueError("levels is empty; give the columns from the highest level down")
        for column in wanted:
            if isinstance(column, bool) or not isinstance(column, (str, int)):
                raise TypeError(f"a column is a name or a position from 0, got {column!r}")
            if isinstance(column, int) and column < 0:
                raise ValueError(f"a column's position counts from 0, got {column}")
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"the columns {wanted} are not different ones")
        if self.name is not None and self.levels is not None:
            raise ValueError("name goes with parent and child; levels hold names themselves")
        if self.sep is not None and self.levels is None and self.name is None:
            raise ValueError(
                "sep separates the parts of paths; give levels= the column that holds paths, or "
                "the columns that hold their parts"
            )


def read_csv(
    path: str | os.PathLike[str],
    columns: Columns,
    form: RowFormat,
    *,
    allow_multiple_parents: bool,
    missing: Collection[str] | None,
) -> NamedLinks:
    """See `Hierarchy.from_csv`."""
    columns.check()
    checked_missing(missing)
    rows = Rows(path, form)
    table = Table(rows, columns.wanted(), may_be_short=columns.levels is not None)
    if not table.has_header and form.delimiter is None:
        _refuse_other_delimiter(rows)
    if columns.levels is None:
        own: dict[str, str] = {}
        links = read_name_pairs(
            _pairs(table, own),
            lambda: rows.place,
            allow_multiple_parents=allow_multiple_parents,
            missing=missing,
            turn_round=f"parent={columns.child!r}, child={columns.parent!r} reads them so",
            two_levels=f"levels={columns.wanted()[:2]}",
            own_parent=True,
        )
        if columns.name is not None:
            links = links._replace(own_names=[own.get(node, "") for node in links.names])
    else:
        links = _read_levels(table, columns, missing)
    if not table.has_header and len(links.names) > len(table.first):
        _refuse_header(table, links, columns)
    return links


class Table:
    """The wanted fields of each row, without blanks around them."""

    def __init__(self, rows: Rows, wanted: list[Column], may_be_short: bool):
        self._rows = rows
        self._may_be_short = may_be_short
        self._fields = iter(rows)
        first = next(self._fields, None)
        if first is None:
            raise ValueError(f"{rows.path} has no row")
        self.has_header = any(isinstance(column, str) for column in wanted)
        self._width = len(first)
        self._columns = [self._position(column, first) for column in wanted]
        if not self.has_header:
            self._fields = chain([first], self._fields)
        self.first = [first[column].strip() for column in self._columns]

    @property
    def path(self) -> str:
        """The file."""
        return self._rows.path

    @property
    def place(self) -> str:
        """The last row, for errors."""
        return self._rows.place

    def _position(self, column: Column, first: list[str]) -> int:
        if isinstance(column, int):
            if column >= len(first):
                self._rows.refuse_delimiter(
                    f"there is no column {column}, a row has {len(first)} fields"
                )
            return column
        header = [field.strip() for field in first]
        same = [place for place, name in enumerate(header) if name == column]
        if not same:
            folded = [name.casefold() for name in header]
            same = [place for place, name in enumerate(folded) if name == column.casefold()]
        if len(same) == 1:
            return same[0]
        if same:
            raise ValueError(
                f"{self.place}: {len(same)} columns are called {column!r}; give one by its "
                f"position, {' or '.join(map(str, same))}"
            )
        return _refuse_column(self._rows, column, header)

    def __iter__(self) -> Iterator[list[str]]:
        columns, width, row = self._columns, self._width, None
        for row in self._fields:
            if len(row) != width:
                self._check_width(row)
            fields = []
            for column in columns:
                field = row[column] if column < len(row) else ""
                if not field.isprintable() or field[:1] == " " or field[-1:] == " ":
                    field = self._cleaned(field)
                fields.append(field)
            yield fields
        if row is None:
            raise ValueError(f"{self.path} has no row but the first, which names the columns")

    def _check_width(self, row: list[str]) -> None:
        if len(row) < self._width and self._may_be_short:
            return
        if len(row) < self._width and len(row) > max(self._columns):
            return
        raise ValueError(
            f"{self.place}: {row} has {len(row)} fields, and the first row has {self._width}; put "
            f"quotes around a field that holds the delimiter {self._rows.delimiter!r}"
            f"{fitting(self._rows.first_lines(20), self._rows.delimiter)}"
        )

    def _cleaned(self, field: str) -> str:
        field = field.strip().strip("\ufeff").strip()
        if any(character in field for character in "\t\n\r\v\f"):
            raise ValueError(
                f"{self.place}: the field {field!r} holds a tab or a line break. Is the delimiter "
                f"{self._rows.delimiter!r}, and does every quote that begins a field end it?"
                f"{fitting(self._rows.first_lines(20), self._rows.delimiter)}"
            )
        return field


def _pairs(table: Table, own: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Parent and child of each row; children's own names go into `own`."""
    for parent, child, *names in table:
        for name in names:
            other = own.setdefault(child, name)
            if other != name:
                raise ValueError(
                    f"{table.place}: {child!r} is named {name!r}, and {other!r} in a row before"
                )
        yield parent, child


def _read_levels(table: Table, columns: Columns, missing: Collection[str] | None) -> NamedLinks:
    words = checked_missing(missing) or frozenset()
    sep = "/" if columns.sep is None else columns.sep
    paths: dict[tuple[str, ...], None] = {}
    for fields in table:
        if columns.is_path:
            fields = [part.strip() for part in fields[0].split(sep)]
            if not all(fields):
                raise ValueError(f"{table.place}: {fields} has an empty part")
        parts = tuple(field for field in fields if field and field not in words)
        if not parts:
            raise ValueError(f"{table.place}: the row names no node in the columns of levels")
        paths[parts] = None
    return read_paths(paths, sep, missing)


def _refuse_column(rows: Rows, column: str, header: list[str]) -> NoReturn:
    if len(header) == 1:
        rows.refuse_delimiter(f"there is no column {column!r}")
    near = [name for name in header if column.casefold() in name.casefold()]
    near = near or get_close_matches(column, header, 1, cutoff=0.8)
    guess = f" (is it {near[0]!r}?)" if near else ""
    commented = f", and the comment above it {rows.last_comment!r} (comment=None reads that)"
    raise ValueError(
        f"{rows.place}: no column is called {column!r}, the first row has {header}{guess}"
        f"{commented if column in rows.last_comment else ''}. Name the columns (parent=…, child=…, "
        f"or levels=[…]), or give their positions (parent=0, child=1) if the file has no header"
    )


def _refuse_other_delimiter(rows: Rows) -> None:
    """Raises ValueError if another delimiter also cuts all lines into the same number of fields."""
    lines = rows.first_lines(_LINES_TO_COMPARE)
    others = {
        delimiter: {len(line.split(delimiter)) for line in lines}
        for delimiter in ("\t", ";", "|")
        if delimiter != rows.delimiter
    }
    even = [d for d, counts in others.items() if len(counts) == 1 and counts != {1}]
    if even:
        raise ValueError(
            f"{rows.path}: the delimiter would be {rows.delimiter!r}, and {even[0]!r} cuts every "
            f"line evenly too; give delimiter={even[0]!r} or delimiter={rows.delimiter!r}"
        )


def _refuse_header(table: Table, links: NamedLinks, columns: Columns) -> None:
    """Raises ValueError if the first row reads like a header and its names do not occur again."""
    first = table.first if columns.levels is not None else table.first[:2]
    first = [field for field in first if field]
    path = [0 if columns.levels is not None else len(first) - 1]
    while links.parents[path[-1]] != ROOT:
        path.append(links.parents[path[-1]])
    tree = set(path)
    ends = chain(zip(links.parents, range(len(links.parents)), strict=True), links.more_edges)
    alone = not any((parent in tree) != (child in tree) for parent, child in ends if parent != ROOT)
    if not alone or len(tree) != len(first):
        return
    others = (name for node, name in enumerate(links.names) if node not in tree)
    of_words = all(_HEADER_WORD.fullmatch(field) for field in first)
    of_numbers = not any(map(str.isdecimal, first)) and all(map(str.isdecimal, others))
    if of_words or of_numbers:
        names = dict(zip(("parent", "child"), table.first, strict=False))
        by_name = f"levels={table.first}"
        if columns.levels is None:
            by_name = ", ".join(f"{column}={name!r}" for column, name in names.items())
        raise ValueError(
            f"{table.path}: the first row, {table.first}, looks like a header. Give {by_name}, or "
            f"skip=1"
        )
