"""Task: which emoji is it, in a style that no training picture has?

Reads eight openly licensed styles from the npm packages `@iconify-json/*`, and names and groups
from `emojibase-data`. The environment variable STUDY_EMOJI names the folder that `npm install`
filled (INSTALL). A class is an emoji without skin tone. Six styles are for training, one for
validation and one for the test. The tree is Unicode's group > subgroup > emoji.

A picture is drawn at 32 pixels on white and becomes one vector (`studies.gradients`), so the model
is a linear probe.
"""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import hace

from ..gradients import describe_pictures
from ..task import Schedule, Task

VERSIONS = {
    "openmoji": "1.2.29", "fluent-emoji-flat": "1.2.6", "noto-v1": "1.2.5", "emojione": "1.2.3",
    "emojione-v1": "1.2.3", "fxemoji": "1.2.2", "twemoji": "1.2.5", "noto": "1.2.9",
}  # fmt: skip
VALIDATION, TEST = "twemoji", "noto"
FEWEST = 4  # training pictures per class, at least
SIZE = 32  # pixels
COMPONENTS = 2  # emojibase's group of skin tones and hair
INSTALL = " ".join(
    ["npm install --prefix DIR emojibase-data@17.0.0"]
    + [f"@iconify-json/{style}@{version}" for style, version in VERSIONS.items()]
)


class _Emoji(NamedTuple):
    code: str
    label: str
    path: str  # in the tree


def load() -> Task:
    """All emoji with a validation picture, a test picture and at least FEWEST training pictures."""
    folder = _folder()
    drawings = {style: _drawings(folder, style) for style in VERSIONS}
    to_train = [style for style in VERSIONS if style not in (VALIDATION, TEST)]
    emoji = _emoji(folder)
    found = {style: _matched(emoji, folder, style, drawings[style]) for style in VERSIONS}
    pictures = Counter(code for style in to_train for code in found[style])
    classes = [
        e
        for e in emoji
        if pictures[e.code] >= FEWEST and e.code in found[VALIDATION] and e.code in found[TEST]
    ]
    parts = []
    for styles in (to_train, [VALIDATION], [TEST]):
        drawn, label = [], []
        for style in styles:
            for number, one in enumerate(classes):
                if one.code in found[style]:
                    drawn.append(_draw(found[style][one.code]))
                    label.append(number)
        parts.append((describe_pictures(np.stack(drawn)), np.array(label)))
    return Task.of_features(
        "emoji",
        hace.Hierarchy.from_paths([e.path for e in classes]),
        parts,
        schedule=Schedule(epochs=12, batch=256, rates=(0.013, 0.117)),
    )


def _folder() -> Path:
    folder = Path(os.environ.get("STUDY_EMOJI", ""), "node_modules")
    if not (folder / "emojibase-data").is_dir():
        raise FileNotFoundError(
            f"there are no emoji in {folder}: run `{INSTALL}` and set STUDY_EMOJI to DIR"
        )
    return folder


def _json(*parts: Path | str) -> Any:
    return json.loads(Path(*parts).read_text(encoding="utf-8"))


def _emoji(folder: Path) -> list[_Emoji]:
    names = _json(folder, "emojibase-data", "meta", "groups.json")
    groups, subgroups = names["groups"], names["subgroups"]
    return [
        _Emoji(
            e["hexcode"].lower(),
            e["label"],
            f"{groups[str(e['group'])]}/{subgroups[str(e['subgroup'])]}/{e['hexcode']}",
        )
        for e in _json(folder, "emojibase-data", "en", "data.json")
        if e.get("group", COMPONENTS) != COMPONENTS
    ]


def _drawings(folder: Path, style: str) -> dict[str, str]:
    """The SVG of every name in a style; a drawing may have several names."""
    icons = _json(folder, "@iconify-json", style, "icons.json")
    found: dict[str, str] = {}
    for name, icon in icons["icons"].items():
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        found[name] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
            f'width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
        )
    for name, alias in icons.get("aliases", {}).items():
        if alias["parent"] in found:
            found[name] = found[alias["parent"]]
    return found


def _matched(
    emoji: list[_Emoji], folder: Path, style: str, drawings: dict[str, str]
) -> dict[str, str]:
    """The drawing of each emoji's code, found by code point or, if the style has none, by name."""
    by_code = _json(folder, "@iconify-json", style, "chars.json")
    by_name = {name.replace("-", ""): name for name in drawings}
    found = {}
    for one in emoji:
        # U+FE0F only asks for a colourful drawing, and some styles leave it out of their codes.
        name = by_code.get(one.code) or by_code.get(one.code.replace("-fe0f", ""))
        name = name or by_name.get(_bare(one.label))
        if name in drawings:
            found[one.code] = drawings[name]
    return found


def _bare(label: str) -> str:
    """Only the letters and digits, without accents."""
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain.lower())


def _draw(svg: str) -> npt.NDArray[np.uint8]:
    """Pixels (SIZE, SIZE, 3), on white."""
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((SIZE, SIZE)))
