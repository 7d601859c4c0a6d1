"""Turns pictures into vectors without a network: histograms of oriented gradients, and colours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

CELL = 4  # pixels
ORIENTATIONS = 9


def describe_pictures(pixels: npt.NDArray[np.uint8]) -> FloatArray:
    """Vectors (N, F) of pictures (N, H, W, 3) whose sides are multiples of CELL.

    A vector has, per cell, the strength of the edges of each orientation and the mean colour. The
    edges follow Dalal & Triggs (CVPR 2005), but are normalised by the square root over the whole
    picture instead of over blocks.
    """
    light: FloatArray = pixels.astype(np.float32) / np.float32(255)
    strength, angle = _gradients(light)
    edges: FloatArray = np.sqrt(_cells(_by_orientation(strength, angle)))
    mean_colour: FloatArray = _cells(light) / np.float32(CELL**2)
    number = len(pixels)
    return np.concatenate(
        [_mean_square_one(edges.reshape(number, -1)), 2 * mean_colour.reshape(number, -1)], axis=1
    )


def _gradients(light: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Strength and angle (N, H, W); each pixel takes them from its channel of strongest edge."""
    across, down = np.zeros_like(light), np.zeros_like(light)
    across[:, :, 1:-1] = light[:, :, 2:] - light[:, :, :-2]
    down[:, 1:-1] = light[:, 2:] - light[:, :-2]
    strength = np.hypot(across, down)
    strongest = strength.argmax(-1)[..., None]
    angle = np.arctan2(down, across)
    return (
        np.take_along_axis(strength, strongest, -1)[..., 0],
        np.take_along_axis(angle, strongest, -1)[..., 0],
    )


def _by_orientation(strength: FloatArray, angle: FloatArray) -> FloatArray:
    """(N, H, W, ORIENTATIONS): the strength, split between the two orientations at the angle."""
    place = angle % np.pi / np.pi * ORIENTATIONS
    low = np.floor(place).astype(np.int64)
    share = (place - low).astype(np.float32)
    found = np.zeros((*strength.shape, ORIENTATIONS), dtype=np.float32)
    for orientation, part in ((low, strength * (1 - share)), (low + 1, strength * share)):
        at = (orientation % ORIENTATIONS)[..., None]
        before = np.take_along_axis(found, at, -1)
        np.put_along_axis(found, at, before + part[..., None], -1)
    return found


def _cells(of_pixels: FloatArray) -> FloatArray:
    """Sums over cells, from (N, H, W, K) to (N, H / CELL, W / CELL, K)."""
    number, height, width, values = of_pixels.shape
    cells = of_pixels.reshape(number, height // CELL, CELL, width // CELL, CELL, values)
    sums: FloatArray = cells.sum((2, 4), dtype=np.float32)
    return sums


def _mean_square_one(vectors: FloatArray) -> FloatArray:
    size = np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    scaled: FloatArray = vectors / np.maximum(size, np.float32(1e-3))
    return scaled
