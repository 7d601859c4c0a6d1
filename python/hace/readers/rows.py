"""The rows of a text file whose lines hold fields: encodings, comments, delimiters and quotes."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from .suspicions import warn

DELIMITERS = (",", "\t", ";", "|", "\t|\t", " ")

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive (an .xlsx workbook is one, and so is .npz): save it as CSV"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook: save it as CSV"),
    (b"PAR1", "a Parquet file: read it by pandas and use from_edges or from_paths"),
    (b"{", "JSON: use from_nested(json.load(open(path)))"),
    (b"<", "XML: read it by a library of its format, and use from_edges"),
    (b"\x93NUMPY", "a NumPy file: use numpy.load and from_parents"),
)


@dataclass(frozen=True)
class RowFormat:
    """How lines are cut into fields; see `Hierarchy.from_csv`."""

    delimiter: str | None
    quote: str | None
    skip: int
    comment: str | None
    encoding: str | None

    def __post_init__(self) -> None:
        if self.delimiter is not None and (
            not isinstance(self.delimiter, str) or self.delimiter in ("", "\n", "\r")
        ):
            raise ValueError(f"delimiter must be the text between fields, got {self.delimiter!r}")
        if isinstance(self.skip, bool) or not isinstance(self.skip, int) or self.skip < 0:
            raise ValueError(f"skip must be a number of lines, got {self.skip!r}")
        if self.comment is not None and (not isinstance(self.comment, str) or not self.comment):
            raise ValueError(f"comment must be a string or None, got {self.comment!r}")
        if self.quote is not None and (not isinstance(self.quote, str) or len(self.quote) != 1):
            raise ValueError(f"quote must be one character or None, got {self.quote!r}")

    def delimiter_of(self, path: str) -> str:
        """A tab for a file that is called .tsv or .tab, a comma otherwise."""
        if self.delimiter is not None:
            return self.delimiter
        return "\t" if path.lower().endswith((".tsv", ".tab")) else ","


class Rows:
    """Iterates over the fields of each line; `line` is the number of the last one."""

    def __init__(self, path: str | os.PathLike[str], form: RowFormat):
        self.path = os.fspath(path)
        self.delimiter = form.delimiter_of(self.path)
        self.line = 0
        self.last_comment = ""
        self._form = form
        self._encoding = _encoding_of(self.path, form.encoding)

    @property
    def place(self) -> str:
        """The file and the line, for errors."""
        return f"{self.path}, line {self.line}"

    def __iter__(self) -> Iterator[list[str]]:
        try:
            with open(self.path, encoding=self._encoding, newline="") as file:
                lines = self._lines(file)
                yield from self._split(lines) if len(self.delimiter) > 1 else self._read_csv(lines)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} is not text in {self._encoding}: it holds the byte "
                f"0x{error.object[error.start]:02x} where no character has it. Save it as UTF-8, "
                f"or give encoding= its own ('latin-1' and 'cp1252' are common)"
            ) from None

    def _lines(self, file: Iterator[str]) -> Iterator[str]:
        comment = self._form.comment
        num_delimiters = -1  # of the first row
        for number, line in enumerate(file, 1):
            self.line = number
            if number <= self._form.skip:
                continue
            if comment is not None and line.startswith(comment):
                self.last_comment = line.strip()
                self._warn_row(line.removeprefix(comment), num_delimiters)
                continue
            if "\0" in line:
                raise ValueError(
                    f"{self.place} holds a NUL character; the file is not text in "
                    f"{self._encoding} (give encoding='utf-16' if it is that)"
                )
            if num_delimiters < 0 and line.strip():
                num_delimiters = line.count(self.delimiter)
            yield line

    def _warn_row(self, text: str, num_delimiters: int) -> None:
        """Warns of a comment that may be a row, because its mark is part of a word, as in
        "#1,dog"."""
        if text[:1].strip() and text.count(self.delimiter) == num_delimiters:
            warn(
                f"{self.place}, {self.last_comment!r}, is left out as a comment and has as many "
                f"fields as a row; comment=None reads it"
            )

    def _split(self, lines: Iterator[str]) -> Iterator[list[str]]:
        # NCBI's lines end with a delimiter without its final blank.
        end = self.delimiter.rstrip()
        for line in lines:
            line = line.rstrip("\r\n")
            if line.strip():
                if end != self.delimiter:
                    line = line.removesuffix(end)
                yield line.split(self.delimiter)

    def _read_csv(self, lines: Iterator[str]) -> Iterator[list[str]]:
        quote = self._form.quote
        reader = csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=quote,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
            skipinitialspace=True,
            strict=True,
        )
        first_line = self.line + 1
        try:
            for row in reader:
                if any(row):
                    yield row
                first_line = self.line + 1
        except csv.Error as error:
            raise ValueError(
                f"{self.path}, line {first_line}: {error}. A quote {quote!r} that begins a field "
                f"must end it; give quote=None if quotes are parts of names in this file"
            ) from None

    def first_lines(self, number: int) -> list[str]:
        """The first lines as they are in the file, without those that are skipped."""
        line = self.line
        with open(self.path, encoding=self._encoding, newline="", errors="replace") as file:
            lines = [text.rstrip("\r\n") for text in islice(self._lines(file), number)]
        self.line = line
        return [text for text in lines if text.strip()]

    def refuse_delimiter(self, wanted: str) -> NoReturn:
        """Raises ValueError with the delimiters that would cut the lines into several fields."""
        lines = self.first_lines(20)
        raise ValueError(
            f"{self.place}: {wanted}. With delimiter {self.delimiter!r} the first line is "
            f"{lines[0].split(self.delimiter)}{fitting(lines, self.delimiter)}"
        )


def fitting(lines: list[str], but: str) -> str:
    """Which delimiters cut all lines into the same number of fields, as advice."""
    found: dict[str, int] = {}
    for delimiter in DELIMITERS:
        counts = {len(line.split(delimiter)) for line in lines}
        may_separate = delimiter != " " or not found  # names may contain blanks
        if delimiter != but and len(counts) == 1 and counts != {1} and may_separate:
            found[delimiter] = counts.pop()
    if not found:
        return ""
    options = [f"delimiter={d!r} would give {number} fields" for d, number in found.items()]
    return f" ({', '.join(options)})"


def _encoding_of(path: str, given: str | None) -> str:
    with open(path, "rb") as file:
        start = file.read(8)
    if not start:
        raise ValueError(f"{path} is empty")
    if given is not None:
        codecs.lookup(given)  # LookupError for an encoding that Python does not know
        return given
    for magic, what in _OTHER_FILES:
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    return "utf-8"
