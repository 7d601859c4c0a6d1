"""What a call costs beside its kernels: `python -m benchmarks.dispatch`.

An op with an empty body, forward and backward, by the ways of registering a kernel that is written
in Python, as the Triton kernels are. All work in compiled graphs; the table says what eager calls
pay for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

from hace_kernels.ops.fused_loss import FusedLoss

SCHEMA = "(Tensor logits, int reduction, float eps, bool with_grad) -> (Tensor loss, Tensor grad)"
BACKWARD_SCHEMA = "(Tensor grad_loss, Tensor logits, int reduction, float eps) -> Tensor"


def empty(logits: Tensor, reduction: int, eps: float, with_grad: bool) -> tuple[Tensor, Tensor]:
    """The outputs, unwritten."""
    return logits.new_empty(()), torch.empty_like(logits)


def empty_backward(grad_loss: Tensor, logits: Tensor, reduction: int, eps: float) -> Tensor:
    """Likewise."""
    return torch.empty_like(logits)


def as_the_package_does() -> Callable[[Tensor], Tensor]:
    """A schema and an implementation in a Library, with FusedLoss's autograd."""
    library = torch.library.Library("hace_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
    keep.append(library)
    for name, schema, body in (
        ("empty", SCHEMA, empty),
        ("empty_backward", BACKWARD_SCHEMA, empty_backward),
    ):
        library.define(name + schema)  # type: ignore[no-untyped-call]
        library.impl(name, body, "CPU")  # type: ignore[no-untyped-call]
    fused = FusedLoss("empty", lambda *args: args[0].sum())
    return lambda logits: fused(logits, 1, 0.0, True)


def registered(register: Callable[..., Any], name: str) -> Callable[[Tensor], Tensor]:
    """By torch.library's decorators, with register_autograd."""
    op = register(f"hace_benchmarks::{name}", mutates_args=())(empty)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])

    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Any, ...]:
        return ctx.saved_tensors[0], None, None, None

    op.register_autograd(backward, setup_context=setup)
    op.register_fake(empty)
    return lambda logits: op(logits, 1, 0.0, True)[0]


# A library takes its ops with it.
keep: list[torch.library.Library] = []


def main() -> None:
    """Prints the table."""
    ways = {
        "Library.define and .impl, autograd.Function in eager mode (this package)": (
            as_the_package_does()
        ),
        "torch.library.custom_op": registered(torch.library.custom_op, "custom"),
        "torch.library.triton_op": registered(torch.library.triton_op, "triton"),
    }
    table = Table("an op with an empty body", "us a call, forward and backward")
    logits, one = torch.randn(1, 8, requires_grad=True), torch.ones(())
    for name, call in ways.items():
        timer = Timer(
            "torch.autograd.grad(call(logits), logits, one)",
            globals={"torch": torch, "call": call, "logits": logits, "one": one},
        )
        table.add_row(name, f"{timer.blocked_autorange(min_run_time=2).median * 1e6:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
