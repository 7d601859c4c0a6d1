"""What the Triton kernels compile to, ahead of time without a GPU: spills and widths of loads."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hace_kernels import triton as package  # noqa: E402
from hace_kernels.triton import (  # noqa: E402
    dag_log_loss_kernel,
    mixed_nodes_kernel,
    path_pieces,
    path_rings,
    path_tile_kernel,
    rows_kernel,
    tree_log_loss_kernel,
    tree_log_prob_kernel,
    tree_pull_kernel,
    tree_sum_kernel,
    tree_sweeps,
)
from hace_kernels.triton import path_log_loss_kernel as kernels  # noqa: E402
from hace_kernels.triton.path_log_loss import Shape  # noqa: E402
from hace_kernels.triton.tree_rows import Shape as TreeShape  # noqa: E402

pytestmark = pytest.mark.skipif(
    package.interpreted, reason="TRITON_INTERPRET is set: nothing can be compiled"
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Variant:
    """A kernel with the arguments with which the launcher would launch it.

    `hot` kernels must not spill, and must move logits and gradient 16 bytes at a time.
    """

    kernel: str
    dtype: str
    columns: int
    max_entries: int = 6
    shuffled: bool = False
    more: bool = False
    grad: bool = True
    aligned: bool = True

    def __str__(self) -> str:
        options = [name for name in ("shuffled", "more") if getattr(self, name)]
        options += [] if self.grad else ["without gradient"]
        options += [] if self.aligned else ["unaligned"]
        return " ".join([self.kernel, self.dtype, str(self.columns), *options])

    @property
    def hot(self) -> bool:
        plain = not self.shuffled and not self.more and self.aligned
        return plain and self.kernel != "resolve" and self.dtype != "fp64"

    @property
    def item(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def shape(self) -> Shape:
        return Shape(self.columns, self.dtype == "fp64", self.shuffled, self.more, self.max_entries)

    def constants(self) -> dict[str, Any]:
        shape = self.shape
        assert shape.splits == (self.kernel != "row"), "the launcher would take another kernel"
        cut = shape.cut(16 // self.item if self.aligned else 1, 3 if self.more else 2)
        constants = {f"cut.{name}": size.value for name, size in cut._asdict().items()}
        return {**constants, "cut.strips": 256} if self.kernel == "resolve" else constants

    def types(self, names: list[str]) -> Iterator[tuple[str, str | None]]:
        work = "*fp64" if self.dtype == "fp64" else "*fp32"
        order = "*i32" if self.shuffled else None
        pointers = {
            "rows.logits": f"*{self.dtype}",
            "rows.grad": f"*{self.dtype}" if self.grad else None,
            "rows.loss": work,
            "rings": work,
            "strips": work,
            "scratch.rings": work,
            "scratch.strips": work,
            "target": "*i64",
            "targets.index": "*i64",
            "targets.weight": None,
            "targets.divisor": None if self.kernel == "write" else "*fp64",
            "targets.grad_loss": None,
            "targets.grad_losses": None,
            "table.ptr": "*i64",
            "table.start": "*i32",
            "table.stop": "*i32",
            "table.weight": "*fp64",
            "table.order": order,
            "order": order,
            "settings.entropy": "i64" if self.more else None,
            "settings.eps": "i64" if self.more else None,
        }
        for name in names:
            yield name, pointers.get(name, "i32")

    @property
    def num_warps(self) -> int:
        return 8 if self.kernel == "resolve" else self.shape.num_warps

    def compile(self, target: GPUTarget) -> Any:
        function = getattr(kernels, f"{self.kernel}_kernel")
        options = {"num_warps": self.num_warps}
        if target.backend == "cuda" and self.kernel == "row" and self.aligned:
            options.update(self.shape.registers)
        types = dict(self.types(leaves(function, PATH_GROUPS)))
        return compile_kernel(function, PATH_GROUPS, types, self.constants(), options, target)


#: The names of the arguments that are tuples.
PATH_GROUPS: dict[str, Any] = {
    "rows": kernels.Rows,
    "targets": rows_kernel.Targets,
    "table": kernels.PathTable,
    "scratch": kernels.Scratch,
    "settings": path_rings.Settings,
    "cut": path_pieces.Cut,
}


def leaves(function: Any, groups: dict[str, Any]) -> list[str]:
    """The names of a kernel's arguments, with the fields of tuples as `argument.field`."""
    found = []
    for name in function.arg_names:
        fields = groups[name]._fields if name in groups else None
        found += [name] if fields is None else [f"{name}.{field}" for field in fields]
    return found


def compile_kernel(
    function: Any,
    groups: dict[str, Any],
    types: dict[str, str | None],
    constants: dict[str, Any],
    options: dict[str, int],
    target: GPUTarget,
) -> Any:
    """Compiles as a launch would, with aligned pointers; the type of a missing argument is None."""
    constexprs: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def kind_of(path: tuple[int, ...], name: str) -> str:
        kind = types[name]
        if name in constants or kind is None:
            constexprs[path] = constants.get(name)
            return "constexpr"
        if kind.startswith("*"):
            attributes[path] = [["tt.divisibility", 16]]
        return kind

    signature: dict[str, Any] = {}
    for index, name in enumerate(function.arg_names):
        group = groups.get(name)
        if group is None or types.get(name, "") is None:
            signature[name] = kind_of((index,), name)
        else:
            fields = enumerate(group._fields)
            signature[name] = group(*(kind_of((index, i), f"{name}.{at}") for i, at in fields))
    source = ASTSource(function, signature, constexprs, attributes)
    return triton.compile(source, target=target, options=options)


HOT = [
    *(Variant("row", dtype, columns) for dtype in ("fp32", "bf16") for columns in (100, 1000)),
    *(Variant("row", dtype, 2048) for dtype in ("fp32", "bf16")),
    *(Variant("row", dtype, columns) for dtype in ("fp32", "bf16") for columns in (4096, 8000)),
    *(Variant("row", dtype, 16384) for dtype in ("fp32", "bf16")),
    *(Variant(kind, dtype, 10**6) for kind in ("measure", "write") for dtype in ("fp32", "bf16")),
]
REST = [
    Variant("row", "fp16", 8000),
    Variant("row", "fp64", 4096),
    Variant("row", "fp32", 1000, grad=False),
    Variant("row", "fp32", 8000, more=True),
    Variant("row", "fp32", 1001, aligned=False),
    Variant("row", "bf16", 4096, shuffled=True),
    Variant("row", "bf16", 8000, max_entries=60),
    Variant("resolve", "bf16", 10**6),
    Variant("resolve", "fp32", 10**6, more=True),
    Variant("resolve", "fp32", 10**6, shuffled=True),
    Variant("write", "fp64", 10**6, more=True),
    Variant("write", "fp32", 10**6, shuffled=True),
]


def ptxas(text: str, target: GPUTarget) -> str:
    """What NVIDIA's assembler reports about a kernel's registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = tools / ("ptxas-blackwell" if target.arch >= 100 else "ptxas")
    chip = f"sm_{target.arch}{'a' if target.arch >= 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        command = [str(tool), "-v", f"--gpu-name={chip}", file.name, "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def spilled(compiled: Any, target: GPUTarget) -> int:
    """The bytes of registers that are spilled to memory (of vector registers, on AMD)."""
    if target.backend == "hip":
        found = re.search(r"\.vgpr_spill_count:\s+(\d+)", compiled.asm["amdgcn"])
        assert found
        return 4 * int(found[1])
    report = ptxas(compiled.asm["ptx"], target)
    found = re.search(r"(\d+) bytes spill stores", report)
    assert found, report
    return int(found[1])


#: The kernels were tuned with this Triton. Of the 194 that are compiled here, 3.6.0 spills up to 28
#: bytes in three, and takes 128 KiB of shared memory in one.
TUNED_WITH = (3, 8)
TUNED = tuple(map(int, triton.__version__.split(".")[:2])) >= TUNED_WITH


def wide_moves(compiled: Any, target: GPUTarget) -> tuple[int, int]:
    """The numbers of loads and of stores of 16 bytes."""
    if target.backend == "hip":
        text = compiled.asm["amdgcn"]
        return (
            len(re.findall(r"(?:global|buffer)_load_dwordx4", text)),
            len(re.findall(r"(?:global|buffer)_store_dwordx4", text)),
        )
    text = compiled.asm["ptx"]
    return (
        len(re.findall(r"ld\.global[\w.:]*\.v4\.b32", text)),
        len(re.findall(r"st\.global[\w.:]*\.v4\.b32", text)),
    )


def quickly(target: str, variant: Variant) -> bool:
    """Whether `make test` has time for it: only a whole row and a pass over split rows."""
    return target == "sm_90" and variant.dtype == "fp32" and variant.columns in (1000, 10**6)


def every(target: str, variants: list[Variant]) -> Iterator[Any]:
    for variant in variants:
        marks = [] if quickly(target, variant) else [pytest.mark.thorough]
        yield pytest.param(target, variant, marks=marks, id=f"{target}-{variant}")


def on_both(variants: list[Any], every_nth: int) -> list[tuple[str, Any]]:
    """All variants for NVIDIA's most common chip, and some for AMD's, whose source is the same."""
    return [
        *(("sm_90", variant) for variant in variants),
        *(("gfx942", variant) for variant in variants[::every_nth]),
    ]


@pytest.mark.parametrize(
    ("target", "variant"),
    [
        *every("sm_90", HOT),
        *every("gfx942", [variant for variant in HOT if variant.dtype == "bf16"]),
        *(one for target in ("sm_80", "sm_100") for one in every(target, [HOT[1], *HOT[-3::2]])),
    ],
)
def test_hot_kernels(target: str, variant: Variant) -> None:
    """They do not spill, and move logits and gradient in vectors of 16 bytes."""
    assert variant.hot
    compiled = variant.compile(TARGETS[target])
    assert compiled.metadata.shared <= 48 * 1024 or not TUNED
    assert spilled(compiled, TARGETS[target]) == 0 or not TUNED
    threads = variant.num_warps * TARGETS[target].warp_size
    vectors = variant.shape.block * variant.item // 16 // threads
    if vectors == 0:  # there are fewer columns than elements in the threads' vectors
        return
    loads, stores = wide_moves(compiled, TARGETS[target])
    assert loads >= vectors
    assert stores >= (vectors if variant.kernel != "measure" else 0)


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "variant"), on_both(REST, 3), ids=str)
def test_other_kernels_compile(target: str, variant: Variant) -> None:
    assert variant.compile(TARGETS[target]).metadata.shared <= 48 * 1024 or not TUNED


def test_hot_kernels_need_few_registers() -> None:
    """At least two programs of 8 warps share a multiprocessor of 65,536 registers."""
    variant = Variant("row", "fp32", 8000)
    report = ptxas(variant.compile(TARGETS["sm_90"]).asm["ptx"], TARGETS["sm_90"])
    found = re.search(r"Used (\d+) registers", report)
    assert found
    assert int(found[1]) <= 128


# --- tiles of columns -----------------------------------------------------------------------------

TILE_GROUPS: dict[str, Any] = {
    "tile": path_tile_kernel.Tile,
    "paths": path_tile_kernel.Paths,
    "rings": path_tile_kernel.Rings,
    "gradient": path_tile_kernel.Gradient,
}
TILE_KERNELS = [
    (kernel, dtype, entropy)
    for kernel in ("measure", "write")
    for dtype in DTYPES
    for entropy in (False, True)
]


def of_tiles(target: str, kernels: list[tuple[str, str, bool]]) -> Iterator[Any]:
    for kernel in kernels:
        is_quick = target == "sm_90" and kernel[1:] == ("fp32", False)
        yield pytest.param(target, *kernel, marks=[] if is_quick else [pytest.mark.thorough])


@pytest.mark.parametrize(
    ("target", "kernel", "dtype", "entropy"),
    [
        *of_tiles("sm_90", TILE_KERNELS),
        *of_tiles("gfx942", TILE_KERNELS[::3]),
        *of_tiles("sm_80", TILE_KERNELS[4::8]),
        *of_tiles("sm_100", TILE_KERNELS[4::8]),
    ],
)
def test_kernels_of_tiles(target: str, kernel: str, dtype: str, entropy: bool) -> None:
    """They do not spill. Tiles are narrow, so many blocks share a multiprocessor."""
    function = getattr(path_tile_kernel, f"{kernel}_kernel")
    work = "*fp64" if dtype == "fp64" else "*fp32"
    pointers: dict[str, str | None] = {
        "tile.logits": f"*{dtype}",
        "grad": f"*{dtype}",
        "paths.start": "*i32",
        "paths.stop": "*i32",
        "rings.max": work,
        "gradient.shift": work,
    }
    pointers.update(dict.fromkeys(("rings.sum", "gradient.factor", "gradient.offset"), "*fp64"))
    more = ("rings.moment", "gradient.slope", "gradient.middle")
    pointers.update(dict.fromkeys(more, "*fp64" if entropy else None))
    types = {name: pointers.get(name, "i32") for name in leaves(function, TILE_GROUPS)}
    compiled = compile_kernel(
        function, TILE_GROUPS, types, {"BLOCK": 1024}, {"num_warps": 4}, TARGETS[target]
    )
    assert compiled.metadata.shared <= 16 * 1024 or not TUNED
    assert spilled(compiled, TARGETS[target]) == 0 or not TUNED


# --- ops over a whole tree ------------------------------------------------------------------------

#: A small tree, a wide tree, and one whose rows are split: numbers of places and inner places.
TREES = {
    "small": TreeShape(1200, 200),
    "flat": TreeShape(1001, 1),
    "nodes": TreeShape(2_000, 999),
    "split": TreeShape(120_000, 20_000),
}

KERNELS = {
    name: getattr(module, name)
    for module in (
        dag_log_loss_kernel,
        mixed_nodes_kernel,
        rows_kernel,
        tree_log_loss_kernel,
        tree_log_prob_kernel,
        tree_pull_kernel,
        tree_sum_kernel,
    )
    for name in module.__all__
    if name.endswith("_kernel")
}

#: The arguments that are tuples, by kernel.
_SWEEP = {"tree": tree_sweeps.Tree, "tile": tree_sweeps.Tile}
_MIXED = {"nodes": mixed_nodes_kernel.MixedNodes, "tile": tree_sweeps.Tile}
_PULL = {
    "rows": tree_pull_kernel.PulledRows,
    "mass": tree_sweeps.Mass,
    "scratch": tree_pull_kernel.Scratch,
}
_TARGETS = {
    "given": tree_log_loss_kernel.Given,
    "put": tree_log_loss_kernel.PutRows,
    "table": tree_log_loss_kernel.PutTable,
    "soft": tree_log_loss_kernel.SoftLabels,
    **_SWEEP,
}
TREE_GROUPS: dict[str, dict[str, Any]] = {
    "up_kernel": {"rows": tree_sum_kernel.UpRows, **_SWEEP},
    "down_kernel": {"rows": tree_sum_kernel.DownRows, **_SWEEP},
    "log_prob_kernel": {"rows": tree_log_prob_kernel.LogProbRows, **_SWEEP},
    "pull_kernel": {**_PULL, **_SWEEP},
    "target_kernel": _TARGETS,
    "put_kernel": _TARGETS,
    "weigh_kernel": {"targets": rows_kernel.Targets},
    "rise_kernel": {"links": dag_log_loss_kernel.DagLinks, "tile": tree_sweeps.Tile},
    "mixed_kernel": {**_PULL, **_MIXED},
    "mixed_log_sums_kernel": _MIXED,
    "mixed_sums_kernel": _MIXED,
    "handed_kernel": _MIXED,
}

#: The types to which pointers point: "logits" is the logits' type, "work" the working type.
POINTERS = {
    **dict.fromkeys(("logits", "values", "rows.logits", "rows.columns", "rows.nodes"), "logits"),
    **dict.fromkeys(("rows.sums", "rows.grad", "grad"), "logits"),
    **dict.fromkeys(("scratch", "scratch.places", "scratch.mixed", "rows.scratch"), "work"),
    **dict.fromkeys(("rows.loss", "rows.log_prob", "rows.own", "rows.handed", "loss"), "work"),
    **dict.fromkeys(("mass.at", "mass.handed", "given.mass", "put.places", "put.rings"), "work"),
    **dict.fromkeys(("reached", "kept", "handed", "row_loss", "factor"), "work"),
    **dict.fromkeys(("mass.keep", "table.unit", "table.share", "table.spread"), "fp64"),
    **dict.fromkeys(("rows.counts", "rows.divisor", "scratch.rows", "divisor"), "fp64"),
    **dict.fromkeys(("put.counts", "put.mass", "put.reached", "put.alpha"), "fp64"),
    **dict.fromkeys(("given.weight", "targets.weight", "links.keep", "links.handed"), "fp64"),
    **dict.fromkeys((f"soft.{name}" for name in _TARGETS["soft"]._fields), "fp64"),
    **dict.fromkeys((f"tree.{name}" for name in tree_sweeps.Tree._fields), "i32"),
    **dict.fromkeys((f"nodes.{name}" for name in _MIXED["nodes"]._fields), "i32"),
    **dict.fromkeys((f"links.{name}" for name in ("place", "by_height", "levels")), "i32"),
    **dict.fromkeys(("links.child_ptr", "links.child", "mass.node", "rows.node"), "i32"),
    **dict.fromkeys(("node_of_place", "table.place", "table.ptr", "put.place"), "i32"),
    **dict.fromkeys(("table.target", "targets.index", "given.index"), "i64"),
}

#: Arguments that are None unless a variant gives them.
ABSENT = (
    *("rows.eps", "rows.divisor", "rows.grad_loss", "rows.grad_losses", "rows.own", "rows.handed"),
    *("mass.node", "mass.handed", "scratch.mixed", "table.spread", "table.row_spread"),
    *("targets.divisor", "targets.grad_loss", "targets.grad_losses"),
)


@dataclass(frozen=True)
class TreeVariant:
    """A kernel as the launcher would launch it; `given` are arguments with unusual types.

    `hot` kernels must not spill.
    """

    kernel: str
    tree: str = "small"
    dtype: str = "fp32"
    stages: int | None = None
    given: dict[str, str | None] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [self.kernel, self.tree, self.dtype]
        parts += [] if self.stages is None else [f"stages {self.stages}"]
        parts += [name if kind else f"no {name}" for name, kind in self.given.items()]
        return " ".join(parts + [f"{k} {v}" for k, v in self.constants.items()])

    def compile(self, target: GPUTarget) -> Any:
        function, constants = KERNELS[self.kernel], dict(self.constants)
        groups = TREE_GROUPS.get(self.kernel, {})
        options: dict[str, int] = {"num_warps": 4}
        shape = TREES[self.tree]
        if "tile" in groups:
            swept = self.stages is not None
            tile = shape.tile if swept else shape.mixed_tile
            options = shape.options if swept else shape.mixed_options
            constants.update({f"tile.{name}": at.value for name, at in tile._asdict().items()})
        if self.stages is not None:
            constants["STAGES"] = self.stages
        if target.backend == "hip":
            options.pop("maxnreg", None)
        work = "fp64" if self.dtype == "fp64" else "fp32"
        kinds = {"logits": self.dtype, "work": work}
        types: dict[str, str | None] = {
            name: f"*{kinds.get(POINTERS[name], POINTERS[name])}" if name in POINTERS else "i32"
            for name in leaves(function, groups)
        }
        types.update({name: None for name in ABSENT if name in types})
        types.update(self.given)
        return compile_kernel(function, groups, types, constants, options, target)


_WITHOUT_KEEP = {"mass.keep": None, "mass.node": "*i32", "rows.counts": None, "rows.loss": None}
_OF_DAG = {"mass.handed": "*fp32"}
_MIXED_OF_DAG = {**_OF_DAG, "scratch.mixed": "*fp32"}
_EPS = {"rows.eps": "i64"}
_ALL = 1 + 2 + 8 + 16 + 32
_INDICES = {"given.mass": None, "given.weight": None, "table.ptr": None, "table.target": None}
_UNIFORM = {"put.rings": None, "soft": None}
_NOWHERE = {"put.rings": None, "put.alpha": None, "soft": None}
_PROBABILITIES = {
    **dict.fromkeys(("given.index", "given.weight", "put.place", "put.mass", "put.reached")),
    **_UNIFORM,
}

TREE_HOT = [
    *(TreeVariant("up_kernel", tree, "bf16", 7) for tree in TREES),
    *(TreeVariant("down_kernel", tree, "bf16", 3) for tree in TREES),
    TreeVariant("down_kernel", "small", "bf16", 3, {"rows.handed": "*fp32"}),
    *(TreeVariant("log_prob_kernel", tree, "bf16", 7) for tree in TREES),
    *(TreeVariant("pull_kernel", tree, kind, _ALL) for tree in TREES for kind in ("fp32", "bf16")),
    TreeVariant("pull_kernel", "small", "bf16", 27, _WITHOUT_KEEP),
    TreeVariant("pull_kernel", "small", "bf16", 8 + 16, {**_WITHOUT_KEEP, **_OF_DAG}),
    TreeVariant("pull_kernel", "small", "fp32", 8 + 16 + 32, _OF_DAG),
    TreeVariant("pull_kernel", "nodes", "bf16", 8 + 16 + 32, _OF_DAG),
    TreeVariant("rise_kernel"),
    TreeVariant("mixed_kernel", given=_MIXED_OF_DAG),
    TreeVariant("mixed_kernel", dtype="bf16", given={**_WITHOUT_KEEP, **_MIXED_OF_DAG}),
    TreeVariant("mixed_sums_kernel"),
    TreeVariant("mixed_log_sums_kernel"),
    TreeVariant("handed_kernel"),
    *(
        TreeVariant("put_kernel", given=given)
        for given in (
            {**_INDICES, **_UNIFORM},
            {**_INDICES, "put.alpha": None},
            {**_PROBABILITIES, **_NOWHERE},
        )
    ),
]
TREE_REST = [
    TreeVariant("mixed_kernel", given={**_MIXED_OF_DAG, **_EPS}),
    TreeVariant("rise_kernel", dtype="fp64"),
    *(TreeVariant("up_kernel", "split", "fp32", stages) for stages in (1, 2, 4)),
    TreeVariant("up_kernel", "small", "fp64", 3, {"rows.own": "*fp64", "rows.sums": None}),
    *(TreeVariant("down_kernel", "split", "fp16", stages) for stages in (1, 2)),
    TreeVariant("mixed_sums_kernel", dtype="fp16"),
    TreeVariant("mixed_log_sums_kernel", dtype="fp16"),
    *(TreeVariant("log_prob_kernel", "split", "fp16", stages) for stages in (1, 2, 4)),
    *(TreeVariant("pull_kernel", "split", "bf16", stages) for stages in (1, 10, 16, 32)),
    *(TreeVariant("pull_kernel", "split", "fp32", stages, _EPS) for stages in (2, 4, 8, 16)),
    TreeVariant("pull_kernel", "small", "fp64", _ALL + 4, _EPS),
    TreeVariant("pull_kernel", "small", "fp16", 27, {"rows.loss": None, "rows.grad_loss": "*fp32"}),
    TreeVariant("pull_kernel", "small", "fp32", _ALL, {"rows.grad": None}),
    TreeVariant("pull_kernel", "small", "fp32", _ALL, {"rows.divisor": "*fp64"}),
    TreeVariant("target_kernel", given={**_INDICES, **_UNIFORM, "table.row_spread": "i64"}),
    TreeVariant(
        "target_kernel",
        given={
            **_INDICES,
            "given.weight": "*fp64",
            "put.alpha": None,
            "table.spread": "*fp64",
            "table.row_spread": "i64",
        },
    ),
    TreeVariant("target_kernel", given={**_PROBABILITIES, "table.spread": "*fp64"}),
    TreeVariant("weigh_kernel", constants={"ROWS": 1024}),
    TreeVariant("reduce_kernel", constants={"ROWS": 1024}),
    TreeVariant("scale_kernel", dtype="bf16", constants={"BLOCK": 8192}),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "variant"), on_both(TREE_HOT, 2), ids=str)
def test_hot_tree_kernels(target: str, variant: TreeVariant) -> None:
    compiled = variant.compile(TARGETS[target])
    assert compiled.metadata.shared <= 48 * 1024 or not TUNED
    assert spilled(compiled, TARGETS[target]) == 0 or not TUNED


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "variant"), on_both(TREE_REST, 3), ids=str)
def test_other_tree_kernels_compile(target: str, variant: TreeVariant) -> None:
    assert variant.compile(TARGETS[target]).metadata.shared <= 48 * 1024 or not TUNED


@pytest.mark.parametrize("target", ["sm_80", pytest.param("sm_100", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_tree_kernels_on_other_chips(target: str, kernel: str) -> None:
    variant = next(one for one in TREE_HOT + TREE_REST if one.kernel == kernel)
    assert spilled(variant.compile(TARGETS[target]), TARGETS[target]) == 0 or not TUNED
