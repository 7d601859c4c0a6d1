"""The code of docs/files.md runs, section by section, on small made-up files.

In the page, a comment `<!-- needs: … -->` names the modules that a section imports,
`<!-- setup … -->` has code that a reader does not need, and `<!-- check … -->` has assertions about
the code above it.
"""

from __future__ import annotations

import importlib
import pickle
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import hace
from hace.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "files.md"

_BLOCK = re.compile(
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```$|^<!-- (?P<kind>setup|check)\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    kind: str
    code: str
    line: int


def sections() -> dict[str, tuple[list[str], list[Block]]]:
    """The modules that each section needs, and its blocks."""
    page = PAGE.read_text(encoding="utf-8")
    found = {}
    starts = [0, *(match.start() for match in re.finditer("^## ", page, re.MULTILINE)), len(page)]
    for start, stop in pairwise(starts):
        text = page[start:stop]
        needs = [
            name for line in re.findall(r"<!-- needs: (.*) -->", text) for name in line.split()
        ]
        blocks = [
            Block(
                match["kind"] or match["language"],
                match["hidden"] or match["code"],
                page.count("\n", 0, start + match.start("hidden" if match["kind"] else "code")),
            )
            for match in _BLOCK.finditer(text)
        ]
        if blocks:
            found[text.splitlines()[0].lstrip("# ")] = (needs, blocks)
    return found


FILES = {
    "animals.csv": "parent,child\nanimal,dog\nanimal,cat\ndog,husky\ndog,beagle\ndog,pug\n"
    "cat,siamese\n",
    "taxa.csv": "parent_id,id,rank\n,1,order\n1,2,family\n1,3,family\n2,4,species\n",
    "named.csv": "id,parent_id,name\n1,,Animals\n2,1,Dogs\n4,2,husky\n6,1,siamese\n",
    "names.txt": "1 Birds\n2 Owls\n3 Eagles\n9 Tawny Owl\n10 Barn Owl\n",
    "no_header.txt": "2 1\n3 1\n10 2\n9 2\n",
    "levels.tsv": "Order\tFamily\tSpecies\nOwls\tStrigidae\tBubo bubo\n"
    "Owls\tTytonidae\tTyto alba\nEels\t\t\n",
    "lineages.tsv": "Id\tTaxon\n1\tf__Owls; g__Bubo; s__bubo\n2\tf__Owls; g__; s__\n",
    "adjacency.txt": "Root\tA\tB\nA\tA1\tA2\n",
    "coco.json": '{"categories": [{"supercategory": "person", "name": "person", "id": 1},'
    ' {"supercategory": "vehicle", "name": "car", "id": 3}]}',
    "flare.json": '{"name": "flare", "children": [{"name": "vis"}, {"name": "util"}]}',
    "outline.txt": "animal\n  dog\n    husky\n  cat\n",
    "terms.obo": "format-version: 1.2\nontology: made\n\n"
    "[Term]\nid: X:1\nname: thing\n\n"
    "[Term]\nid: X:2\nname: animal\nis_a: X:1 ! thing\n\n"
    "[Term]\nid: X:3\nname: pet\nis_a: X:1 ! thing\n\n"
    "[Term]\nid: X:4\nname: dog\nis_a: X:2 ! animal\nis_a: X:3 ! pet\nrelationship: part_of X:1\n\n"
    "[Term]\nid: X:5\nname: alone\n\n"
    "[Term]\nid: X:6\nname: gone\nis_obsolete: true\n\n"
    "[Typedef]\nid: part_of\nname: part of\n",
    "concepts.ttl": "@prefix skos: <http://www.w3.org/2004/02/skos/core#> .\n"
    "@prefix x: <http://example.org/> .\n"
    "x:dog a skos:Concept .\nx:stone a skos:Concept .\n"
    "x:husky a skos:Concept ; skos:broader x:dog .\nx:pug a skos:Concept ; skos:broader x:dog .\n",
    "tree.nwk": "((A:0.1,B:0.2):0.3,C:0.4);\n",
    "nodes.dmp": "1\t|\t1\t|\tno rank\t|\n40674\t|\t1\t|\tclass\t|\n"
    "9606\t|\t40674\t|\tspecies\t|\n10090\t|\t40674\t|\tspecies\t|\n7\t|\t1\t|\tspecies\t|\n",
    "taxonomy.en-US.txt": "# Google_Product_Taxonomy_Version: 0\nAnimals & Pets\n"
    "Animals & Pets > Pet Food\nAnimals & Pets > Toys\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the page mentions."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name in ("husky", "siamese", "beagle"):
        (tmp_path / "train" / name).mkdir(parents=True)
    cifar = tmp_path / "cifar-100-python"
    cifar.mkdir()
    meta = {"fine_label_names": ["apple", "ray", "pear"], "coarse_label_names": ["fish", "fruit"]}
    (cifar / "meta").write_bytes(pickle.dumps(meta))
    train = {"fine_labels": [2, 0, 1, 0], "coarse_labels": [1, 1, 0, 1]}
    (cifar / "train").write_bytes(pickle.dumps(train))
    with sqlite3.connect(tmp_path / "taxa.db") as database:
        database.execute("CREATE TABLE taxa (id INTEGER, parent_id INTEGER)")
        rows = [(1, None), (2, 1), (3, 1), (4, 2)]
        database.executemany("INSERT INTO taxa VALUES (?, ?)", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def caught(call: Callable[[], object]) -> Exception:
    """The error that a call raises."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("the call raised nothing")


def draw_pictures(folder: Path) -> Iterator[Path]:
    """Writes a picture of noise into each folder of `train`."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    for place in sorted((folder / "train").iterdir()):
        image.effect_noise((4, 4), 80).convert("RGB").save(place / "1.png")
        yield place


@pytest.mark.filterwarnings("error::UserWarning:hace")
@pytest.mark.parametrize("title", sections())
def test_section(title: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs, blocks = sections()[title]
    for module in needs:
        try:
            importlib.import_module(module)
        except Exception as error:  # torchvision beside another torch: RuntimeError
            pytest.skip(f"{module}, which this section uses, cannot be imported: {error}")
    if "torchvision" in needs:
        assert len(list(draw_pictures(folder))) == 3
    variables: dict[str, Any] = {"hace": hace, "caught": caught}
    for kind, text, line in blocks:
        if kind == "sh":
            for command in text.splitlines():
                words = shlex.split(command)
                assert words[:3] == ["python", "-m", "hace"], command
                assert main(words[3:]) == 0
        else:
            # With these blank lines, a traceback has the page's own line numbers.
            exec(compile("\n" * line + text, str(PAGE), "exec"), variables)
    capsys.readouterr()


def test_the_page_has_what_it_promises() -> None:
    found = sections()
    assert len(found) > 15
    kinds = [block.kind for _, blocks in found.values() for block in blocks]
    assert kinds.count("python") > 20
    assert kinds.count("check") > 12
    modules = {module for needs, _ in found.values() for module in needs}
    assert {"pandas", "networkx", "obonet", "pronto", "rdflib", "Bio", "torchvision"} <= modules
    assert sum(not needs for needs, _ in found.values()) > 8  # these run with any packages
