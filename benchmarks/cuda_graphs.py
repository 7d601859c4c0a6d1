"""Steps as CUDA graphs, which take the GPU's time alone: a replay has no Python and no launches."""

from __future__ import annotations

from functools import partial

import torch

from .peers import Step

__all__ = ["STEPS", "captured"]

#: Steps in one graph, so that the start of a replay takes little beside them.
STEPS = 10


def captured(step: Step) -> Step:
    """A replay of `STEPS` steps.

    Raises:
        RuntimeError: the step waits for the GPU, or copies from the host.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(STEPS):
            step()
    return partial(_replay, graph, step)


def _replay(graph: torch.cuda.CUDAGraph, step: Step) -> None:
    """`step` comes along because the graph reads tensors that live as long as it does."""
    graph.replay()
