"""The memory of a step, measured in a process of its own: `python -m benchmarks.memory`.

On the CPU it is the growth of the resident set to its peak, which Linux counts; on a GPU torch's
allocator counts. Each process builds one loss for one problem. A warm-up on a tiny tree allocates
what the first step of any size needs (threads, code). The kernels' scratch memory, which stays, is
counted, because it grows with the problem.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import allocator
from .cases import Case
from .peers import PEERS, training_step

__all__ = ["Gauge", "MeasurementError", "Memory", "measure"]


class MeasurementError(RuntimeError):
    """The process ended without figures; the message says why."""


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        kept: the loss's matrices and tables.
        step: the most that forward and backward need besides these and the logits, including the
            gradient.
    """

    kept: int
    step: int


def measure(case: Case, contestant: str, device: str) -> Memory:
    """The memory of a contestant in a case.

    Raises:
        MeasurementError: it cannot be measured.
    """
    question = json.dumps({"case": asdict(case), "contestant": contestant, "device": device})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", question],
        env=allocator.default_environment(),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise MeasurementError(f"the process was ended by signal {-done.returncode}")
    if done.returncode > 0:
        raise MeasurementError(done.stderr.strip().splitlines()[-1])
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(case: Case, contestant: str, device: str) -> Memory:
    """The same in this process, which must be a fresh one."""
    peer = PEERS[contestant]
    gauge = Gauge(device)
    torch.rand(1 << 18).exp()  # starts the threads
    problem = case.problem(device)
    tiny = Case(case.sweep, "balanced:9:2", 2, (), case.dtype, case.target).problem(device)
    logits, target = tiny.batch()
    peer.step(peer.make(tiny), logits, target)()

    logits, target = problem.batch()
    before = gauge.held()
    loss = peer.make(problem)
    if peer.compiles:
        training_step(loss, logits, target)()
        logits.grad = None
        before = gauge.held()  # the compiler's own memory does not count for the loss
    kept = gauge.held()
    step = peer.step(loss, logits, target)
    gauge.forget_peak()
    step()
    return Memory(max(0, kept - before), max(0, gauge.peak() - kept))


class Gauge:
    """Reads the memory of this process, or of the GPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"

    def held(self) -> int:
        allocator.give_back()
        return torch.cuda.memory_allocated() if self.on_gpu else _of_process("VmRSS")

    def forget_peak(self) -> None:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.on_gpu else _of_process("VmHWM")


def _of_process(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def main() -> None:
    """Answers the question in the first argument with a line of JSON."""
    question = json.loads(sys.argv[1])
    case = Case(**question["case"])
    torch.set_num_threads(case.threads or torch.get_num_threads())
    print(json.dumps(asdict(measure_here(case, question["contestant"], question["device"]))))


if __name__ == "__main__":
    main()
