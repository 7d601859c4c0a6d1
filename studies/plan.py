"""The plan: what is run, and in which order. The questions that matter most come first.

A stage yields the runs that answer one question on one task. They depend on what earlier runs
chose, so they are made up only when the stage begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from .choose import choose, rates_around
from .losses import LOSSES, rates
from .results import Results
from .run import Run
from .task import Task
from .trees import wrong_tree

SEEDS = (1, 2, 3, 4, 5)
CORE = ("ce", "smoothing", "hace", "hace-shuffled")
FIXED = ("smoothing-fixed", "hace-fixed")
MORE = ("tree-ce", "tree-hace", "hxe", "soft")
WINNERS = ("tree-ce", "soft")  # the losses that gained most on `hpo`
SHUFFLED = ("tree-ce-shuffled", "soft-shuffled")
REST = ("hace-smoothing", "hace-soft", "superclass", "r-ce", "h-ce")
FEW = (1, 2, 5, 10)
LONG = 3
COARSE = "80"  # percent of the rows whose label is coarse
WRONG = (10, 20, 50)  # percent of the coarse labels that are wrong
SWAPS = tuple(f"swap {p}" for p in (10, 20, 50, 100))
REWIRED = tuple(f"rewire {p}" for p in (20, 50))

Runs = Iterator[Run]
Stage = Callable[[Task, Results], Runs]


@dataclass(frozen=True)
class Step:
    """A stage on a task."""

    task: str
    name: str
    stage: Stage


def search(task: Task, results: Results, losses: tuple[str, ...], per_class: int = 0) -> Runs:
    """All trials of the given losses, with seed 0."""
    for name in losses:
        loss = LOSSES[name]
        for parameter in loss.grid:
            for rate in rates(loss, *task.schedule.rates):
                yield Run(task.name, name, parameter, rate, 0, loss.tree, per_class)


def measure(task: Task, results: Results, losses: tuple[str, ...], per_class: int = 0) -> Runs:
    """What the trials chose, trained again with new seeds."""
    for seed in SEEDS:
        for name in losses:
            yield replace(choose(results, name, per_class=per_class), seed=seed)


def search_long(task: Task, results: Results, losses: tuple[str, ...]) -> Runs:
    """Trials of three times the epochs: the chosen parameter, with rates around the chosen one."""
    for name in losses:
        short = choose(results, name)
        for rate in rates_around(short.rate):
            yield replace(short, rate=rate, length=LONG)


def measure_long(task: Task, results: Results, losses: tuple[str, ...]) -> Runs:
    """What the longer trials chose, trained again with new seeds."""
    for seed in SEEDS:
        for name in losses:
            yield replace(choose(results, name, length=LONG), seed=seed)


def trees(task: Task, results: Results, seeds: tuple[int, ...] = SEEDS) -> Runs:
    """HACE as chosen for the true tree, on wrong trees, which each seed draws anew."""
    # A level is left out if all of its nodes are classes, since they cannot be dropped.
    dropped = {f"drop {n}": wrong_tree(task.tree, f"drop {n}", 0) for n in range(2)}
    levels = [name for name, tree in dropped.items() if tree.num_nodes < task.tree.num_nodes]
    names = (*SWAPS, *REWIRED, *levels, "cover", "agglomerative")
    yield from on_trees(task, results, ("hace",), names, seeds)


def on_trees(
    task: Task,
    results: Results,
    losses: tuple[str, ...],
    names: tuple[str, ...],
    seeds: tuple[int, ...] = SEEDS,
) -> Runs:
    """Losses as chosen for the true tree, on the wrong trees of these names."""
    for seed in seeds:
        for tree in names:
            for loss in losses:
                yield replace(choose(results, loss), seed=seed, tree=tree)


def whole_graph(task: Task, results: Results) -> Runs:
    """HACE as chosen for the tree, on the DAG that the tree was cut from."""
    for seed in SEEDS if task.graph is not None else ():
        yield replace(choose(results, "hace"), seed=seed, tree="dag")


def dilutions(task: Task, results: Results) -> Runs:
    """HACE with every d, each at its best rate."""
    for seed in SEEDS:
        for parameter in LOSSES["hace"].grid:
            yield replace(choose(results, "hace", parameter=parameter), seed=seed)


def coarse(task: Task, results: Results) -> Runs:
    """Losses as chosen with all labels, when most labels are only the class's parent."""
    for seed in SEEDS:
        for name in ("ce", "hace"):
            yield replace(choose(results, name), seed=seed, coarse=COARSE)


def coarse_and_wrong(task: Task, results: Results) -> Runs:
    """The same for HACE, with some coarse labels wrong; cross-entropy uses no coarse labels."""
    for seed in SEEDS:
        for percent in WRONG:
            run = choose(results, "hace")
            yield replace(run, seed=seed, coarse=f"{COARSE} wrong {percent}")


def few_samples(task: Task, results: Results, losses: tuple[str, ...]) -> Runs:
    """Trainings with few rows per class, where everything is chosen anew for each number."""
    for number in FEW:
        yield from search(task, results, losses, number)
        yield from measure(task, results, losses, number)


def _both(losses: tuple[str, ...], task: Task, results: Results) -> Runs:
    yield from search(task, results, losses)
    yield from measure(task, results, losses)


def _long(losses: tuple[str, ...], task: Task, results: Results) -> Runs:
    yield from search_long(task, results, losses)
    yield from measure_long(task, results, losses)


def plan() -> list[Step]:
    """Every step of the plan, the most important first."""
    steps: list[Step] = []

    def add(name: str, stage: Stage, *tasks: str) -> None:
        steps.extend(Step(task, name, stage) for task in tasks)

    few = partial(few_samples, losses=("ce", "smoothing", "hace"))
    add("core losses", partial(_both, CORE), "soc", "hpo")
    add("wrong trees", partial(trees, seeds=SEEDS[:3]), "hpo")
    add("parameters not searched", partial(_both, FIXED), "soc", "hpo")
    add("three times the epochs", partial(_long, CORE[:3]), "hpo")
    add("core losses", partial(_both, CORE), "wordnet")
    add("more losses", partial(_both, MORE), "hpo", "soc")
    add("shuffled trees for the winners", partial(_both, SHUFFLED), "hpo")
    add("the whole DAG", whole_graph, "hpo")
    add("core losses", partial(_both, CORE), "emoji")
    add("other losses", partial(_both, REST), "hpo", "soc")
    add("more losses", partial(_both, MORE), "wordnet", "emoji")
    add("few samples", few, "soc")
    add("every dilution", dilutions, "hpo", "soc")
    add("coarse labels", coarse, "soc")
    add("wrong trees", partial(trees, seeds=SEEDS[:3]), "soc")
    add("other losses", partial(_both, REST), "wordnet")
    add("parameters not searched", partial(_both, FIXED), "wordnet", "emoji")
    add("shuffled trees for the winners", partial(_both, SHUFFLED), "wordnet", "soc", "emoji")
    add("core losses", partial(_both, CORE), "glycan", "icd10")
    add("every dilution", dilutions, "wordnet")
    add("wrong trees, all seeds", trees, "hpo", "soc")
    add("three times the epochs", partial(_long, CORE), "soc")

    # The third series.
    on_wrong = partial(on_trees, losses=WINNERS, names=(*SWAPS, *REWIRED))
    add("three times the epochs, others", partial(_long, (*WINNERS, "hace-shuffled")), "hpo")
    add("wrong trees for the winners", on_wrong, "hpo")
    add("coarse labels, some wrong", coarse_and_wrong, "soc")
    add("few samples, shuffled", partial(few_samples, losses=("hace-shuffled",)), "soc")
    add("other losses", partial(_both, REST), "emoji")
    add("parameters not searched", partial(_both, FIXED), "icd10")
    add("more losses", partial(_both, MORE), "icd10")
    add("shuffled trees for the winners", partial(_both, SHUFFLED), "icd10")
    add("parameters not searched", partial(_both, FIXED), "glycan")
    add("more losses", partial(_both, MORE), "glycan")
    add("other losses", partial(_both, REST), "icd10")
    add("shuffled trees for the winners", partial(_both, SHUFFLED), "glycan")
    add("other losses", partial(_both, REST), "glycan")
    return steps
