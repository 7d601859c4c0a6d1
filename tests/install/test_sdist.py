"""The source distribution has every file of the git repository, including tests and docs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        not (ROOT / ".git").exists() or shutil.which("git") is None,
        reason="this is not a git checkout",
    ),
]

#: Files that concern only the repository, not a source distribution.
LEFT_OUT = {".ci/run", ".clang-format", ".gitignore"}


def test_everything_is_in_it(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--formats", "gztar", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "HACE_BUILD": "cpu"},
        capture_output=True,
        check=True,
    )
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        members = [member for member in opened.getmembers() if member.isfile()]
    held = {member.name.partition("/")[2] for member in members}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tracked = {name for name in listed if (ROOT / name).exists()}
    missing = {name for name in tracked - held if not name.startswith(".github/")} - LEFT_OUT
    assert missing == set()
    assert not [name for name in held if name.endswith((".so", ".pyc", ".o"))]
