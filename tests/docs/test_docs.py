"""Every Python block of the README and the pages runs as it stands; a page's blocks run in a row.

Code that needs several processes is fenced as `{ .python }`, and tests/distributed tests it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.remove(ROOT / "docs" / "files.md")  # test_files_page.py makes the files that the page reads
BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```", re.M | re.S)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The blocks of a page, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(text)]


WITH_CODE = [page for page in PAGES if blocks(page)]


def test_pages_are_found() -> None:
    assert {"README.md", "index.md", "getting-started.md"} <= {page.name for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, block in blocks(page):
        # With these blank lines, a traceback has the page's own line numbers.
        exec(compile("\n" * line + block, str(page), "exec"), namespace)
