"""Reads a hierarchy from a file, prints a summary, and matches it with a data set's labels.

A .json file holds nested records or mappings, and a .npz file was written by Hierarchy.save. Every
other file is a text table with a row per line, or what --as says.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from ..hierarchy import Hierarchy

_FORMS = ("table", "paths", "outline", "codes", "nested", "saved")
_DEPTH = 2
_CHILDREN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command; those of a table are `Hierarchy.from_csv`'s."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", help="the hierarchy")
    parser.add_argument("--as", dest="form", choices=_FORMS, help="what the file is")
    table = parser.add_argument_group("how the file is read")
    table.add_argument(
        "--parent", default="parent", help="column of the parents, by name or position from 0"
    )
    table.add_argument(
        "--child", default="child", help="column of the children, by name or position from 0"
    )
    table.add_argument(
        "--levels", nargs="+", help="columns of the levels from the top down, or one of paths"
    )
    table.add_argument("--sep", help="what separates the parts of a path, or of a code")
    table.add_argument("--delimiter", type=_unescaped, help=r"what separates fields; \t is a tab")
    table.add_argument("--no-quotes", action="store_true", help="quotes are parts of names")
    table.add_argument("--skip", type=int, default=0, help="how many lines to skip first")
    table.add_argument(
        "--comment", default="#", help="what comments begin with (#); '' if there are none"
    )
    table.add_argument("--encoding", help="by default UTF-8, or what a byte order mark says")
    table.add_argument("--missing", nargs="*", help="words that mean 'no value'")
    table.add_argument(
        "--name", help="column of the names, if links are ids; key of a record's name"
    )
    table.add_argument("--children", default="children", help="key of a record's children")
    table.add_argument(
        "--indent", type=_unescaped, help="what an outline is indented by for each level"
    )
    table.add_argument(
        "--ranges", action="store_true", help="codes may be ranges: 31-33 is above 321"
    )
    table.add_argument(
        "--allow-multiple-parents", action="store_true", help="nodes may have several parents"
    )
    labels = parser.add_argument_group("what is done with it")
    labels.add_argument(
        "--labels",
        metavar="FILE",
        help="the data set's labels, to which the tree is cut: a file with one per line in label "
        "order; a .json file with a list, a class_to_idx or an id2label (also inside a "
        "config.json); or a folder with a folder of images per class",
    )
    labels.add_argument(
        "--single-parent", action="store_true", help="turn a DAG into a tree, by deepest parents"
    )
    labels.add_argument(
        "--depth", type=int, default=_DEPTH, help="how many levels to draw (2); -1 for all"
    )
    labels.add_argument("--save", metavar="FILE", help="write it to a file for Hierarchy.load")


def run(options: argparse.Namespace) -> int:
    """Prints what was read and returns 0; for a file without a hierarchy, prints why and returns
    1."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tree = _read(options)
            if options.labels is not None:
                labels = read_labels(Path(options.labels))
                tree = tree.subset(labels, single_parent=options.single_parent)
            elif options.single_parent:
                tree = tree.subset(_all_labels(tree), single_parent=True)
            if options.save is not None:
                tree.save(options.save)
    except (ValueError, TypeError, OSError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    depth = None if options.depth < 0 else options.depth
    print(tree.describe())
    print()
    print(tree.to_text(depth, None if depth is None else _CHILDREN))
    if options.save is not None:
        print(f"\nwritten: {options.save}, for hace.Hierarchy.load")
    return 0


def read_labels(path: Path) -> Any:
    """A data set's labels from a file or an image folder, for `Hierarchy.subset`.

    Raises:
        ValueError: the file holds no labels.
        OSError: it cannot be read.
    """
    if path.is_dir():  # torchvision's ImageFolder: the folders' names, sorted
        folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        if not folders:
            raise ValueError(f"{path} has no folder in it, so no class")
        return folders
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    found = json.loads(text)
    if isinstance(found, dict):
        for key in ("id2label", "label2id", "class_to_idx"):
            if isinstance(found.get(key), dict):
                return found[key]
    return found


def _read(options: argparse.Namespace) -> Hierarchy:
    form = options.form or _form_of(options.file)
    sep = options.sep or "/"
    if form == "saved":
        return Hierarchy.load(options.file)
    if form == "table":
        return Hierarchy.from_csv(
            options.file,
            parent=_column(options.parent),
            child=_column(options.child),
            name=None if options.name is None else _column(options.name),
            levels=_levels(options.levels),
            sep=options.sep,
            delimiter=options.delimiter,
            quote=None if options.no_quotes else '"',
            skip=options.skip,
            comment=options.comment or None,
            encoding=options.encoding,
            missing=options.missing,
            allow_multiple_parents=options.allow_multiple_parents,
        )
    with open(options.file, encoding=options.encoding or "utf-8-sig") as file:
        if form == "nested":
            return Hierarchy.from_nested(
                json.load(file),
                name=options.name or "name",
                children=options.children,
                sep=sep,
                missing=options.missing,
            )
        if form == "outline":
            indent = "--" if options.indent == [] else options.indent  # argparse removes "--"
            return Hierarchy.from_outline(file, indent=indent, sep=sep, missing=options.missing)
        lines = [line.strip() for line in file if line.strip()]
    if form == "codes":
        return Hierarchy.from_codes(lines, sep=options.sep, ranges=options.ranges)
    return Hierarchy.from_paths(lines, sep, missing=options.missing)


def _form_of(file: str) -> str:
    return {".json": "nested", ".npz": "saved"}.get(Path(file).suffix.lower(), "table")


def _all_labels(tree: Hierarchy) -> Any:
    return tree.classes if tree.class_names is None else tree.class_names


def _column(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _levels(texts: list[str] | None) -> list[str | int] | str | int | None:
    if texts is None:
        return None
    columns = [_column(text) for text in texts]
    return columns[0] if len(columns) == 1 else columns


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t")
