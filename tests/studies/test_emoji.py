"""The task `emoji` on made-up styles of three emoji each, and how pictures become vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from studies.gradients import CELL, ORIENTATIONS, describe_pictures
from studies.tasks import emoji

EMOJI = [  # code, label, group, subgroup, colour
    ("1F600", "grinning face", 0, 0, "#ff0000"),
    ("2764-FE0F", "red heart", 0, 1, "#00ff00"),
    ("1F469", "woman", 1, 2, "#0000ff"),
    ("1F3FB", "light skin tone", 2, 3, "#000000"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `npm install` makes it.

    Half of the styles have code points, and one style lacks an emoji.
    """

    def write(content: object, *parts: str) -> None:
        path = Path(tmp_path, "node_modules", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    data = [
        {"hexcode": code, "label": label, "group": group, "subgroup": subgroup}
        for code, label, group, subgroup, _ in EMOJI
    ]
    data.append({"hexcode": "1F1E6", "label": "regional indicator A"})  # has no group
    write(data, "emojibase-data", "en", "data.json")
    groups = {"0": "smileys", "1": "people", "2": "component"}
    subgroups = {"0": "face-smiling", "1": "heart", "2": "person", "3": "skin-tone"}
    write({"groups": groups, "subgroups": subgroups}, "emojibase-data", "meta", "groups.json")
    for number, style in enumerate(emoji.VERSIONS):
        has_codes = number % 2 == 0
        icons = {
            ("code-" if has_codes else "") + label.replace(" ", "-"): {"body": f"<b {colour}/>"}
            for _, label, _, _, colour in EMOJI
        }
        if style == "fxemoji":
            del icons["woman"]
        codes = {
            code.lower().replace("-fe0f", ""): "code-" + label.replace(" ", "-")
            for code, label, *_ in EMOJI
        }
        aliases = {"an-alias": {"parent": next(iter(icons))}, "of-nothing": {"parent": "gone"}}
        write({"icons": icons, "aliases": aliases, "width": 64, "height": 64},
              "@iconify-json", style, "icons.json")  # fmt: skip
        write(codes if has_codes else {}, "@iconify-json", style, "chars.json")
    monkeypatch.setenv("STUDY_EMOJI", str(tmp_path))
    return tmp_path


def test_pictures_are_of_their_class_and_a_style_is_in_one_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw(svg: str) -> npt.NDArray[np.uint8]:
        drawn.append(svg)
        colour = bytes.fromhex(svg.split("<b #")[1][:6])
        return np.full((emoji.SIZE, emoji.SIZE, 3), list(colour), dtype=np.uint8)

    monkeypatch.setattr(emoji, "_draw", draw)
    monkeypatch.setattr(emoji, "FEWEST", 5)
    task = emoji.load()
    assert 'viewBox="0 0 64 64"' in drawn[0]
    assert task.tree.class_names == (
        "smileys/face-smiling/1F600", "smileys/heart/2764-FE0F", "people/person/1F469",
    )  # fmt: skip
    np.testing.assert_array_equal(task.train_counts(), [6, 6, 5])
    np.testing.assert_array_equal(task.validation.label, [0, 1, 2])
    np.testing.assert_array_equal(task.test.label, [0, 1, 2])
    # The last features are mean colours (red, green, blue), standardised with the same figures.
    rows = np.arange(3)
    (test,), (validation,) = task.test.inputs(rows), task.validation.inputs(rows)
    np.testing.assert_array_equal(test, validation)
    np.testing.assert_array_equal(test[:, -3:].argmax(0), [0, 1, 2])


def test_without_the_packages_it_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_EMOJI", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"npm install --prefix DIR emojibase-data@17\.0"):
        emoji.load()


def test_edges_are_counted_by_orientation() -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:, 4:] = 255  # an edge from left to right: its gradient has angle 0
    lying = upright.transpose(1, 0, 2)
    vectors = describe_pictures(np.stack([upright, lying]))
    cells = (8 // CELL) ** 2
    edges = vectors[:, : cells * ORIENTATIONS].reshape(2, cells, ORIENTATIONS).sum(1)
    assert (edges[0] > 0).nonzero()[0].tolist() == [0]
    # 90° is half-way between two of the nine orientations, 80° and 100°.
    assert (edges[1] > 0).nonzero()[0].tolist() == [4, 5]
    colours = vectors[:, cells * ORIENTATIONS :].reshape(2, 2, 2, 3)
    np.testing.assert_allclose(colours[0, :, 0], 0)
    np.testing.assert_allclose(colours[0, :, 1], 2)


def test_a_picture_of_one_colour_has_no_edges() -> None:
    vectors = describe_pictures(np.full((1, 8, 8, 3), 255, np.uint8))
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[0, : 4 * ORIENTATIONS], 0)
