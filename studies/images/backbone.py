"""Networks of timm without their last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from .views import Look


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Attributes:
        name: the network's name, which the names of files contain.
        make: makes a new network, which maps (N, 3, size, size) to (N, width).
    """

    name: str
    make: Callable[[], nn.Module]
    width: int
    look: Look


def of_timm(
    name: str, *, pretrained: bool = False, weights: str = "", size: int | None = None
) -> Backbone:
    """A network by its name in timm.

    Args:
        pretrained: use timm's own weights, which timm downloads.
        weights: a file with weights to use instead.
        size: side of the pictures in pixels, if it is not timm's default for the network.

    Raises:
        ImportError: timm is missing.
    """
    import timm
    from timm.data import resolve_data_config

    options: dict[str, Any] = {"num_classes": 0}
    config = timm.get_pretrained_cfg(name)
    if size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
    if weights:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}
    elif pretrained:
        options["pretrained"] = True
    make = partial(timm.create_model, name, **options)
    model = make()
    found = resolve_data_config({}, model=model)
    look = Look(size or found["input_size"][-1], found["crop_pct"], found["mean"], found["std"])
    width = getattr(model, "head_hidden_size", None) or model.num_features
    return Backbone(name, make, width, look)
