"""The figures that are measured, and the goal of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, linear_cross_entropy, one_hot

import hace

from .peak import FEATURES, ROWS, WAYS, peak_mib
from .problem import Layer, Problem, Step, least_seconds, seconds_of

__all__ = ["SECTIONS", "Figure", "Section"]


@dataclass(frozen=True)
class Figure:
    """A measured number and its goal.

    Attributes:
        what: what is measured.
        case: the layer on which it is measured.
        found: the number; a ratio of processor times unless `unit` says otherwise.
        goal: the most that it should be, or with `at_least` the least; None: there is no goal.
    """

    what: str
    case: str
    found: float
    goal: float | None = None
    at_least: bool = False
    unit: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether there is a goal, and the number as printed misses it."""
        if self.goal is None:
            return False
        found = float(self.shown(self.found))
        return found < self.goal if self.at_least else found > self.goal

    def shown(self, number: float) -> str:
        """A number without its unit, with the digits that are printed."""
        return f"{number:.0f}" if self.unit or number >= 10 else f"{number:.2f}"


def ratio(
    what: str,
    case: object,
    seconds: dict[str, float],
    names: tuple[str, str],
    goal: float | None = None,
    at_least: bool = False,
) -> Figure:
    """The time of the first, divided by that of the second."""
    return Figure(what, str(case), seconds[names[0]] / seconds[names[1]], goal, at_least)


SMALL, WIDE = 33, 46
BF16, FP32 = torch.bfloat16, torch.float32


def memory(budget: float) -> Iterator[Figure]:
    """The peak memory of one step; `budget` is not used."""
    num_classes = 1_000_000
    case = f"{ROWS} × {FEATURES} × {num_classes:,}, float32"
    for way in WAYS:
        gradients = "grad x" if way == "update by tiles" else "grad x, grad W"
        what = f"{way}: peak beyond x, W, {gradients}"
        goal = None if way == "whole" else 64
        yield Figure(what, case, peak_mib(way, num_classes), goal, unit="MiB")


def schedules(layer: Layer, budget: float) -> Iterator[Figure]:
    """Tiles of classes, rows, and both orders of W beside whole logits and cross-entropy."""
    problem = Problem(layer)
    ways = {
        "whole": problem.whole(problem.ordered),
        "cross-entropy": problem.cross_entropy(),
        "tiles": problem.tiles(problem.ordered),
        "whole, label order": problem.whole(problem.shuffled),
        "tiles, label order": problem.tiles(problem.shuffled),
    }
    by_rows = not layer.is_half and layer.rows > 512
    if by_rows:
        ways["rows"] = problem.by_rows(problem.ordered)
    seconds = least_seconds(ways, budget)
    is_easy = layer.is_half and layer.features <= 256
    goals = (1.05, 0.75) if is_easy else (1.45, 1.3)
    beside = (("whole", "nn.Linear + HACELoss"), ("cross-entropy", "nn.Linear + cross-entropy"))
    for (peer, title), goal in zip(beside, goals, strict=True):
        yield ratio(f"tiles / {title}", layer, seconds, ("tiles", peer), goal)
    if by_rows:
        for (peer, title), goal in zip(beside, (1.1, 0.95), strict=True):
            yield ratio(f"512 rows at once / {title}", layer, seconds, ("rows", peer), goal)
    names = ("tiles, label order", "tiles")
    yield ratio("tiles, label order / depth-first", layer, seconds, names, 1.2)
    names = ("tiles, label order", "whole, label order")
    what = "tiles / nn.Linear + HACELoss, both in label order"
    yield ratio(what, layer, seconds, names)


def of_torch(layer: Layer, budget: float) -> Iterator[Figure]:
    """`F.linear_cross_entropy` with its default, and in half precision with its best chunk."""
    problem = Problem(layer)

    def chunked(options: nn.LinearCrossEntropyOptions) -> Step:
        x, weight, target = problem.x, problem.weight, problem.target
        return problem.step(lambda: linear_cross_entropy(x, weight, target, options=options))

    loss_fn = problem.ordered
    ways = {
        "as it comes": problem.tiles(loss_fn, logit_bytes=None),
        "tiles": problem.tiles(loss_fn),
    }
    seconds = least_seconds(ways, budget)
    seconds["torch"] = seconds_of(chunked(nn.LinearCrossEntropyOptions()))
    what = "F.linear_cross_entropy by default / HACELoss.linear"
    yield ratio(f"{what} by default", layer, seconds, ("torch", "as it comes"), 10, at_least=True)
    yield ratio(f"{what} by tiles", layer, seconds, ("torch", "tiles"))
    if layer.is_half:
        chunks = {
            str(rows): chunked(
                nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
            )
            for rows in (64, 128, 256, 512)
            if rows <= layer.rows
        }
        seconds["best"] = min(least_seconds(chunks, 0).values())
        what = "F.linear_cross_entropy, its best chunk / HACELoss.linear by tiles"
        yield ratio(what, layer, seconds, ("best", "tiles"), 1, at_least=True)


def errors(layer: Layer, budget: float) -> Iterator[Figure]:
    """The error of the weight's gradient by tiles over that of whole logits."""
    problem = Problem(layer)
    loss_fn, x, weight, target = problem.ordered, problem.x, problem.weight, problem.target
    found = (
        loss_fn.linear(x, weight, target, logit_bytes=0),
        loss_fn(linear(x, weight), target),
    )
    exact = [part.detach().double().requires_grad_() for part in (x, weight)]
    wanted = torch.autograd.grad(loss_fn(linear(*exact), target), exact)
    of_tiles, of_whole = (_errors(loss, (x, weight), wanted) for loss in found)
    for name, one, two, goal in zip(("x", "W"), of_tiles, of_whole, (None, 1.0), strict=True):
        yield Figure(f"error of grad {name}, tiles / whole logits", str(layer), one / two, goal)


def _errors(loss: Tensor, parts: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> list[float]:
    grads = torch.autograd.grad(loss, parts)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(grads, wanted, strict=True)]


def updates(layer: Layer, budget: float) -> Iterator[Figure]:
    """A step with the weight's update in the backward, beside whole logits and torch.optim."""
    problem = Problem(layer)
    x, weight, target, loss_fn = problem.x, problem.weight, problem.target, problem.ordered

    def by_tiles(update: hace.optim.TileOptimizer) -> Step:
        def run() -> None:
            loss = loss_fn.linear(x, weight, target, logit_bytes=0, on_weight_grad=update)
            torch.autograd.backward(loss)
            update.step()

        return run

    def whole(optimizer: torch.optim.Optimizer) -> Step:
        def run() -> None:
            torch.autograd.backward(loss_fn(linear(x, weight), target))
            optimizer.step()
            optimizer.zero_grad()

        return run

    for name in ("SGD", "Adagrad", "Adam"):
        ways = {
            "whole": whole(getattr(torch.optim, name)([weight], 1e-6)),
            "tiles": by_tiles(getattr(hace.optim, f"Tile{name}")(weight, 1e-6)),
        }
        seconds = least_seconds(ways, budget)
        what = f"tiles with Tile{name} / whole logits with torch.optim.{name}"
        yield ratio(what, layer, seconds, ("tiles", "whole"))


def tree_linear(layer: Layer, budget: float) -> Iterator[Figure]:
    """`TreeLinear` by tiles: time and, in half precision, the error of its gradients."""
    problem, tree = Problem(layer), Problem(layer).tree()
    module = hace.nn.TreeLinear(layer.features, tree, bias=False, dtype=layer.dtype)
    loss_fn, parts = hace.HACELoss(tree, 0.5), (problem.x, module.weight)
    ways: dict[str, Callable[[], Tensor]] = {
        "whole": lambda: loss_fn(module(problem.x), problem.target),
        "tiles": lambda: module.loss(problem.x, problem.target, loss_fn, logit_bytes=0),
    }

    def step(loss: Callable[[], Tensor]) -> Step:
        return lambda: torch.autograd.grad(loss(), parts)

    seconds = least_seconds({name: step(loss) for name, loss in ways.items()}, budget)
    yield ratio("TreeLinear, tiles / whole logits", layer, seconds, ("tiles", "whole"))
    if layer.is_half:
        exact = hace.nn.TreeLinear(layer.features, tree, bias=False, dtype=torch.float64)
        exact.load_state_dict(module.state_dict())
        x = problem.x.detach().double().requires_grad_()
        wanted = torch.autograd.grad(loss_fn(exact(x), problem.target), (x, exact.weight))
        found = {name: _errors(loss(), parts, wanted)[1] for name, loss in ways.items()}
        what = "TreeLinear, error of grad W, tiles / whole logits"
        yield Figure(what, str(layer), found["tiles"] / found["whole"], 1.0)


def soft_targets(layer: Layer, budget: float) -> Iterator[Figure]:
    """Targets that are spread over all classes, by tiles beside whole logits."""
    problem, tree = Problem(layer), Problem(layer).tree()
    rows, num_classes = layer.rows, layer.num_classes
    pairs = torch.randint(num_classes, (rows, 2)), torch.rand(rows, 2)
    dense = 0.9 * one_hot(problem.target, num_classes).to(layer.dtype) + 0.1 / num_classes
    cases = {
        "pairs": (hace.HACELoss(tree, 0.5), pairs),
        "label smoothing": (hace.HACELoss(tree, 0.5, label_smoothing=0.1), problem.target),
        "soft labels": (hace.HACELoss(tree, 0.5, soft_label_beta=10.0), problem.target),
        "probabilities": (hace.HACELoss(tree, 0.5), dense),
    }
    for name, (loss_fn, target) in cases.items():
        ways = {"whole": problem.whole(loss_fn, target), "tiles": problem.tiles(loss_fn, target)}
        seconds = least_seconds(ways, budget)
        yield ratio(f"{name}, tiles / whole logits", layer, seconds, ("tiles", "whole"))


@dataclass(frozen=True)
class Section:
    """Figures that are measured one after the other.

    Attributes:
        name: for `--only`.
        figures: takes the seconds to compare for.
    """

    name: str
    figures: Callable[[float], Iterator[Figure]]


def _of(
    name: str, measure: Callable[[Layer, float], Iterator[Figure]], *layers: Layer
) -> list[Section]:
    def figures(layer: Layer) -> Callable[[float], Iterator[Figure]]:
        return lambda budget: measure(layer, budget)

    return [Section(name, figures(layer)) for layer in layers]


#: The sections, in the order of the table.
SECTIONS = [
    Section("memory", memory),
    *_of(
        "schedules",
        schedules,
        Layer(512, 256, SMALL, BF16),
        Layer(512, 256, SMALL, BF16, autocast=True),
        Layer(4096, 256, SMALL, BF16),
        Layer(1024, 512, WIDE, BF16),
        Layer(512, 256, SMALL, FP32),
        Layer(1024, 512, WIDE, FP32),
        Layer(4096, 256, SMALL, FP32),
    ),
    *_of(
        "torch",
        of_torch,
        Layer(512, 256, SMALL, BF16),
        Layer(512, 256, SMALL, FP32),
        Layer(1024, 512, WIDE, FP32),
    ),
    *_of("errors", errors, Layer(1024, 256, SMALL, BF16)),
    *_of("updates", updates, Layer(512, 256, SMALL, FP32)),
    *_of("tree-linear", tree_linear, Layer(512, 256, SMALL, FP32), Layer(512, 256, SMALL, BF16)),
    *_of("soft-targets", soft_targets, Layer(512, 256, SMALL, FP32), Layer(512, 256, SMALL, BF16)),
]
