"""Compares losses on tasks from packaged data: trains, measures, and fills in docs/study.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from .images import command as images
from .plan import Step, plan
from .results import FOLDER
from .runner import run_plan
from .tasks import TASKS


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    only = "only this task; may be given more than once"
    run = commands.add_parser("run", help="train and measure what is not in the results yet")
    run.add_argument("--task", action="append", choices=TASKS, help=only)
    run.add_argument("--minutes", type=float, help="start no new run after this many minutes")
    run.add_argument("--folder", type=Path, default=FOLDER, help="folder of the results")
    run.set_defaults(do=lambda o: run_plan(plan(), o.folder, o.task, o.minutes))
    quick = commands.add_parser("quick", help="run the whole plan on a made-up task (smoke test)")
    quick.add_argument("--folder", type=Path, default=Path("build/study-quick"))
    quick.set_defaults(do=lambda o: run_quick(o.folder))
    memory = commands.add_parser("memory", help="measure the memory of one step of every loss")
    memory.add_argument("--task", action="append", choices=TASKS, help=only)
    memory.add_argument("--folder", type=Path, default=FOLDER, help="folder of the results")
    memory.set_defaults(do=lambda o: _memory(o.task, o.folder))
    images.add_command(commands)
    report = commands.add_parser("report", help="make tables and figures of docs/study.md")
    report.add_argument("--folder", type=Path, default=FOLDER, help="folder of the results")
    report.set_defaults(do=lambda o: _report(o.folder))
    options = parser.parse_args(arguments)
    options.do(options)


def run_quick(folder: Path) -> None:
    """Runs the whole plan on the made-up task."""
    steps = {step.name: Step("made-up", step.name, step.stage) for step in plan()}
    run_plan(list(steps.values()), folder)


def _memory(only: list[str] | None, folder: Path) -> None:
    from .memory import measure_all  # needs the peers' packages, which only this command uses

    measure_all(only, folder)


def _report(folder: Path) -> None:
    from .report import write_report  # needs matplotlib and pandas, which only this command uses

    write_report(folder)


if __name__ == "__main__":
    main()
