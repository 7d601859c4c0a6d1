"""Measures logits or answers on a hierarchy, as a table or JSON.

The logits or answers and the truths are .npy or .pt files: logits (rows, classes), floating, or
answers (rows), integer; truths (rows), integer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from ..report import Report, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("hierarchy", help="a .npz file that Hierarchy.save (or tree --save) wrote")
    parser.add_argument("input", help="logits or answers")
    parser.add_argument("target", help="truths")
    parser.add_argument(
        "--logit-space", default="classes", choices=("classes", "nodes", "depth_first")
    )
    parser.add_argument("--target-space", default="classes", choices=("classes", "nodes"))
    parser.add_argument("--pred-space", choices=("classes", "nodes"), help="of answers")
    parser.add_argument("--ignore-index", type=int, default=-100, help="truths that do not count")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the report and returns 0; for files that do not fit, prints why and returns 1."""
    try:
        found = report(
            _tensor(options.input),
            _tensor(options.target),
            Hierarchy.load(options.hierarchy),
            logit_space=options.logit_space,
            target_space=options.target_space,
            pred_space=options.pred_space,
            ignore_index=options.ignore_index,
        )
    except (ValueError, TypeError, OSError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found)
    return 0


def _tensor(path: str) -> Tensor:
    if Path(path).suffix == ".pt":
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(loaded, Tensor):
            raise TypeError(f"{path} holds a {type(loaded).__name__}, not a tensor")
        return loaded
    return torch.from_numpy(np.load(path, allow_pickle=False))


def _print(found: Report) -> None:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        print(found)
    else:
        Console().print(found)
