"""Writes a build down for ninja and runs it.

ninja compiles what is out of date: a source or header changed (the compilers write down which
headers they read), or the command did. Objects of one source that is compiled several times, and
of C++ and CUDA, are made side by side.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .plan import Library


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Waits until no other build runs in the folder."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class NinjaError(Exception):
    """A compiler failed; what it said is on the screen."""


def write(folder: Path, libraries: Sequence[Library]) -> Path:
    """The ninja file of these libraries and their objects, in `folder`."""
    from ninja import ninja_syntax

    path = folder / "build.ninja"
    with open(path, "w") as file:
        writer = ninja_syntax.Writer(file, width=10_000)

        def escaped(words: Sequence[str]) -> str:
            escape: str = ninja_syntax.escape(shlex.join(words))
            return escape

        writer.variable("builddir", str(folder))
        writer.rule(
            "compile",
            "$compiler -MD -MF $out.d -c $in -o $out",
            description="$label",
            depfile="$out.d",
            deps="gcc",
        )
        writer.rule("link", "$linker $in $libraries -o $out", description="link $out")
        for source in {
            item.path: item for library in libraries for item in library.objects
        }.values():
            writer.build(
                str(folder / source.path),
                "compile",
                source.source,
                variables={"compiler": escaped(source.compiler), "label": source.label},
            )
        for library in libraries:
            writer.build(
                str(folder / library.path),
                "link",
                [str(folder / source.path) for source in library.objects],
                variables={
                    "linker": escaped(library.linker),
                    "libraries": escaped(library.libraries),
                },
            )
    return path


def run(folder: Path, libraries: Sequence[Library], jobs: int | None = None) -> None:
    """Brings the libraries up to date; one such run at a time in a folder.

    Raises:
        NinjaError: a compiler or the linker failed.
    """
    import ninja

    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(folder / "build.ninja")]
    command += ["-j", str(jobs)] if jobs else []
    environment = {"NINJA_STATUS": "[%f/%t] ", **os.environ}
    sys.stdout.flush()
    with _lock(folder):
        write(folder, libraries)
        done = subprocess.run(
            [*command, *(str(folder / library.path) for library in libraries)],
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        raise NinjaError("compilation failed; the command and its messages are above, after FAILED")
