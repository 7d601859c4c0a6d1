"""Starts a few processes that communicate by gloo, for tests of what is spread over processes."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

#: Modules that take long to import, so the process that the others are forked from imports them.
IMPORTED = ["torch.distributed.checkpoint", "torch.distributed.fsdp", "hace"]

TIMEOUT = timedelta(seconds=60)


def run(world: int, work: Callable[..., None], *args: Any) -> None:
    """Calls `work(rank, world, *args)` in each of `world` processes, which form a gloo group.

    Each process has one thread.

    Raises:
        AssertionError: with the first error of a process, from which the others mostly follow.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.set_forkserver_preload(IMPORTED)
        mp.start_processes(
            _start, (world, folder, work, args), nprocs=world, start_method="forkserver"
        )
        errors = sorted(Path(folder).glob("error-*"), key=lambda path: path.stat().st_mtime_ns)
        if errors:
            raise AssertionError(f"{errors[0].name} of {world}:\n{errors[0].read_text()}")


def _start(rank: int, world: int, folder: str, work: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # so that every process makes the same batches
    address = f"file://{folder}/rendezvous"
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=world, timeout=TIMEOUT
    )
    try:
        work(rank, world, *args)
    except BaseException:
        (Path(folder) / f"error-{rank}").write_text(traceback.format_exc())
    dist.destroy_process_group()
    # Threads that gloo, FSDP or checkpoints leave behind may abort an interpreter while it exits.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def everywhere(x: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that all processes passed, by rank."""
    found = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(found, x.contiguous())
    return found
