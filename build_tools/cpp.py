"""The C++ compiler, and the flags of everything that it compiles."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from .plan import Library, Object

# torch's stable ABI of 2.11: the library serves every later torch, too.
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"

# GCC 12 warns of its own immintrin.h, and torch's headers have unused parameters. Clang does not
# know all of these.
_WARNINGS = (
    *("-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    "-Wno-unknown-warning-option",
)
_FLAGS = (
    *("-std=c++17", "-O3", "-g0", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"),
    *_WARNINGS,
    "-Icsrc",
)
_KERNEL_FLAGS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")

# The flags of each instruction set that the kernels are compiled for, chosen among at run time.
_ISA_FLAGS: dict[str, tuple[str, ...]] = {"generic": ()}
if sysconfig.get_platform().endswith(("-x86_64", "-amd64")):  # the machine that is built for
    _ISA_FLAGS["avx2"] = ("-mavx2", "-mfma", "-mf16c")
    _ISA_FLAGS["avx512"] = (
        *_ISA_FLAGS["avx2"],
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"),
    )

_SHARED = ("-dynamiclib", "-undefined", "dynamic_lookup")
_LINK = _SHARED if sys.platform == "darwin" else ("-shared",)


class CompilerMissingError(Exception):
    """There is no C++ compiler."""


def compiler() -> tuple[str, ...]:
    """The C++ compiler's command: CXX ("ccache g++"), Python's own, or what is found.

    Raises:
        CompilerMissingError: none is found.
    """
    asked = os.environ.get("CXX")
    names = [asked] if asked else [sysconfig.get_config_var("CXX"), "c++", "g++", "clang++"]
    for name in filter(None, names):
        command = tuple(shlex.split(name))
        if all(shutil.which(word) for word in command if not word.startswith("-")):
            return command
    raise CompilerMissingError(
        f"CXX={asked!r} is not found"
        if asked
        else "no C++17 compiler is found: install g++ or clang++, or set CXX"
    )


def _flags_of_the_environment(*names: str) -> tuple[str, ...]:
    return tuple(word for name in names for word in shlex.split(os.environ.get(name, "")))


def native_objects(torch_folder: Path) -> tuple[Object, ...]:
    """The torch ops; *_kernel.cpp, which are free of torch, once for every instruction set."""
    base = (*compiler(), *_FLAGS, *_flags_of_the_environment("CPPFLAGS", "CXXFLAGS"))
    torch = ("-isystem", str(torch_folder / "include"), STABLE_ABI)
    objects = []
    for source in sorted(glob("csrc/cpu/*.cpp")):
        if source.endswith("_kernel.cpp"):
            for isa, flags in _ISA_FLAGS.items():
                command = (*base, *_KERNEL_FLAGS, *flags, f"-DHACE_ISA={isa}")
                objects.append(Object(source, isa, command))
        else:
            objects.append(Object(source, "torch", (*base, *torch)))
    return tuple(objects)


def native_library(
    path: str, objects: tuple[Object, ...], torch_folder: Path, libraries: tuple[str, ...] = ()
) -> Library:
    """The torch ops, as a plain shared library, not a Python module."""
    linker = (*compiler(), *_LINK, *_flags_of_the_environment("LDFLAGS"))
    of_torch = (f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
    return Library(path, objects, linker, (*of_torch, *libraries))


def layout_library() -> Library:
    """The Python module hace_kernels._layout, which is free of torch."""
    import pybind11

    includes = (sysconfig.get_path("include"), pybind11.get_include())
    base = (*compiler(), *_FLAGS, *_flags_of_the_environment("CPPFLAGS", "CXXFLAGS"))
    command = (*base, *(word for folder in includes for word in ("-isystem", folder)))
    objects = tuple(
        Object(source, "layout", command) for source in sorted(glob("csrc/layout/*.cpp"))
    )
    linker = (*compiler(), *_LINK, *_flags_of_the_environment("LDFLAGS"))
    return Library("_layout" + sysconfig.get_config_var("EXT_SUFFIX"), objects, linker)
