"""Readers, one module for each form that a hierarchy comes in.

Pure Python and NumPy. A reader returns `NamedLinks`, which `hace.Hierarchy` checks for cycles and
keeps. Nothing is guessed: what cannot be right is an error, and what is possible but rarely meant
is an error or a warning that says how to state what is meant.
"""

from .codes import read_codes
from .edges import read_edges
from .labels import in_label_order, label_list
from .named_links import NamedLinks
from .nested import read_nested
from .outline import read_outline
from .parents import mapping_items, read_parents
from .paths import read_paths
from .tables import read_csv

__all__ = [
    "NamedLinks",
    "in_label_order",
    "label_list",
    "mapping_items",
    "read_codes",
    "read_csv",
    "read_edges",
    "read_nested",
    "read_outline",
    "read_parents",
    "read_paths",
]
