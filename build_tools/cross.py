"""Wheels for a machine of another kind: a cross-compiler builds them, and qemu runs their checks.

A Debian root of that machine, unpacked and never booted, has the Python that the wheel is for: its
headers, what sysconfig says there, and the interpreter that qemu-user runs. On Debian:
`apt-get install g++-aarch64-linux-gnu mmdebstrap qemu-user`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: The Debian release that has this Python.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie", (3, 14): "forky"}

#: What Debian calls the machines.
ARCHITECTURES = {"aarch64": "arm64"}

#: Their libraries come with torch. To link, only their names are needed: they are stood for by
#: empty libraries, so that no torch for that machine is needed to build.
OF_TORCH = ("torch_cpu", "c10")

#: As Linux writes of it in /proc/cpuinfo.
_CORTEX_A72 = """\
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Target:
    """A machine of another kind.

    Attributes:
        machine: as `uname -m` calls it there.
        folder: holds its Debian root, and what is made for the build.
    """

    machine: str
    folder: Path

    @property
    def root(self) -> Path:
        """The Debian root."""
        return self.folder / "root"

    @property
    def triplet(self) -> str:
        """As GCC and Debian call the machine."""
        return f"{self.machine}-linux-gnu"

    def prepare(self) -> None:
        """Unpacks the Debian root, once, and makes what the build reads.

        Raises:
            SystemExit: a tool is missing, or no Debian release has this Python.
        """
        for tool in (self._compiler, "mmdebstrap"):
            if shutil.which(tool) is None:
                raise SystemExit(
                    f"wheels for {self.machine} need {tool}: apt-get install "
                    f"g++-{self.triplet} mmdebstrap qemu-user"
                )
        suite = SUITES.get(sys.version_info[:2])
        if suite is None:
            versions = ", ".join(f"{major}.{minor}" for major, minor in SUITES)
            raise SystemExit(
                f"wheels for {self.machine} are made here for the Pythons that a Debian release "
                f"has, which are {versions}; for {PYTHON}, run `make wheels` on such a machine"
            )
        if not self._python.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            packages = f"{PYTHON},lib{PYTHON}-dev,libstdc++6"
            architecture = ARCHITECTURES[self.machine]
            command = ("--variant=extract", f"--architectures={architecture}")
            _run("mmdebstrap", *command, f"--include={packages}", suite, str(self.root))
        self._describe_processor()
        settings = self.root / "usr" / "lib" / PYTHON / f"{self._settings}.py"
        (self.folder / "settings").mkdir(exist_ok=True)
        shutil.copy2(settings, self.folder / "settings")
        for name in OF_TORCH:
            soname = f"lib{name}.so"
            flags = ("-shared", f"-Wl,-soname,{soname}", "-x", "c++", "/dev/null")
            _run(self._compiler, *flags, "-o", str(self.folder / soname))

    def build_environment(self) -> dict[str, str]:
        """What makes Python's build tools build for that machine (CPython's own way), and ours."""
        include = self.root / "usr" / "include"
        return {
            "_PYTHON_HOST_PLATFORM": f"linux-{self.machine}",
            "_PYTHON_SYSCONFIGDATA_NAME": self._settings,
            "PYTHONPATH": str(self.folder / "settings"),
            "CXX": self._compiler,
            "CPPFLAGS": f"-I{include / PYTHON} -idirafter {include}",
            "LDFLAGS": f"-L{self.folder} -Wl,--no-as-needed",
        }

    def pip_options(self) -> tuple[str, ...]:
        """What has pip take wheels for that machine."""
        platforms = [f"manylinux_2_{minor}_{self.machine}" for minor in range(36, 16, -1)]
        platforms.append(f"manylinux2014_{self.machine}")
        return (
            *(word for name in platforms for word in ("--platform", name)),
            "--only-binary=:all:",
        )

    def run(self, *arguments: str, cwd: str, environment: Mapping[str, str]) -> None:
        """That machine's Python, under qemu."""
        _run(
            *(f"qemu-{self.machine}", "-cpu", "cortex-a72", "-L", str(self.root)),
            *(str(self._python), *arguments),
            cwd=cwd,
            environment=environment,
        )

    def _describe_processor(self) -> None:
        """What torch reads of the processor when it is imported; qemu prefers files of the root.

        Without them it reads those of the machine that emulates, and crashes.
        """
        present = range(os.cpu_count() or 1)
        folder = self.root / "proc"
        folder.mkdir(exist_ok=True)
        text = "".join(f"processor\t: {number}\n{_CORTEX_A72}\n" for number in present)
        (folder / "cpuinfo").write_text(text)
        for number in present:
            registers = self.root / f"sys/devices/system/cpu/cpu{number}/regs/identification"
            registers.mkdir(parents=True, exist_ok=True)
            (registers / "midr_el1").write_text("0x00000000410fd083\n")

    @property
    def has_emulator(self) -> bool:
        """Whether `run` can."""
        return shutil.which(f"qemu-{self.machine}") is not None

    @property
    def _compiler(self) -> str:
        return f"{self.triplet}-g++"

    @property
    def _python(self) -> Path:
        return self.root / "usr" / "bin" / PYTHON

    @property
    def _settings(self) -> str:
        return f"_sysconfigdata__{self.triplet}"


def _run(
    *command: str, cwd: str | None = None, environment: Mapping[str, str] | None = None
) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, env=environment, check=True)
