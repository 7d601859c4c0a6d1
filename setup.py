"""Builds the native parts: `hace_kernels._native` (torch ops) and `hace_kernels._layout` (trees).

Without a compiler the package still installs, and the PyTorch reference serves.
HACE_REQUIRE_NATIVE=1 turns any failure of the build into an error with the compiler's message.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE, LAYOUT = "hace_kernels._native", "hace_kernels._layout"

# torch's stable ABI of 2.11: the library serves every later torch, too.
TORCH_TARGET_VERSION = "0x020b000000000000"

# GCC 12 warns of its own immintrin.h, and torch's headers have unused parameters.
WARNINGS = ["-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
BASE_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", *WARNINGS]
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]

# The flags of each instruction set that the kernels are compiled for, chosen among at run time.
ISA_FLAGS: dict[str, list[str]] = {"generic": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [
        *ISA_FLAGS["avx2"],
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
    ]


# An optional extension that fails to build leaves a warning and an install that works without it.
OPTIONAL = os.environ.get("HACE_REQUIRE_NATIVE") != "1"


class BuildNative(build_ext):
    """Compiles the kernels once for every instruction set."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == NATIVE:
            self._build_native(ext)
        else:
            self._build_layout(ext)

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.split(".")[-1] == "_native":  # a plain shared library, no Python module
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def _build_layout(self, ext: Extension) -> None:
        try:
            import pybind11
        except ImportError:
            raise CompileError(
                "pybind11 is missing: `pip install pybind11`, then install again"
            ) from None
        ext.include_dirs = [pybind11.get_include()]
        ext.extra_compile_args = BASE_FLAGS
        super().build_extension(ext)

    def _build_native(self, ext: Extension) -> None:
        try:
            import torch
        except ImportError:
            raise CompileError(
                "torch is not in the build environment: install torch, then "
                "`pip install --no-build-isolation .`"
            ) from None
        root = Path(torch.__file__).parent
        jobs: list[tuple[str, str, list[str]]] = []  # source, folder of its object, flags
        for source in ext.sources:
            if source.endswith("_kernel.cpp"):
                for isa, flags in ISA_FLAGS.items():
                    jobs.append((source, isa, [*KERNEL_FLAGS, *flags, f"-DHACE_ISA={isa}"]))
            else:
                jobs.append((source, "any", [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]))

        def compile_one(job: tuple[str, str, list[str]]) -> list[str]:
            source, folder, flags = job
            objects: list[str] = self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, folder),
                extra_postargs=[*BASE_FLAGS, *flags, "-Icsrc", "-isystem", str(root / "include")],
                depends=ext.depends,
            )
            return objects

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [built for job in pool.map(compile_one, jobs) for built in job]
        library = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(library), exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            library,
            library_dirs=[str(root / "lib")],
            libraries=["torch_cpu", "c10"],
            target_lang="c++",
        )


setup(
    ext_modules=[
        Extension(
            NATIVE,
            ["csrc/ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
            depends=sorted([*glob("csrc/*.h"), *glob("csrc/cpu/*.h")]),
            language="c++",
            optional=OPTIONAL,
        ),
        Extension(
            LAYOUT,
            sorted(glob("csrc/layout/*.cpp")),
            depends=[*sorted(glob("csrc/layout/*.h")), "csrc/cpu/isa.h"],
            language="c++",
            optional=OPTIONAL,
        ),
    ],
    cmdclass={"build_ext": BuildNative},
)
