"""`python -m studies images`: the study's rule of choice and tables for a data set of images."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..losses import LOSSES
from ..plan import CORE, Step, measure, search
from ..results import Results
from ..runner import run_plan
from ..task import Schedule, Task
from .backbone import Backbone, of_timm
from .recipe import DATASETS, OTHERS, SMALLEST, probe, whole_network

RATES = {True: (1e-3, 1e-1), False: (3e-5, 3e-3)}  # True: for a probe; False: for a network
EPOCHS = {True: 20, False: 30}
BASELINES = ("ce", "smoothing")


def add_command(commands: Any) -> None:
    """Adds the command `images` to the command line."""
    images = commands.add_parser(
        "images",
        help="the study on CIFAR-100, FGVC-Aircraft, NABirds or iNaturalist 2021, from your files",
        description="Trains a timm network, or a linear probe of it, by the study's protocol.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    images.add_argument("dataset", choices=DATASETS)
    images.add_argument("--data", type=Path, required=True, help="folder of the unpacked data set")
    images.add_argument("--model", default="resnet50.a1_in1k", help="name of the network in timm")
    images.add_argument("--pretrained", action="store_true", help="let timm download its weights")
    images.add_argument("--weights", default="", help="file with weights to use instead")
    images.add_argument("--probe", action="store_true", help="train only the last layer")
    images.add_argument("--size", type=int, help="side of the pictures in pixels; default: timm's")
    images.add_argument("--epochs", type=int, help="default: 20 for a probe, 30 for a network")
    images.add_argument("--batch", type=int, default=128)
    images.add_argument("--rates", type=float, nargs=2, metavar=("LOWEST", "HIGHEST"))
    images.add_argument("--weight-decay", type=float, default=0.0)
    images.add_argument(
        "--loss",
        action="append",
        choices=LOSSES,
        help="a loss to compare with the baselines; may be given more than once",
    )
    images.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    images.add_argument(
        "--folder", type=Path, default=Path("build/study-images"), help="folder of the results"
    )
    images.set_defaults(do=run)


def run(options: argparse.Namespace, backbone: Backbone | None = None) -> None:
    """Makes the runs that are not in the folder yet, and prints the tables.

    Args:
        backbone: a network to use instead of timm's.
    """
    from .. import tables  # needs pandas, which nothing before this line uses

    name = f"{options.dataset}-{options.model}" + ("-probe" if options.probe else "")
    schedule = Schedule(
        epochs=options.epochs or EPOCHS[options.probe],
        batch=options.batch,
        rates=tuple(options.rates or RATES[options.probe]),
        weight_decay=options.weight_decay,
    )
    _refuse_other_settings(options, schedule, name)
    losses = tuple(dict.fromkeys((*BASELINES, *(options.loss or CORE))))
    run_plan(
        [
            Step(name, "trials", partial(search, losses=losses)),
            Step(name, "what they chose, with new seeds", partial(measure, losses=losses)),
        ],
        options.folder,
        load=lambda _: _task(name, options, schedule, backbone),
        threads=torch.get_num_threads(),
    )
    report = tables.Report(Results(name, options.folder))
    print(tables.differences(report), tables.figures(report), sep="\n\n")
    for rival in report.rivals():
        if rival.run.rate in schedule.rates:
            print(
                f"{rival.name}: the chosen rate is at the end of the range; "
                "widen --rates and give another --folder"
            )


def _task(
    name: str, options: argparse.Namespace, schedule: Schedule, backbone: Backbone | None
) -> Task:
    dataset = DATASETS[options.dataset](options.data)
    backbone = backbone or of_timm(
        options.model, pretrained=options.pretrained, weights=options.weights, size=options.size
    )
    if options.probe:
        return probe(name, dataset, backbone, schedule, options.device, options.folder)
    smallest = SMALLEST.get(options.dataset, OTHERS)
    return whole_network(name, dataset, backbone, schedule, options.device, smallest)


def _refuse_other_settings(options: argparse.Namespace, schedule: Schedule, name: str) -> None:
    """Raises if the folder has runs with other settings, which must not be compared with these."""
    settings = {
        "pretrained": options.pretrained,
        "weights": options.weights,
        "size": options.size,
        "epochs": schedule.epochs,
        "batch": schedule.batch,
        "rates": list(schedule.rates),
        "weight_decay": schedule.weight_decay,
    }
    kept = options.folder / f"{name}.settings.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(settings), encoding="utf-8")
        return
    before = json.loads(kept.read_text(encoding="utf-8"))
    other = [f"{key} {before.get(key)}, now {settings[key]}" for key in settings
             if settings[key] != before.get(key)]  # fmt: skip
    if other:
        raise SystemExit(
            f"{options.folder} has runs of {name} with {'; '.join(other)}: give another --folder"
        )
