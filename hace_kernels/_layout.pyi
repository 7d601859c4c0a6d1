import numpy as np
from numpy.typing import NDArray

def topological_order(
    parents: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def lay_out(
    parents: NDArray[np.int64], classes: NDArray[np.int64]
) -> tuple[
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int32],
    NDArray[np.int32],
    NDArray[np.int32] | None,
]: ...
def paths(
    parents: NDArray[np.int64],
    depth: NDArray[np.int32],
    nodes: NDArray[np.int64],
    max_entries: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]: ...
def compact_paths(
    ptr: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    weight: NDArray[np.float64],
    num_classes: int,
    keep_full: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]: ...
def ring_words(
    ptr: NDArray[np.int64],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
    order: NDArray[np.int32] | None,
    num_classes: int,
    most_words: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32]] | None: ...
def cpu_capability() -> str: ...
