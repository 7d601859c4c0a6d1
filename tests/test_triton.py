"""The Triton kernels without a GPU: in Triton's interpreter, and what they compile to."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

#: Which of the parity suite runs, in a few processes: at 0.1 s a row not everything can.
SUITE = {
    "trees": "(test_trees and (float32 or inner)) or (test_coarse and float32) or test_any_weights",
    "options": "(test_options and (float32 or float64) and not sum) or test_deep_path"
    " or test_nothing_to_average or (test_ignored_rows and float32)",
    "numerics": "(test_gaps and (float32 or bfloat16)) or test_gap_in_a_wide_row or test_masking"
    " or test_huge_logits or (test_minus_infinity and (float32 or float16))"
    " or (test_leading and float32) or test_eps_where_it_decides or half_precision"
    " or (test_infinity and nan and ordered and float32) or test_a_row_without"
    " or (as_exact and 1000 and (float32 or float16))",
    "the rest": "(test_widths and ordered and bfloat16) or test_split_rows or test_entropy"
    " or test_a_wrong_target or test_opcheck or same_bits or other_ops or no_gradient_work"
    " or requires_grad_follows or expanded or two_losses or incoming_gradients_differ"
    " or (test_second_backward and mean and (float32 or float16)) or (test_compiled and none)"
    " or (test_scaled_loss and mean and float16 and 65536) or test_gradgradcheck_across"
    " or (test_gradcheck and weighted and mean and 0.01)",
}


@pytest.mark.parametrize("part", SUITE)
def test_parity_in_the_interpreter(part: str) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, str(here / "triton_interpreted.py"), "-k", SUITE[part]],
        cwd=here.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
