"""ROUGE-L: longest common subsequence of a candidate and its references.

Lin (2004), ROUGE: a package for automatic evaluation of summaries. As in pycocoevalcap, beta is
1.2, and the best precision and the best recall may come from different references.
"""

from collections.abc import Sequence

BETA = 1.2


def compute_rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return ROUGE-L of one candidate, between 0 and 1.

    ``F = (1 + beta^2) P R / (R + beta^2 P)`` with ``P`` the largest ``LCS / len(candidate)`` and
    ``R`` the largest ``LCS / len(reference)`` over the references.

    Args:
        candidate: Words of the candidate.
        references: Words of each reference; at least one reference.
    """
    # pycocoevalcap reads an empty caption as one empty word, so that two empty captions agree.
    candidate = candidate or ("",)
    positions: dict[str, int] = {}
    for i, word in enumerate(candidate):
        positions[word] = positions.get(word, 0) | 1 << i
    precision = recall = 0.0
    for words in references:
        reference = words or ("",)
        common = _common_length(positions, len(candidate), reference)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_length(positions: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Hyyrö (2004), Bit-parallel LCS-length computation revisited: ``row`` is one row of the dynamic
    programming table, with a zero bit at each position where the table increases by one.
    """
    row = mask = (1 << length) - 1
    for word in reference:
        matches = positions.get(word)
        if matches:
            both = row & matches
            row = ((row + both) | (row - both)) & mask
    return length - row.bit_count()
