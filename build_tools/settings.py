"""The environment variables of the build, with their names and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

BUILDS = ("auto", "cpu", "cuda", "python")


@dataclass(frozen=True)
class Settings:
    """The build that is asked for.

    Attributes:
        build: `HACE_BUILD`. "cpu" compiles C++, "cuda" C++ and CUDA, "auto" (the default) C++, and
            CUDA where both nvcc and a torch with CUDA are at hand; "python" compiles nothing.
        require_native: `HACE_REQUIRE_NATIVE=1`: a failing build is an error. Otherwise it is a
            warning, and the installed package runs on its PyTorch reference.
        cuda_archs: `HACE_CUDA_ARCHS="80 90"`, the compute capabilities to compile for, "all" for
            all that are usual; None: for the GPUs at hand.
        jobs: `MAX_JOBS`, how many compilers run at once; None: as many as ninja likes.
    """

    build: str = "auto"
    require_native: bool = False
    cuda_archs: tuple[str, ...] | None = None
    jobs: int | None = None

    @staticmethod
    def read(environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables; raises SystemExit for a value without a meaning."""
        build = environment.get("HACE_BUILD") or "auto"
        if environment.get("FORCE_CUDA") == "1":  # what PyTorch's own extensions call it
            build = "cuda"
        if build not in BUILDS:
            raise SystemExit(f"HACE_BUILD must be one of {', '.join(BUILDS)}, got {build!r}")
        archs = environment.get("HACE_CUDA_ARCHS", "").replace(".", "").split()
        if not all(arch.isdecimal() for arch in archs) and archs != ["all"]:
            raise SystemExit(
                'HACE_CUDA_ARCHS must be compute capabilities such as "80 90", or "all", got '
                f"{environment['HACE_CUDA_ARCHS']!r}"
            )
        jobs = environment.get("MAX_JOBS", "")
        if jobs and (not jobs.isdecimal() or int(jobs) == 0):
            raise SystemExit(f"MAX_JOBS must be a positive integer, got {jobs!r}")
        return Settings(
            build=build,
            require_native=environment.get("HACE_REQUIRE_NATIVE") == "1" or build == "cuda",
            cuda_archs=tuple(archs) or None,
            jobs=int(jobs) if jobs else None,
        )
