"""Compiles the CUDA kernels' own source for the CPU, with tests/cuda_kernels/emulation/ as CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from build_tools import cpp, ninja_build
from build_tools.plan import Library, Object

__all__ = ["SANITIZE", "library"]

ROOT = Path(__file__).resolve().parents[2]

FLAGS = ("-x", "c++", "-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden")
FLAGS += ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
FLAGS += ("-DHACE_CUDA_EMULATION", cpp.STABLE_ABI)
FLAGS += ("-Icsrc", "-Icsrc/cuda", "-Itests/cuda_kernels/emulation")

SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def library(name: str = "cuda-emulated", *options: str) -> Path:
    """The path of a library with all ops for CPU tensors, compiled with `options` (default `-O2`).

    The library stays in build/, and only what has changed is compiled again.
    """
    torch_folder = Path(torch.__file__).parent
    flags = (*FLAGS, *(options or ("-O2",)), "-isystem", str(torch_folder / "include"))
    compiler, folder = cpp.compiler(), ROOT / "build" / name
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    objects = tuple(Object(str(source), "emulated", (*compiler, *flags)) for source in sources)
    torch_libraries = (f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
    emulated = Library("emulated.so", objects, (*compiler, "-shared", *options), torch_libraries)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        ninja_build.run(folder, [emulated])
    return folder / emulated.path
