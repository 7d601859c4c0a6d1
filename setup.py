"""Compiles the kernels on installation; `build_tools` says how, pyproject.toml has all the rest.

HACE_BUILD, HACE_REQUIRE_NATIVE, HACE_CUDA_ARCHS and MAX_JOBS in the environment are explained in
`build_tools/settings.py`; CXX, CXXFLAGS and LDFLAGS mean what they always do.
"""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))  # pip runs this file without it

from build_tools import requirements

requirements.check_setuptools()

from build_tools.command import BuildNative, CheckedMetadata, extensions  # noqa: E402
from build_tools.settings import Settings  # noqa: E402

setup(
    ext_modules=extensions(Settings.read()),
    cmdclass={"build_ext": BuildNative, "dist_info": CheckedMetadata},
)
