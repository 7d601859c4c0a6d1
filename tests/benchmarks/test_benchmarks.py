"""The benchmark suite: its peers compute what they claim to, and it reports what it measures."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from trees import Tree, balanced, caterpillar, random_tree

pytest.importorskip("rich", reason="the benchmarks need rich (extra 'bench')")
pytest.importorskip("matplotlib", reason="the benchmarks need matplotlib (extra 'bench')")

import hace
from benchmarks import __main__ as suite
from benchmarks import (
    allocator,
    gate,
    grids,
    kernel_times,
    memory,
    runner,
    segmentation,
    tables,
    timing,
)
from benchmarks import trees as bench_trees
from benchmarks.cases import Case, all_cases
from benchmarks.peers import PEERS, Peer, WrongAnswerError, check_answer
from benchmarks.peers.published import EPS
from benchmarks.problem import ALPHA, DILUTION, TARGETS, Loss, Problem
from benchmarks.records import Record, Result, growth
from hace.tables import Tables

FAST = ("--quick", "--seconds", "0.002", "--threads", "1")


def small_trees() -> list[Tree]:
    rng = np.random.default_rng(5)
    return [
        balanced([3, 4], rooted=True),
        balanced([2, 1, 3]),
        caterpillar(6),
        random_tree(rng, leaves=23, roots=3, inner=0.3, shuffle=True),
    ]


def problem_on(tree: Tree, kind: str = "index", rows: int = 7) -> Problem:
    hierarchy = hace.Hierarchy.from_parents(tree.parents, classes=tree.classes)
    return Problem(hierarchy, rows, torch.float64, kind)


# ---- every peer's answer agrees with the formulas ----


def of_hace(tree: Tree, logits: torch.Tensor, labels: np.ndarray, eps: float) -> oracle.Answer:
    weights = oracle.dilution_weights(tree, DILUTION)[tree.classes[labels]]
    return oracle.node_log_loss(logits, tree.reach(), weights, eps)


def of_cross_entropy(tree: Tree, logits: torch.Tensor, labels: np.ndarray) -> oracle.Answer:
    columns = np.eye(tree.num_classes)
    return oracle.node_log_loss(logits, columns, columns[labels])


def of_hxe(tree: Tree, logits: torch.Tensor, labels: np.ndarray) -> oracle.Answer:
    """HXE as weights of log P: λ_v at each node v of the path, and −λ_v at its parent."""
    weights = np.zeros((len(labels), tree.num_nodes))
    for row, label in enumerate(labels):
        path = tree.path(tree.classes[label])
        for index, node in enumerate(path):
            decay = math.exp(-ALPHA * (len(path) - 1 - index))
            weights[row, node] += decay
            if index + 1 < len(path):
                weights[row, path[index + 1]] -= decay
    return oracle.node_log_loss(logits, tree.reach(), weights)


FORMULAS: dict[str, Callable[..., oracle.Answer]] = {
    "cross_entropy": of_cross_entropy,
    "hace": lambda *given: of_hace(*given, eps=0),
    "hace_ordered": lambda *given: of_hace(*given, eps=0),
    "hace_tree": lambda *given: of_hace(*given, eps=0),
    "index_add": lambda *given: of_hace(*given, eps=0),
    "masked": lambda *given: of_hace(*given, eps=0),
    "sparse": lambda *given: of_hace(*given, eps=EPS),
    "dense": lambda *given: of_hace(*given, eps=EPS),
    "hxe": of_hxe,
    "hxe_masks": of_hxe,
}


@pytest.mark.parametrize("tree", small_trees(), ids=["rooted", "forest", "caterpillar", "random"])
@pytest.mark.parametrize("name", FORMULAS)
def test_answers_are_those_of_the_formulas(name: str, tree: Tree) -> None:
    problem = problem_on(tree)
    logits, target = problem.batch()
    columns = slice(None)
    if name == "hace_ordered":  # this peer's logits are in another order
        columns = torch.from_numpy(problem.tree.depth_first_classes.copy())
    given = logits.detach()[:, columns].clone().requires_grad_()
    loss = PEERS[name].make(problem)(given, target)
    loss.backward()
    answer = FORMULAS[name](tree, logits.detach(), target.numpy())
    assert float(loss.detach()) == pytest.approx(float(answer.loss.mean()), rel=1e-12)
    expected = torch.from_numpy((answer.grad / len(answer.grad)).astype(np.float64))[:, columns]
    torch.testing.assert_close(given.grad, expected, rtol=1e-9, atol=1e-15)


def test_shuffled_columns_are_those_of_the_shuffled_tree() -> None:
    tree = balanced([3, 4, 2], rooted=True)
    problem = problem_on(tree)
    other = bench_trees.shuffled(problem.tree)
    assert sorted(other.classes) == sorted(problem.tree.classes)
    assert Tables.of(other).layout().column is not None
    logits, target = problem.batch()
    answer = of_hace(Tree(other.parents, other.classes), logits.detach(), target.numpy(), eps=0)
    loss = PEERS["hace_shuffled"].make(problem)(logits, target)
    assert float(loss.detach()) == pytest.approx(float(answer.loss.mean()), rel=1e-12)


@pytest.mark.parametrize("kind", TARGETS)
def test_cross_entropy_of_every_kind_of_target_is_ours_with_dilution_1(kind: str) -> None:
    problem = problem_on(balanced([3, 2, 2], rooted=True), kind)
    peer = PEERS["cross_entropy"]
    check_answer(peer, peer.make(problem), problem, *problem.batch())


@pytest.mark.parametrize("name", [name for name in FORMULAS if PEERS[name].same_as])
def test_a_wrong_answer_is_found_before_it_is_timed(name: str) -> None:
    problem = problem_on(balanced([3, 4], rooted=True))
    loss, batch = PEERS[name].make(problem), problem.batch()
    check_answer(PEERS[name], loss, problem, *batch)
    with pytest.raises(WrongAnswerError, match=r"ours by 1\.0e-02 in the loss and 1\.0e-02 in"):
        check_answer(PEERS[name], lambda z, y: 1.01 * loss(z, y), problem, *batch)
    with pytest.raises(WrongAnswerError, match=r" in the loss and \S+e-0\d in"):
        check_answer(PEERS[name], lambda z, y: loss(z, y) + of_no_value(z), problem, *batch)


def of_no_value(logits: torch.Tensor) -> torch.Tensor:
    """A loss of 0 that has a gradient of 0.01 at each of the first row's logits."""
    return 0.01 * (logits - logits.detach())[0].sum()


# ---- the trees ----


@pytest.mark.parametrize(
    ("name", "classes", "depth"),
    [("balanced:1000:3", 1_000, 3), ("balanced:10000:20", 10_000, 20), ("caterpillar:50", 50, 49)],
)
def test_made_trees(name: str, classes: int, depth: int) -> None:
    tree = bench_trees.build(name)
    assert (tree.num_classes, tree.depth) == (classes, depth)
    assert Tables.of(tree).layout().column is None, "the columns are in depth-first order"
    if name.startswith("balanced"):
        assert (tree.depths[tree.classes] == depth).all()


def test_random_trees_have_leaves_at_many_depths() -> None:
    tree = bench_trees.build("random:3000")
    assert (tree.num_classes, len(tree.roots)) == (3_000, 1)
    assert tree.num_leaves == 3_000
    assert Tables.of(tree).layout().column is None
    assert len(np.unique(tree.depths[tree.classes])) > 3


# ---- times ----


def test_a_slower_step_takes_longer() -> None:
    steps = {"slow": lambda: time.sleep(8e-3), "fast": lambda: time.sleep(1e-3)}
    times = timing.race(steps, seconds=0.05, device="cpu")
    assert times["slow"].median > 3 * times["fast"].median
    first, third = times["fast"].quartiles
    assert 1e-3 <= first <= times["fast"].median <= third
    assert len(times["fast"].samples) > len(times["slow"].samples) >= timing.TURNS


def test_what_takes_longer_than_its_time_has_two_calls() -> None:
    times = timing.race({"slow": lambda: time.sleep(5e-3)}, seconds=1e-3, device="cpu")
    assert len(times["slow"].samples) == 2


def test_growth_is_the_exponent_of_a_power_law() -> None:
    records = [
        Record(
            "classes", "", classes, 0, 0, 64, "float32", "index", 1, "cpu", "hace", "",
            median_s=3e-9 * classes**1.5,
        )
        for classes in (100, 10_000, 100_000, 1_000_000)
    ]  # fmt: skip
    assert growth(records[:3]) == {}, "only two points have more than half a million logits"
    records[0].median_s = 1.0  # a case that is too small to count
    fit = growth(records)["hace"]
    assert fit["exponent"] == pytest.approx(1.5)
    assert (fit["from"], fit["to"]) == (10_000, 1_000_000)


def test_a_run_on_a_busy_machine_says_so() -> None:
    def result(median: float, disturbed: float) -> Result:
        quiet = Record(
            "rows", "", 10, 0, 0, 64, "float32", "index", 1, "cpu", "hace", "",
            min_s=1.0, median_s=median,
        )  # fmt: skip
        return Result({}, {}, {}, [quiet] * 8 + [replace(quiet, median_s=disturbed)] * 2)

    assert grids.disturbance(result(1.2, 1.4)) is None
    assert "NOT QUIET: 2 of 10" in str(grids.disturbance(result(1.2, 1.6)))


# ---- memory ----


needs_linux = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is counted by Linux's /proc"
)


@pytest.mark.thorough
@needs_linux
@pytest.mark.parametrize("name", ["hace", "dense"])
def test_memory_of_a_step_is_measured(name: str) -> None:
    case = Case("memory", "balanced:1000:3", 8_192, ())
    problem = case.problem("cpu")
    found = memory.measure(case, name, "cpu")
    gradient = problem.logits_bytes
    assert found.step >= gradient
    if name == "hace":
        assert found.step < 1.3 * gradient
    # The formula predicts what is taken: no more, to a page or two, and not much less. It leaves
    # out the buffers into which a BLAS packs its matrices: 10 to 30 MB depending on the machine,
    # which is little beside 190 MB.
    needs = PEERS[name].needs(problem)
    assert needs <= 1.01 * (found.kept + found.step) < 1.3 * needs


@needs_linux
def test_memory_that_cannot_be_measured_says_why() -> None:
    case = Case("memory", "no-such-tree:3", 4, ())
    with pytest.raises(memory.MeasurementError, match="there is no tree 'no-such-tree:3'"):
        memory.measure(case, "hace", "cpu")


# ---- which peers are measured ----


def run_case(case: Case) -> dict[str, Record]:
    records = runner.Runner("cpu", torch.get_num_threads(), 0.001).run(case)
    return {record.contestant: record for record in records}


def test_what_would_not_fit_is_not_tried() -> None:
    # The dense matrices R and T of a million classes would take 8.9 TB.
    case = Case("classes", "balanced:1000000:6", 1, ("dense", "masked", "hxe_masks"))
    for record in run_case(case).values():
        assert record.status == "too large"
        assert record.median_s is None
        assert str(f"{record.needs_bytes:,}") in record.note
    nodes = 1_111_111
    assert run_case(case)["dense"].needs_bytes >= 2 * 4 * nodes * 1_000_000


def test_what_breaks_or_cannot_run_here_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem) -> Loss:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setitem(PEERS, "sparse", replace(PEERS["sparse"], make=broken))
    case = Case("classes", "balanced:27:3", 4, ("clone", "hace", "sparse", "liger"))
    records = run_case(case)
    assert records["hace"].status == "ok"
    assert records["sparse"].status == "failed"
    assert records["sparse"].note == "RuntimeError: no such instruction"
    assert (records["liger"].status, records["liger"].note) == ("not here", "it is for GPUs")


def test_a_missing_taxonomy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_trees, "find_spec", lambda name: None)
    record = run_case(Case("trees", "icd10", 4, ("hace",)))["hace"]
    assert record.status == "not here"
    assert "simple-icd-10-cm" in record.note


def test_case_names_differ() -> None:
    for device in ("cpu", "cuda"):
        for quick in (True, False):
            names = [case.name for case in all_cases(quick, device)]
            assert len(names) == len(set(names))
    assert {case.sweep for case in all_cases(True, "cpu")} == set(suite.SWEEPS)


# ---- the whole suite ----


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_small_run_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "classes/balanced:100:|table/balanced:1000:3/1/"
    assert suite.main([*FAST, "--filter", names, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "hace.HACELoss" in printed
    assert "table of the README" in printed

    result = Result.load(tmp_path / "results.json")
    cases = [case for case in all_cases(True, "cpu") if re.search(names, case.name)]
    assert len(result.records) == sum(len(case.contestants) for case in cases)
    for record in result.records:
        if record.contestant == "compiled_cross_entropy" and record.status == "failed":
            assert record.note, "without a compiler, an error must be reported"
            continue
        assert record.status == "ok", record.note
        assert record.median_s is not None
        assert record.min_s <= record.q1_s <= record.median_s <= record.q3_s
        floor = 2 * record.logits_bytes / record.median_s
        assert record.bytes_per_s == pytest.approx(floor)
        beside = PEERS[record.contestant].beside
        rival = next(
            other
            for other in result.records
            if (other.sweep, other.tree, other.rows, other.target)
            == (record.sweep, record.tree, record.rows, record.target)
            and other.contestant == beside
        )
        assert record.times_ours == pytest.approx(record.median_s / rival.median_s)
    assert result.versions["torch"] == torch.__version__
    assert result.machine["memory_bytes"] > 1 << 28

    content = (tmp_path / "results.json").read_text()
    assert platform.node() not in content or len(platform.node()) < 4
    assert str(Path.home()) not in content
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == len(result.records)
    assert float(rows[0]["median_s"]) == result.records[0].median_s
    for picture in ("time", "copy"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (tmp_path / f"{picture}.svg").read_text()

    tables.main([str(tmp_path / "results.json")])
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if line.startswith("| C | B |"))
    row = next(line for line in lines if line.startswith("| 1,000 | 1 |"))
    assert header.count("|") == row.count("|")
    assert any(line.startswith("| hace.HACELoss | ") for line in lines)


def test_taxonomies_of_ones_own(tmp_path: Path) -> None:
    paths = ["animal/dog/husky", "animal/cat/siamese", "vehicle/boat", "vehicle/boat/raft"]
    edges = "parent,child\nanimal,dog\nanimal,cat\ndog,husky\ndog,poodle\n"
    (tmp_path / "mine.csv").write_text(edges)
    hace.Hierarchy.from_paths(paths).save(tmp_path / "mine.npz")
    files = [str(tmp_path / name) for name in ("mine.csv", "mine.npz")]
    taxonomies = [word for file in files for word in ("--taxonomy", file)]
    out = tmp_path / "out"
    assert suite.main([*FAST, *taxonomies, "--filter", "mine", "--out", str(out)]) == 0
    records = Result.load(out / "results.json").records
    assert all(record.status == "ok" for record in records)
    shapes = {(record.tree, record.classes, record.nodes, record.depth) for record in records}
    assert shapes == {("mine.csv", 3, 5, 2), ("mine.npz", 4, 8, 2)}
    assert str(tmp_path) not in (out / "results.json").read_text()


def test_a_wrong_answer_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_little(problem: Problem) -> Loss:
        loss = PEERS["index_add"].make(problem)
        return lambda logits, target: 1.01 * loss(logits, target)

    wrong: Peer = replace(PEERS["sparse"], make=off_by_a_little)
    monkeypatch.setitem(PEERS, "sparse", wrong)
    file = tmp_path / "mine.csv"
    file.write_text("parent,child\ntop,a\ntop,b\na,c\na,d\n")
    arguments = ["--taxonomy", str(file), "--filter", "mine", "--out", str(tmp_path)]
    assert suite.main([*FAST, *arguments]) == 1
    found = {r.contestant: r for r in Result.load(tmp_path / "results.json").records}
    assert found["sparse"].status == "wrong"
    assert found["sparse"].median_s is None
    assert found["hace"].status == "ok"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "no such case"], "leaves no case"),
        (["--taxonomy", "missing.csv"], "--taxonomy missing.csv"),
        (["--taxonomy", "tree.txt"], "there is no tree 'tree.txt'"),
    ],
)
def test_options_that_lead_nowhere(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_error_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (suite.main, gate.main):
        with pytest.raises(SystemExit, match="2"):
            main(["--device", "cuda"])
        assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_the_reference_is_measured_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HACE_BACKEND", "reference")
    for main in (suite.main, gate.main):
        with pytest.raises(SystemExit, match="2"):
            main([])
        assert "only the slow reference would run here" in capsys.readouterr().err
    file = tmp_path / "mine.csv"
    file.write_text("parent,child\ntop,a\ntop,b\n")
    arguments = ["--taxonomy", str(file), "--filter", "mine", "--out", str(tmp_path)]
    assert suite.main([*FAST, *arguments, "--backend", "reference"]) == 0
    assert Result.load(tmp_path / "results.json").settings["backend"] == "reference"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_suite_starts_again_with_freed_memory_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, args, env: started.append((args, env)))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick"])
    for name in allocator.KEEP:
        monkeypatch.delenv(name, raising=False)
    allocator.ensure_kept("benchmarks")
    ((arguments, environment),) = started
    assert arguments[1:] == ["-m", "benchmarks", "--quick"]
    assert environment.items() >= allocator.KEEP.items()

    for name, value in allocator.KEEP.items():
        monkeypatch.setenv(name, value)
    allocator.ensure_kept("benchmarks")
    assert len(started) == 1, "once is enough"
    assert not allocator.KEEP.keys() & allocator.default_environment().keys()


# ---- the gate ----


LIMIT = gate.Limit("hace", "clone", "balanced:81:4", 8, "float32", 1, 2.0)


@pytest.mark.parametrize(
    ("ratios", "exceeded"),
    [([1.9], False), ([2.5, 1.9], False), ([2.5, 2.1, 2.0], False), ([2.5, 2.1, 2.01], True)],
)
def test_a_limit_is_exceeded_after_three_races(ratios: list[float], exceeded: bool) -> None:
    left = list(ratios)
    verdict = gate.judge(LIMIT, lambda limit: left.pop(0))
    assert verdict.exceeded is exceeded
    assert verdict.ratios == tuple(ratios), "there were more races than needed"
    assert not left


@pytest.mark.parametrize(("limit", "status"), [(1e-6, 1), (1e9, 0)])
def test_the_gate(
    limit: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "limits.json"
    generous = vars(replace(LIMIT, limit=1e9))
    file.write_text(json.dumps([generous, vars(replace(LIMIT, over="cross_entropy", limit=limit))]))
    assert gate.main(["--limits", str(file), "--seconds", "0.002"]) == status
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("ok  ")
    assert ("1 of 2 limits EXCEEDED" in printed) == bool(status)


def test_the_gate_leaves_out_races_on_all_threads_where_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "limits.json"
    file.write_text(json.dumps([vars(replace(LIMIT, threads=0, limit=1e-6))]))
    for busy in (True, False):
        monkeypatch.setattr(gate, "is_busy", lambda busy=busy: busy)
        assert gate.main(["--limits", str(file), "--seconds", "0.002"]) == (not busy)
        assert capsys.readouterr().out.startswith("left out") == busy


def test_suggested_limits_have_a_margin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratios = [1.0, 2.04, 1.5]
    assert gate.suggest(LIMIT, lambda limit: ratios.pop()).limit == pytest.approx(2.6)

    file = tmp_path / "limits.json"
    file.write_text(json.dumps([vars(LIMIT)]))
    assert gate.main(["--limits", str(file), "--seconds", "0.002", "--update"]) == 0
    (suggested,) = json.loads(capsys.readouterr().out)
    assert suggested.pop("limit") > 0
    assert suggested.items() <= vars(LIMIT).items()


def test_the_committed_limits_are_of_races_that_exist() -> None:
    limits = [gate.Limit(**entry) for entry in json.loads(gate.LIMITS.read_text())]
    assert len({limit.name for limit in limits}) == len(limits) > 5
    pairs = {(limit.ours, limit.over) for limit in limits}
    assert {("hace", "cross_entropy"), ("hace", "clone"), ("hace_tree", "hace")} <= pairs
    for limit in limits:
        assert {limit.ours, limit.over} <= PEERS.keys()
        assert limit.limit > 0
        if "1000000" not in limit.tree:
            assert bench_trees.build(limit.tree).num_classes > 0


def test_images(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        "sys.argv", ["segmentation", "--shape", "2", "21", "8", "8", "--repeat", "1"]
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    segmentation.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(segmentation.LAYOUTS) * len(segmentation.TARGETS)
    assert all(float(row.split()[-1]) > 0 for row in rows)


def test_table_of_kernel_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table's form, on the CPU; only a GPU has the times."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    kinds, tree = list(TARGETS), bench_trees.build("balanced:100:2")
    small = [Problem(tree, 4, torch.float32, kind, "cpu") for kind in kinds]
    monkeypatch.setattr(kernel_times, "problems", lambda: iter(small))
    monkeypatch.setattr(kernel_times, "describe_machine", lambda: {"gpu": "some GPU"})
    monkeypatch.setattr(kernel_times, "describe_versions", lambda: {"torch": "2.11", "cuda": "13"})

    def microseconds(step: Callable[[], object]) -> float:
        step()
        return 1234.5

    monkeypatch.setattr(kernel_times, "microseconds", microseconds)
    monkeypatch.setattr("sys.argv", ["kernel_times"])
    kernel_times.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| 100 × 4 | float32 | index | 1234 | 1234 | 1234 |"
    assert lines[3] == f"| 100 × 4 | float32 | {kinds[1]} | 1234 | 1234 | |"
    assert {line.count("|") for line in lines[:7]} == {7}
    assert lines[-1] == "some GPU, torch 2.11, CUDA 13"
