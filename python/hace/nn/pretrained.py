"""A classifier and its hierarchy in one directory: weights as safetensors, the rest as JSON."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import losses
from ..hierarchy import Hierarchy
from ..losses.path_loss import PathLoss
from .hierarchy_state import HierarchyState

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pretrained"]

_WEIGHTS, _HIERARCHY, _CONFIG = "model.safetensors", "hierarchy.npz", "config.json"
_FORMAT = 1

#: The losses that can be built again from their keywords.
_LOSSES = (
    "CrossEntropyLoss",
    "HACELoss",
    "HXELoss",
    "RegularizedCrossEntropyLoss",
    "SoftLabelLoss",
)
_OPTIONS = {"beta": "soft_label_beta", "distance": "soft_label_distance"}


class Pretrained(HierarchyState):
    """Saves and loads a layer `linear` and a `loss` over a hierarchy."""

    linear: nn.Linear
    loss: PathLoss
    _shard: Any

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the layer, its loss and its hierarchy into a directory, and creates it if need be.

        The files are `model.safetensors`, `hierarchy.npz` (`Hierarchy.load` reads it by itself) and
        `config.json`. They hold only data; loading runs no code from them.

        Raises:
            ImportError: safetensors is not installed.
            ValueError: the classes are spread over processes.
        """
        save_file = _safetensors().save_file
        if self._shard is not None:
            raise ValueError(
                "the classes are spread over processes: save classifier.state_dict() with "
                "torch.distributed.checkpoint"
            )
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": _FORMAT,
            "in_features": self.linear.in_features,
            "bias": self.linear.bias is not None,
            "dtype": str(self.linear.weight.dtype).removeprefix("torch."),
            "loss": _config_of(self.loss),
            "hierarchy": self.hierarchy.digest,
        }
        state = {
            name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        self.hierarchy.save(folder / _HIERARCHY)
        _replace(folder / _WEIGHTS, lambda path: save_file(state, path))
        text = json.dumps(config, indent=2) + "\n"
        _replace(folder / _CONFIG, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        loss: PathLoss | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """The classifier that `save_pretrained` wrote.

        Args:
            directory: of the files.
            loss: a loss to use in place of the saved one; needed for a loss with path weights of
                the user's own (`hace.PathLogLoss`).
            device: of the layer.
            options: `fused`, `logit_bytes` and `on_weight_grad`, as the class takes them.

        Raises:
            ImportError: safetensors is not installed.
            OSError: a file is not there.
            ValueError: a file is damaged, or the files are of different models.
            RuntimeError: the weights are of a layer over another hierarchy.
        """
        load_file = _safetensors().load_file
        folder = Path(directory)
        config = _read_config(folder / _CONFIG)
        hierarchy = Hierarchy.load(folder / _HIERARCHY)
        if hierarchy.digest != config["hierarchy"]:
            raise ValueError(
                f"{folder / _HIERARCHY} is not the hierarchy that {_CONFIG} was saved with: the "
                "files are of different models"
            )
        try:
            state = load_file(folder / _WEIGHTS)
        except OSError:
            raise
        except Exception as error:  # the parser may raise anything on foreign bytes
            raise ValueError(f"{folder / _WEIGHTS} is damaged: {error}") from error
        make: Any = cls
        classifier: Self = make(
            config["in_features"],
            hierarchy,
            _loss_of(config["loss"], hierarchy, state.get("loss.weight")) if loss is None else loss,
            bias=config["bias"],
            dtype=getattr(torch, config["dtype"]),
            device="meta",
            **options,
        )
        classifier.to_empty(device="cpu" if device is None else device)
        classifier.load_state_dict(state)
        return classifier


def _safetensors() -> Any:
    try:
        import safetensors.torch as module
    except ImportError:
        raise ImportError(
            "save_pretrained and from_pretrained need safetensors: pip install safetensors"
        ) from None
    return module


def _replace(path: Path, write: Any) -> None:
    """Writes a file under another name and renames it, so that a crash leaves no half of it."""
    beside = path.with_name(f".{path.name}.new")
    write(beside)
    beside.replace(path)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by save_pretrained, or by a newer version of it")
    wanted = ("in_features", "bias", "dtype", "loss", "hierarchy")
    missing = [name for name in wanted if name not in config]
    if missing or not isinstance(getattr(torch, str(config["dtype"]), None), torch.dtype):
        raise ValueError(f"{path} lacks {', '.join(missing) or 'a dtype'}")
    return config


def _config_of(loss: PathLoss) -> dict[str, Any]:
    """The loss's type, and its keywords if the loss can be built again from them."""
    config: dict[str, Any] = {"type": type(loss).__name__}
    if type(loss).__name__ not in _LOSSES or type(loss).__module__.split(".")[0] != "hace":
        return config
    for name in inspect.signature(type(loss)).parameters:
        if name in ("hierarchy", "weight", "logit_space"):
            continue
        option = _OPTIONS.get(name, name)
        holders = (loss, loss.options, loss.options.targets)
        config[name] = next(getattr(h, option) for h in holders if hasattr(h, option))
    return config


def _loss_of(config: dict[str, Any], hierarchy: Hierarchy, weight: torch.Tensor | None) -> PathLoss:
    keywords = dict(config)
    name = keywords.pop("type")
    if name not in _LOSSES or not keywords:
        raise ValueError(
            f"the classifier was saved with a {name}, whose weights are not in the files: give "
            "from_pretrained(directory, loss=...)"
        )
    loss: PathLoss = getattr(losses, name)(hierarchy, weight=weight, **keywords)
    return loss
