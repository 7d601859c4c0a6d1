"""The rule of choice, the same for every loss: the best top-1 on validation, of the trials."""

from __future__ import annotations

from .losses import LOSSES
from .results import MOST_PROBABLE, Results, Row
from .run import Run

AROUND = (0.25, 0.5, 1.0, 2.0)  # of the chosen rate: what longer trainings try


def choose(
    results: Results,
    loss: str,
    *,
    per_class: int = 0,
    length: int = 1,
    parameter: str | None = None,
    by: str = "validation_top1",
) -> Run:
    """The trial with the best figure; of equals, the first.

    Raises:
        LookupError: there is no such trial.
    """
    tried = trials(results, loss, per_class=per_class, length=length, parameter=parameter)
    if not tried:
        raise LookupError(f"{results.task}: nothing was tried of {loss}")
    return run_of(max(tried, key=lambda row: float(row[by])))


def trials(
    results: Results,
    loss: str,
    *,
    per_class: int = 0,
    length: int = 1,
    parameter: str | None = None,
) -> list[Row]:
    """The rows of a search."""
    return [
        row
        for row in results
        if (row["loss"], row["seed"], row["decision"]) == (loss, "0", MOST_PROBABLE)
        and (row["per_class"], row["length"]) == (str(per_class), str(length))
        and row["tree"] == LOSSES[loss].tree
        and row["coarse"] == "0"
        and parameter in (None, row["parameter"])
    ]


def rates_around(rate: float) -> list[float]:
    """The rates that longer trainings try."""
    return [float(f"{rate * factor:.3g}") for factor in AROUND]


def run_of(row: Row) -> Run:
    """The run that a row is of."""
    return Run(
        task=row["task"],
        loss=row["loss"],
        parameter=row["parameter"],
        rate=float(row["rate"]),
        seed=int(row["seed"]),
        tree=row["tree"],
        per_class=int(row["per_class"]),
        length=int(row["length"]),
        coarse=row["coarse"],
    )
