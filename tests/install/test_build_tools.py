"""The build's decisions, and that ninja compiles what has changed and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from build_tools import cross, cuda, ninja_build, requirements, wheels
from build_tools.plan import Library, Object
from build_tools.settings import Settings

ROOT = Path(__file__).parents[2]

# ---- what the environment asks for ----


def test_defaults() -> None:
    assert Settings.read({}) == Settings("auto", False, None, None)


def test_everything_set() -> None:
    environment = {"HACE_BUILD": "cpu", "HACE_CUDA_ARCHS": "8.0 90", "MAX_JOBS": "3"}
    assert Settings.read(environment) == Settings("cpu", False, ("80", "90"), 3)


@pytest.mark.parametrize("environment", [{"HACE_BUILD": "cuda"}, {"FORCE_CUDA": "1"}], ids=str)
def test_asking_for_cuda_makes_its_absence_an_error(environment: dict[str, str]) -> None:
    assert Settings.read(environment) == Settings("cuda", True, None, None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HACE_BUILD", "rocm", "one of auto, cpu, cuda, python, got 'rocm'"),
        ("HACE_CUDA_ARCHS", "ampere", "capabilities such as .* got 'ampere'"),
        ("MAX_JOBS", "0", "positive integer, got '0'"),
        ("MAX_JOBS", "many", "positive integer, got 'many'"),
    ],
)
def test_what_means_nothing_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        Settings.read({name: value})


# ---- whether CUDA is compiled ----


@pytest.fixture
def nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvcc that knows some GPUs, and no GPU at hand."""
    monkeypatch.setattr(cuda, "find_nvcc", lambda: "/toolkit/bin/nvcc")
    monkeypatch.setattr(cuda, "known_archs", lambda nvcc: ["75", "80", "86", "90", "100"])
    monkeypatch.setattr(cuda, "gpus_at_hand", lambda: ())


@pytest.mark.usefixtures("nvcc")
def test_a_torch_without_cuda_leaves_cuda_out() -> None:
    choice = cuda.choose(Settings(), torch_cuda=None)
    assert choice.nvcc is None
    assert "HACE_BUILD=cuda" in choice.why  # says how to compile CUDA nonetheless


@pytest.mark.usefixtures("nvcc")
@pytest.mark.parametrize("torch_cuda", [None, "13.0"])
def test_cuda_where_it_is_asked_for(torch_cuda: str | None) -> None:
    choice = cuda.choose(Settings("cuda"), torch_cuda)
    assert choice.nvcc == "/toolkit/bin/nvcc"
    assert choice.archs == ("80", "90", "100")  # the usual ones that nvcc knows
    assert "HACE_BUILD=cpu" in choice.why
    assert cuda.choose(Settings("cpu"), torch_cuda).nvcc is None


@pytest.mark.usefixtures("nvcc")
def test_for_the_gpus_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpus_at_hand", lambda: ("86", "90"))
    assert cuda.choose(Settings(), "13.0").archs == ("86", "90")
    assert cuda.choose(Settings(cuda_archs=("all",)), "13.0").archs == ("80", "90", "100")
    assert cuda.choose(Settings(cuda_archs=("75",)), "13.0").archs == ("75",)


@pytest.mark.usefixtures("nvcc")
def test_gpus_that_nvcc_does_not_know() -> None:
    with pytest.raises(cuda.CudaMissingError, match=r"none of the GPUs 50 .* it knows 75 80 86"):
        cuda.choose(Settings(cuda_archs=("50",)), "13.0")


def test_no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
    choice = cuda.choose(Settings(), "13.0")
    assert choice.nvcc is None
    assert "nvcc is not found" in choice.why
    with pytest.raises(cuda.CudaMissingError, match="install the CUDA toolkit"):
        cuda.choose(Settings("cuda"), "13.0")


# ---- wheels ----


@pytest.mark.usefixtures("nvcc")
def test_a_wheel_is_named_by_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    told = types.SimpleNamespace(stdout="Cuda compilation tools, release 13.0, V13.0.88\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **options: told)
    assert wheels.local_version("cuda") == "cu130"
    assert wheels.local_version("cpu") == "cpu"


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cross.Target:
    """An aarch64 machine for which all tools are installed."""
    monkeypatch.setattr(cross.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    return cross.Target("aarch64", tmp_path)


def test_a_missing_cross_compiler(target: cross.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross.shutil, "which", lambda tool: None)
    with pytest.raises(SystemExit, match=r"need aarch64-linux-gnu-g\+\+: apt-get install g\+\+-"):
        target.prepare()
    assert not target.has_emulator


def test_a_python_that_debian_does_not_have(
    target: cross.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross, "SUITES", {(2, 7): "buster"})
    with pytest.raises(SystemExit, match=r"which are 2\.7; for python3"):
        target.prepare()


def test_the_flags_follow_the_machine_that_is_built_for(target: cross.Target) -> None:
    """CPython's own variables describe the other machine to setuptools and to our flags."""
    (target.folder / "settings").mkdir()
    settings = "build_time_vars = {'EXT_SUFFIX': '.of-that-machine.so', 'SOABI': 'there'}\n"
    (target.folder / "settings" / "_sysconfigdata__aarch64-linux-gnu.py").write_text(settings)
    program = (
        "import sysconfig; from build_tools import cpp; "
        "print(sysconfig.get_platform(), sorted(cpp._ISA_FLAGS), *cpp.compiler(), "
        "sysconfig.get_config_var('EXT_SUFFIX'))"
    )
    environment = target.build_environment()
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    environment["CXX"] = sys.executable  # any program that exists
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        *("linux-aarch64", "['generic']"),
        *(sys.executable, ".of-that-machine.so"),
    ]


# ---- what is missing is told before anything is compiled ----


def test_setuptools_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.SimpleNamespace(__version__="65.5.0")
    monkeypatch.setattr(requirements, "setuptools", old)
    with pytest.raises(SystemExit, match=r"setuptools>=77 .* has 65.5.0"):
        requirements.check_setuptools()


@pytest.mark.parametrize("missing", ["pybind11", "ninja", "torch"])
def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    requirements.check()
    find_spec = requirements.importlib.util.find_spec
    monkeypatch.setattr(
        requirements.importlib.util,
        "find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    with pytest.raises(SystemExit, match=missing):
        requirements.check()


# ---- ninja ----

#: Stands in for a compiler: copies its source, and finds its headers in lines of "include NAME".
COMPILER = """
import sys
arguments = sys.argv[1:]
source, target = arguments[arguments.index("-c") + 1], arguments[arguments.index("-o") + 1]
text = open(source).read()
if "mistake" in text:
    sys.exit(f"{source}: there is a mistake in it")
headers = [line.split()[1] for line in text.splitlines() if line.startswith("include")]
open(target, "w").write(text)
depfile = arguments[arguments.index("-MF") + 1]
open(depfile, "w").write(f"{target}: {' '.join([source, *headers])}\\n")
open("log", "a").write(f"{source} {arguments[0]}\\n")
"""
LINKER = "import sys; open(sys.argv[-1], 'w').write(' '.join(sys.argv[1:]))"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A project of two sources, one of which is compiled twice and includes a header."""
    monkeypatch.chdir(tmp_path)
    Path("compiler.py").write_text(COMPILER)
    Path("linker.py").write_text(LINKER)
    Path("a.cpp").write_text("include a.h\n")
    Path("a.h").write_text("")
    Path("b.cpp").write_text("")
    command = (sys.executable, "compiler.py")
    objects = (
        Object("a.cpp", "wide", (*command, "-D$x='y z'")),
        Object("a.cpp", "narrow", (*command, "-Dnarrow")),
        Object("b.cpp", "wide", (*command, "-D$x='y z'")),
    )
    return Library("all.so", objects, (sys.executable, "linker.py"))


def compiled(library: Library) -> list[str]:
    """What a run compiles."""
    log = Path("log")
    log.write_text("")
    ninja_build.run(Path("build"), [library])
    return sorted(log.read_text().splitlines())


def touch(path: str) -> None:
    """Changes a file and makes it newer than everything that was compiled."""
    import time

    os.utime(path, (time.time() + 1, time.time() + 1))


EVERYTHING = ["a.cpp -D$x='y z'", "a.cpp -Dnarrow", "b.cpp -D$x='y z'"]


def test_what_changed_is_compiled(project: Library) -> None:
    assert compiled(project) == EVERYTHING
    assert Path("build/all.so").exists()
    assert compiled(project) == []
    touch("b.cpp")
    assert compiled(project) == ["b.cpp -D$x='y z'"]


def test_a_header_is_a_dependency_of_what_includes_it(project: Library) -> None:
    compiled(project)
    touch("a.h")
    assert compiled(project) == ["a.cpp -D$x='y z'", "a.cpp -Dnarrow"]


def test_other_flags_compile_again(project: Library) -> None:
    compiled(project)
    changed = Object("b.cpp", "wide", (*project.objects[2].compiler[:2], "-Dother"))
    other = Library("all.so", (*project.objects[:2], changed), project.linker)
    assert compiled(other) == ["b.cpp -Dother"]


def test_a_failing_compiler(project: Library, capfd: pytest.CaptureFixture[str]) -> None:
    Path("b.cpp").write_text("mistake")
    with pytest.raises(ninja_build.NinjaError, match="compilation failed"):
        compiled(project)
    assert "b.cpp: there is a mistake in it" in capfd.readouterr().out
    Path("b.cpp").write_text("")
    assert "b.cpp -D$x='y z'" in compiled(project)  # continues where it stopped
    assert compiled(project) == []
