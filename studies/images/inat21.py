"""iNaturalist 2021: 10,000 species with seven ranks above each (Van Horn et al. 2021).

Reads the archives of https://github.com/visipedia/inat_comp/tree/master/2021. The labels of its
test pictures are not public, so its validation pictures are the test, and a fiftieth of the
training pictures are for validation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import hace

from .dataset import Dataset, Files, Part, hold_out, required

WHAT = "the folder with train.json (or train_mini.json), val.json and the pictures, as unpacked"
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "name")


def read(folder: Path) -> Dataset:
    """Reads the data set with all 2.7 million training pictures."""
    return _read(folder, "train")


def read_mini(folder: Path) -> Dataset:
    """Reads the data set with the 50 training pictures per species of `train_mini`."""
    return _read(folder, "train_mini")


def _read(folder: Path, training: str) -> Dataset:
    categories, part = _annotated(folder, training)
    others, test = _annotated(folder, "val")
    if categories != others:
        raise ValueError(f"{training}.json and val.json in {folder} have different categories")
    tree = hace.Hierarchy.from_paths([[c[rank] for rank in RANKS] for c in categories], missing=[])
    train, validation = hold_out(part, 0.02)
    return Dataset(tree, train, validation, test)


def _annotated(folder: Path, name: str) -> tuple[list[dict[str, Any]], Part]:
    text = required(folder / f"{name}.json", WHAT).read_text(encoding="utf-8")
    found = json.loads(text)
    categories = sorted(found["categories"], key=lambda category: int(category["id"]))
    number = {category["id"]: i for i, category in enumerate(categories)}
    file_of = {image["id"]: folder / image["file_name"] for image in found["images"]}
    files = [file_of[a["image_id"]] for a in found["annotations"]]
    label = np.array([number[a["category_id"]] for a in found["annotations"]])
    return categories, Part(Files(files), label)
