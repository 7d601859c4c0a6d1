"""The settings that compile a library with sanitizers and make them watch a Python process."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MEMORY", "THREADS", "Sanitizers"]


@dataclass(frozen=True)
class Sanitizers:
    """Some sanitizers that are used together."""

    name: str
    flags: str  # for the compiler and the linker
    libraries: tuple[str, ...]
    environment: dict[str, str]

    def preloaded(self) -> dict[str, str]:
        """Environment variables that make them watch a process not compiled with them."""
        paths = " ".join(path_of(name) for name in self.libraries)
        return {"LD_PRELOAD": paths, **self.environment}

    def lack(self, folder: Path) -> str | None:
        """Why they cannot be used, or None. On some Linux kernels' address layouts they crash.

        To find out, a small program is compiled in `folder` and run.
        """
        for name in self.libraries:
            if not Path(path_of(name)).is_absolute():
                return f"g++ comes without {name}"
        program, source = folder / "nothing", folder / "nothing.cpp"
        source.write_text("int main() {}\n")
        command = ["g++", *self.flags.split(), str(source), "-o", str(program)]
        for step in (command, [str(program)]):
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode != 0:
                return f"{self.name} cannot run here: {done.stderr[-500:]}"
        return None


def path_of(library: str) -> str:
    """The path at which g++ finds the library, or its bare name if g++ does not find it."""
    command = ["g++", f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


MEMORY = Sanitizers(
    name="AddressSanitizer",
    flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined",
    libraries=("libasan.so", "libubsan.so"),
    environment={"ASAN_OPTIONS": "detect_leaks=0"},
)

# PyTorch and Python are not compiled with ThreadSanitizer, so their memory accesses are ignored.
THREADS = Sanitizers(
    name="ThreadSanitizer",
    flags="-fsanitize=thread",
    libraries=("libtsan.so",),
    environment={
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1 halt_on_error=1 second_deadlock_stack=1"
    },
)
