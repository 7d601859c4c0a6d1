"""Defines a data set of images: a tree, and labelled pictures in three parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

import hace

from ..task import IntArray, split


class Pictures(Protocol):
    """Pictures that are read one by one."""

    def __len__(self) -> int: ...

    def picture(self, number: int) -> Image.Image:
        """The picture with this number, in RGB. Several threads may call this at once."""

    def some(self, numbers: IntArray) -> Pictures:
        """The pictures with these numbers."""


@dataclass(frozen=True)
class Arrays:
    """Pictures in memory: an array (N, H, W, 3)."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, number: int) -> Image.Image:
        return Image.fromarray(self.pixels[number])

    def some(self, numbers: IntArray) -> Arrays:
        return Arrays(self.pixels[numbers])


@dataclass(frozen=True)
class Files:
    """Pictures in files; `cut` rows of pixels are cut off at the bottom of each."""

    paths: Sequence[Path]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, number: int) -> Image.Image:
        with Image.open(self.paths[number]) as file:
            picture: Image.Image = file.convert("RGB")
        if not self.cut:
            return picture
        return picture.crop((0, 0, picture.width, max(1, picture.height - self.cut)))

    def some(self, numbers: IntArray) -> Files:
        return Files([self.paths[i] for i in numbers], self.cut)


class Part(NamedTuple):
    """Pictures and their class labels."""

    pictures: Pictures
    label: IntArray


@dataclass(frozen=True)
class Dataset:
    """A tree, and pictures for training, validation and test."""

    tree: hace.Hierarchy
    train: Part
    validation: Part
    test: Part


def hold_out(part: Part, share: float) -> tuple[Part, Part]:
    """Splits off a random share, for data sets without validation pictures: (rest, share)."""
    held, left = split(len(part.pictures), (share,))
    kept, chosen = (Part(part.pictures.some(i), part.label[i]) for i in (left, held))
    return kept, chosen


def required(path: Path, what: str) -> Path:
    """Returns the path if it exists.

    Raises:
        FileNotFoundError: it does not exist; `what` says in the message what --data has to name.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: --data names {what}")
    return path
