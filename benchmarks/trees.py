"""The trees that are measured on, by name: synthetic ones of any size, and real taxonomies.

    balanced:10000:4     10,000 classes, all 4 levels below the root
    random:10000         cut at random, leaves at many depths
    caterpillar:1000     a spine with one class at each node, as deep as a tree can be
    cifar100             CIFAR-100's classes and superclasses, labelled in the alphabet's order
    icd10                ICD-10-CM, from the package simple-icd-10-cm
    path/to/tree.csv     with the header parent,child; or a .npz that `Hierarchy.save` wrote

The columns of the synthetic ones are in depth-first order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import hace

__all__ = ["build", "lacks", "shuffled", "title"]


@cache
def build(name: str) -> hace.Hierarchy:
    """The tree of that name.

    Raises:
        ValueError: there is no such tree, or the file does not contain one.
        OSError: the file cannot be read.
    """
    if _is_file(name):
        is_saved = name.endswith(".npz")
        tree = hace.Hierarchy.load(name) if is_saved else hace.Hierarchy.from_csv(name)
        if not tree.is_tree:
            raise ValueError(f"{name} is a DAG; trees and forests are measured here")
        return tree
    if name == "icd10":
        from examples.icd10.data import load

        return load().tree
    kind, *sizes = name.split(":")
    makers: dict[str, Callable[..., hace.Hierarchy]] = {
        "balanced": balanced,
        "random": random,
        "caterpillar": caterpillar,
        "cifar100": cifar100,
    }
    if kind not in makers:
        raise ValueError(f"there is no tree {name!r}: give one of {', '.join(makers)}, or a file")
    return makers[kind](*map(int, sizes))


def lacks(name: str) -> str | None:
    """What is missing here to build the tree of that name, or None."""
    if name == "icd10" and find_spec("simple_icd_10_cm") is None:
        return "ICD-10-CM needs the package simple-icd-10-cm (the extra 'demo')"
    return None


def title(name: str) -> str:
    """The name without the folder that a file is in."""
    return Path(name).name if _is_file(name) else name


def _is_file(name: str) -> bool:
    return name.endswith((".csv", ".npz"))


def balanced(classes: int, depth: int) -> hace.Hierarchy:
    """All classes `depth` below the root, about the same number of children everywhere."""
    sizes = [round(classes ** (level / depth)) for level in range(depth + 1)]
    first = np.cumsum([0, *sizes])
    parents = [np.array([-1])]
    for level, (above, here) in enumerate(pairwise(sizes)):
        parents.append(first[level] + np.arange(here) * above // here)
    return hace.Hierarchy.from_parents(np.concatenate(parents))


def random(classes: int, cuts: int = 9, seed: int = 0) -> hace.Hierarchy:
    """The row of classes cut at up to nine random places, each piece again, down to single ones."""
    generator = np.random.default_rng(seed)
    node_of = np.empty(classes, np.int64)
    parents = [np.array([-1])]
    start, stop, node = np.array([0]), np.array([classes]), np.array([0])
    while len(node):
        single = stop - start == 1
        node_of[start[single]] = node[single]
        start, stop, node = start[~single], stop[~single], node[~single]
        inside = generator.random((len(start), cuts)) * (stop - start - 1)[:, None]
        cut = start[:, None] + 1 + inside.astype(np.int64)
        pieces = np.unique(np.concatenate([start, cut.ravel()]))
        whole = np.searchsorted(start, pieces, side="right") - 1
        parents.append(node[whole])
        start, stop = pieces, np.minimum(np.append(pieces[1:], classes), stop[whole])
        node = sum(map(len, parents[:-1])) + np.arange(len(pieces))
    return hace.Hierarchy.from_parents(np.concatenate(parents), classes=node_of)


def caterpillar(classes: int) -> hace.Hierarchy:
    """A spine with one class at each node and two at the last: depth `classes` − 1."""
    spine = np.arange(-1, classes - 2)
    leaves = np.append(np.arange(classes - 1), classes - 2)
    return hace.Hierarchy.from_parents(np.concatenate([spine, leaves]))


#: One superclass per line. Source: Krizhevsky, Learning Multiple Layers of Features from Tiny
#: Images, 2009.
CIFAR100 = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""


def cifar100() -> hace.Hierarchy:
    """100 classes in the data set's order under 20 superclasses, which are roots."""
    superclasses = [line.split() for line in CIFAR100.split("\n") if line]
    superclass_of = {name: i for i, names in enumerate(superclasses) for name in names}
    above = [len(superclass_of) + superclass_of[name] for name in sorted(superclass_of)]
    return hace.Hierarchy.from_parents(np.array(above + [-1] * len(superclasses)))


@cache
def shuffled(tree: hace.Hierarchy) -> hace.Hierarchy:
    """The same tree, with its columns in an order that does not depend on the tree."""
    order = torch.randperm(tree.num_classes, generator=torch.Generator().manual_seed(0))
    return hace.Hierarchy.from_parents(tree.parents, classes=tree.classes[order.numpy()])
