"""`make wheels`: the source distribution, and wheels that are checked where they will be used.

Every wheel is built from the source distribution, not from the checkout. auditwheel gives it its
manylinux tag; torch's own libraries stay outside, since they come with torch. Then it is installed
into an empty environment, and `hace.verify` runs there. The variants differ in their version
(0.1.0+cpu, and 0.1.0+cu130 by nvcc 13.0), so that pip takes neither for the other.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from build_tools import cross, cuda

_NOTHING: Mapping[str, str] = MappingProxyType({})

#: Come with torch.
EXCLUDED = ("libtorch*.so*", "libc10*.so*")


def main() -> None:
    """Raises CalledProcessError where a step fails."""
    options = _parser().parse_args()
    out = Path(options.out).resolve()
    out.mkdir(exist_ok=True)
    sdist = make_sdist(out)
    made = [sdist]
    torches = options.torch or [_torch_here()]
    here = platform.machine()
    for machine in options.machine or [here]:
        if machine != here:
            made.append(_for_another_machine(machine, sdist, torches, out))
            continue
        for variant in options.variant or (["cpu", "cuda"] if cuda.find_nvcc() else ["cpu"]):
            wheel = repair(build(sdist, variant), out)
            for torch in torches:
                check(wheel, torch)
            made.append(wheel)
    for file in made:
        print(f"{file.stat().st_size / 2**20:6.1f} MiB  {file.name}")


def _for_another_machine(machine: str, sdist: Path, torches: list[str], out: Path) -> Path:
    """The wheel for CPUs, built by a cross-compiler."""
    target = cross.Target(machine, Path("build", "cross", f"{machine}-{cross.PYTHON}").resolve())
    target.prepare()
    wheel = repair(build(sdist, "cpu", target.build_environment()), out)
    for torch in torches:
        if target.has_emulator:
            check_emulated(wheel, torch, target)
        else:
            print(f"NOT VERIFIED, since qemu-{machine} is not found: {wheel.name}")
    return wheel


def make_sdist(out: Path) -> Path:
    """The source distribution of this folder."""
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "setup.py", "-q", "sdist", "--formats", "gztar", "-d", folder)
        (made,) = Path(folder).iterdir()
        return Path(shutil.move(made, out / made.name))


def build(sdist: Path, variant: str, environment: Mapping[str, str] = _NOTHING) -> Path:
    """A wheel of the source distribution, for this Python and the torch that is here.

    `environment` has the variables of a build for another machine. The sources stay in build/wheels
    with what was compiled, so that ninja need not begin again.
    """
    folder = Path("build", "wheels").resolve()
    sources = folder / sdist.name.removesuffix(".tar.gz")
    if sources.exists():
        for entry in sources.iterdir():
            if entry.name != "build":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for stale in (*sources.glob("build/lib*"), *sources.glob("build/bdist*")):
        shutil.rmtree(stale)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    made = folder / variant
    shutil.rmtree(made, ignore_errors=True)
    _run(
        *(
            sys.executable,
            "setup.py",
            "-q",
            "egg_info",
            "--tag-build",
            f"+{local_version(variant)}",
        ),
        *("bdist_wheel", "-d", str(made)),
        cwd=sources,
        HACE_BUILD=variant,
        HACE_CUDA_ARCHS="all",
        HACE_REQUIRE_NATIVE="1",
        **environment,
    )
    (wheel,) = made.glob("*.whl")
    return wheel


def local_version(variant: str) -> str:
    """What follows the + in the version: cpu, or cu130 for what nvcc 13.0 compiles."""
    nvcc = cuda.find_nvcc()
    if variant == "cpu" or nvcc is None:
        return variant
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", told)
    if release is None:
        raise SystemExit(f"{nvcc} --version does not tell its release: {told}")
    return f"cu{release[1]}{release[2]}"


def repair(wheel: Path, out: Path) -> Path:
    """The wheel with the manylinux tag that its symbols allow."""
    excluded = [word for name in EXCLUDED for word in ("--exclude", name)]
    before = set(out.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        _run("auditwheel", "repair", *excluded, "-w", folder, str(wheel))
        (repaired,) = Path(folder).iterdir()
        target = out / repaired.name
        if target in before:
            target.unlink()
        return Path(shutil.move(repaired, target))


def check(wheel: Path, torch: str) -> None:
    """Installs the wheel into an empty environment with this torch, and verifies it there."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        _run(sys.executable, "-m", "venv", folder)
        _run(python, "-m", "pip", "install", "-q", f"torch=={torch}", str(wheel), cwd=folder)
        _run(python, "-m", "hace.verify", "--quick", "--backend", "cpu", cwd=folder)


def check_emulated(wheel: Path, torch: str, target: cross.Target) -> None:
    """The same for another machine, whose Python runs under qemu: some minutes."""
    with tempfile.TemporaryDirectory() as folder:
        packages = (f"torch=={torch}", str(wheel))
        command = (sys.executable, "-m", "pip", "install", "-q", "--target", folder)
        _run(*command, *target.pip_options(), *packages, cwd=folder)
        verify = ("-m", "hace.verify", "--quick", "--backend", "cpu")
        target.run(*verify, cwd=folder, environment={**os.environ, "PYTHONPATH": folder})


def _torch_here() -> str:
    """The version of torch, without what says where its build came from."""
    return metadata.version("torch").partition("+")[0]


def _run(*command: str, cwd: Path | str | None = None, **environment: str) -> None:
    print("+", *command, flush=True)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    subprocess.run(command, cwd=cwd, env={**clean, "PATH": path, **environment}, check=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_tools.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--variant",
        action="append",
        choices=("cpu", "cuda"),
        help="what to build; repeatable (by default both, or only cpu without nvcc)",
    )
    parser.add_argument(
        "--machine",
        action="append",
        choices=sorted({platform.machine(), *cross.ARCHITECTURES}),
        help="machine to build for; repeatable (by default this one). Others get only wheels "
        "for CPUs, and need a Debian cross-compiler",
    )
    parser.add_argument(
        "--torch",
        action="append",
        metavar="VERSION",
        help="torch to check the wheels with; repeatable (by default the installed one)",
    )
    parser.add_argument("--out", default="dist", metavar="FOLDER")
    return parser


if __name__ == "__main__":
    main()
