"""Whether the CUDA kernels are compiled, for which GPUs, and how."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from .cpp import STABLE_ABI
from .plan import Object
from .settings import Settings

# Machine code for these (8.0 serves 8.6 and 8.9, too), and for later GPUs what they compile.
USUAL_ARCHS = ("80", "90", "100", "120")

_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-DUSE_CUDA", "--threads", "2", "-Icsrc")
_HOST_FLAGS = ("-fPIC", "-fvisibility=hidden")


class CudaMissingError(Exception):
    """The CUDA kernels were asked for, and something is missing."""


@dataclass(frozen=True)
class Choice:
    """Whether and for what CUDA is compiled; `why` says so on the screen."""

    nvcc: str | None
    archs: tuple[str, ...]
    why: str


def choose(settings: Settings, torch_cuda: str | None) -> Choice:
    """Whether CUDA kernels are compiled; `torch_cuda` is `torch.version.cuda`.

    Raises:
        CudaMissingError: HACE_BUILD=cuda and there is no nvcc, or it compiles for none of the GPUs.
    """
    if settings.build == "cpu":
        return Choice(None, (), "left out, as HACE_BUILD=cpu asks")
    if settings.build == "auto" and torch_cuda is None:
        return Choice(None, (), "left out, since this torch has no CUDA; HACE_BUILD=cuda has them")
    nvcc = find_nvcc()
    if nvcc is None:
        if settings.build == "cuda":
            raise CudaMissingError(
                "the CUDA kernels were asked for and nvcc is not found: install the CUDA toolkit, "
                "and set CUDA_HOME or put nvcc in the PATH"
            )
        return Choice(None, (), "left out, since nvcc is not found (CUDA_HOME says where it is)")
    known = known_archs(nvcc)
    wanted, whence = USUAL_ARCHS, 'for all usual GPUs; HACE_CUDA_ARCHS="90" for fewer'
    if settings.cuda_archs is None:
        if gpus := gpus_at_hand():
            wanted, whence = gpus, 'for the GPUs at hand; HACE_CUDA_ARCHS="all" for all'
    elif settings.cuda_archs != ("all",):
        wanted, whence = settings.cuda_archs, "as HACE_CUDA_ARCHS asks"
    archs = tuple(sorted({arch for arch in wanted if arch in known}, key=int))
    if not archs:
        raise CudaMissingError(
            f"{nvcc} compiles for none of the GPUs {' '.join(wanted)} ({whence}); it knows "
            f"{' '.join(known)}"
        )
    why = f"compiled for sm_{' sm_'.join(archs)} ({whence}; HACE_BUILD=cpu leaves them out)"
    return Choice(nvcc, archs, why)


def find_nvcc() -> str | None:
    """nvcc's path, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc", path=os.path.join(home, "bin")) or shutil.which("nvcc")


def known_archs(nvcc: str) -> list[str]:
    """The compute capabilities that nvcc compiles for."""
    told = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False)
    return [line.removeprefix("compute_") for line in told.stdout.split()]


def gpus_at_hand() -> tuple[str, ...]:
    """The compute capabilities of the GPUs that torch finds; none where it has no CUDA."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return tuple(f"{major}{minor}" for major, minor in sorted(found))


def objects(choice: Choice, torch_folder: Path) -> tuple[Object, ...]:
    """Every .cu file, compiled for all GPUs of the choice."""
    if choice.nvcc is None:
        return ()
    targets = [f"arch=compute_{arch},code=sm_{arch}" for arch in choice.archs]
    targets.append(f"arch=compute_{choice.archs[-1]},code=compute_{choice.archs[-1]}")
    command = (
        choice.nvcc,
        *_FLAGS,
        *("-isystem", str(torch_folder / "include"), STABLE_ABI),
        *(word for target in targets for word in ("-gencode", target)),
        *(f"-Xcompiler={flag}" for flag in _HOST_FLAGS),
    )
    folder = f"cuda-{'-'.join(choice.archs)}"
    return tuple(Object(source, folder, command) for source in sorted(glob("csrc/cuda/*.cu")))


def libraries(choice: Choice) -> tuple[str, ...]:
    """What the linker is told of CUDA's runtime, which is linked statically."""
    if choice.nvcc is None:
        return ()
    home = Path(os.path.realpath(choice.nvcc)).parents[1]
    folders = [path for name in ("lib64", "lib") if (path := home / name).is_dir()]
    return (*(f"-L{path}" for path in folders), "-lcudart_static", "-ldl", "-lrt", "-lpthread")
