"""Task: given the gloss of a WordNet noun, what is the noun a kind of?

Reads `data.noun` of WordNet 3.0, which is in Debian's package `wordnet-base`. The environment
variable STUDY_WORDNET may name the file. A row is a synset without hyponyms, and its class is its
first hypernym. A gloss that two classes share is left out. Some classes lie above others; the label
of such a class means that class alone. Every node keeps only its first hypernym, which makes the
graph a tree.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

import hace

from ..task import Schedule, Task, split

FILE = Path("/usr/share/wordnet/data.noun")
FEWEST, MOST = 12, 60  # glosses per class; smaller classes and glosses beyond MOST are left out


def load() -> Task:
    """The glosses of leaves below classes with at least FEWEST of them."""
    parent, gloss = _read()
    inner = set(parent.values())
    rows: dict[str, list[str]] = {}
    for synset, above in parent.items():
        if synset not in inner and above is not None:
            rows.setdefault(above, []).append(gloss[synset])
    owners = Counter(text for texts in rows.values() for text in set(texts))
    rows = {c: [t for t in texts if owners[t] == 1] for c, texts in rows.items()}
    rng = np.random.default_rng(0)
    classes = sorted(c for c, texts in rows.items() if len(set(texts)) >= FEWEST)
    texts: list[str] = []
    label: list[int] = []
    for number, name in enumerate(classes):
        distinct = sorted(set(rows[name]))
        kept = rng.permutation(len(distinct))[:MOST]
        texts += [distinct[i] for i in kept]
        label += [number] * len(kept)
    links: dict[str, str | None] = {}
    for name in classes:
        node: str | None = name
        while node is not None and parent[node] is not None:  # the root, "entity", is left out
            above = parent[node]
            top = above is None or parent[above] is None
            links[node] = None if top else above
            node = None if top else above
    tree = hace.Hierarchy.from_parents(links, classes=classes)
    labels = np.array(label)
    test, validation, train = split(len(texts), (3 / 20, 3 / 40))
    return Task.of_texts(
        "wordnet",
        tree,
        [([texts[i] for i in part], labels[part]) for part in (train, validation, test)],
        schedule=Schedule(epochs=5, batch=512, rates=(0.005, 0.045)),
    )


def _read() -> tuple[dict[str, str | None], dict[str, str]]:
    """The first hypernym (None at the root) and the gloss without examples, of each synset."""
    file = Path(os.environ.get("STUDY_WORDNET", FILE))
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: install Debian's wordnet-base, or name WordNet 3.0's data.noun in "
            "STUDY_WORDNET"
        )
    parent: dict[str, str | None] = {}
    gloss: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, text = line.partition(" | ")
        words = fields.split()
        num_words = int(words[3], 16)
        pointers = words[4 + 2 * num_words + 1 :]
        hypernyms = [
            pointers[i + 1]
            for i in range(0, len(pointers) - 3, 4)
            if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"
        ]
        parent[words[0]] = hypernyms[0] if hypernyms else None
        gloss[words[0]] = text.split('; "')[0].strip()
    return parent, gloss
