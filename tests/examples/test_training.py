"""Every loss and layer learns something real: which disease a phrase is about.

The phrases are those of one chapter of ICD-10-CM, diseases of the digestive system, from the
package `simple-icd-10-cm`. The classes are the chapter's 72 three-character categories, and most
phrases belong to codes below one of them. Above the categories are 10 sections, of very different
sizes, and the chapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import hace
from hace.nn import HierarchicalClassifier, TreeLinear
from hace.spaces import num_columns

pytest.importorskip("simple_icd_10_cm", reason="the phrases are in simple-icd-10-cm (extra 'demo')")

from examples.icd10 import data
from examples.icd10.features import NUM_BUCKETS, Featurizer

CATEGORY = 3  # the depth of categories
WIDTH = 192
STEPS = 30


@dataclass(frozen=True)
class Task:
    """Phrases as vectors (rows, WIDTH), and their categories."""

    tree: hace.Hierarchy
    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @property
    def section(self) -> torch.Tensor:
        """The node of each category's section."""
        return torch.tensor([self.tree.path(node)[1] for node in self.tree.classes])

    def scores(self, labels: torch.Tensor) -> tuple[float, float]:
        """The shares of held-out phrases whose category is right and whose section is right."""
        section = self.section
        return (
            (labels == self.test_labels).double().mean().item(),
            (section[labels] == section[self.test_labels]).double().mean().item(),
        )


@pytest.fixture(autouse=True)
def one_thread(threads: Callable[[int], None]) -> None:
    """Uses one thread, since the steps are too small to be worth splitting."""
    threads(1)


@pytest.fixture(scope="module")
def task() -> Task:
    codes = data.load("11")
    phrases = codes.train + codes.validation + codes.test + codes.coarse
    path_of = [
        "/".join(codes.tree.names[node].split("/")[: CATEGORY + 1]) for node in phrases.nodes
    ]
    categories = [codes.tree.names[node] for node in np.flatnonzero(codes.tree.depths == CATEGORY)]
    # The classes are shuffled, so that the tree's columns are not in depth-first order.
    categories = sorted(categories, key=lambda path: path[::-1])
    labels = torch.tensor([categories.index(path) for path in path_of])
    order = np.random.default_rng(0).permutation(len(phrases))
    held_out, kept = order[:400], order[400:]
    featurize = Featurizer([phrases.texts[row] for row in kept])
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(NUM_BUCKETS, WIDTH, generator=generator) / WIDTH**0.5

    def vectors(rows: np.ndarray) -> torch.Tensor:
        """Bags of word pieces under a random projection, in place of a frozen encoder's vectors."""
        bags = featurize([phrases.texts[row] for row in rows])
        bucket, offsets, weight = bags.batch(np.arange(len(rows)))
        return torch.nn.functional.embedding_bag(
            bucket, table, offsets, mode="sum", per_sample_weights=weight
        )

    return Task(
        hace.Hierarchy.from_paths(categories),
        vectors(kept),
        labels[kept],
        vectors(held_out),
        labels[held_out],
    )


def train(
    parameters: Iterable[torch.nn.Parameter], loss_of_all: Callable[[], torch.Tensor]
) -> list[float]:
    """Trains on full batches with Adam, and returns the loss before each step."""
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of_all()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


LOSSES: dict[str, Callable[[hace.Hierarchy], torch.nn.Module]] = {
    "CE": hace.CrossEntropyLoss,
    "HACE": hace.HACELoss,
    "HACE, smoothed": lambda h: hace.HACELoss(h, 0.5, label_smoothing=0.1),
    "HXE": hace.HXELoss,
    "r-CE": hace.RegularizedCrossEntropyLoss,
    "soft labels": hace.SoftLabelLoss,
    "balanced": lambda h: hace.PathLogLoss(h, "balanced"),
    "power": lambda h: hace.PathLogLoss(h, "power"),
    "lazy": lambda h: hace.PathLogLoss(h, "lazy"),
    "node weights": lambda h: hace.PathLogLoss(h, 1.0 + h.depths),
    "h-CE": hace.LayeredCrossEntropyLoss,
}


def test_task_is_no_gift(task: Task) -> None:
    """The 72 categories have 0 to 81 training phrases; the commonest is right for one in 19."""
    assert (task.tree.num_classes, task.tree.num_nodes) == (72, 84)
    assert len(task.test) == 400
    assert (np.diff(task.tree.depth_first_classes) < 0).any(), "the labels are in order"
    commonest = task.train_labels.bincount().argmax().expand(400)
    assert task.scores(commonest)[0] < 0.06
    assert task.scores(commonest)[1] < 0.3


@pytest.mark.parametrize("name", LOSSES)
def test_linear_layer_with_each_loss(task: Task, name: str) -> None:
    logits = "nodes" if name == "h-CE" else "classes"
    model = torch.nn.Linear(WIDTH, num_columns(task.tree, logits))
    loss_fn = LOSSES[name](task.tree)
    losses = train(model.parameters(), lambda: loss_fn(model(task.train), task.train_labels))
    assert losses[-1] < losses[STEPS // 4] < losses[0]
    category, section = task.scores(hace.predict(model(task.test), task.tree, logit_space=logits))
    assert category > 0.7
    assert section > 0.85


@pytest.mark.parametrize("name", ["CE", "HACE", "soft labels"])
def test_tree_linear(task: Task, name: str) -> None:
    model, loss_fn = TreeLinear(WIDTH, task.tree), LOSSES[name](task.tree)
    losses = train(model.parameters(), lambda: loss_fn(model(task.train), task.train_labels))
    assert losses[-1] < losses[STEPS // 4] < losses[0]
    category, section = task.scores(hace.predict(model(task.test), task.tree))
    assert category > 0.7
    assert section > 0.85
    assert torch.equal(
        hace.predict(model.to_linear()(task.test), task.tree),
        hace.predict(model(task.test), task.tree),
    )


@pytest.mark.parametrize("name", ["HACE", "r-CE"])
def test_classifier_learns_what_the_parts_learn(task: Task, name: str) -> None:
    """It takes the same steps as an nn.Linear and the loss, from the same start."""
    loss_fn = LOSSES[name](task.tree)
    model = HierarchicalClassifier(WIDTH, task.tree, loss_fn)
    linear = model.to_linear()
    losses = train(model.parameters(), lambda: model(task.train, task.train_labels).loss)
    same = train(linear.parameters(), lambda: loss_fn(linear(task.train), task.train_labels))
    assert losses == pytest.approx(same, rel=1e-3)
    labels = model.predict(task.test)
    assert task.scores(labels)[0] > 0.7
    assert (labels == hace.predict(linear(task.test), task.tree)).double().mean() > 0.99
    output, _ = model(task.test, task.test_labels)
    assert output.exp().mean() > 0.5, "the right answers have too little probability"


def test_coarse_labels_teach_the_section(task: Task) -> None:
    """Labels of sections help if only one phrase in ten is labelled with its category."""
    few = torch.arange(len(task.train)) % 10 == 0
    category, section = torch.tensor(task.tree.classes), task.section
    nodes = torch.where(few, category[task.train_labels], section[task.train_labels])
    loss_fn = hace.HACELoss(task.tree, target_space="nodes")
    with_coarse, without = (torch.nn.Linear(WIDTH, task.tree.num_classes) for _ in range(2))
    train(with_coarse.parameters(), lambda: loss_fn(with_coarse(task.train), nodes))
    train(without.parameters(), lambda: loss_fn(without(task.train[few]), nodes[few]))
    taught = task.scores(hace.predict(with_coarse(task.test), task.tree))
    untaught = task.scores(hace.predict(without(task.test), task.tree))
    assert taught[1] > 0.85
    assert taught[1] > untaught[1] + 0.15


def test_entropy_keeps_predictions_soft(task: Task) -> None:
    """With r-CE, held-out predictions are less certain and as good, which is its purpose."""

    def predicted(strength: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(WIDTH, task.tree.num_classes)
        loss_fn = hace.RegularizedCrossEntropyLoss(task.tree, strength)
        train(model.parameters(), lambda: loss_fn(model(task.train), task.train_labels))
        return model(task.test).log_softmax(1)

    def entropy(log_p: torch.Tensor) -> float:
        return -(log_p.exp() * log_p).sum(1).mean().item()

    plain, soft = predicted(0.0), predicted(0.5)
    assert entropy(soft) > 1.5 * entropy(plain)
    assert task.scores(soft.argmax(1))[0] > 0.7
