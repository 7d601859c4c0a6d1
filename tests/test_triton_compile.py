"""What the Triton kernels compile to, ahead of time and without a GPU: spills and load widths."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hace_kernels import triton as package  # noqa: E402
from hace_kernels.triton import path_log_loss_kernel as kernels  # noqa: E402
from hace_kernels.triton.path_log_loss import Shape  # noqa: E402

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
    """One kernel as the launcher would launch it.

    `hot` kernels must not spill, and move logits and gradient 16 bytes at a time.
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
        vector = 16 // self.item if self.aligned else 1
        constants = {"VECTOR": vector, "STRIP": shape.strip, "STRIPS": shape.strips}
        if self.kernel == "row":
            return {**constants, "RINGS": shape.rings, "STEPS": shape.steps}
        constants["FIELDS"] = 3 if self.more else 2
        if self.kernel == "resolve":
            return {**constants, "STRIPS": 256, "RINGS": shape.rings, "STEPS": shape.steps}
        constants["HAS_ENTROPY"] = self.more
        return constants if self.kernel == "measure" else {**constants, "STEPS": shape.steps}

    def types(self, names: list[str]) -> Iterator[tuple[str, str | None]]:
        work = "*fp64" if self.dtype == "fp64" else "*fp32"
        pointers = {
            "logits": f"*{self.dtype}",
            "grad": f"*{self.dtype}" if self.grad else None,
            "row_loss": work,
            "rings": work,
            "strips": work,
            "target": "*i64",
            "ptr": "*i64",
            "start": "*i32",
            "stop": "*i32",
            "weight": "*fp64",
            "divisor": "*fp64",
            "order": "*i32" if self.shuffled else None,
            "target_weight": None,
            "grad_loss": None,
            "entropy_bits": "i64" if self.more else None,
            "eps_bits": "i64" if self.more else None,
        }
        for name in names:
            yield name, pointers.get(name, "i32")

    @property
    def num_warps(self) -> int:
        return 8 if self.kernel == "resolve" else self.shape.num_warps

    def compile(self, target: GPUTarget) -> Any:
        function = getattr(kernels, f"{self.kernel}_kernel")
        constants = self.constants()
        signature, constexprs, attributes = {}, {}, {}
        for index, (name, kind) in enumerate(self.types(function.arg_names)):
            if name in constants or kind is None:
                signature[name] = "constexpr"
                constexprs[(index,)] = constants.get(name)
                continue
            signature[name] = kind
            if kind.startswith("*"):
                attributes[(index,)] = [["tt.divisibility", 16]]
        options = {"num_warps": self.num_warps}
        if target.backend == "cuda" and self.kernel == "row" and self.aligned:
            options.update(self.shape.registers)
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
    """What NVIDIA's assembler says of a kernel's registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool = tools / ("ptxas-blackwell" if target.arch >= 100 else "ptxas")
    chip = f"sm_{target.arch}{'a' if target.arch >= 90 else ''}"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        command = [str(tool), "-v", f"--gpu-name={chip}", file.name, "-o", os.devnull]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def spilled(compiled: Any, target: GPUTarget) -> int:
    """Bytes of registers kept in memory (of vector registers, on AMD)."""
    if target.backend == "hip":
        found = re.search(r"\.vgpr_spill_count:\s+(\d+)", compiled.asm["amdgcn"])
        assert found
        return 4 * int(found[1])
    report = ptxas(compiled.asm["ptx"], target)
    found = re.search(r"(\d+) bytes spill stores", report)
    assert found, report
    return int(found[1])


def wide_moves(compiled: Any, target: GPUTarget) -> tuple[int, int]:
    """Loads and stores of 16 bytes."""
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


@pytest.mark.parametrize(
    ("target", "variant"),
    [(target, variant) for target in ("sm_90", "gfx942") for variant in HOT]
    + [(target, variant) for target in ("sm_80", "sm_100") for variant in HOT[:2] + HOT[-5::2]],
    ids=str,
)
def test_hot_kernels(target: str, variant: Variant) -> None:
    """No spills, and every logit and every entry of the gradient moves in a vector of 16 bytes."""
    assert variant.hot
    compiled = variant.compile(TARGETS[target])
    assert compiled.metadata.shared <= 48 * 1024
    assert spilled(compiled, TARGETS[target]) == 0
    threads = variant.num_warps * TARGETS[target].warp_size
    vectors = variant.shape.block * variant.item // 16 // threads
    if vectors == 0:  # fewer columns than threads have room for
        return
    loads, stores = wide_moves(compiled, TARGETS[target])
    assert loads >= vectors
    assert stores >= (vectors if variant.kernel != "measure" else 0)


@pytest.mark.parametrize("variant", REST, ids=str)
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_other_kernels_compile(variant: Variant, target: str) -> None:
    assert variant.compile(TARGETS[target]).metadata.shared <= 48 * 1024


def test_hot_kernels_need_few_registers() -> None:
    """At least two programs of 8 warps share a multiprocessor of 65,536 registers."""
    variant = Variant("row", "fp32", 8000)
    report = ptxas(variant.compile(TARGETS["sm_90"]).asm["ptx"], TARGETS["sm_90"])
    found = re.search(r"Used (\d+) registers", report)
    assert found
    assert int(found[1]) <= 128
