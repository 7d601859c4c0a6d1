"""`python -m hace.verify` finds errors, and claims nothing about what it did not check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import hace
from hace import verify
from hace.losses import HACELoss

needs_cpu = pytest.mark.skipif(
    not hace.backends()["cpu"].available, reason="the cpu backend is not built"
)


#: The derivatives by finite differences take most of the time and are the same in all tests.
derivatives_agree = cache(verify._derivatives_agree)


@pytest.fixture(autouse=True)
def derivatives_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_derivatives_agree", derivatives_agree)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_cpu
def test_every_row_shows_its_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--quick", "--backend", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("cpu        float32 ")]
    assert len(rows) == 2 * 3 * 2  # logits, targets, trees
    for row in rows:
        loss_error, loss_bound, grad_error, grad_bound = map(float, row.split()[-4:])
        assert 0 < loss_error <= loss_bound < 1e-5
        assert 0 < grad_error <= grad_bound < 1e-5
    assert lines[-1] == "all within their bounds"
    assert not any(line.startswith("reference  float") for line in lines)


@needs_cpu
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_wrong_backend_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    right = verify._loss_and_grad

    def wrong(loss_fn: HACELoss, logits: Tensor, target: object) -> tuple[Tensor, Tensor]:
        loss, grad = right(loss_fn, logits, target)
        if logits.dtype != torch.float64:  # the reference is called in float64
            loss, grad = (loss * 1.01, grad) if what == "loss" else (loss, grad * 1.01)
        return loss, grad

    monkeypatch.setattr(verify, "_loss_and_grad", wrong)
    assert verify.main(["--quick", "--backend", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "all within" not in out


def test_nothing_but_the_reference_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = {name: hace.Backend(name, name == "reference", "for a test") for name in hace.backends()}
    monkeypatch.setattr(hace, "backends", lambda: only)
    assert verify.main([]) == 1
    told = capsys.readouterr()
    assert "nothing to verify" in told.err
    assert "all within" not in told.out
    assert verify.main(["--backend", "cpu"]) == 1
    assert "cannot verify cpu: for a test" in capsys.readouterr().err


def test_the_reference_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """It is verified in the dtypes other than float64, in which it is the yardstick."""
    assert verify.main(["--quick", "--backend", "reference"]) == 0
    out = capsys.readouterr().out
    assert "reference  float32" in out
    assert "reference  float64" not in out


def test_a_closed_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "hace.verify", "--quick", "--backend", "reference"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
