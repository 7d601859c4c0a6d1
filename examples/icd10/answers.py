"""What a person asks a trained coder, and is told: a code, or the coarser node that is sure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from hace import decode
from hace.functional import node_log_probs

from .data import LEVELS, MedicalCodes
from .train import Trained

SURE = 0.5  # the probability from which on an answer is given


def tell(console: Console, trained: Trained, codes: MedicalCodes, texts: Iterable[str]) -> None:
    """Prints the answer to each phrase as it comes."""
    for text in texts:
        for line in answer(trained, codes, text):
            indent = len(line.plain) - len(line.plain.lstrip())
            console.print(Padding(line[indent:], (0, 0, 0, indent), expand=False))


def answer(trained: Trained, codes: MedicalCodes, text: str) -> list[Text]:
    """The most specific node that is probable enough, and the codes that it leaves open.

    Where no chapter is probable enough, the likeliest two are told before the codes.
    """
    logits = trained.logits([text])[0]
    node = int(decode.deepest_node(logits, codes.tree, SURE))
    probability = node_log_probs(logits, codes.tree).exp()
    told = Text(f"“{text}”", style="bold")
    if node == int(codes.tree.roots[0]):
        chapters = torch.from_numpy(np.flatnonzero(codes.tree.depths == LEVELS["chapter"]))
        likeliest = chapters[probability[chapters].topk(min(2, len(chapters))).indices].tolist()
        lines = [told, Text("  not sure of the chapter:", style="yellow")]
        lines += [Text(f"    {_named(chapter, probability, codes)}") for chapter in likeliest]
    else:
        lines = [told, Text(f"  {_named(node, probability, codes)}", style="green")]
    if node >= codes.tree.num_classes:
        best = logits.topk(min(3, codes.tree.num_classes)).indices.tolist()
        lines += [Text(f"    perhaps {_named(code, probability, codes)}") for code in best]
    return lines


def _named(node: int, probability: torch.Tensor, codes: MedicalCodes) -> str:
    share = int(100 * probability[node].item())  # rounded up, 49.6 would look like enough
    percent = f"{share} %" if share > 0 else "<1 %"
    return f"{codes.codes[node]}  {codes.titles[node]}  ({percent})"


def asked(console: Console) -> Iterator[str]:
    """Phrases that somebody types, until an empty line or the end of the input."""
    while True:
        try:
            text = console.input(escape("A phrase to code (nothing to end): "))
        except EOFError:
            return
        if not text.strip():
            return
        yield text.strip()
