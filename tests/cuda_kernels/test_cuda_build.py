"""What nvcc compiles the CUDA kernels to: GPUs, registers, spills, and widths of loads."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHS = ["80", "90", "100", "120"]

# Per multiprocessor, the same on each of these GPUs.
REGISTERS = 65536


def find(tool: str) -> str | None:
    """The path of a tool of CUDA; cuobjdump and nvdisasm come with Triton, too."""
    folders = ["/usr/local/cuda/bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which(tool) or shutil.which(tool, path=":".join(folders))


pytestmark = [
    pytest.mark.skipif(find("nvcc") is None, reason="there is no nvcc"),
    pytest.mark.skipif(find("cuobjdump") is None, reason="there is no cuobjdump"),
    pytest.mark.thorough,
]


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one GPU; `name` is mangled."""

    name: str
    registers: int
    stack: int

    @property
    def short(self) -> str:
        """The function's name and its first template argument."""
        found = re.match(r"_ZN4hace\d+([a-z_]+?)(I\S+?)?E", self.name)
        assert found, self.name
        return found[1]


@cache
def library() -> Path:
    """The library with CUDA kernels for `ARCHS`, compiled into a folder of its own.

    Objects of an earlier run are used again. The workers of one run wait for each other.
    """
    folder = ROOT / "build" / "cuda-for-tests"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)],
            cwd=ROOT,
            env={**os.environ, "HACE_BUILD": "cuda", "HACE_CUDA_ARCHS": " ".join(ARCHS)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "hace_kernels" / "_native.so"


def cuobjdump(*arguments: str) -> str:
    tool = find("cuobjdump")
    assert tool is not None
    command = [tool, *arguments, str(library())]
    path = str(Path(find("nvdisasm") or tool).parent)
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": path}, check=True)
    return done.stdout


@cache
def kernels(arch: str) -> list[Kernel]:
    text = cuobjdump("-res-usage", "-arch", f"sm_{arch}")
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", text)
    return [Kernel(name, int(registers), int(stack)) for name, registers, stack in found]


@cache
def memory_instructions(arch: str) -> dict[str, Counter[str]]:
    """The number of loads and stores of each kernel, per instruction (whose name has the width)."""
    found: dict[str, Counter[str]] = {}
    here: Counter[str] = Counter()
    for line in cuobjdump("-sass", "-arch", f"sm_{arch}").splitlines():
        if function := re.search(r"Function : (\S+)", line):
            here = found.setdefault(function[1], Counter())
        elif instruction := re.search(r"\s(LDG|STG)\.E(\.\S*)?\s", line):
            here[instruction[0].strip()] += 1
    return found


def template(kernel: Kernel) -> str:
    """The template arguments as the compiler spells them: f, d, 6__half, 13__nv_bfloat16, …"""
    found = re.search(rf"{kernel.short}I(\S*?)EEv", kernel.name)
    return found[1] if found else ""


# These kernels stream logits and gradient, and must move 16 bytes per thread at a time.
STREAMING = ("row_kernel", "measure_kernel", "write_kernel")


def is_streaming(kernel: Kernel) -> bool:
    """Whether a kernel is one of these in single or half precision, without entropy."""
    arguments = template(kernel)
    return (
        kernel.short in STREAMING and not arguments.startswith("d") and arguments.endswith("Lb0E")
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_every_gpu_has_every_kernel(arch: str) -> None:
    names = {kernel.name for kernel in kernels(arch)}
    assert names == {kernel.name for kernel in kernels("80")}
    of_paths = {"row_kernel", "measure_kernel", "resolve_kernel", "write_kernel"}
    of_tiles = {"measure_tile_kernel", "write_tile_kernel"}
    assert of_paths | of_tiles | {"scale_kernel"} <= {kernel.short for kernel in kernels(arch)}


@pytest.mark.parametrize("arch", ARCHS)
def test_no_spills(arch: str) -> None:
    """Only kernels of double precision, which are for checks of gradients, may spill.

    Those of whole rows give up a few registers, so that more of their threads run at a time. On
    sm_120 nvcc chooses to do so in `resolve_kernel`, whose time is not that of memory.
    """
    single = [kernel for kernel in kernels(arch) if not template(kernel).startswith("d")]
    assert sum(map(is_streaming, single)) == 3 * (3 + 1 + 1)
    few = {kernel.name: 24 for kernel in single if is_streaming(kernel) and is_crowded(kernel)}
    if arch == "120":
        few |= {kernel.name: 8 for kernel in single if kernel.short == "resolve_kernel"}
    assert [kernel for kernel in single if kernel.stack > few.get(kernel.name, 0)] == []


def is_crowded(kernel: Kernel) -> bool:
    """Whether it is for whole rows with one or two strips per warp."""
    return kernel.short == "row_kernel" and "Li3" not in template(kernel)


@pytest.mark.parametrize("arch", ARCHS)
def test_blocks_fit_a_multiprocessor(arch: str) -> None:
    """The registers suffice for the largest block of every kernel, and for two of short rows."""
    threads = {"row_kernel": 256, "measure_kernel": 256, "resolve_kernel": 256, "write_kernel": 256}
    for kernel in kernels(arch):
        if kernel.short == "row_kernel" and "Li3" in template(kernel):
            assert kernel.registers * 512 <= REGISTERS, kernel
        elif is_streaming(kernel) and is_crowded(kernel):
            assert kernel.registers * 1024 <= REGISTERS, kernel
        elif is_streaming(kernel):
            assert kernel.registers * 2 * threads[kernel.short] <= REGISTERS, kernel


@pytest.mark.parametrize("arch", ARCHS)
def test_streaming_loops_move_16_bytes(arch: str) -> None:
    """Loads and stores of the vectors of 16 elements per lane and strip are all unrolled."""
    instructions = memory_instructions(arch)
    for kernel in filter(is_streaming, kernels(arch)):
        strips = int(template(kernel).split("Li")[1][0]) if "Li" in template(kernel) else 1
        vectors = strips * (4 if template(kernel).startswith("f") else 2)
        found = instructions[kernel.name]
        wide = {kind: n for kind, n in found.items() if ".128" in kind}
        loads = sum(n for kind, n in wide.items() if kind.startswith("LDG"))
        stores = sum(n for kind, n in wide.items() if kind.startswith("STG"))
        assert loads >= vectors, (kernel, found)
        assert stores >= (0 if kernel.short == "measure_kernel" else vectors), (kernel, found)
