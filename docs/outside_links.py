"""Links from a page to a file of the repository that is outside of docs/ become its path in code.

They work where the pages are read in the repository, and lead nowhere on the site.
"""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for the text of every page."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", _as_path, markdown)


def _as_path(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return text if path in text or "/" not in path else f"{text} (`{path}`)"
