"""Phrases as bags of hashed words and character 3- to 5-grams, weighted by rarity (tf-idf).

Two phrases share most of their words with many others, so each distinct word is taken apart once
and its buckets are copied to every phrase that holds it: the whole classification takes seconds.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NUM_BUCKETS = 65_536
WORD = re.compile(r"[a-z0-9]+")

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Ragged rows of buckets: row i is ``bucket[ptr[i]:ptr[i+1]]``."""

    ptr: IntArray
    bucket: IntArray
    weight: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def batch(self, rows: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """Some rows as what ``nn.EmbeddingBag`` takes: buckets, offsets, weights."""
        entries, ptr = _gather(self.ptr, rows)
        return (
            torch.from_numpy(self.bucket[entries]),
            torch.from_numpy(ptr[:-1]),
            torch.from_numpy(self.weight[entries]),
        )


class Featurizer:
    """Learns the rarity of every bucket from some phrases; then turns any phrases into bags."""

    def __init__(self, texts: list[str]) -> None:
        _, bucket = _hash(texts)
        frequency = np.bincount(bucket, minlength=NUM_BUCKETS)
        # A bucket that no training phrase uses has an untrained embedding: it gets no weight.
        rarity = np.log1p(len(texts) / np.maximum(frequency, 1))
        self._rarity = np.where(frequency > 0, rarity, 0).astype(np.float32)

    def __call__(self, texts: list[str]) -> Bags:
        """Rows of unit length, or zero where nothing of a phrase was seen before."""
        ptr, bucket = _hash(texts)
        weight = self._rarity[bucket]
        row = np.repeat(np.arange(len(texts)), np.diff(ptr))
        norm = np.sqrt(np.bincount(row, weight**2, minlength=len(texts)))
        return Bags(ptr, bucket, weight / np.maximum(norm, 1e-6).astype(np.float32)[row])


def _hash(texts: list[str]) -> tuple[IntArray, IntArray]:
    """Every phrase's buckets: ``ptr`` (phrases + 1) and ``bucket``, one entry per piece."""
    words = [WORD.findall(text.lower()) for text in texts]
    number: dict[str, int] = {}
    word = np.array([number.setdefault(w, len(number)) for ws in words for w in ws], dtype=np.int64)
    pieces = [_pieces(w) for w in number]
    piece_ptr = _offsets([len(p) for p in pieces])
    bucket = np.array([zlib.crc32(p) % NUM_BUCKETS for ps in pieces for p in ps], dtype=np.int64)
    entries, entry_ptr = _gather(piece_ptr, word)
    return entry_ptr[_offsets([len(ws) for ws in words])], bucket[entries]


def _pieces(word: str) -> list[bytes]:
    """A word, and its character 3-, 4- and 5-grams with the word's ends marked."""
    marked = f"<{word}>".encode()
    grams = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
    return [word.encode(), *grams]


def _offsets(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _gather(ptr: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """The entries of some ragged rows, one after another, and the offsets of each row there."""
    length = ptr[rows + 1] - ptr[rows]
    new_ptr = np.concatenate([[0], np.cumsum(length)])
    return np.arange(new_ptr[-1]) + np.repeat(ptr[rows] - new_ptr[:-1], length), new_ptr
