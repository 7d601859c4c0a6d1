"""The losses of the study, and the parameters that are tried for each.

Every loss gets the same number of trials, TRIALS. Each of its parameters is tried with as many
learning rates as that leaves room for, spread over one range (`rates`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

import hace
from hace.nn import TreeLinear

TRIALS = 12

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Loss:
    """A loss, the last layer that goes with it, and the parameters to try.

    Attributes:
        title: the loss's name in tables.
        make: makes the criterion from the tree and parameters.
        grid: the parameters to try, by their names in the results.
        layer: makes the last layer from its width and the tree; None means a linear layer over
            the classes.
        over_nodes: whether the layer has a logit per node instead of per class.
        tree: which tree the loss is given (see `studies.trees`).
    """

    title: str
    make: Callable[..., nn.Module]
    grid: Mapping[str, Parameters]
    layer: Callable[[int, hace.Hierarchy], nn.Module] | None = None
    over_nodes: bool = False
    tree: str = "true"


def rates(loss: Loss, lowest: float, highest: float) -> list[float]:
    """The learning rates that are tried with each parameter of a loss."""
    number = TRIALS // len(loss.grid)
    return [float(f"{rate:.3g}") for rate in np.geomspace(lowest, highest, number)]


def _cross_entropy(tree: hace.Hierarchy) -> nn.Module:
    return nn.CrossEntropyLoss()


def _smoothing(tree: hace.Hierarchy, eps: float) -> nn.Module:
    return nn.CrossEntropyLoss(label_smoothing=eps)


def _hace(tree: hace.Hierarchy, d: float, **options: Any) -> nn.Module:
    return hace.HACELoss(tree, d, **options)


def _hxe(tree: hace.Hierarchy, alpha: float) -> nn.Module:
    return hace.HXELoss(tree, alpha)


def _soft(tree: hace.Hierarchy, beta: float) -> nn.Module:
    return hace.SoftLabelLoss(tree, beta)


def _superclass(tree: hace.Hierarchy, scheme: Any, q: float = 2.0) -> nn.Module:
    return hace.PathLogLoss(tree, scheme, q=q)


def _regularized(tree: hace.Hierarchy, strength: float) -> nn.Module:
    return hace.RegularizedCrossEntropyLoss(tree, strength)


def _layered(tree: hace.Hierarchy) -> nn.Module:
    return hace.LayeredCrossEntropyLoss(tree)


def _one_per(name: str, values: tuple[float, ...]) -> dict[str, Parameters]:
    return {f"{name}={value:g}": {name: value} for value in values}


def _hace_with(option: str, short: str, pairs: tuple[tuple[float, float], ...]) -> Any:
    return {f"d={d:g} {short}={x:g}": {"d": d, option: x} for d, x in pairs}


NONE: Mapping[str, Parameters] = {"": {}}
DILUTIONS = _one_per("d", (0.2, 0.5, 0.7, 0.9))

LOSSES: dict[str, Loss] = {
    "ce": Loss("cross-entropy", _cross_entropy, NONE),
    "smoothing": Loss(
        "cross-entropy + smoothing", _smoothing, _one_per("eps", (0.02, 0.05, 0.1, 0.2))
    ),
    "hace": Loss("HACE", _hace, DILUTIONS),
    "hace-shuffled": Loss("HACE, shuffled tree", _hace, DILUTIONS, tree="swap 100"),
    "smoothing-fixed": Loss(
        "cross-entropy + smoothing, eps=0.1", _smoothing, _one_per("eps", (0.1,))
    ),
    "hace-fixed": Loss("HACE, d=0.7", _hace, _one_per("d", (0.7,))),
    "hxe": Loss("HXE", _hxe, _one_per("alpha", (0.1, 0.2, 0.4, 0.8))),
    "soft": Loss("soft labels", _soft, _one_per("beta", (5, 10, 20, 40))),
    "hace-smoothing": Loss(
        "HACE + smoothing",
        _hace,
        _hace_with("label_smoothing", "eps", ((0.5, 0.05), (0.7, 0.05), (0.7, 0.1), (0.9, 0.1))),
    ),
    "hace-soft": Loss(
        "HACE + soft labels",
        _hace,
        _hace_with("soft_label_beta", "beta", ((0.5, 10), (0.5, 30), (0.9, 10), (0.9, 30))),
    ),
    "superclass": Loss(
        "superclass weights",
        _superclass,
        {
            "balanced": {"scheme": "balanced"},
            "lazy": {"scheme": "lazy"},
            "power q=2": {"scheme": "power", "q": 2.0},
            "power q=4": {"scheme": "power", "q": 4.0},
        },
    ),
    "r-ce": Loss("r-CE", _regularized, _one_per("strength", (0.03, 0.1, 0.3, 1))),
    "h-ce": Loss("h-CE (node logits)", _layered, NONE, over_nodes=True),
    "tree-ce": Loss("TreeLinear + cross-entropy", _cross_entropy, NONE, layer=TreeLinear),
    "tree-hace": Loss("TreeLinear + HACE", _hace, DILUTIONS, layer=TreeLinear),
    "tree-ce-shuffled": Loss(
        "TreeLinear + cross-entropy, shuffled tree",
        _cross_entropy,
        NONE,
        layer=TreeLinear,
        tree="swap 100",
    ),
    "soft-shuffled": Loss(
        "soft labels, shuffled tree", _soft, _one_per("beta", (5, 10, 20, 40)), tree="swap 100"
    ),
}
