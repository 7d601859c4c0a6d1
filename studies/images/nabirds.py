"""NABirds: 48,562 pictures of 555 kinds of birds, with a tree (Van Horn et al. 2015).

Reads the archive of https://dl.allaboutbirds.org/nabirds and uses whole pictures. A tenth of its
training pictures are for validation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hace

from .dataset import Dataset, Files, Part, hold_out, required

WHAT = "the folder in which the archive nabirds.tar.gz was unpacked"


def read(folder: Path) -> Dataset:
    """Reads the data set from its unpacked archive."""
    folder = required(folder / "nabirds", WHAT)
    label_of = dict(_rows(folder / "image_class_labels.txt"))
    path_of = dict(_rows(folder / "images.txt"))
    trains = dict(_rows(folder / "train_test_split.txt"))
    name_of = dict(_rows(folder / "classes.txt"))
    classes = sorted(set(label_of.values()), key=int)
    number = {name: i for i, name in enumerate(classes)}
    parent_of = dict(_rows(folder / "hierarchy.txt"))
    parents: dict[str, str | None] = {}
    for node in classes:
        above: str | None = node
        while above is not None and above not in parents:
            parents[above] = parent_of.get(above)
            above = parents[above]
    # Names repeat (a plumage is a class below its species), so the numbers become part of them.
    named = {node: f"{node} {name_of.get(node, '')}".strip() for node in parents}
    tree = hace.Hierarchy.from_parents(
        {named[n]: None if p is None else named[p] for n, p in parents.items()},
        classes=[named[node] for node in classes],
    )

    def part(flag: str) -> Part:
        images = [image for image in path_of if trains[image] == flag]
        files = [folder / "images" / path_of[image] for image in images]
        return Part(Files(files), np.array([number[label_of[image]] for image in images]))

    train, validation = hold_out(part("1"), 0.1)
    return Dataset(tree, train, validation, part("0"))


def _rows(path: Path) -> list[tuple[str, str]]:
    """The first word and the rest of each line."""
    lines = required(path, WHAT).read_text(encoding="utf-8").splitlines()
    fields = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(first, rest.strip()) for first, rest in fields]
