"""`python -m hace.verify`: is what was installed here right?

Every backend that can run is held to the float64 reference, in loss and gradient, over trees,
dtypes and both kinds of logits, and its derivatives to finite differences. Prints a table of the
largest errors and exits with 1 if one is beyond its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

import hace

from .hierarchy import Hierarchy, Space

# Bounds on the errors below: some units in the last place of what each dtype's loss and gradient
# are rounded to (float32 for the loss of half-precision logits).
_BOUNDS = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (2e-6, 2e-6),
    torch.bfloat16: (2e-6, 2**-8),
    torch.float16: (2e-6, 2**-10),
}
_ROWS = 24


def main() -> int:
    """Runs every check and prints the table; 0 if all are within their bounds, else 1."""
    torch.manual_seed(0)
    failed = 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for backend in hace.backends().values():
        print(f"{backend.name:<10} {'available' if backend.available else 'absent'}: "
              f"{backend.reason}")  # fmt: skip
    print(f"\n{'backend':<10} {'dtype':<9} {'logits':<8} {'tree':<28} {'loss':>8} {'gradient':>9}")
    for backend in hace.backends().values():
        if not backend.available:
            continue
        device = "cuda" if backend.name in ("triton", "cuda") else "cpu"
        for dtype, bounds in _BOUNDS.items():
            for space in ("classes", "nodes"):
                for name, tree in _trees():
                    errors = _errors(tree, space, dtype, backend.name, device)
                    ok = all(e <= bound for e, bound in zip(errors, bounds, strict=True))
                    failed += not ok
                    print(
                        f"{backend.name:<10} {str(dtype)[6:]:<9} {space:<8} {name:<28} "
                        f"{errors[0]:8.1e} {errors[1]:9.1e} {'' if ok else ' FAILED'}"
                    )
        ok = _derivatives_agree(backend.name, device)
        failed += not ok
        print(f"{backend.name:<10} gradcheck and gradgradcheck: {'ok' if ok else 'FAILED'}")
    print(f"\n{f'{failed} checks FAILED' if failed else 'all within their bounds'}")
    return 1 if failed else 0


def _trees() -> Iterator[tuple[str, Hierarchy]]:
    yield "one class", Hierarchy.from_parents([-1])
    yield "flat forest, 37 classes", Hierarchy.from_parents([-1] * 37)
    yield "binary, depth 7", Hierarchy.from_parents([(i - 1) // 2 if i else -1 for i in range(255)])
    yield (
        "caterpillar, depth 60",
        Hierarchy.from_parents(
            [-1, *(i for i in range(60) for _ in range(2))][:61] + list(range(60))
        ),
    )
    generator = torch.Generator().manual_seed(1)
    parents = [-1, -1] + [int(torch.randint(i, (1,), generator=generator)) for i in range(2, 3000)]
    classes = torch.randperm(3000, generator=generator)[:1500]
    yield "random, inner classes", Hierarchy.from_parents(parents, classes=classes)


def _errors(
    tree: Hierarchy, space: Space, dtype: torch.dtype, backend: str, device: str
) -> tuple[float, float]:
    """The largest relative error of a row's loss, and of its gradient beside the row's largest."""
    has_class = tree.layout("classes").stop > tree.layout("classes").start
    nodes = torch.from_numpy(has_class.nonzero()[0])
    target = nodes[torch.randint(len(nodes), (_ROWS,))]
    logits = 4 * torch.randn(_ROWS, tree.num_targets(space))
    logits[::3] *= 100  # far below the smallest float
    logits = logits.to(dtype)
    loss_fn = hace.HACELoss(
        tree, 0.6, logits=space, targets="nodes", reduction="none", backend=backend
    )
    loss, grad = _loss_and_grad(loss_fn, logits.to(device), target.to(device))
    loss_fn = hace.HACELoss(
        tree, 0.6, logits=space, targets="nodes", reduction="none", backend="reference"
    )
    true_loss, true_grad = _loss_and_grad(loss_fn, logits.double(), target)
    tiny = torch.finfo(dtype).tiny
    loss_error = (loss - true_loss).abs() / true_loss.abs().clamp(min=tiny)
    grad_error = (grad - true_grad).abs().amax(1) / true_grad.abs().amax(1).clamp(min=tiny)
    return float(loss_error.max()), float(grad_error.max())


def _loss_and_grad(loss_fn: hace.HACELoss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
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


if __name__ == "__main__":
    sys.exit(main())
