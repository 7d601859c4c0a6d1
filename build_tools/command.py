"""setuptools' `build_ext`, with ninja in the place of its compilers."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info
from setuptools.errors import CompileError

from . import cpp, cuda, ninja_build, requirements
from .plan import Library
from .settings import Settings

NATIVE, LAYOUT = "hace_kernels._native", "hace_kernels._layout"


def extensions(settings: Settings) -> list[Extension]:
    """What setuptools is told; the sources are found where they are compiled."""
    if settings.build == "python":
        return []
    optional = not settings.require_native
    return [Extension(name, [], optional=optional) for name in (NATIVE, LAYOUT)]


class CheckedMetadata(dist_info):
    """Checks the build environment first.

    pip asks for the metadata before anything else. Without this check it would download what they
    name, gigabytes of torch, before the build tells that pip's own environment lacks torch.
    """

    def run(self) -> None:
        if Settings.read().build != "python":
            requirements.check()
        super().run()


class BuildNative(build_ext):
    """Compiles `hace_kernels._native` (torch ops) and `hace_kernels._layout` (trees)."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.split(".")[-1] == "_native":  # a plain shared library, not a Python module
            return os.path.join(*fullname.split(".")) + ".so"
        filename: str = super().get_ext_filename(fullname)
        return filename

    def build_extensions(self) -> None:
        settings = Settings.read()
        requirements.check()
        try:
            libraries, folder = _build(settings)
        except (cpp.CompilerMissingError, cuda.CudaMissingError, ninja_build.NinjaError) as error:
            if settings.require_native:
                raise CompileError(str(error)) from error
            print(
                f"WARNING: hace-kernels is installed WITHOUT its kernels and will run on the slow "
                f"PyTorch reference: {error}. HACE_REQUIRE_NATIVE=1 makes this an error.",
                flush=True,
            )
            return
        for name, library in zip((NATIVE, LAYOUT), libraries, strict=True):
            target = self.get_ext_fullpath(name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            self.copy_file(str(folder / library.path), target)


def _build(settings: Settings) -> tuple[list[Library], Path]:
    """Brings both libraries up to date; they lie in the folder that is returned."""
    import torch

    if sys.platform == "win32":
        raise cpp.CompilerMissingError("the kernels are not compiled on Windows yet")
    choice = cuda.choose(settings, torch.version.cuda)
    torch_folder = Path(torch.__file__).parent
    folder = _folder(torch.__version__, torch_folder)
    layout = cpp.layout_library()
    of_cpp = cpp.native_objects(torch_folder)
    native = cpp.native_library("cpp/_native.so", of_cpp, torch_folder)
    print(f"hace-kernels: {len(of_cpp)} objects of C++ by {' '.join(cpp.compiler())}", flush=True)
    print(f"CUDA kernels: {choice.why}", flush=True)
    if choice.nvcc is not None:
        of_cuda = cuda.objects(choice, torch_folder)
        path = f"{of_cuda[0].folder}/_native.so"
        both = cpp.native_library(path, of_cpp + of_cuda, torch_folder, cuda.libraries(choice))
        try:
            ninja_build.run(folder, [both, layout], settings.jobs)
            return [both, layout], folder
        except ninja_build.NinjaError as error:
            if settings.build == "cuda":
                raise
            print(f"WARNING: built without the CUDA kernels: {error}", flush=True)
    ninja_build.run(folder, [native, layout], settings.jobs)
    return [native, layout], folder


def _folder(torch_version: str, torch_folder: Path) -> Path:
    """Where objects are kept from one build to the next: a folder per Python, torch and compiler.

    ninja sees to other changes of the flags, and of the sources.
    """
    soabi = sysconfig.get_config_var("SOABI")
    rest = repr(
        (torch_folder, cpp.compiler(), [os.environ.get(x) for x in ("CPPFLAGS", "CXXFLAGS")])
    )
    digest = hashlib.sha256(rest.encode()).hexdigest()[:8]
    return Path("build") / f"native-{soabi}-torch-{torch_version}-{digest}"
