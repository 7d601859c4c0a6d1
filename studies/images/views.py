"""Prepares pictures for a network: cropped, resized, and standardised as the network expects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..task import IntArray
from .dataset import Part

RATIO = 4 / 3  # largest ratio of the sides of a random piece


@dataclass(frozen=True)
class Look:
    """What a network expects of a picture.

    Attributes:
        size: side of the square in pixels.
        centre: share of the picture's shorter side that the centre crop keeps.
        mean, deviation: per channel, for values from 0 to 1.
    """

    size: int
    centre: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Views:
    """Labelled views (3, size, size) of the pictures of a part.

    Attributes:
        smallest: the smallest share of a picture's area that a random piece has; a random half of
            the pieces is mirrored. None means the centre of each picture.
    """

    part: Part
    look: Look
    smallest: float | None = None

    @property
    def label(self) -> IntArray:
        return self.part.label

    def __len__(self) -> int:
        return len(self.part.label)

    def inputs(self, rows: IntArray) -> tuple[Tensor]:
        """The views of the given pictures; random views depend only on torch's seed."""
        seeds = torch.randint(1 << 31, (len(rows),)).tolist()
        return (torch.stack(list(_threads().map(self._view, rows.tolist(), seeds))),)

    def _view(self, row: int, seed: int) -> Tensor:
        picture = self.part.pictures.picture(row)
        if self.smallest is None:
            box = centre_box(picture, self.look.centre)
            mirrored = False
        else:
            draw = np.random.default_rng(seed)
            box = random_box(picture, self.smallest, draw)
            mirrored = draw.random() < 0.5
        size = (self.look.size, self.look.size)
        seen = picture.resize(size, Image.Resampling.BICUBIC, box)
        if mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = torch.from_numpy(np.array(seen, dtype=np.float32)).permute(2, 0, 1) / 255
        mean, deviation = (
            torch.tensor(x)[:, None, None] for x in (self.look.mean, self.look.deviation)
        )
        return (values - mean) / deviation


Box = tuple[float, float, float, float]


def centre_box(picture: Image.Image, share: float) -> Box:
    """The square in the middle whose side is that share of the picture's shorter side."""
    side = share * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return left, top, left + side, top + side


def random_box(picture: Image.Image, smallest: float, draw: np.random.Generator) -> Box:
    """A piece of at least that share of the area, with sides of a ratio from 3:4 to 4:3.

    If it does not fit into a narrow picture, it is made as narrow as the picture.
    """
    area = picture.width * picture.height * draw.uniform(smallest, 1)
    ratio = RATIO ** draw.uniform(-1, 1)
    width = min(picture.width, np.sqrt(area * ratio))
    height = min(picture.height, np.sqrt(area / ratio))
    left, top = draw.uniform(0, picture.width - width), draw.uniform(0, picture.height - height)
    return left, top, left + width, top + height


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()
