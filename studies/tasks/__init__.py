"""The tasks by name. Each module reads one package's data, splits it, and builds its tree."""

from __future__ import annotations

from collections.abc import Callable

from ..task import Task
from . import emoji, glycan, hpo, icd10, made_up, soc, wordnet

TASKS: dict[str, Callable[[], Task]] = {
    "soc": soc.load,
    "hpo": hpo.load,
    "wordnet": wordnet.load,
    "icd10": icd10.load,
    "glycan": glycan.load,
    "emoji": emoji.load,
    "made-up": made_up.load,
}

__all__ = ["TASKS"]
