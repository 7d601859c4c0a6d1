"""`python -m hace tree`: reads a file, and writes a tree in a data set's label order."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from hace import Hierarchy
from hace.__main__ import main

ROWS = "parent,child\nanimal,dog\ndog,husky\ndog,pug\nanimal,cat\nthing,car\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tree.csv"
    path.write_text(ROWS)
    return path


def test_what_was_read(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", str(file)]) == 0
    told = capsys.readouterr()
    tree = Hierarchy.from_csv(file)
    assert tree.describe() in told.out
    assert tree.to_text() in told.out
    assert not told.err
    assert main(["tree", str(file), "--depth", "0"]) == 0
    assert "animal  … 2 children\nthing  … 1 child\n" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["lines", "list", "class_to_idx", "id2label", "config", "folder"])
def test_labels_and_save(
    file: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["car", "husky", "pug"]
    labels = tmp_path / "labels.json"
    if form == "lines":
        labels = tmp_path / "labels.txt"
        labels.write_text("car\nhusky\n\npug\n")
    elif form == "folder":
        labels = tmp_path / "train"
        for name in reversed(names):
            (labels / name).mkdir(parents=True)
        (labels / "readme.txt").touch()
    elif form == "list":
        labels.write_text(json.dumps(names))
    elif form == "class_to_idx":
        labels.write_text(json.dumps({"pug": 2, "car": 0, "husky": 1}))
    else:
        id2label = {"2": "pug", "0": "car", "1": "husky"}
        labels.write_text(json.dumps({"id2label": id2label} if form == "config" else id2label))
    saved = tmp_path / "tree.npz"
    assert main(["tree", str(file), "--labels", str(labels), "--save", str(saved)]) == 0
    assert Hierarchy.load(saved) == Hierarchy.from_csv(file).subset(names)
    assert main(["tree", str(saved)]) == 0
    assert "0 = thing > car" in capsys.readouterr().out


def test_other_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(name: str, text: str, *options: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        assert main(["tree", str(path), *options]) == 0
        return capsys.readouterr().out.split("\n\n")[1].strip()

    drawn = "a\n├── b  [0]\n└── c  [1]"
    assert told("a.json", '{"a": ["b", "c"]}') == drawn
    named = ["--parent", "up", "--child", "id", "--name", "word"]
    assert told("i.csv", "id,up,word\n1,,a\n2,1,b\n3,1,c\n", *named) == drawn
    nested = '{"id": "a", "sub": [{"id": "b"}, {"id": "c"}]}'
    assert told("b.json", nested, "--name", "id", "--children", "sub") == drawn
    assert told("a.txt", "a\n  b\n  c\n", "--as", "outline") == drawn
    assert told("b.txt", "a\n-- b\n-- c\n", "--as", "outline", "--indent=--") == drawn
    assert told("c.txt", "a>b\na>c\n", "--as", "paths", "--sep", ">") == drawn
    assert told("d.txt", "a\nab\nac\n", "--as", "codes") == "a\n├── ab  [0]\n└── ac  [1]"
    headless = ["--parent", "1", "--child", "0", "--delimiter", r"\t|\t"]
    assert told("e.dmp", "a\t|\ta\t|\nb\t|\ta\t|\nc\t|\ta\t|\n", *headless) == drawn
    assert told("f.csv", "k,s\na,b\na,c\n", "--levels", "k", "s") == drawn
    options = ["--skip", "1", "--parent", "up", "--child", "id", "--missing", "NA"]
    assert told("g.csv", "x,y\nup,id\nNA,a\na,b\na,c\n", *options) == drawn
    dag = ["--allow-multiple-parents", "--single-parent"]
    assert told("h.csv", "parent,child\na,b\na,c\nd,b\n", *dag) == drawn


def test_what_cannot_be_read(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tree", str(tmp_path / "absent.csv")]) == 1
    assert "error: " in capsys.readouterr().err
    assert main(["tree", str(file), "--parent", "up"]) == 1
    assert "no column is called 'up'" in capsys.readouterr().err
    labels = tmp_path / "labels.txt"
    labels.write_text("Husky\ncar\n")
    assert main(["tree", str(file), "--labels", str(labels)]) == 1
    assert "label 0, 'Husky', is near 'husky'" in capsys.readouterr().err
    assert main(["tree", str(file), "--labels", str(tmp_path / "empty")]) == 1
    (tmp_path / "folder").mkdir()
    assert main(["tree", str(file), "--labels", str(tmp_path / "folder")]) == 1
    assert "has no folder in it" in capsys.readouterr().err
    assert main(["tree", str(file), "--save", str(tmp_path / "absent" / "tree.npz")]) == 1
    assert "error: " in capsys.readouterr().err
    (tmp_path / "broken.json").write_text('{"a": [')
    assert main(["tree", str(tmp_path / "broken.json")]) == 1
    assert "error: " in capsys.readouterr().err
    reversed_file = tmp_path / "reversed.csv"
    reversed_file.write_text("parent,child\ndog,animal\ncar,thing\n")
    assert main(["tree", str(reversed_file)]) == 0
    assert "warning: no node of this hierarchy has two children" in capsys.readouterr().err


def test_as_a_program(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hace", "tree", str(file)])
    monkeypatch.delitem(sys.modules, "hace.__main__")
    with pytest.raises(SystemExit) as left:
        runpy.run_module("hace", run_name="__main__")
    assert left.value.code == 0
    assert "kind" in capsys.readouterr().out


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as told:
        main(["--help"])
    assert told.value.code == 0
    assert "tree" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        main([])
    assert wrong.value.code == 2
