"""A trained classifier with its tree as ONNX: probabilities of all nodes, and decisions.

    python -m examples.recipes.onnx_export --out classifier.onnx

The file needs neither PyTorch nor this package: it takes batches of any size, and gives the
log-probability of every node, the best class, and the deepest node that is probable enough. The
nodes' names are in its metadata.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import hace
from hace import decode
from hace.functional import node_log_probs

from .data import tree, vectors


class Answers(nn.Module):
    """A model, and what is said of its logits."""

    def __init__(self, model: nn.Module, hierarchy: hace.Hierarchy, threshold: float) -> None:
        super().__init__()
        self.model, self.hierarchy, self.threshold = model, hierarchy, threshold

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (N, nodes), labels (N), and nodes (N)."""
        logits = self.model(inputs)
        return (
            node_log_probs(logits, self.hierarchy),
            hace.predict(logits, self.hierarchy),
            decode.deepest_node(logits, self.hierarchy, self.threshold),
        )


def main(arguments: list[str] | None = None) -> None:
    """Trains, exports, and compares ONNX Runtime's answers with PyTorch's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "classifier.onnx")
    path = parser.parse_args(arguments).out
    torch.manual_seed(0)
    hierarchy, train, test = tree(), vectors(seed=0), vectors(count=7, seed=1)
    model = hace.nn.TreeLinear(16, hierarchy)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        hace.functional.hace_loss(model(train.inputs), train.labels, hierarchy).backward()
        optimizer.step()

    answers = Answers(model, hierarchy, threshold=0.8).eval()
    names = ["log_prob", "label", "node"]
    any_rows = ({0: torch.export.Dim("rows")},)
    program = torch.onnx.export(
        answers, (train.inputs[:2],), dynamic_shapes=any_rows, output_names=names, dynamo=True
    )
    model_file = program.model_proto
    model_file.metadata_props.add(key="nodes", value=json.dumps(hierarchy.names))
    onnx.save(model_file, path)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(names, {session.get_inputs()[0].name: test.inputs.numpy()})
    for one, other in zip(found, answers(test.inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other.detach(), rtol=1e-5, atol=1e-5)
    nodes = json.loads(session.get_modelmeta().custom_metadata_map["nodes"])
    print("\n".join(nodes[node] for node in found[2]))


if __name__ == "__main__":
    main()
