"""What is compiled from what: objects and the libraries they are linked into, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Object:
    """One call of a compiler.

    Attributes:
        source: path from the root of the sources.
        folder: of the object, in the build folder; sources compiled several times have several.
        compiler: the command with its flags, without source, output and dependencies.
    """

    source: str
    folder: str
    compiler: tuple[str, ...]

    @property
    def path(self) -> str:
        """The object's path in the build folder."""
        return f"{self.folder}/{self.source}.o"

    @property
    def label(self) -> str:
        """What is shown while it is compiled."""
        return f"{self.source} ({self.folder})"


@dataclass(frozen=True)
class Library:
    """A shared library, linked from objects.

    Attributes:
        path: in the build folder.
        linker: the command with its flags, without objects, libraries and output.
        libraries: arguments that come after the objects.
    """

    path: str
    objects: tuple[Object, ...]
    linker: tuple[str, ...]
    libraries: tuple[str, ...] = ()
