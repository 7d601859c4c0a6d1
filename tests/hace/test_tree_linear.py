"""`hace.nn.TreeLinear`, with one vector per node, where a class has the sum along its path."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import dags
import numpy as np
import oracle
import pytest
import torch
import trees
from torch.utils._python_dispatch import TorchDispatchMode
from tree_cases import SHAPES, hierarchy_of

import hace
from hace.nn import TreeLinear

PATHS = ["animal/dog/husky", "animal/dog/pug", "animal/cat/siamese", "vehicle/car", "vehicle/bus"]


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backends that run on the CPU. Layers are the same on all; the ops' tests try all."""
    found = hace.backends()[request.param]
    if not found.available:
        pytest.skip(found.reason)
    return found.name


@pytest.fixture
def animals() -> hace.Hierarchy:
    return hace.Hierarchy.from_paths(PATHS)


def check(layer: TreeLinear, reach: np.ndarray, input: torch.Tensor) -> None:
    """Compares output and gradients with explicit class weights, `reach.T @ weight`.

    A product has one rounding per feature and is rounded to the layer's dtype. The sum of the
    products has one rounding per node on the path and is rounded likewise.
    """
    x = input.detach().requires_grad_()
    output = layer(x)
    assert output.dtype == input.dtype
    assert output.shape == (*input.shape[:-1], reach.shape[1])
    incoming = torch.randn(output.shape).to(output.dtype)
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(output, [x, *parameters], incoming)

    rows = oracle.to_real(input.reshape(-1, input.shape[-1]))
    grad_rows = oracle.to_real(incoming.reshape(len(rows), reach.shape[1]))
    weight = oracle.to_real(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else oracle.to_real(layer.bias)
    up = reach.astype(oracle.REAL)
    of_nodes = rows @ weight.T + bias
    sizes = np.abs(rows) @ np.abs(weight).T + np.abs(bias)
    grad_of_nodes, grad_sizes = grad_rows @ up.T, np.abs(grad_rows) @ up.T
    expected = [
        (output.detach(), of_nodes @ up, sizes @ up),
        (grads[0], grad_of_nodes @ weight, grad_sizes @ np.abs(weight)),
        (grads[1], grad_of_nodes.T @ rows, grad_sizes.T @ np.abs(rows)),
    ]
    if layer.bias is not None:
        expected.append((grads[2], grad_of_nodes.sum(0), grad_sizes.sum(0)))
    for found, value, size in expected:
        terms = input.shape[-1] + max(reach.shape)
        assert_sums_close(found.reshape(value.shape), value, size, terms)


def assert_sums_close(
    found: torch.Tensor, expected: np.ndarray, size: np.ndarray, terms: int
) -> None:
    """Asserts sums within the rounding of `terms` terms, plus two roundings to the dtype."""
    unit = oracle.ROUNDOFF[oracle.working_dtype(found.dtype)]
    stored = oracle.ROUNDOFF[found.dtype]
    bound = ((8 + math.sqrt(terms)) * unit + 3 * stored) * size + oracle.UNDERFLOW[found.dtype]
    error = np.abs(oracle.to_real(found) - expected)
    assert (error <= bound).all(), (
        f"{float((error / np.maximum(bound, 1e-300)).max())} of the bound"
    )


# --- output and gradients -------------------------------------------------------------------------


#: Numbers of rows with which products are summed, and with which vectors are (`_has_many_rows`).
FEW, MANY = 3, 40


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_trees(
    backend: str, rng: np.random.Generator, shape: str, dtype: torch.dtype, rows: int
) -> None:
    """Trees have inner classes, several roots, shuffled columns, and nodes without classes."""
    tree = SHAPES[shape](rng)
    for bias in (True, False):
        layer = TreeLinear(7, hierarchy_of(tree), bias, dtype=dtype, backend=backend)
        check(layer, tree.reach(), torch.randn(rows, 7, dtype=dtype))


@pytest.mark.parametrize("features", [6, 16, 130])
def test_vectors_are_summed_where_there_are_many_rows(
    backend: str, rng: np.random.Generator, features: int
) -> None:
    """The features are less than a vector, whole vectors, or several blocks of vectors."""
    tree = trees.random_tree(rng, 50, roots=2, inner=0.3, shuffle=True)
    layer = TreeLinear(features, hierarchy_of(tree), dtype=torch.float64, backend=backend)
    for rows, sums_vectors in ((features // 5, False), (features + 1, True)):
        x = torch.randn(rows, features, dtype=torch.float64)
        with Allocated(layer.weight) as made:
            output = layer(x)
        assert (rows * tree.num_nodes in made.sizes) != sums_vectors
        assert (features * tree.num_classes in made.sizes) == sums_vectors
        torch.testing.assert_close(output, layer.to_linear()(x), rtol=1e-12, atol=1e-13)
        check(layer, tree.reach(), x)


@pytest.mark.parametrize("shape", dags.SHAPES)
def test_dags(shape: str) -> None:
    """A class sums its node and all nodes above it, each once, however many paths lead there."""
    dag = dags.SHAPES[shape]
    for dtype in (torch.float64, torch.float32):
        layer = TreeLinear(7, dags.hierarchy_of(dag), dtype=dtype)
        check(layer, dag.reach(), torch.randn(5, 7, dtype=dtype))


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", ["caterpillar", "forest", "shuffled inner classes"])
def test_half_precision(
    backend: str, rng: np.random.Generator, shape: str, dtype: torch.dtype, rows: int
) -> None:
    """Parameters, output and gradients have half precision; paths are summed in float32."""
    tree = SHAPES[shape](rng)
    layer = TreeLinear(16, hierarchy_of(tree), dtype=dtype, backend=backend)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    check(layer, tree.reach(), torch.randn(rows, 16).to(dtype))
    assert layer.to_linear().weight.dtype == dtype


def test_long_paths_keep_their_digits(backend: str) -> None:
    """The sum of 2,000 equal terms would stop at 256 if it were in bfloat16."""
    layer = TreeLinear(
        1, hace.Hierarchy.from_parents(np.arange(-1, 1999)), dtype=torch.bfloat16, backend=backend
    )
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    assert layer(torch.ones(1, 1, dtype=torch.bfloat16)).item() == 2000
    assert layer.to_linear().weight.item() == 2000


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3,), (2, 3), (2, 0, 3), (2, 1, 2, 2)], ids=str)
def test_leading_dimensions(backend: str, animals: hace.Hierarchy, shape: tuple[int, ...]) -> None:
    """It maps (…, F) to (…, C) like nn.Linear, also if the input is not contiguous."""
    layer = TreeLinear(6, animals, backend=backend)
    reach = np.array([[node in animals.path(v) for v in animals.classes] for node in range(9)])
    check(layer, reach, torch.randn(*shape, 6))
    strided = torch.randn(6, *shape).movedim(0, -1)
    check(layer, reach, strided)
    assert layer(strided).shape == layer.to_linear()(strided).shape


@pytest.mark.parametrize("rows", [2, 5], ids=["few rows", "many rows"])
def test_gradcheck(backend: str, rng: np.random.Generator, rows: int) -> None:
    tree = trees.random_tree(rng, 4, roots=2, inner=0.5, shuffle=True)
    layer = TreeLinear(3, hierarchy_of(tree), dtype=torch.float64, backend=backend)

    def outputs(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (torch.randn(rows, 3, dtype=torch.float64).requires_grad_(), *layer.parameters())
    assert torch.autograd.gradcheck(outputs, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(outputs, inputs)


def test_shared_ancestors_learn_from_each_class(animals: hace.Hierarchy) -> None:
    """Training on a husky changes the pug, by way of the dog, but not the car."""
    layer = TreeLinear(4, animals)
    before = layer.to_linear().weight.detach()
    x = torch.randn(1, 4)
    layer(x)[0, 0].backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= parameter.grad
    moved = (layer.to_linear().weight - before).detach() / x
    expected = -torch.tensor([3.0, 2, 1, 0, 0])[:, None].expand(5, 4)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


class Allocated(TorchDispatchMode):
    """Records the sizes of the tensors that operations make, except views of `known`."""

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.known = known.untyped_storage().data_ptr()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        for output in outputs:
            if output.untyped_storage().data_ptr() != self.known:
                self.sizes.append(output.numel())
        return result


@pytest.mark.parametrize("kind", ["tree", "DAG"])
def test_class_weights_are_never_built(rng: np.random.Generator, kind: str) -> None:
    """The (C, F) matrix would take many times the memory that two rows need."""
    tree = trees.random_tree(rng, 500, shuffle=True)
    hierarchy = hierarchy_of(tree)
    if kind == "DAG":
        hierarchy = dags.hierarchy_of(dags.from_tree(tree))
    layer, x = TreeLinear(256, hierarchy), torch.randn(2, 256)
    with Allocated(layer.weight) as made:
        layer(x)
    assert 2 * tree.num_nodes in made.sizes
    assert max(made.sizes) < 500 * 256 / 8


# --- the same as an nn.Linear ---------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_to_linear(backend: str, rng: np.random.Generator, shape: str, bias: bool) -> None:
    tree = SHAPES[shape](rng)
    layer = TreeLinear(7, hierarchy_of(tree), bias, dtype=torch.float64, backend=backend)
    linear = layer.to_linear()
    assert type(linear) is torch.nn.Linear
    assert (linear.in_features, linear.out_features) == (7, tree.num_classes)
    reach = torch.from_numpy(tree.reach().astype(float))
    torch.testing.assert_close(linear.weight, reach.T @ layer.weight, rtol=1e-14, atol=1e-15)
    x = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(linear(x), layer(x), rtol=1e-12, atol=1e-14)
    if bias:
        torch.testing.assert_close(linear.bias, reach.T @ layer.bias, rtol=1e-14, atol=1e-15)
    else:
        assert linear.bias is None
    for parameter in linear.parameters():
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.is_contiguous()


def test_to_linear_of_a_dag() -> None:
    for dag in dags.SHAPES.values():
        layer = TreeLinear(7, dags.hierarchy_of(dag), dtype=torch.float64)
        x = torch.randn(5, 7, dtype=torch.float64)
        torch.testing.assert_close(layer.to_linear()(x), layer(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tree", [trees.flat(5, rooted=False), trees.flat(1, rooted=False)])
def test_to_linear_is_a_copy(tree: trees.Tree) -> None:
    """Even if each class is its whole path, training one layer does not change the other."""
    layer = TreeLinear(3, hierarchy_of(tree))
    linear = layer.to_linear()
    assert torch.equal(linear.weight, layer.weight)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    assert layer.weight.abs().sum() > 0
    assert layer.bias.abs().sum() > 0


def test_flat_forest_is_nn_linear() -> None:
    """Without ancestors nothing is shared, so equal parameters give equal bits."""
    layer = TreeLinear(9, hierarchy_of(trees.flat(6, rooted=False)))
    plain = torch.nn.Linear(9, 6)
    plain.load_state_dict(dict(layer.named_parameters()))
    x = torch.randn(4, 9)
    assert torch.equal(layer(x), plain(x))


# --- initialisation -------------------------------------------------------------------------------

INIT_TREES: dict[str, Callable[[np.random.Generator], trees.Tree]] = {
    "flat": lambda rng: trees.flat(30),
    "flat forest": lambda rng: trees.flat(30, rooted=False),
    "shallow": lambda rng: trees.balanced([3, 4]),
    "deep": lambda rng: trees.balanced([2, 2, 2, 2], rooted=True),
    "chain": lambda rng: trees.chain(9),
    "caterpillar": lambda rng: trees.caterpillar(20),
    "unbalanced": lambda rng: trees.random_tree(rng, 25, roots=2, inner=0.3, shuffle=True),
}


@pytest.mark.parametrize("shape", INIT_TREES)
def test_leaves_have_the_variance_of_nn_linear(rng: np.random.Generator, shape: str) -> None:
    """The variance is 1/(3F) at any depth; 20,000 weights estimate it to about 1 %."""
    tree, features = INIT_TREES[shape](rng), 20_000
    weight = TreeLinear(features, hierarchy_of(tree)).to_linear().weight.detach().double()
    leaves = weight[tree.leaf_labels()]
    relative = 3 * features * leaves.square().mean(1)
    torch.testing.assert_close(relative, torch.ones_like(relative), rtol=0, atol=0.06)
    assert (leaves.mean(1).abs() * math.sqrt(3) * features < 5).all()
    inner = np.setdiff1d(np.arange(tree.num_classes), tree.leaf_labels())
    assert (3 * features * weight[inner].square().mean(1) < 1).all(), "a node takes everything"


@pytest.mark.parametrize("shape", INIT_TREES)
def test_shares_of_the_variance_sum_to_1(rng: np.random.Generator, shape: str) -> None:
    """Vectors are uniform between bounds whose squares sum to nn.Linear's along a path."""
    tree, features = INIT_TREES[shape](rng), 20_000
    layer = TreeLinear(features, hierarchy_of(tree))
    bound = layer.weight.detach().abs().amax(1)
    for leaf in tree.leaves():
        path = tree.path(leaf)
        assert features * bound[path].square().sum().item() == pytest.approx(1, rel=2e-3)
        shares = features * bound[path].square()
        assert (shares > 0).all(), "a node has no share"


@pytest.mark.parametrize("shape", ["deep", "unbalanced"])
def test_biases_are_drawn_alike(rng: np.random.Generator, shape: str) -> None:
    tree = INIT_TREES[shape](rng)
    layer = TreeLinear(3, hierarchy_of(tree))
    reach = torch.from_numpy(tree.reach()[:, tree.leaf_labels()]).float()
    drawn = []
    for _ in range(2000):
        layer.reset_parameters()
        drawn.append(layer.bias.detach() @ reach)
    relative = 3 * 3 * torch.stack(drawn).square().mean(0)
    torch.testing.assert_close(relative, torch.ones_like(relative), rtol=0, atol=0.15)


def test_logits_start_alike_on_deep_and_flat_trees() -> None:
    """So a learning rate that suits nn.Linear suits this layer, too."""
    x = torch.randn(200, 256)
    plain = torch.nn.Linear(256, 64)(x).std()
    for tree in (trees.balanced([2] * 6), trees.balanced([8, 8], rooted=True), trees.flat(64)):
        ratio = TreeLinear(256, hierarchy_of(tree))(x).std() / plain
        assert ratio.item() == pytest.approx(1, abs=0.1)


def test_reset_parameters(animals: hace.Hierarchy) -> None:
    """It draws again from torch's generator, and equal seeds give equal layers."""
    layer = TreeLinear(4, animals)
    first = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, first)
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    assert torch.equal(TreeLinear(4, animals).weight, layer.weight)


# --- the module -----------------------------------------------------------------------------------


def test_parameters(animals: hace.Hierarchy) -> None:
    layer = TreeLinear(4, animals)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (9, 4),
        "bias": (9,),
    }
    assert (layer.in_features, layer.out_features) == (4, 5)
    without = TreeLinear(4, animals, bias=False)
    assert without.bias is None
    assert [name for name, _ in without.named_parameters()] == ["weight"]
    assert list(without.state_dict()) == ["weight", "_extra_state"]


def test_state_dict(animals: hace.Hierarchy) -> None:
    layer, other = TreeLinear(4, animals), TreeLinear(4, animals)
    assert list(layer.state_dict()) == ["weight", "bias", "_extra_state"], "tables are not state"
    x = torch.randn(3, 4)
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))


def through_pickle(module: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_copies(animals: hace.Hierarchy, duplicate: Callable[[Any], Any]) -> None:
    layer, x = TreeLinear(4, animals), torch.randn(3, 4)
    copied = duplicate(layer)
    expected = layer(x).detach()
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(copied(x), expected)


def test_dtype_and_device(animals: hace.Hierarchy) -> None:
    assert TreeLinear(4, animals, dtype=torch.float64).bias.dtype == torch.float64
    meta = TreeLinear(4, animals, device="meta")
    assert meta.weight.is_meta
    layer = TreeLinear(4, animals).double()
    assert layer(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_repr(animals: hace.Hierarchy) -> None:
    text = repr(TreeLinear(4, animals, bias=False))
    for part in ("TreeLinear(", "in_features=4", "out_features=5", "bias=False", "9 nodes"):
        assert part in text


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_autocast(animals: hace.Hierarchy, rows: int) -> None:
    layer, x = TreeLinear(8, animals), torch.randn(rows, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
        assert output.dtype == torch.bfloat16
        loss = hace.HACELoss(animals)(output, torch.arange(rows) % 5)
    torch.testing.assert_close(output.float(), layer(x), rtol=0.05, atol=0.05)
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert (layer.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("pickled", [False, True], ids=["new", "pickled"])
def test_compiled(animals: hace.Hierarchy, pickled: bool) -> None:
    torch._dynamo.reset()
    layer = TreeLinear(4, animals)
    model = through_pickle(layer) if pickled else layer
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (FEW, MANY):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [hace.HACELoss, hace.CrossEntropyLoss, hace.HXELoss])
def test_training_decreases_the_loss(
    animals: hace.Hierarchy, make: Callable[..., Any], threads: Callable[[int], None]
) -> None:
    """The layer works with every loss."""
    threads(1)  # the steps are too small to be worth splitting
    features, target = torch.randn(32, 16), torch.randint(5, (32,))
    layer, loss_fn = TreeLinear(16, animals), make(animals)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_fn(layer(features), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] / 2


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("hierarchy", [[-1, 0, 0], "animal/dog", None, 5], ids=str)
def test_not_a_hierarchy(hierarchy: Any) -> None:
    with pytest.raises(TypeError, match="Hierarchy"):
        TreeLinear(4, hierarchy)


def test_input_of_a_wrong_width(animals: hace.Hierarchy) -> None:
    with pytest.raises(RuntimeError, match="5"):
        TreeLinear(4, animals)(torch.randn(3, 5))


def test_backends(animals: hace.Hierarchy) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    layer = TreeLinear(4, animals, dtype=torch.float64, backend="reference")
    expected = layer(x)
    for backend in hace.backends().values():
        layer.backend = backend.name
        if backend.available and backend.name not in ("triton", "cuda"):
            torch.testing.assert_close(layer(x), expected, rtol=1e-13, atol=1e-15)
        else:
            with pytest.raises(hace.BackendError, match=backend.name):
                layer(x)


def test_over_a_dag_on_the_backend_asked_for(backend: str) -> None:
    dag = dags.diamond()
    layer = TreeLinear(4, dags.hierarchy_of(dag), dtype=torch.float64, backend=backend)
    x = torch.randn(3, 4, dtype=torch.float64)
    of_nodes = x @ layer.weight.T + layer.bias
    columns = [of_nodes[:, [*dag.ancestors(node)]].sum(1) for node in dag.classes]
    torch.testing.assert_close(layer(x), torch.stack(columns, 1), rtol=1e-13, atol=1e-14)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_features(animals: hace.Hierarchy) -> None:
    """As in nn.Linear(0, C), only the biases are left."""
    layer = TreeLinear(0, animals)
    torch.nn.init.ones_(layer.bias)
    expected = torch.tensor([[3.0, 3, 3, 2, 2]]).expand(2, 5)
    assert torch.equal(layer(torch.randn(2, 0)), expected)
    assert torch.equal(layer.to_linear()(torch.randn(2, 0)), expected)
