"""`python -m hace.verify`: does what was installed here compute the right thing?

Every compiled backend that can run is compared with the float64 reference, in loss and gradient,
over trees, dtypes, both kinds of logits and three kinds of targets; and the derivatives of every
backend, also of the reference, with finite differences. Prints a table of the largest errors beside
their bounds. Exits with 1 if an error exceeds its bound, or if there is no backend to verify.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

import hace
from hace_kernels.backends import device_type

from .arguments import Target
from .hierarchy import Hierarchy
from .spaces import LogitSpace, num_columns
from .tables import Tables

# Bounds on the errors below: a few units in the last place of the dtype that loss and gradient are
# rounded to (float32 for the loss of half-precision logits).
_BOUNDS = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (2e-6, 2e-6),
    torch.bfloat16: (2e-6, 2**-8),
    torch.float16: (2e-6, 2**-10),
}
_SPACES: tuple[LogitSpace, ...] = ("classes", "nodes")
_KINDS = ("index", "smoothed", "mixup")
_ROWS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks and prints the table; returns 0 if there were some and all passed, else 1."""
    options = _parser().parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the steps are small: more threads would slow them
    print(f"torch {torch.__version__}")
    for backend in hace.backends().values():
        state = "available" if backend.available else "absent"
        print(f"{backend.name:<10} {state}: {backend.reason}")
    sys.stdout.flush()
    names = _to_verify(options.backend)
    if not names:
        return 1
    print(
        f"\n{'':<54} {'loss':^17} {'gradient':^17}\n"
        f"{'backend':<10} {'dtype':<9} {'logits':<8} {'target':<9} {'tree':<14} "
        f"{'error':>8} {'bound':>8} {'error':>8} {'bound':>8}"
    )
    failed = sum(_verify(name, options.quick) for name in names)
    for name in dict.fromkeys(["reference", *names]):
        ok = _derivatives_agree(name, device_type(name))
        failed += not ok
        print(f"{name:<10} derivatives by finite differences: {'ok' if ok else 'FAILED'}")
    print(f"\n{f'{failed} checks FAILED' if failed else 'all within their bounds'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hace.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(hace.backends())
    parser.add_argument(
        "--backend",
        action="append",
        choices=list(hace.backends()),
        metavar="NAME",
        help=f"verify this one of {names}, which must be available; repeatable",
    )
    parser.add_argument("--quick", action="store_true", help="two trees and two dtypes")
    return parser


def _to_verify(asked: Sequence[str] | None) -> list[str]:
    """The backends to verify; says on stderr why there are none.

    The reference is what the others are compared with; in its own dtype it would be compared with
    itself.
    """
    backends = hace.backends()
    if asked is None:
        names = [name for name in backends if name != "reference" and backends[name].available]
        if not names:
            print(
                "\nnothing to verify: of the backends only the reference can run here, and it is "
                "what the others are compared with (see above for what each of them lacks)",
                file=sys.stderr,
            )
        return names
    for name in asked:
        if not backends[name].available:
            print(f"\ncannot verify {name}: {backends[name].reason}", file=sys.stderr)
            return []
    return list(dict.fromkeys(asked))


def _verify(backend: str, quick: bool) -> int:
    """Prints a row for every check of a backend, and returns how many failed."""
    device = device_type(backend)
    failed = 0
    trees = list(_trees())[-2 if quick else 0 :]
    for dtype, bounds in _BOUNDS.items():
        itself = backend == "reference" and dtype == torch.float64
        if itself or (quick and dtype not in (torch.float32, torch.bfloat16)):
            continue
        for space, kind in product(_SPACES, _KINDS):
            for name, tree in trees:
                errors = _errors(tree, space, kind, dtype, backend, device)
                ok = all(e <= bound for e, bound in zip(errors, bounds, strict=True))
                failed += not ok
                figures = " ".join(
                    f"{e:8.1e} {bound:8.1e}" for e, bound in zip(errors, bounds, strict=True)
                )
                print(
                    f"{backend:<10} {str(dtype)[6:]:<9} {space:<8} {kind:<9} {name:<14} "
                    f"{figures}{'' if ok else '  FAILED'}"
                )
    return failed


def _trees() -> Iterator[tuple[str, Hierarchy]]:
    yield "one class", Hierarchy.from_parents([-1])
    yield "flat, 37", Hierarchy.from_parents([-1] * 37)
    yield "binary, 7 deep", Hierarchy.from_parents([(i - 1) // 2 if i else -1 for i in range(255)])
    yield "chain, 60 deep", Hierarchy.from_parents([-1, *range(60), *range(60)])
    generator = torch.Generator().manual_seed(1)
    parents = [-1, -1] + [int(torch.randint(i, (1,), generator=generator)) for i in range(2, 3000)]
    classes = torch.randperm(3000, generator=generator)[:1500]
    yield "random, 1,500", Hierarchy.from_parents(parents, classes=classes)


def _errors(
    tree: Hierarchy, space: LogitSpace, kind: str, dtype: torch.dtype, backend: str, device: str
) -> tuple[float, float]:
    """The largest relative error of a row's loss, and of its gradient beside the row's largest."""
    layout = Tables.of(tree).layout()
    nodes = torch.from_numpy((layout.stop > layout.start)[: tree.num_nodes].nonzero()[0])
    index = nodes[torch.randint(len(nodes), (_ROWS,))]
    target: Target = index
    if kind == "mixup":
        weight = torch.rand(_ROWS, 1, dtype=torch.float64)
        others = nodes[torch.randint(len(nodes), (_ROWS,))]
        target = torch.stack([index, others], 1), torch.cat([weight, 1 - weight], 1)
    logits = 4 * torch.randn(_ROWS, num_columns(tree, space))
    logits[::3] *= 100  # far below the smallest float
    logits = logits.to(dtype)

    def loss_fn(backend: str) -> hace.HACELoss:
        return hace.HACELoss(
            tree,
            0.6,
            logit_space=space,
            target_space="nodes",
            reduction="none",
            label_smoothing=0.1 if kind == "smoothed" else 0.0,
            backend=backend,
        )

    loss, grad = _loss_and_grad(loss_fn(backend), logits.to(device), _to(target, device))
    true_loss, true_grad = _loss_and_grad(loss_fn("reference"), logits.double(), target)
    loss_size, grad_size = true_loss.abs(), true_grad.abs().amax(1)
    if kind != "index":
        # With soft targets, terms cancel in a row whose prediction is right and confident: those of
        # the loss are about 1, those of the gradient are masses times probabilities.
        loss_size = loss_size.clamp(min=1)
        grad_size = grad_size.maximum(logits.detach().double().softmax(1).amax(1))
    # The kernels treat subnormal numbers of the dtype that they compute in as 0: results smaller
    # than this may be off by the smallest normal number.
    work = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    smallest = [max(torch.finfo(dtype).tiny, work.tiny / bound) for bound in _BOUNDS[dtype]]
    loss_error = (loss - true_loss).abs() / loss_size.clamp(min=smallest[0])
    grad_error = (grad - true_grad).abs().amax(1) / grad_size.clamp(min=smallest[1])
    return float(loss_error.max()), float(grad_error.max())


def _to(target: Target, device: str) -> Target:
    if isinstance(target, tuple):
        return target[0].to(device), target[1].to(device)
    return target.to(device)


def _loss_and_grad(loss_fn: hace.HACELoss, logits: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    logits.requires_grad_()
    loss = loss_fn(logits, target)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach().double().cpu(), grad.double().cpu()


def _derivatives_agree(backend: str, device: str) -> bool:
    tree = Hierarchy.from_parents([-1, 0, 0, 1, 1, 2, 2, 2])
    logits = torch.randn(4, 5, dtype=torch.float64, device=device, requires_grad=True)
    target = torch.tensor([0, 4, 2, -100], device=device)
    loss_fn = hace.HACELoss(tree, 0.6, backend=backend)

    def loss_of(z: Tensor) -> Tensor:
        loss: Tensor = loss_fn(z, target)
        return loss

    try:
        torch.autograd.gradcheck(loss_of, logits)
        torch.autograd.gradgradcheck(loss_of, logits)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return False
    return True


def _run() -> int:
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(_run())
