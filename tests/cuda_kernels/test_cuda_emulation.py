"""Tests the emulator that runs CUDA kernels on the CPU (tests/cuda_kernels/emulation).

It computes what a GPU would, and it detects mistakes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sanitizers import MEMORY

from build_tools import ninja_build
from build_tools.plan import Library, Object

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path("tests/cuda_kernels/emulation/programs")  # from the root, as they are compiled
COMPILE = ("g++", "-x", "c++", "-std=c++17", "-O1", "-g1", "-DHACE_CUDA_EMULATION")
COMPILE += ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
COMPILE += ("-Icsrc/cuda", "-Itests/cuda_kernels/emulation")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O0")

Build = Callable[..., Path]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Compiles a program with some options in build/, unless it is there already."""
    monkeypatch.chdir(ROOT)

    def build_once(name: str, *options: str) -> Path:
        folder = ROOT / "build" / "cuda-emulation" / "".join((name, *options)).replace("/", "-")
        compiled = Object(str(PROGRAMS / f"{name}.cu"), "emulated", (*COMPILE, *options))
        program = Library(name, (compiled,), ("g++", *options))
        ninja_build.run(folder, [program])
        return folder / program.path

    return build_once


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    lack = MEMORY.lack(tmp_path_factory.mktemp("sanitizers"))
    if lack is not None:
        pytest.skip(lack)
    return SANITIZED


def run(program: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if "HACE_EMULATED" not in name}
    return subprocess.run(
        [str(program), *arguments],
        env={**ours, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def in_order(order: str) -> dict[str, str]:
    return {"HACE_EMULATED_ORDER": order, "HACE_EMULATED_BLOCK_ORDER": order}


ORDERS = ["forward", "backward", "random:1", "random:2"]


class TestCorrectPrograms:
    """They are correct in every order of threads and blocks, and clean under the sanitizers."""

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("name", ["softmax", "intrinsics"])
    def test_numbers(self, build: Build, name: str, order: str) -> None:
        done = run(build(name), **in_order(order))
        assert done.stdout.startswith("cudaSuccess")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.thorough
    @pytest.mark.parametrize("order", ["forward", "random:3"])
    @pytest.mark.parametrize("name", ["softmax", "intrinsics"])
    def test_sanitized(
        self, build: Build, sanitized: tuple[str, ...], name: str, order: str
    ) -> None:
        done = run(build(name, *sanitized), **in_order(order))
        assert done.stdout.startswith("cudaSuccess")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.thorough
    def test_other_processors(self, build: Build) -> None:
        """Where stacks are not switched in assembly, the C library's function works."""
        done = run(build("softmax", "-DHACE_EMULATED_UCONTEXT"))
        assert done.stdout.startswith("cudaSuccess")
        assert (done.returncode, done.stderr) == (0, "")


class TestConversions:
    """Conversions of half types agree with NumPy and PyTorch bit for bit."""

    @pytest.fixture
    def library(self, build: Build) -> ctypes.CDLL:
        return ctypes.CDLL(str(build("conversions", "-shared", "-fPIC")))

    @staticmethod
    def convert(
        library: ctypes.CDLL, name: str, values: np.ndarray[Any, Any], to: type
    ) -> np.ndarray[Any, Any]:
        values = np.ascontiguousarray(values)
        result: np.ndarray[Any, Any] = np.empty(values.shape, to)
        arguments = (values.ctypes.data, result.ctypes.data, values.size)
        getattr(library, name)(*map(ctypes.c_void_p, arguments))
        return result

    #: The bits of every half and every bfloat16.
    PATTERNS = np.arange(1 << 16, dtype=np.uint16)

    def test_half_to_float(self, library: ctypes.CDLL) -> None:
        ours = self.convert(library, "half_to_float", self.PATTERNS, np.float32)
        right = self.PATTERNS.view(np.float16).astype(np.float32)
        self.assert_same(ours.view(np.uint32), right.view(np.uint32), np.isnan(ours), right)

    def test_bfloat16_to_float(self, library: ctypes.CDLL) -> None:
        ours = self.convert(library, "bfloat16_to_float", self.PATTERNS, np.float32)
        right = torch.from_numpy(self.PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
        self.assert_same(ours.view(np.uint32), right.view(np.uint32), np.isnan(ours), right)

    def test_float_to_half(self, library: ctypes.CDLL, rng: np.random.Generator) -> None:
        halves = self.PATTERNS.view(np.float16)
        floats = self.around_ties(halves[np.isfinite(halves)].astype(np.float32), rng)
        ours = self.convert(library, "float_to_half", floats, np.uint16)
        with np.errstate(over="ignore"):
            right = floats.astype(np.float16)
        self.assert_same(ours, right.view(np.uint16), np.isnan(ours.view(np.float16)), right)

    def test_float_to_bfloat16(self, library: ctypes.CDLL, rng: np.random.Generator) -> None:
        wide = (self.PATTERNS.astype(np.uint32) << 16).view(np.float32)
        floats = self.around_ties(wide[np.isfinite(wide)], rng)
        ours = self.convert(library, "float_to_bfloat16", floats, np.uint16)
        right = torch.from_numpy(floats).bfloat16()
        bits = right.view(torch.int16).numpy().view(np.uint16)
        nan = torch.from_numpy(ours.view(np.int16)).view(torch.bfloat16).isnan().numpy()
        self.assert_same(ours, bits, nan, right.float().numpy())

    def test_double_to_half(self, library: ctypes.CDLL, rng: np.random.Generator) -> None:
        """A double is rounded once: by way of float, some would become ties that they are not."""
        halves = self.PATTERNS.view(np.float16)
        ties = self.midpoints(halves[np.isfinite(halves)].astype(np.float64))
        doubles = np.concatenate(
            [ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), [1e300, 1e-300, np.nan]]
        )
        ours = self.convert(library, "double_to_half", doubles, np.uint16)
        with np.errstate(over="ignore"):
            right = doubles.astype(np.float16)
        self.assert_same(ours, right.view(np.uint16), np.isnan(ours.view(np.float16)), right)

    def test_host_threads_have_kernels_of_their_own(self, library: ctypes.CDLL) -> None:
        right = self.convert(library, "half_to_float", self.PATTERNS, np.float32)
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(
                lambda _: self.convert(library, "half_to_float", self.PATTERNS, np.float32),
                range(8),
            )
        for ours in results:
            np.testing.assert_array_equal(ours, right)

    @staticmethod
    def midpoints(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        values = np.sort(values)
        return values[:-1] / 2 + values[1:] / 2

    def around_ties(
        self, values: np.ndarray[Any, Any], rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Numbers at and beside the boundaries of rounding, and floats of all kinds."""
        ties = self.midpoints(values)
        largest = np.finfo(np.float32).max
        return np.concatenate(
            [
                ties,
                np.nextafter(ties, np.float32(np.inf)),
                np.nextafter(ties, np.float32(-np.inf)),
                values,
                rng.integers(1 << 32, size=1 << 19, dtype=np.uint32).view(np.float32),
                np.array([0, 65519.996, 65520, largest, np.inf, np.nan], np.float32),
                np.array([-0.0, -65520, -largest, -np.inf, 2**-149, 2**-25], np.float32),
            ]
        )

    @staticmethod
    def assert_same(
        ours: np.ndarray[Any, Any],
        right: np.ndarray[Any, Any],
        our_nan: np.ndarray[Any, Any],
        right_values: np.ndarray[Any, Any],
    ) -> None:
        """Asserts equal bits, where any NaN equals any other NaN."""
        nan = np.isnan(right_values)
        np.testing.assert_array_equal(our_nan, nan)
        np.testing.assert_array_equal(ours[~nan], right[~nan])


def line_of(kernel: str, text: str) -> str:
    """The file and line where `text` first occurs in a kernel of mistakes.cu."""
    lines = (ROOT / PROGRAMS / "mistakes.cu").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if f"void {kernel}(" in line)
    line = next(i for i in range(start, len(lines)) if text in lines[i])
    return f"mistakes.cu:{line + 1}"


WRONG_NUMBERS, REFUSED, ABORTED = 3, 4, -signal.SIGABRT


class TestMistakes:
    def test_none(self, build: Build) -> None:
        for order in ORDERS:
            done = run(build("mistakes"), "correct", **in_order(order))
            assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("kernel", "message", "text"),
        [
            ("divergent_barrier", "divergent barrier", "__syncthreads"),
            ("early_exit", "divergent barrier: 50 of 64 threads wait", "__syncthreads"),
            ("absent_lane", "0x80000000 exited and 0x00000000 wait elsewhere", "__shfl_down_sync"),
            ("lanes_elsewhere", "0x00000000 exited and 0xaaaaaaaa wait elsewhere", "__ballot_sync"),
            ("warp_at_barrier", "0x00000000 exited and 0xffffff00 wait elsewhere", "__any_sync"),
            ("mask_without_caller", "lane 31 calls with mask 0x7fffffff", "__shfl_sync"),
            ("width_of_five", "width 5 is not a power of two", "__shfl_sync"),
            ("trap", "__trap()", ""),
        ],
    )
    @pytest.mark.parametrize("order", ORDERS)
    def test_ends_the_process(
        self, build: Build, kernel: str, message: str, text: str, order: str
    ) -> None:
        done = run(build("mistakes"), kernel, **in_order(order))
        assert done.returncode == ABORTED
        assert message in done.stderr
        assert f"in kernel {kernel}, launched at" in done.stderr
        assert "block (0, 0, 0) of (1, 1, 1), threads (64, 1, 1)" in done.stderr
        if text:
            assert f"{text} at {PROGRAMS / line_of(kernel, text)}" in done.stderr

    @pytest.mark.parametrize(
        ("kernel", "message"),
        [
            ("static_out_of_bounds", "beyond the 256 bytes of the shared array values"),
            ("dynamic_out_of_bounds", "beyond the 256 bytes of the shared array (dynamic)"),
            ("too_much_shared", "49168 bytes of static and dynamic shared memory where 49152"),
            ("lock_never_freed", "threads wait in a loop for something that does not happen"),
        ],
    )
    def test_is_told_apart(self, build: Build, kernel: str, message: str) -> None:
        done = run(build("mistakes"), kernel)
        assert done.returncode == ABORTED
        assert message in done.stderr
        assert f"in kernel {kernel}, launched at" in done.stderr

    @pytest.mark.parametrize(
        "kernel",
        [
            "missing_barrier",
            "uninitialised_shared",
            "shared_of_another_block",
            "lane_outside_mask",
        ],
    )
    def test_spoils_the_numbers(self, build: Build, kernel: str) -> None:
        for order in ORDERS:
            assert run(build("mistakes"), kernel, **in_order(order)).returncode == WRONG_NUMBERS

    def test_shows_in_some_order_of_threads(self, build: Build) -> None:
        program = build("mistakes")
        codes = {
            order: run(program, "missing_second_barrier", HACE_EMULATED_ORDER=order).returncode
            for order in ORDERS
        }
        assert codes.pop("forward") == 0
        assert set(codes.values()) == {WRONG_NUMBERS}

    def test_shows_in_some_order_of_blocks(self, build: Build) -> None:
        program = build("mistakes")
        assert run(program, "race_of_blocks").returncode == 0
        codes = {
            run(program, "race_of_blocks", HACE_EMULATED_BLOCK_ORDER=f"random:{seed}").returncode
            for seed in range(8)
        }
        assert codes == {0, WRONG_NUMBERS}
        backward = run(program, "race_of_blocks", HACE_EMULATED_BLOCK_ORDER="backward")
        assert backward.returncode == WRONG_NUMBERS

    @pytest.mark.parametrize(
        ("kernel", "message", "text"),
        [
            ("static_out_of_bounds", "out of bounds for type 'float [64]'", "+ 1] ="),
            ("dynamic_out_of_bounds", "use-after-poison", "+ 1] ="),
            ("dynamic_read_out_of_bounds", "use-after-poison", "+ 1]"),
            ("global_out_of_bounds", "heap-buffer-overflow", "+ 1] ="),
            ("misaligned_global", "misaligned address", "float4*"),
            ("misaligned_shared", "misaligned address", "float4*"),
            ("overflow_of_the_stack", "stack-overflow", ""),
        ],
    )
    def test_is_seen_by_the_sanitizers(
        self, build: Build, sanitized: tuple[str, ...], kernel: str, message: str, text: str
    ) -> None:
        done = run(build("mistakes", *sanitized), kernel)
        assert done.returncode not in (0, WRONG_NUMBERS)
        assert message in done.stderr
        assert (line_of(kernel, text) if text else f" in {kernel}") in done.stderr

    def test_unknown_order(self, build: Build) -> None:
        done = run(build("mistakes"), "correct", HACE_EMULATED_ORDER="sideways")
        assert done.returncode == ABORTED
        assert "HACE_EMULATED_ORDER=sideways is not forward, backward or random:SEED" in done.stderr


class TestLimits:
    def test_launches_that_are_too_large(self, build: Build) -> None:
        done = run(build("limits"))
        assert done.returncode == 0
        assert done.stdout.splitlines() == [
            "fits: cudaSuccess, 2 runs",
            "no blocks: cudaErrorInvalidConfiguration, 0 runs",
            "no threads: cudaErrorInvalidConfiguration, 0 runs",
            "threads: cudaErrorInvalidConfiguration, 0 runs",
            "threads in all: cudaErrorInvalidConfiguration, 0 runs",
            "depth: cudaErrorInvalidConfiguration, 0 runs",
            "grid.y: cudaErrorInvalidConfiguration, 0 runs",
            "grid.z: cudaErrorInvalidConfiguration, 0 runs",
            "shared: cudaErrorInvalidValue, 0 runs",
            "shared, less allowed meanwhile: cudaSuccess, 1 runs",
            "allow too much: cudaErrorInvalidValue, 0 runs",
            "shared, allowed: cudaSuccess, 1 runs",
            "shared, beyond: cudaErrorInvalidValue, 0 runs",
            "device: 232448 shared, 52428800 L2, 4 multiprocessors, 9.x, 2 blocks of 1024",
        ]
        refused = [line for line in done.stderr.splitlines() if "refused mark at" in line]
        assert len(refused) == 9
        assert all("limits.cu:" in line for line in refused)

    @pytest.mark.parametrize(("rows", "at_once"), [(0, 1), (5, 5), (2**32 + 5, 2**30)])
    def test_batches_beyond_a_launch(self, build: Build, rows: int, at_once: int) -> None:
        """Several launches take more rows than one has blocks for."""
        assert run(build("plans"), str(rows)).stdout == f"{at_once}\n"

    def test_smaller_devices(self, build: Build) -> None:
        done = run(
            build("limits"),
            HACE_EMULATED_SHARED_BYTES="65536",
            HACE_EMULATED_L2_BYTES="1000000",
            HACE_EMULATED_MULTIPROCESSORS="2",
        )
        *_, allowed, beyond, device = done.stdout.splitlines()
        assert allowed == "shared, allowed: cudaSuccess, 1 runs"
        assert beyond == "shared, beyond: cudaErrorInvalidValue, 0 runs"
        assert device.startswith("device: 65536 shared, 1000000 L2, 2 multiprocessors")


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / PROGRAMS).glob("*.cu")))
def test_programs_are_cuda(tmp_path: Path, name: str) -> None:
    """Nvcc accepts the programs, too, so they are plain CUDA."""
    command = ["nvcc", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", "-I", "csrc/cuda", "-c"]
    source = PROGRAMS / f"{name}.cu"
    done = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "object.o")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
