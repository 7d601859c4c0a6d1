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
PATHS = {
    "trees": "(test_trees and (float32 or inner)) or (test_coarse and float32) or test_any_weights",
    "options": "(test_options and (float32 or float64) and not sum) or test_deep_path"
    " or test_nothing_to_average or (test_ignored_rows and float32)",
    "numerics": "(test_gaps and (float32 or bfloat16)) or test_gap_in_a_wide_row or test_masking"
    " or test_huge_logits or (test_minus_infinity and (float32 or float16))"
    " or (test_leading and float32) or test_eps_where_it_decides or half_precision"
    " or (test_infinity and nan and ordered and float32) or test_a_row_without"
    " or (as_exact and 1000 and (float32 or float16))",
    "the rest": "(test_widths and ordered and bfloat16) or test_split_rows or test_entropy"
    " or test_a_wrong_target or test_opcheck or same_bits or no_gradient_work"
    " or requires_grad_follows or expanded or two_losses or incoming_gradients_differ"
    " or (test_second_backward and mean and (float32 or float16)) or (test_compiled and none)"
    " or (test_scaled_loss and mean and float16 and 65536) or test_gradgradcheck_across"
    " or (test_gradcheck and weighted and mean and 0.01)",
}


#: The same of the ops over a whole tree: classes, and any of these of each.
TREES: dict[str, tuple[str, list[str]]] = {
    "sums": (
        "TestTreeSum",
        [
            "test_trees and ((inner or caterpillar or stubs) and float32 or nodes and bfloat16)",
            "test_too_large",
            "test_infinity and nan and without and float16",
            "without_a_class",
            "test_second",
            "test_layouts and bfloat16",
            "far_apart",
            "test_compiled and up",
            "test_no_graph",
            "test_wide and up and float32",
        ],
    ),
    "log-probabilities": (
        "TestTreeLogProb",
        [
            "test_trees and (inner or nodes or stubs) and (float32 or bfloat16)",
            "log_softmax",
            "test_gaps and inner and float32",
            "test_masses",
            "test_huge and float32",
            "test_lowest and bfloat16",
            "test_and_a_gap",
            "dead_nodes and nan",
            "test_minus_infinity and shuffled and bfloat16",
            "test_layouts and bfloat16 and every",
            "test_gradcheck and one",
            "test_second and float32",
            "test_compiled",
            "test_no_graph",
            "test_deep and lower",
        ],
    ),
    "losses": (
        "TestTreeLogLoss",
        [
            "test_trees and without and (pairs or others or depth or index)",
            "places_in_any",
            "test_options and mean and 1e-06",
            "test_ignore_index and 3 and pairs",
            "test_any_table and inner and pairs and 0.001",
            "two_targets",
            "test_and_a_gap",
            "test_gaps and inner and float32 and soft",
            "test_dilutions and 40 and soft and 0.99",
            "test_minus and shuffled and float32 and smoothed",
            "test_sharp and 300 and depth",
            "test_smoothing and five and 1.0 and float32",
            "without_a_softmax",
            "no_number",
        ],
    ),
    "more losses": (
        "TestTreeLogLoss",
        [
            "nothing_to_average and float32 and smoothed",
            "test_numbers_of_pairs and float64 and (-0- or -7-)",
            "test_eps and bfloat16 and 1e-06 and (soft or index)",
            "test_no_gradient and constant",
            "test_compiled and none",
            "test_expanded",
            "test_second and soft and -torch.float16 and none",
            "test_incoming and bfloat16 and soft",
            "test_scaled and -torch.float16 and 65536 and mean",
            "test_target_dtypes and 16-torch.float32",
            "test_deep_tree and classes",
        ],
    ),
    "split rows": (
        "TestSplitRows",
        [
            "float32",
            "soft and without",
        ],
    ),
    "soft targets": ("TestSoftTargets", ["by_hand", "inner_class"]),
}

_OF_TREES = " or ".join(of for of, _ in TREES.values())
SUITE = {
    **{part: f"({some}) and not ({_OF_TREES})" for part, some in PATHS.items()},
    **{part: f"{of} and (({') or ('.join(some)}))" for part, (of, some) in TREES.items()},
}


@pytest.mark.parametrize("part", SUITE)
def test_parity_in_the_interpreter(part: str) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, str(here / "triton_interpreted.py"), "-k", SUITE[part]],
        cwd=here.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
