"""`python -m benchmarks`: every claim of speed and memory, measured beside its peers in one run."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import hace

from . import allocator, backend, report, trees
from .cases import SWEEPS, Case, all_cases
from .machine import describe_machine, describe_versions, is_busy
from .plots import draw
from .records import Result
from .runner import Runner

RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite; 1 if some contestant's answer was wrong, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs an NVIDIA GPU and a torch that is built for CUDA")
    if options.graphs and options.device != "cuda":
        parser.error("--graphs is for --device cuda")
    for file in options.taxonomy:
        try:
            trees.build(file)
        except (OSError, ValueError) as error:
            parser.error(f"--taxonomy {file}: {error}")
    cases = all_cases(options.quick, options.device, tuple(options.taxonomy))
    try:
        cases = [case for case in cases if re.search(options.filter, case.name)]
    except re.error as error:
        parser.error(f"--filter {options.filter!r} is not a regular expression: {error}")
    if not cases:
        parser.error(f"--filter {options.filter!r} leaves no case; --list shows them")
    if options.list:
        _print_names(cases)
        return 0
    try:
        options.backend = backend.choose(options.backend, options.device)
    except ValueError as error:
        parser.error(str(error))
    return _run(cases, options)


def _print_names(cases: list[Case]) -> None:
    try:
        print("\n".join(case.name for case in cases), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(cases: list[Case], options: argparse.Namespace) -> int:
    console = report.make_console()
    seconds = options.seconds or (0.15 if options.quick else 1.0)
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = {
        "device": options.device,
        "backend": options.backend,
        "threads": threads,
        "quick": options.quick,
        "filter": options.filter,
        "seconds": seconds,
        "cuda_graphs": options.graphs,
        "keeps_freed_memory": allocator.is_kept(),
    }
    result = Result(describe_machine(), describe_versions(), settings, [])
    if is_busy():
        load = result.machine["load_before"]
        console.print(f"[yellow]The machine is busy (load {load:.1f}): figures will mean little.")
    started = time.perf_counter()
    with report.progress_bar(console) as bar:
        task = bar.add_task("", total=len(cases), contestant="")
        runner = Runner(
            options.device,
            threads,
            seconds,
            options.graphs,
            lambda text: bar.update(task, contestant=text),
        )
        for case in cases:
            bar.update(task, description=case.name)
            result.records += runner.run(case)
            bar.advance(task)
    result.settings["run_seconds"] = round(time.perf_counter() - started, 1)

    report.show(result, console)
    out = options.out or RESULTS / _run_name(options)
    result.save(out)
    pictures = draw(result, out)
    console.print(
        f"{result.settings['run_seconds']:.0f} s. In {out}/: results.json, results.csv"
        f"{''.join(f', {picture.name}' for picture in pictures)}",
        highlight=False,
    )
    return 1 if any(record.status == "wrong" for record in result.records) else 0


def _run_name(options: argparse.Namespace) -> str:
    parts = [time.strftime("%Y-%m-%d-%H%M"), options.device]
    parts += [name for name in ("graphs", "quick") if getattr(options, name)]
    return "-".join(parts)


def _parser() -> argparse.ArgumentParser:
    sweeps = "\n".join(f"  {name:<8} {question}" for name, question in SWEEPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"sweeps:\n{sweeps}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer and smaller cases")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--backend",
        choices=tuple(hace.backends()),
        help="backend of the losses (by default the fastest that runs here)",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="how many threads to use (by default torch's choice)",
    )
    add("--graphs", action="store_true", help="time CUDA graphs: the GPU's time without Python's")
    add("--seconds", type=float, metavar="S", help="time for each contestant of each case")
    add("--filter", default="", metavar="REGEX", help="only cases whose name matches this")
    add("--list", action="store_true", help="print the cases' names and stop")
    files = (
        "measure on this tree too: a .csv with the header parent,child, or a .npz of Hierarchy.save"
    )
    add("--taxonomy", action="append", default=[], metavar="FILE", help=files)
    folder = "where results go (by default benchmarks/results/<date>-<device>, which git ignores)"
    add("--out", type=Path, metavar="FOLDER", help=folder)
    return parser


if __name__ == "__main__":
    allocator.ensure_kept("benchmarks")
    sys.exit(main())
