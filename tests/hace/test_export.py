"""Models outside eager mode: `torch.export`, AOTInductor, ONNX, tracing, checkpointing."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hace
import hace_kernels
from hace import decode
from hace.functional import node_log_probs

FEATURES = 5
PATHS = ["a/x", "a/y", "b/z", "b/c/w", "b/c/v", "b", "d"]
DAG_EDGES = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "z"), ("c", "z"), ("x", "v"), ("x", "w")]


class Model(nn.Module):
    """A layer, followed by a function of its output."""

    def __init__(self, layer: nn.Module, last: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x))


class Calls(nn.Module):
    """A method of a layer as a model."""

    def __init__(self, layer: nn.Module, method: str, *args: Any) -> None:
        super().__init__()
        self.layer, self.method, self.args = layer, method, args

    def forward(self, x: Tensor) -> Any:
        return getattr(self.layer, self.method)(x, *self.args)


class All(nn.ModuleList):
    """A model that returns the outputs of several models."""

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        for module in self:
            output = module(x)
            outputs += [output] if isinstance(output, Tensor) else output
        return outputs


def model(name: str) -> nn.Module:
    """A model over a new hierarchy, for which no table has been made."""
    torch.manual_seed(0)
    tree = hace.Hierarchy.from_paths(PATHS)
    linear = nn.Linear(FEATURES, tree.num_classes)
    classifier = hace.nn.HierarchicalClassifier(FEATURES, tree)
    loss = hace.HACELoss(tree, reduction="none")
    smoothed = hace.HACELoss(tree, reduction="none", label_smoothing=0.1)
    dag = hace.Hierarchy.from_edges(DAG_EDGES, allow_multiple_parents=True)
    to_dag = nn.Linear(FEATURES, dag.num_classes)
    dag_loss = hace.HACELoss(dag, reduction="none")
    made: dict[str, Callable[[], nn.Module]] = {
        "node log-probabilities": lambda: Model(linear, lambda z: node_log_probs(z, tree)),
        "tree linear": lambda: hace.nn.TreeLinear(FEATURES, tree),
        "log_prob": lambda: Calls(classifier, "log_prob"),
        "predict": lambda: Calls(classifier, "predict"),
        "topk": lambda: Calls(classifier, "topk", 3),
        "predict nodes": lambda: Model(
            nn.Linear(FEATURES, tree.num_nodes),
            lambda z: hace.predict(z, tree, logit_space="nodes"),
        ),
        "loss": lambda: Model(linear, lambda z: loss(z, z.detach().argmin(1))),
        "smoothed loss": lambda: Model(linear, lambda z: smoothed(z, z.detach().argmin(1))),
        "classifier": lambda: Model(
            nn.Identity(), lambda x: classifier(x, (x[:, 0] > 0).long()).output
        ),
        "deepest node": lambda: Model(linear, lambda z: decode.deepest_node(z, tree, 0.5)),
        "majority": lambda: Model(linear, lambda z: decode.majority_subtree(z, tree)),
        "least cost": lambda: Model(linear, lambda z: decode.minimum_expected_cost(z, tree)),
        "information": lambda: Model(linear, lambda z: decode.expected_information(z, tree)),
        "levels": lambda: Model(linear, lambda z: decode.top_k_per_level(z, tree, 2).node),
        "DAG's nodes": lambda: Model(to_dag, lambda z: node_log_probs(z, dag)),
        "DAG's loss": lambda: Model(to_dag, lambda z: dag_loss(z, z.detach().argmin(1))),
        "DAG's deepest node": lambda: Model(to_dag, lambda z: decode.deepest_node(z, dag, 0.5)),
    }
    dag_parts = ["DAG's nodes", "DAG's loss", "DAG's deepest node"]
    made["DAG"] = lambda: All(made[name]() for name in dag_parts)
    answers = ["node log-probabilities", "predict", "deepest node", "least cost"]
    made["answers"] = lambda: All(made[name]() for name in answers)
    return made[name]().eval()


MODELS = [
    "node log-probabilities", "tree linear", "log_prob", "predict", "topk", "predict nodes",
    "loss", "smoothed loss", "classifier", "deepest node", "majority", "least cost",
    "information", "levels", "DAG",
]  # fmt: skip


OPS = ["node log-probabilities", "tree linear", "loss", "smoothed loss", "DAG's loss"]


def quick(*names: str, among: list[str]) -> list[Any]:
    """Parameters from all names; only some are quick, since making a graph takes long."""
    rest = [name for name in among if name not in names]
    return [*names, *(pytest.param(name, marks=pytest.mark.thorough) for name in rest)]


def close(found: Any, wanted: Any) -> None:
    wanted = wanted if isinstance(wanted, Tensor) else tuple(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def batch(rows: int) -> Tensor:
    return 3 * torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(rows))


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    return torch.export.export(module, (batch(3),), dynamic_shapes=({0: rows},))


def ops_of(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if "hace" in str(node.target)]


@pytest.mark.parametrize("name", quick("tree linear", "predict", among=MODELS))
def test_exported_for_batches_of_any_size(name: str) -> None:
    """A model can be exported before its first call, and the eager model is right afterwards."""
    module = model(name)
    program = exported(module)
    for rows in (2, 7, 300):
        wanted = model(name)(batch(rows))
        close(program.module()(batch(rows)), wanted)
        close(module(batch(rows)), wanted)


@pytest.mark.parametrize("name", quick("tree linear", among=OPS))
def test_decomposed_into_plain_pytorch(name: str) -> None:
    program = exported(model(name))
    assert len(ops_of(program)) == 1
    plain = program.run_decompositions(hace_kernels.decompositions())
    assert ops_of(plain) == []
    for rows in (2, 7):
        close(plain.module()(batch(rows)), model(name)(batch(rows)))


def test_every_op_of_a_graph_has_a_decomposition() -> None:
    decomposed = {str(op) for op in hace_kernels.decompositions()}
    losses = ("path_log_loss", "tree_log_loss", "dag_log_loss")
    for name in (*losses, "tree_log_prob", "tree_sum_up", "tree_sum_down"):
        assert f"hace_kernels.{name}.default" in decomposed


def test_the_gradient_of_a_loss_is_decomposed() -> None:
    """This is a training graph, in which the loss comes with its gradient."""
    tree = hace.Hierarchy.from_paths(PATHS)
    logits, target = torch.randn(4, tree.num_classes, requires_grad=True), torch.arange(4)
    loss = hace.HACELoss(tree)(logits, target)
    (wanted,) = torch.autograd.grad(loss, logits)
    table = hace.tables.Tables.of(tree).paths(hace.weights.HACEWeights(0.5))
    op = torch.ops.hace_kernels.path_log_loss.default
    rest = (target, table.tensors, table.max_entries, None, 0.0, -100, 1, 0.0)
    found, grad = hace_kernels.decompositions()[op](logits.detach(), *rest, True)
    close(found, hace.HACELoss(tree, 0.5)(logits, target).detach())
    (wanted,) = torch.autograd.grad(hace.HACELoss(tree, 0.5)(logits, target), logits)
    close(grad, wanted)


@pytest.mark.thorough
def test_aot_inductor(tmp_path: Path) -> None:
    """Another process, which imports hace for its ops, can load the compiled package."""
    module = model("node log-probabilities")
    package = torch._inductor.aoti_compile_and_package(
        exported(module), package_path=str(tmp_path / "model.pt2")
    )
    torch.save({"x": batch(7), "wanted": module(batch(7)).detach()}, tmp_path / "rows.pt")
    code = (
        "import torch, hace\n"
        f"rows = torch.load({str(tmp_path / 'rows.pt')!r})\n"
        f"found = torch._inductor.aoti_load_package({package!r})(rows['x'])\n"
        "torch.testing.assert_close(found, rows['wanted'], rtol=1e-5, atol=1e-6)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("name", quick("tree linear", among=["loss", "answers", "DAG"]))
def test_onnx(name: str, tmp_path: Path) -> None:
    """ONNX Runtime, which does not know this package, gives the same for any batch size."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, path = model(name), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (batch(3),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            verbose=False,
        )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (2, 7):
        found = session.run(None, {session.get_inputs()[0].name: batch(rows).numpy()})
        wanted = module(batch(rows))
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        close([torch.from_numpy(x) for x in found], [x.detach() for x in wanted])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["node log-probabilities", "tree linear", "topk", "loss", "DAG's nodes"]
)
def test_traced(name: str, tmp_path: Path) -> None:
    module = model(name)
    torch.jit.save(torch.jit.trace(module, (batch(3),)), tmp_path / "traced.pt")
    close(torch.jit.load(tmp_path / "traced.pt")(batch(7)), module(batch(7)))


@pytest.mark.filterwarnings("ignore")
def test_scripting_is_refused() -> None:
    tree = hace.Hierarchy.from_paths(PATHS)
    modules = [
        hace.HACELoss(tree),
        hace.LayeredCrossEntropyLoss(tree),
        hace.nn.TreeLinear(FEATURES, tree),
        hace.nn.HierarchicalClassifier(FEATURES, tree),
    ]
    for module in modules:
        for holder in (module, nn.Sequential(nn.Linear(FEATURES, FEATURES), module)):
            with pytest.raises(TypeError, match=f"{type(module).__name__}.*torch.export"):
                torch.jit.script(holder)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["node log-probabilities", "tree linear", "loss", "classifier"])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    """If the backward pass recomputes a part of a model, gradients have the same bits."""

    def gradients(call: Callable[..., Tensor]) -> list[Tensor | None]:
        module, x = model(name), batch(6).requires_grad_()
        parameters = [x, *module.parameters()]
        call(module, x).square().sum().backward()
        return [p.grad for p in parameters]

    plain = gradients(lambda module, x: module(x))
    again = gradients(lambda module, x: checkpoint(module, x, use_reentrant=reentrant))
    assert any(grad is not None and grad.abs().sum() > 0 for grad in plain)
    for one, other in zip(plain, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.equal(one, other)
