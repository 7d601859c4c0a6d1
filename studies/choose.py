"""The rule of choice, the same for every loss: the trial with the best validation top-1."""

from __future__ import annotations

from .losses import LOSSES
from .results import MOST_PROBABLE, Results, Row
from .run import Run

AROUND = (0.25, 0.5, 1.0, 2.0)  # the multiples of the chosen rate that longer trainings try


def choose(
    results: Results,
    loss: str,
    *,
    per_class: int = 0,
    length: int = 1,
    parameter: str | None = None,
    by: str = "validation_top1",
) -> Run:
    """The trial with the best figure `by`; the first one of equals.

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
    """The rows of the results that belong to the search for a loss's parameters."""
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
    """The learning rates that longer trainings try, given the chosen one."""
    return [float(f"{rate * factor:.3g}") for factor in AROUND]


def run_of(row: Row) -> Run:
    """The run that a row of the results describes."""
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
