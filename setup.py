"""Builds the native parts: `hace_kernels._native` (torch ops) and `hace_kernels._layout` (trees).

Without a compiler the package still installs, and the PyTorch reference serves.
HACE_REQUIRE_NATIVE=1 turns any failure of the build into an error with the compiler's message.

The CUDA kernels are built where nvcc is found; neither a GPU nor a torch with CUDA is needed.
HACE_BUILD=cpu leaves them out, and HACE_BUILD=cuda (or FORCE_CUDA=1) makes their absence an error.
HACE_CUDA_ARCHS="80 90" names the GPUs to build for.
"""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

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


BUILD = "cuda" if os.environ.get("FORCE_CUDA") == "1" else os.environ.get("HACE_BUILD", "auto")
if BUILD not in ("auto", "cpu", "cuda"):
    raise SystemExit(f"HACE_BUILD must be auto, cpu or cuda, got {BUILD!r}")

# Machine code for these (8.0 serves 8.6 and 8.9, too), and for later GPUs what they compile.
CUDA_ARCHS = os.environ.get("HACE_CUDA_ARCHS", "80 90 100 120").split()
CUDA_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-DUSE_CUDA", "--threads", "2"]

# An optional extension that fails to build leaves a warning and an install that works without it.
OPTIONAL = os.environ.get("HACE_REQUIRE_NATIVE") != "1" and BUILD != "cuda"


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc", path=os.path.join(home, "bin")) or shutil.which("nvcc")


class CudaCompiler:
    """nvcc, with what it needs of flags."""

    def __init__(self, nvcc: str, torch_include: Path) -> None:
        self.nvcc = nvcc
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        archs = [arch for arch in CUDA_ARCHS if f"compute_{arch}" in known.split()]
        if not archs:
            raise CompileError(
                f"{nvcc} compiles for none of the GPUs {CUDA_ARCHS} of HACE_CUDA_ARCHS"
            )
        targets = [f"arch=compute_{arch},code=sm_{arch}" for arch in archs]
        targets.append(f"arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        self.flags = [flag for target in targets for flag in ("-gencode", target)]
        self.flags += ["-Icsrc", "-isystem", str(torch_include)]
        self.flags += [f"-Xcompiler={flag}" for flag in ("-fPIC", "-fvisibility=hidden")]

    @property
    def libraries(self) -> list[str]:
        """The folders of CUDA's runtime, which is linked statically."""
        home = Path(os.path.realpath(self.nvcc)).parents[1]
        return [str(path) for name in ("lib64", "lib") if (path := home / name).is_dir()]

    def compile(self, source: str, folder: str, depends: list[str]) -> str:
        """The object's path; it is made anew where a source is newer."""
        target = os.path.join(folder, source + ".o")
        if newer_group([source, *depends], target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            command = [self.nvcc, *CUDA_FLAGS, *self.flags, "-c", source, "-o", target]
            print(" ".join(command), flush=True)
            done = subprocess.run(
                [*command, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"],
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise CompileError(f"nvcc failed on {source}:\n{done.stdout}{done.stderr}")
        return target


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
        cuda = self._cuda_compiler(root / "include")

        def compile_one(job: tuple[str, str, list[str]]) -> list[str]:
            source, folder, flags = job
            objects: list[str] = self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, folder),
                extra_postargs=[*BASE_FLAGS, *flags, "-Icsrc", "-isystem", str(root / "include")],
                depends=ext.depends,
            )
            return objects

        def compile_cuda(source: str) -> str:
            return cuda.compile(source, os.path.join(self.build_temp, "cuda"), ext.depends)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            of_cpp = pool.map(compile_one, jobs)
            of_cuda = [
                pool.submit(compile_cuda, source)
                for source in (sorted(glob("csrc/cuda/*.cu")) if cuda else [])
            ]
            try:
                objects = [built for job in of_cpp for built in job]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            try:
                objects += [future.result() for future in of_cuda]
            except CompileError as error:
                if BUILD == "cuda":
                    raise
                print(f"WARNING: built without the CUDA kernels. {error}", flush=True)
                cuda = None
        library = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(library), exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            library,
            library_dirs=[str(root / "lib"), *(cuda.libraries if cuda else [])],
            libraries=["torch_cpu", "c10", *(["cudart_static", "dl", "rt"] if cuda else [])],
            target_lang="c++",
        )

    def _cuda_compiler(self, torch_include: Path) -> CudaCompiler | None:
        nvcc = None if BUILD == "cpu" else find_nvcc()
        if nvcc:
            return CudaCompiler(nvcc, torch_include)
        if BUILD == "cuda":
            raise CompileError(
                "the CUDA kernels were asked for and nvcc is not found: install the CUDA toolkit, "
                "and set CUDA_HOME or put nvcc in the PATH"
            )
        return None


setup(
    ext_modules=[
        Extension(
            NATIVE,
            sorted(glob("csrc/cpu/*.cpp")),
            depends=sorted(
                path for path in glob("csrc/**/*.*h", recursive=True) if "layout" not in path
            ),
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
