"""The trees, forests and DAGs on which decisions and metrics are tested."""

from __future__ import annotations

from collections.abc import Callable

import dags
import numpy as np
import trees
from dags import Dag
from trees import Tree

TREES: dict[str, Callable[[np.random.Generator], Tree]] = {
    "tree": lambda rng: trees.random_tree(rng, 30, shuffle=True),
    "forest": lambda rng: trees.random_tree(rng, 30, roots=4),
    "inner classes": lambda rng: trees.random_tree(rng, 20, roots=2, inner=0.5, shuffle=True),
    "inner classes under a root": lambda rng: trees.random_tree(rng, 20, inner=0.6, shuffle=True),
    "caterpillar": lambda rng: trees.caterpillar(12),
    "chain": lambda rng: trees.chain(6),
    "chain of classes": lambda rng: trees.chain(6).in_node_mode(),
    "flat": lambda rng: trees.flat(7, rooted=False),
    "flat under a root": lambda rng: trees.flat(7),
    "some nodes without a class": lambda rng: _some_without(rng),
}

DAGS: dict[str, Callable[[np.random.Generator], Dag]] = {
    name: lambda rng, dag=dag: dag for name, dag in dags.SHAPES.items()
}


def _some_without(rng: np.random.Generator) -> Tree:
    tree = trees.random_tree(rng, 40, roots=5, inner=0.3, shuffle=True)
    kept = rng.random(tree.num_classes) >= 0.4
    kept[0] = True
    return Tree(tree.parents, tree.classes[kept])
