"""Whether AddressSanitizer and UndefinedBehaviorSanitizer can be used here."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["preloaded", "sanitizers_lack"]

NAMES = ("libasan.so", "libubsan.so")


def libraries() -> dict[str, str]:
    """Where g++ has them; a bare name for what it has not."""
    return {name: path_of(name) for name in NAMES}


def path_of(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def preloaded() -> dict[str, str]:
    """The environment in which they watch a process that was not compiled with them."""
    return {"LD_PRELOAD": " ".join(libraries().values()), "ASAN_OPTIONS": "detect_leaks=0"}


def sanitizers_lack(folder: Path) -> str | None:
    """Why they cannot be used, or None. With some kernels' address layouts they do not start."""
    for name, path in libraries().items():
        if not Path(path).is_absolute():
            return f"g++ comes without {name}"
    program = folder / "nothing"
    source = folder / "nothing.cpp"
    source.write_text("int main() {}\n")
    command = ["g++", "-fsanitize=address,undefined", str(source), "-o", str(program)]
    for step in (command, [str(program)]):
        done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            return f"AddressSanitizer does not run here: {done.stderr[-500:]}"
    return None
