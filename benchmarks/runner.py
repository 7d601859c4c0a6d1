"""Runs a case: who can take part, whether they are right, and their times or memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import cuda_graphs, machine, trees
from .cases import Case
from .memory import MeasurementError, measure
from .peers import PEERS, Peer, Step, WrongAnswerError, check_answer
from .problem import Problem, Target
from .records import Record
from .timing import Times, race

__all__ = ["Runner"]

# The part of the machine's memory that a contestant may use, and the part beyond which it is timed
# by itself, so that several large ones are not in memory at once.
TRIED, SHARED = 1 / 3, 1 / 24


@dataclass(frozen=True)
class Runner:
    """How cases are run.

    Attributes:
        device: "cpu" or "cuda".
        threads: what counts as all of them.
        seconds: for which each contestant is timed in each case.
        graphs: whether steps are timed as CUDA graphs.
        say: told what is going on.
    """

    device: str
    threads: int
    seconds: float
    graphs: bool = False
    say: Callable[[str], None] = lambda text: None

    def run(self, case: Case) -> list[Record]:
        """A record for each of the case's contestants."""
        threads = case.threads or self.threads
        torch.set_num_threads(threads)
        case = replace(case, threads=threads)
        try:
            lack = trees.lacks(case.tree)
            if lack is not None:
                return [self._absent(case, PEERS[name], lack) for name in case.contestants]
            problem = case.problem(self.device)
            entrants = [Entrant(PEERS[name], problem, case) for name in case.contestants]
            if case.sweep == "memory":
                self._measure(case, entrants)
            else:
                self._time(problem, entrants)
            return [entrant.record for entrant in entrants]
        finally:
            torch.set_num_threads(self.threads)

    def _absent(self, case: Case, peer: Peer, lack: str) -> Record:
        return Record(
            case.sweep, trees.title(case.tree), 0, 0, 0, case.rows, case.dtype, case.target,
            case.threads, self.device, peer.name, peer.title, "not here", lack,
        )  # fmt: skip

    def _measure(self, case: Case, entrants: Iterable[Entrant]) -> None:
        for entrant in entrants:
            if not entrant.may_try():
                continue
            self.say(entrant.peer.title)
            try:
                memory = measure(case, entrant.peer.name, self.device)
            except MeasurementError as error:
                entrant.out("failed", str(error))
                continue
            entrant.record.kept_bytes, entrant.record.step_bytes = memory.kept, memory.step

    def _time(self, problem: Problem, entrants: list[Entrant]) -> None:
        share = SHARED * machine.memory_bytes(self.device)
        together = [entrant for entrant in entrants if entrant.needs <= share]
        logits, target = problem.batch()
        times = self._race(together, logits, target)
        for entrant in entrants:
            if entrant not in together:
                times |= self._race([entrant], logits, target)
        for entrant in entrants:
            if entrant.peer.name in times:
                entrant.put(times)

    def _race(self, entrants: list[Entrant], logits: Tensor, target: Target) -> dict[str, Times]:
        steps: dict[str, Step] = {}
        for entrant in entrants:
            self.say(entrant.peer.title)
            step = entrant.ready(logits, target)
            if step is not None and self.graphs:
                step = entrant.captured(step)
            if step is not None:
                steps[entrant.peer.name] = step
        times = race(steps, self.seconds, self.device)
        if self.graphs:
            times = {name: found.divided(cuda_graphs.STEPS) for name, found in times.items()}
        return times


class Entrant:
    """A contestant in one case, and the record of it."""

    def __init__(self, peer: Peer, problem: Problem, case: Case) -> None:
        tree = problem.tree
        self.peer, self.problem = peer, problem
        self.needs = peer.needs(problem)
        self.record = Record(
            case.sweep, trees.title(case.tree), tree.num_classes, tree.num_nodes, tree.depth,
            case.rows, case.dtype, case.target, case.threads, problem.device, peer.name, peer.title,
            needs_bytes=self.needs,
        )  # fmt: skip

    def out(self, status: str, note: str) -> None:
        """Notes why there are no figures."""
        self.record.status, self.record.note = status, note

    def may_try(self) -> bool:
        """Whether it can run here at all, and would fit into memory; notes why not."""
        lack = self.peer.lacks(self.problem)
        limit = TRIED * machine.memory_bytes(self.problem.device)
        if lack is not None:
            self.out("not here", lack)
        elif self.needs > limit:
            self.out("too large", f"needs {self.needs:,} bytes; {limit:,.0f} are allowed")
        return lack is None and self.needs <= limit

    def ready(self, logits: Tensor, target: Target) -> Step | None:
        """What is timed, after its answer was found to be right; None if it cannot be timed."""
        if not self.may_try():
            return None
        if self.peer.overwrites_logits:
            logits = logits.detach().clone().requires_grad_()
        try:
            loss = self.peer.make(self.problem)
            check_answer(self.peer, loss, self.problem, logits, target)
        except WrongAnswerError as error:
            self.out("wrong", str(error))
            return None
        except Exception as error:  # whatever it is, it is this contestant's result
            message = str(error).strip().partition("\n")[0]
            self.out("failed", f"{type(error).__name__}: {message}")
            return None
        return self.peer.step(loss, logits, target)

    def captured(self, step: Step) -> Step | None:
        """The step as a CUDA graph; None if it cannot be one."""
        try:
            return cuda_graphs.captured(step)
        except Exception as error:  # whatever it is, it is this contestant's result
            message = str(error).strip().partition("\n")[0]
            self.out("failed", f"not as a CUDA graph: {message}")
            return None

    def put(self, times: dict[str, Times]) -> None:
        """Stores its figures, and their ratios to those of others."""
        record, own = self.record, times[self.peer.name]
        record.min_s, record.median_s = own.fastest, own.median
        record.q1_s, record.q3_s = own.quartiles
        record.calls = len(own.samples)
        record.bytes_per_s = 2 * self.problem.logits_bytes / own.median
        if "clone" in times:
            record.of_copy = times["clone"].median / own.median
        if self.peer.beside in times:
            record.times_ours = own.median / times[self.peer.beside].median
