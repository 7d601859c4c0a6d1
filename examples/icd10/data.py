"""The whole ICD-10-CM classification as a hierarchy, and the phrases that it gives its codes.

The data come from the package ``simple-icd-10-cm``: the tabular list of the classification, in
XML. Its tree is chapters, sections, three-character categories, and codes of up to seven
characters. A code's phrases are its title and its inclusion terms ("Aspiration pneumonia due to
food" at J69.0). Most inclusion terms stand at a leaf code; the others, at an inner code, say only
which group of codes a phrase belongs to: a coarse label.
"""

from __future__ import annotations

import importlib.resources
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import hace

ROOT = "ICD-10-CM"
LEVELS = {"chapter": 1, "section": 2, "category": 3}  # depth below the root of the tree
TEST_TERMS = 4_000
VALIDATION_TERMS = 2_000

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Phrases:
    """Phrases and the tree node of each."""

    texts: list[str]
    nodes: IntArray

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: Phrases) -> Phrases:
        return Phrases(self.texts + other.texts, np.concatenate([self.nodes, other.nodes]))

    def take(self, rows: npt.NDArray[np.integer]) -> Phrases:
        return Phrases([self.texts[i] for i in rows], self.nodes[rows])


@dataclass(frozen=True)
class MedicalCodes:
    """The tree, its titles, and the phrases split for training and for measuring.

    The leaves are the classes, and node ids 0 … C-1, so that a leaf's node id is its label.
    """

    tree: hace.Hierarchy
    codes: list[str]  # node -> "J45", "section J40-J4A", ...
    titles: list[str]  # node -> "Asthma", ...
    train: Phrases  # titles of the leaf codes, and leaf inclusion terms
    validation: Phrases  # leaf inclusion terms
    test: Phrases  # leaf inclusion terms
    coarse: Phrases  # inclusion terms of inner codes


@dataclass(frozen=True)
class _Entry:
    path: str
    code: str
    title: str
    is_leaf: bool
    terms: list[str]


def load(chapter: str | None = None, seed: int = 0) -> MedicalCodes:
    """Reads the classification (one chapter of it, if named) and splits its inclusion terms."""
    entries = list(_read(chapter))
    tree = hace.Hierarchy.from_paths([entry.path for entry in entries if entry.is_leaf])
    node_of = {entry.path: tree.index(entry.path) for entry in entries}
    codes = [ROOT] * tree.num_nodes
    titles = [ROOT] * tree.num_nodes
    for entry in entries:
        codes[node_of[entry.path]] = entry.code
        titles[node_of[entry.path]] = entry.title

    leaf_titles = _phrases(node_of, [(e.path, [e.title]) for e in entries if e.is_leaf])
    leaf_terms = _phrases(node_of, [(e.path, e.terms) for e in entries if e.is_leaf])
    coarse = _phrases(node_of, [(e.path, e.terms) for e in entries if not e.is_leaf])
    test, validation, rest = _split(leaf_terms, seed)
    return MedicalCodes(tree, codes, titles, leaf_titles + rest, validation, test, coarse)


def _read(chapter: str | None) -> Iterator[_Entry]:
    source = importlib.resources.files("simple_icd_10_cm") / "data"
    (tabular,) = [file for file in source.iterdir() if file.name.endswith(".xml")]
    root = ET.fromstring(tabular.read_text(encoding="utf-8"))
    for element in root.iterfind("chapter"):
        if chapter in (None, element.findtext("name")):
            yield from _walk(element, ROOT)


def _walk(element: ET.Element, parent: str) -> Iterator[_Entry]:
    """The entries at and below an element, except sections that hold no code."""
    children = [child for child in element if child.tag in ("section", "diag")]
    if element.tag != "diag" and not children:
        return
    # Sections and codes share names ("B99"), so that sections and chapters carry a prefix.
    name = element.get("id") or element.findtext("name") or ""
    code = name if element.tag == "diag" else f"{element.tag} {name}"
    path = f"{parent}/{code}"
    yield _Entry(path, code, _clean(element.findtext("desc")), not children, _terms(element))
    for child in children:
        yield from _walk(child, path)


def _terms(element: ET.Element) -> list[str]:
    """What a code's inclusion terms and "includes" notes say; chapters' and sections' are prose."""
    if element.tag != "diag":
        return []
    notes = element.findall("inclusionTerm/note") + element.findall("includes/note")
    return [_clean(note.text) for note in notes]


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def _phrases(node_of: dict[str, int], terms_at: list[tuple[str, list[str]]]) -> Phrases:
    texts = [term for _, terms in terms_at for term in terms]
    nodes = [node_of[path] for path, terms in terms_at for _ in terms]
    return Phrases(texts, np.array(nodes, dtype=np.int64))


def _split(terms: Phrases, seed: int) -> tuple[Phrases, Phrases, Phrases]:
    """Test, validation and training terms: the set sizes, at most half and a quarter."""
    order = np.random.default_rng(seed).permutation(len(terms))
    first = min(TEST_TERMS, len(terms) // 2)
    second = first + min(VALIDATION_TERMS, len(terms) // 4)
    return terms.take(order[:first]), terms.take(order[first:second]), terms.take(order[second:])
