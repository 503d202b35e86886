"""Layout of a beam as a tree: a row for each branch, a column for each word."""

from collections import defaultdict
from dataclasses import dataclass
from math import inf

from captioning.inference.explanation import Explanation
from captioning.text.vocabulary import EOS

_Path = tuple[str, ...]


@dataclass(frozen=True)
class TreeNode:
    """A word in the tree, or the end of a caption.

    Attributes:
        label: The word, or rank and score of the caption.
        log_prob: Log-probability of the words up to here; None for an end.
        row: Number of its branch; a first child has that of its parent.
        column: Number of words before it.
        parent_row: Row of the word before; None for a first word.
        rank: Rank of the best caption through this node, from 0; None if the search dropped it.
    """

    label: str
    log_prob: float | None
    row: int
    column: int
    parent_row: int | None
    rank: int | None


def layout_beam(explanation: Explanation) -> list[TreeNode]:
    """Return the nodes of the beam's tree, parents before children, better branches first."""
    ends = {(*each.words, EOS): each for each in explanation.found}
    ranks: dict[_Path, int] = {}
    for rank, end in enumerate(ends):
        for length in range(1, len(end) + 1):
            ranks.setdefault(end[:length], rank)
    children: dict[_Path, list[_Path]] = defaultdict(list)
    for path in {**explanation.beam, **ends}:
        if path:
            children[path[:-1]].append(path)
    for siblings in children.values():
        siblings.sort(key=lambda each: (ranks.get(each, inf), -explanation.beam.get(each, 0.0)))
    nodes: list[TreeNode] = []
    rows: dict[_Path, int] = {}
    waiting = children[()][::-1]
    count = 0
    while waiting:
        path = waiting.pop()
        parent, is_first = path[:-1], children[path[:-1]][0] == path
        rows[path] = rows[parent] if is_first and parent else count
        count = max(count, rows[path] + 1)
        log_prob = None if path in ends else explanation.beam[path]
        label = f"#{ranks[path] + 1}  {ends[path].score:.2f}" if path in ends else path[-1]
        parent_row = rows[parent] if parent else None
        nodes.append(
            TreeNode(label, log_prob, rows[path], len(path) - 1, parent_row, ranks.get(path))
        )
        waiting += children.get(path, [])[::-1]
    return nodes
