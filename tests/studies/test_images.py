"""The recipes for image data sets work on tiny made-up pictures in the archives' layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

pytest.importorskip("pandas", reason="the tables of the study are made with pandas (extra 'study')")
pytest.importorskip("PIL", reason="pictures are read with Pillow (extra 'study')")

from PIL import Image

from studies.__main__ import main
from studies.images import aircraft, cifar100, command, inat21, nabirds
from studies.images.backbone import Backbone, of_timm
from studies.images.dataset import Arrays, Dataset, Part, hold_out
from studies.images.recipe import probe, whole_network
from studies.images.views import Look, Views, random_box
from studies.results import MOST_PROBABLE, Results
from studies.run import Run, execute
from studies.task import Schedule

LOOK = Look(8, 1.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tiny_network() -> nn.Module:
    """A network that keeps a picture's colours in four squares, enough for made-up pictures."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


TINY = Backbone("tiny", tiny_network, 32, LOOK)


def coloured(label: int, size: tuple[int, int] = (12, 10), seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture in its class's colour, with some noise."""
    colour = np.random.default_rng(label).integers(20, 236, 3)
    noise = np.random.default_rng((seed, label)).integers(-8, 9, (*size, 3))
    return (colour + noise).astype(np.uint8)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_cifar(folder: Path, rows_per_class: int = 3) -> None:
    """Writes CIFAR-100's hundred classes, with class i below group i mod 20."""
    folder = folder / "cifar-100-python"
    folder.mkdir()
    names = {
        "fine_label_names": [f"thing {i}" for i in range(100)],
        "coarse_label_names": [f"things {i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names))
    for part, seed in (("train", 0), ("test", 50)):
        label = np.repeat(np.arange(100), rows_per_class).tolist()
        pixels = np.stack([coloured(c, (32, 32), seed + i) for i, c in enumerate(label)])
        flat = pixels.transpose(0, 3, 1, 2).reshape(len(label), -1)
        coarse = [c % 20 for c in label]
        rows = {"data": flat, "fine_labels": label, "coarse_labels": coarse}
        (folder / part).write_bytes(pickle.dumps(rows))


def make_aircraft(folder: Path) -> None:
    folder = folder / "fgvc-aircraft-2013b" / "data"
    planes = [
        ("F/A-18", "F/A-18", "McDonnell Douglas"),
        ("707-320", "Boeing 707", "Boeing"),
        ("737-200", "Boeing 737", "Boeing"),
        ("737-300", "Boeing 737", "Boeing"),
    ]
    write(folder / "variants.txt", *(plane[0] for plane in planes))
    for offset, part in enumerate(("train", "val", "test")):
        numbers = [f"{1000 * offset + i:07d}" for i in range(len(planes))]
        for at, level in enumerate(("variant", "family", "manufacturer")):
            lines = (f"{n} {plane[at]}" for n, plane in zip(numbers, planes, strict=True))
            write(folder / f"images_{level}_{part}.txt", *lines)
        for label, number in enumerate(numbers):
            pixels = coloured(label, (40, 30))
            pixels[-20:] = 255  # the copyright line
            save(folder / "images" / f"{number}.jpg", pixels)


def make_nabirds(folder: Path) -> None:
    """Writes four kinds, of which two plumages share a name; node 0 is the root."""
    folder = folder / "nabirds"
    write(folder / "classes.txt", "0 Birds", "2 Ducks", "5 Duck", "7 Mallard", "8 Mallard", "9 Owl")
    write(folder / "hierarchy.txt", "2 0", "5 2", "7 5", "8 5", "9 0")
    label = ["7", "8", "9", "5"] * 6
    names = [f"{i:08d}" for i in range(len(label))]
    files = [f"{int(c):04d}/{name}.jpg" for c, name in zip(label, names, strict=True)]
    write(folder / "images.txt", *map(" ".join, zip(names, files, strict=True)))
    write(folder / "image_class_labels.txt", *map(" ".join, zip(names, label, strict=True)))
    write(folder / "train_test_split.txt", *(f"{n} {int(i < 20)}" for i, n in enumerate(names)))
    for c, file in zip(label, files, strict=True):
        save(folder / "images" / file, coloured(int(c)))


def make_inat(folder: Path) -> None:
    """Writes three species, whose numbers in the file are not sorted."""
    lineages = ["A/B/C/D/E/F/F a", "A/B/C/D/E/F/F b", "G/H/I/J/K/L/L a"]
    categories = [
        {"id": number, **dict(zip(inat21.RANKS, lineages[number].split("/"), strict=True))}
        for number in (2, 0, 1)
    ]
    for name, rows in (("train_mini", 50), ("val", 4)):
        label = [i % 3 for i in range(rows)]
        images = [{"id": 7 + i, "file_name": f"{name}/{i}.jpg"} for i in range(rows)]
        annotations = [{"image_id": 7 + i, "category_id": c} for i, c in enumerate(label)]
        found = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
        for i, c in enumerate(label):
            save(folder / name / f"{i}.jpg", coloured(c))


def mean_colour(part: Part, row: int) -> npt.NDArray[np.float64]:
    pixels = np.asarray(part.pictures.picture(row), dtype=np.float64)
    return np.asarray(pixels.mean((0, 1)))


def of_class(label: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(label).integers(20, 236, 3)


def check_pictures(dataset: Dataset, colour_of_label: Callable[[int], int]) -> None:
    """Asserts that each picture of each part has the colour of its label."""
    for part in (dataset.train, dataset.validation, dataset.test):
        assert len(part.pictures) == len(part.label) > 0
        for row, label in enumerate(part.label):
            colour = of_class(colour_of_label(int(label)))
            assert np.abs(mean_colour(part, row) - colour).max() < 6


def test_cifar100(tmp_path: Path) -> None:
    make_cifar(tmp_path)
    found = cifar100.read(tmp_path)
    check_pictures(found, int)
    assert (found.tree.num_classes, found.tree.num_nodes) == (100, 120)
    names = found.tree.class_names
    assert names is not None
    assert names[47] == "things 7/thing 47"
    assert (len(found.train.label), len(found.validation.label)) == (270, 30)


def test_aircraft(tmp_path: Path) -> None:
    make_aircraft(tmp_path)
    found = aircraft.read(tmp_path)
    check_pictures(found, int)  # the white line must be cut off, or the means would differ
    names = found.tree.class_names
    assert names is not None
    assert names[0] == "McDonnell Douglas > F/A-18 > F/A-18"
    assert found.tree.lca(*found.tree.classes[[2, 3]]) == found.tree.parent(found.tree.classes[2])
    assert found.train.pictures.picture(0).size == (30, 20)


def test_nabirds(tmp_path: Path) -> None:
    make_nabirds(tmp_path)
    found = nabirds.read(tmp_path)
    check_pictures(found, lambda label: (5, 7, 8, 9)[label])
    assert found.tree.class_names == ("5 Duck", "7 Mallard", "8 Mallard", "9 Owl")
    np.testing.assert_array_equal(found.tree.depths[found.tree.classes], [2, 3, 3, 1])
    assert (len(found.train.label), len(found.validation.label), len(found.test.label)) == (
        18,
        2,
        4,
    )


def test_inat21(tmp_path: Path) -> None:
    make_inat(tmp_path)
    found = inat21.read_mini(tmp_path)
    check_pictures(found, int)
    assert (found.tree.num_classes, found.tree.depth) == (3, 6)
    assert (len(found.train.label), len(found.validation.label)) == (49, 1)
    with pytest.raises(FileNotFoundError, match=r"train\.json is missing: --data names"):
        inat21.read(tmp_path)


def test_held_out_pictures_are_others() -> None:
    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    left, held = hold_out(Part(Arrays(pixels), np.arange(40)), 0.25)
    assert (len(left.pictures), len(held.pictures)) == (30, 10)
    assert sorted([*left.label, *held.label]) == list(range(40))
    for part in (left, held):
        seen = [part.pictures.picture(i).getpixel((0, 0))[0] for i in range(len(part.pictures))]
        assert seen == list(part.label)


def test_views_are_standardised_and_depend_on_the_seed_alone() -> None:
    pixels = np.stack([coloured(0, (20, 14)), coloured(1, (20, 14))])
    part = Part(Arrays(pixels), np.array([0, 1]))
    (centre,) = Views(part, LOOK).inputs(np.array([1, 0]))
    assert centre.shape == (2, 3, 8, 8)
    colours = torch.tensor(np.stack([of_class(1), of_class(0)])) / 255
    torch.testing.assert_close(
        centre.mean((2, 3)), (colours.float() - 0.5) / 0.25, atol=0.1, rtol=0
    )
    views = Views(part, LOOK, 0.3)
    torch.manual_seed(3)
    (a,), (b,) = views.inputs(np.array([0, 1])), views.inputs(np.array([0, 1]))
    torch.manual_seed(3)
    (again,) = views.inputs(np.array([0, 1]))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("size", [(30, 20), (200, 3), (1, 1)])
def test_random_pieces_lie_inside(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    draw = np.random.default_rng(0)
    for _ in range(100):
        left, top, right, bottom = random_box(picture, 0.25, draw)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size == (30, 20):
            assert 0.25 - 1e-9 <= (right - left) * (bottom - top) / 600 <= 1
            assert 0.74 < (right - left) / (bottom - top) < 2


def test_a_whole_network_learns(tmp_path: Path) -> None:
    make_cifar(tmp_path, rows_per_class=4)
    dataset = cifar100.read(tmp_path)
    schedule = Schedule(epochs=8, batch=32, rates=(0.01, 0.1))
    task = whole_network("made", dataset, TINY, schedule, "cpu", 0.6)
    figures = execute(Run("made", "hace", "d=0.7", 0.05, 0), task).figures[MOST_PROBABLE]
    assert float(figures["test_top1"]) > 20  # of 100 classes


def test_vectors_of_a_probe_are_kept_for_the_same_labels(tmp_path: Path) -> None:
    part = Part(Arrays(np.stack([coloured(c, seed=i) for i in range(3) for c in range(6)])),
                np.tile(np.arange(6), 3))  # fmt: skip
    make_inat(tmp_path)
    tree = inat21.read_mini(tmp_path).tree
    made: list[int] = []

    def network() -> nn.Module:
        made.append(1)
        return tiny_network()

    backbone = Backbone("tiny", network, 32, LOOK)
    dataset = Dataset(tree, part, part, part)
    schedule = Schedule(epochs=1, batch=8, rates=(0.01, 0.1))
    first = probe("made", dataset, backbone, schedule, "cpu", tmp_path)
    again = probe("made", dataset, backbone, schedule, "cpu", tmp_path)
    assert len(made) == 3
    rows = np.arange(18)
    assert torch.equal(first.train.inputs(rows)[0], again.train.inputs(rows)[0])
    assert first.schedule.width == 32
    other = Dataset(tree, Part(part.pictures, part.label[::-1].copy()), part, part)
    probe("made", other, backbone, schedule, "cpu", tmp_path)
    assert len(made) == 4


def test_the_command_makes_the_protocols_runs_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inat(tmp_path)
    monkeypatch.setattr(command, "of_timm", lambda *_, **__: TINY)
    monkeypatch.setattr("studies.losses.TRIALS", 4)
    arguments = [
        "images", "inat21-mini", "--data", str(tmp_path), "--model", "tiny", "--probe",
        "--epochs", "2", "--batch", "16", "--loss", "hace", "--device", "cpu",
        "--folder", str(tmp_path / "results"),
    ]  # fmt: skip
    main(arguments)
    printed = capsys.readouterr().out
    assert "| HACE | d=" in printed
    results = Results("inat21-mini-tiny-probe", tmp_path / "results")
    number = len(results.rows)
    assert {row["loss"] for row in results} == {"ce", "smoothing", "hace"}
    main(arguments)
    assert len(Results("inat21-mini-tiny-probe", tmp_path / "results").rows) == number
    with pytest.raises(SystemExit, match="with epochs 2, now 3: give another --folder"):
        main([*arguments, "--epochs", "3"])


@pytest.mark.thorough
def test_networks_of_timm() -> None:
    pytest.importorskip("timm")
    for name, size in (("resnet10t", 32), ("vit_tiny_patch16_224", 32)):
        backbone = of_timm(name, size=size)
        vectors = backbone.make().eval()(torch.randn(2, 3, size, size))
        assert vectors.shape == (2, backbone.width)
        assert backbone.look.size == size
