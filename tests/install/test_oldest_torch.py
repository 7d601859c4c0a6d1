"""The C++ and CUDA sources use of torch's headers only what the oldest supported torch has too.

`TORCH_TARGET_VERSION` hides newer functions of torch's stable interface, but not its newer macros
and inline functions: these compile here, and fail where the package is built against torch 2.11.
`make test-oldest` builds there and runs the tests.
"""

from __future__ import annotations

import re
from pathlib import Path

from build_tools import cpp, environment

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())

#: What of torch's names the sources may use: all were compiled against torch 2.11.0.
IN_OLDEST_TORCH = {
    *("STABLE_TORCH_LIBRARY_IMPL", "STD_TORCH_CHECK", "TORCH_BOX", "TORCH_ERROR_CODE_CHECK"),
    "aoti_torch_device_type_cpu",
    "aoti_torch_device_type_cuda",
    "aoti_torch_empty_strided",
    "aoti_torch_get_current_cuda_stream",
    "torch::headeronly::DeviceType::CPU",
    "torch::headeronly::ScalarType",
    "torch::stable::Tensor",
    "torch::stable::accelerator::DeviceGuard",
    "torch::stable::detail::from",
    "torch::stable::detail::to",
    "torch::stable::from_blob",
    "torch::stable::get_num_threads",
    "torch::stable::new_empty",
    "torch::stable::parallel_for",
    "torch::stable::transpose",
    "torch/csrc/inductor/aoti_torch/c/shim.h",
    "torch/csrc/stable/accelerator.h",
    "torch/csrc/stable/library.h",
    "torch/csrc/stable/macros.h",
    "torch/csrc/stable/ops.h",
    "torch/csrc/stable/tensor.h",
    "torch/headeronly/core/ScalarType.h",
    "torch/headeronly/util/Exception.h",
}

NAME_OF_TORCH = re.compile(
    r"""\b(?:
      (?:[A-Z]+_)*(?:TORCH|ATEN|AT|C10)_[A-Z0-9_]+   # macros
    | (?:aoti_)?torch_\w+                            # functions of the C interface
    | (?:torch|at|c10|aten)(?:::\w+)+
    | (?:torch|ATen|c10)(?:/\w+)+\.h
    )""",
    re.VERBOSE,
)


def names_of_torch(source: str) -> set[str]:
    """The names of torch's macros, functions, types and headers, outside comments and strings."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.DOTALL)
    return set(NAME_OF_TORCH.findall(code))


def test_the_sources_use_what_the_oldest_torch_has() -> None:
    used = {name: path for path in SOURCES for name in names_of_torch(path.read_text("utf-8"))}
    assert len(used) > 20
    newer = {name: str(used[name].relative_to(ROOT)) for name in used.keys() - IN_OLDEST_TORCH}
    assert not newer, (
        f"{newer}: does torch {oldest()} have them? If `make test-oldest` passes, list them here"
    )


def test_what_only_a_newer_torch_has_is_found() -> None:
    source = "  STABLE_TORCH_ERROR_CODE_CHECK(torch::stable::from_blob(x)); // TORCH_X"
    assert names_of_torch(source) == {"STABLE_TORCH_ERROR_CODE_CHECK", "torch::stable::from_blob"}


def test_one_version_is_promised_everywhere() -> None:
    major, minor = environment.OLDEST_TORCH
    assert f"=0x{major:02x}{minor:02x}{0:012x}" in cpp.STABLE_ABI
    told = {
        "pyproject.toml": f'"torch>={oldest()}"',
        "Makefile": f"torch=={oldest()}.0",
        "README.md": f"torch {oldest()} or later",
        "docs/versions.md": f"torch {oldest()} or later",
        ".github/workflows/wheels.yml": f"torch=={oldest()}.0",
    }
    for name, words in told.items():
        path = ROOT / name
        if path.exists() or not name.startswith(".github"):  # which is in no source distribution
            assert words in path.read_text("utf-8"), name


def oldest() -> str:
    return ".".join(map(str, environment.OLDEST_TORCH))
