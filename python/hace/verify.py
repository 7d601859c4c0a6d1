"""`python -m hace.verify`: is what was installed here right?

Every backend that can run is held to the float64 reference, in loss and gradient, over trees,
dtypes, both kinds of logits and three kinds of targets, and its derivatives to finite differences.
Prints a table of the largest errors and exits with 1 if one is beyond its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

import hace
from hace_kernels.backends import device_type

from .arguments import Target
from .hierarchy import Columns, Hierarchy

# Bounds on the errors below: some units in the last place of what each dtype's loss and gradient
# are rounded to (float32 for the loss of half-precision logits).
_BOUNDS = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (2e-6, 2e-6),
    torch.bfloat16: (2e-6, 2**-8),
    torch.float16: (2e-6, 2**-10),
}
_SPACES: tuple[Columns, ...] = ("classes", "nodes")
_KINDS = ("index", "smoothed", "mixup")
_ROWS = 24


def main() -> int:
    """Runs every check and prints the table; 0 if all are within their bounds, else 1."""
    torch.manual_seed(0)
    failed = 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for backend in hace.backends().values():
        print(f"{backend.name:<10} {'available' if backend.available else 'absent'}: "
              f"{backend.reason}")  # fmt: skip
    print(
        f"\n{'backend':<10} {'dtype':<9} {'logits':<8} {'target':<9} {'tree':<24} {'loss':>8} "
        f"{'gradient':>9}"
    )
    for backend in hace.backends().values():
        if not backend.available:
            continue
        device = device_type(backend.name)
        for dtype, bounds in _BOUNDS.items():
            for space, kind in product(_SPACES, _KINDS):
                for name, tree in _trees():
                    errors = _errors(tree, space, kind, dtype, backend.name, device)
                    ok = all(e <= bound for e, bound in zip(errors, bounds, strict=True))
                    failed += not ok
                    print(
                        f"{backend.name:<10} {str(dtype)[6:]:<9} {space:<8} {kind:<9} {name:<24} "
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
    yield "caterpillar, depth 60", Hierarchy.from_parents([-1, *range(60), *range(60)])
    generator = torch.Generator().manual_seed(1)
    parents = [-1, -1] + [int(torch.randint(i, (1,), generator=generator)) for i in range(2, 3000)]
    classes = torch.randperm(3000, generator=generator)[:1500]
    yield "random, inner classes", Hierarchy.from_parents(parents, classes=classes)


def _errors(
    tree: Hierarchy, space: Columns, kind: str, dtype: torch.dtype, backend: str, device: str
) -> tuple[float, float]:
    """The largest relative error of a row's loss, and of its gradient beside the row's largest."""
    has_class = tree.layout("classes").stop > tree.layout("classes").start
    nodes = torch.from_numpy(has_class.nonzero()[0])
    index = nodes[torch.randint(len(nodes), (_ROWS,))]
    target: Target = index
    if kind == "mixup":
        weight = torch.rand(_ROWS, 1, dtype=torch.float64)
        others = nodes[torch.randint(len(nodes), (_ROWS,))]
        target = torch.stack([index, others], 1), torch.cat([weight, 1 - weight], 1)
    logits = 4 * torch.randn(_ROWS, tree.num_columns(space))
    logits[::3] *= 100  # far below the smallest float
    logits = logits.to(dtype)

    def loss_fn(backend: str) -> hace.HACELoss:
        return hace.HACELoss(
            tree,
            0.6,
            logits=space,
            targets="nodes",
            reduction="none",
            label_smoothing=0.1 if kind == "smoothed" else 0.0,
            backend=backend,
        )

    loss, grad = _loss_and_grad(loss_fn(backend), logits.to(device), _to(target, device))
    true_loss, true_grad = _loss_and_grad(loss_fn("reference"), logits.double(), target)
    loss_size, grad_size = true_loss.abs(), true_grad.abs().amax(1)
    if kind != "index":
        # Soft targets add up terms that cancel in a row that is sure of what it is told: those of
        # the loss are about 1, those of the gradient masses times probabilities.
        loss_size = loss_size.clamp(min=1)
        grad_size = grad_size.maximum(logits.detach().double().softmax(1).amax(1))
    tiny = torch.finfo(dtype).tiny
    loss_error = (loss - true_loss).abs() / loss_size.clamp(min=tiny)
    grad_error = (grad - true_grad).abs().amax(1) / grad_size.clamp(min=tiny)
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


if __name__ == "__main__":
    sys.exit(main())
