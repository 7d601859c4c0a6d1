"""Links from a page to a file of the repository that is outside of docs/ become its path in code.

They work where the pages are read in the repository, and lead nowhere on the site.
"""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls this for the text of every page."""
    depth = page.file.src_uri.count("/")

    def replaced(link: re.Match[str]) -> str:
        text, upwards, path = link.groups()
        if upwards.count("../") <= depth:  # to another page
            return link[0]
        if text.strip("`") == path.rpartition("/")[2]:
            return f"`{path}`"
        return text if path in text or "/" not in path else f"{text} (`{path}`)"

    return _LINK.sub(replaced, markdown)
