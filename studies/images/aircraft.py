"""FGVC-Aircraft: 10,000 pictures of 100 variants, in families of manufacturers (Maji et al. 2013).

Reads the archive of https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/, which comes in three
parts. The copyright line at the bottom of each picture, 20 pixels high, is cut off.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import hace

from .dataset import Dataset, Files, Part, required

WHAT = "the folder in which the archive fgvc-aircraft-2013b.tar.gz was unpacked"
CREDITS = 20  # height of the copyright line in pixels


def read(folder: Path) -> Dataset:
    """Reads the data set from its unpacked archive."""
    folder = required(folder / "fgvc-aircraft-2013b" / "data", WHAT)
    variants = required(folder / "variants.txt", WHAT).read_text(encoding="utf-8").splitlines()
    variants = [name.strip() for name in variants if name.strip()]
    paths = dict.fromkeys(variants, ("", ""))
    parts = {}
    for part in ("train", "val", "test"):
        variant, family, manufacturer = (
            _lines(folder / f"images_{level}_{part}.txt")
            for level in ("variant", "family", "manufacturer")
        )
        paths.update({variant[i]: (manufacturer[i], family[i]) for i in variant})
        label = [variants.index(name) for name in variant.values()]
        files = [folder / "images" / f"{number}.jpg" for number in variant]
        parts[part] = Part(Files(files, CREDITS), np.array(label))
    # Some names have a slash in them.
    tree = hace.Hierarchy.from_paths(
        [(*paths[name], name) for name in variants], sep=" > ", missing=[]
    )
    return Dataset(tree, parts["train"], parts["val"], parts["test"])


def _lines(path: Path) -> dict[str, str]:
    """The name for each picture's number, from lines such as `1025794 707-320`."""
    lines = required(path, WHAT).read_text(encoding="utf-8").splitlines()
    fields = [line.split(maxsplit=1) for line in lines if line.strip()]
    return {number: name.strip() for number, name in fields}
