"""Task: which species makes a glycan (a sugar chain)?

The package `glycowork` contains the table. A glycan that several species make is left out, and so
is a species with fewer than six glycans. The tree is domain > kingdom > phylum > class > order >
family > genus > species. Where a name has two lineages in the table, the more common one is taken.

A glycan becomes a bag of its tokens (a sugar with its bond) and of runs of two and three tokens.
Glycans whose bags are equal count as one.
"""

from __future__ import annotations

import csv
import re
from collections import Counter

import numpy as np

import hace

from ..task import Schedule, Task
from .packaged import packaged_file

RANKS = ("Domain", "Kingdom", "Phylum", "Class", "Order", "Family", "Genus", "Species")
FEWEST = 6
TOKEN = re.compile(r"[\[\]]|[^()\[\]]+(?:\([^)]*\))?")


def load() -> Task:
    """The glycans, split within each species."""
    species_of: dict[str, set[str]] = {}
    above: dict[tuple[int, str], Counter[str]] = {}
    file = packaged_file("glycowork", "glycowork/glycan_data/v12_df_species.csv", "1.11.0")
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            names = [row[rank].strip().replace("Eukaryota", "Eukarya") for rank in RANKS]
            if any(not name or name == "undetermined" for name in names):
                continue
            species_of.setdefault(_words(row["glycan"]), set()).add(names[-1])
            for rank in range(1, len(RANKS)):
                above.setdefault((rank, names[rank]), Counter())[names[rank - 1]] += 1
    of_species: dict[str, list[str]] = {}
    for glycan, owners in sorted(species_of.items()):
        if len(owners) == 1:
            of_species.setdefault(next(iter(owners)), []).append(glycan)
    classes = sorted(name for name, glycans in of_species.items() if len(glycans) >= FEWEST)
    tree = hace.Hierarchy.from_paths([_lineage(name, above) for name in classes])

    rng = np.random.default_rng(0)
    parts: list[tuple[list[str], list[int]]] = [([], []) for _ in range(3)]
    for label, name in enumerate(classes):
        glycans = [of_species[name][i] for i in rng.permutation(len(of_species[name]))]
        held = max(1, round(0.16 * len(glycans)))
        cuts = (held, held + max(1, round(0.08 * len(glycans))))
        chunks = (glycans[cuts[1] :], glycans[cuts[0] : cuts[1]], glycans[: cuts[0]])
        for part, chunk in zip(parts, chunks, strict=True):
            part[0].extend(chunk)
            part[1].extend([label] * len(chunk))
    return Task.of_texts(
        "glycan",
        tree,
        [(texts, np.array(labels)) for texts, labels in parts],
        schedule=Schedule(epochs=6, batch=512, rates=(0.005, 0.045)),
    )


def _lineage(species: str, above: dict[tuple[int, str], Counter[str]]) -> list[str]:
    names = [species]
    for rank in range(len(RANKS) - 1, 0, -1):
        names.append(above[rank, names[-1]].most_common(1)[0][0])
    return [f"{RANKS[i]} {name}" for i, name in enumerate(reversed(names))]


def _words(glycan: str) -> str:
    """One word, made of letters and digits only, per run of one to three tokens."""
    plain = {"[": "o", "]": "c"}
    tokens = [plain.get(t, re.sub(r"[^a-z0-9]", "", t.lower())) for t in TOKEN.findall(glycan)]
    runs = ["q".join(tokens[i : i + n]) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)]
    return " ".join(run for run in runs if run)
