"""The learning rate of each loss, chosen on the validation phrases and kept in rates.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RATES = Path(__file__).with_name("rates.json")


def load_rates(path: Path = RATES) -> dict[str, float]:
    """The chosen rate of each recipe's key."""
    losses = json.loads(path.read_text(encoding="utf-8"))["losses"]
    return {key: found["rate"] for key, found in losses.items()}


def save_rates(
    path: Path, facts: dict[str, Any], figures: dict[str, dict[float, dict[str, float]]]
) -> dict[str, float]:
    """Writes every rate's validation figures, by recipe, and the best rate; returns the latter."""
    best = {
        key: max(tried, key=lambda rate: tried[rate]["top-1"] + tried[rate]["top-5"])
        for key, tried in figures.items()
    }
    losses = {
        key: {
            "rate": best[key],
            "validation": {str(rate): _rounded(tried[rate]) for rate in sorted(tried)},
        }
        for key, tried in figures.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "losses": losses}, indent=2) + "\n", encoding="utf-8")
    return best


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}
