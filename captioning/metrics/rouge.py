"""ROUGE-L: how long a common subsequence the candidate shares with its references.

Lin (2004), ROUGE: a package for automatic evaluation of summaries; beta 1.2 and the best precision
and recall taken separately over the references, as in the official caption scorer.
"""

from collections.abc import Sequence

BETA = 1.2


def rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return ROUGE-L of one candidate, between 0 and 1.

    ``F = (1 + beta^2) P R / (R + beta^2 P)`` with ``P`` the largest ``LCS / len(candidate)`` and
    ``R`` the largest ``LCS / len(reference)`` over the references.

    Args:
        candidate: Words of the candidate.
        references: Words of each reference, one or more.
    """
    # The official scorer sees one empty word in an empty caption: two empty captions agree.
    candidate = candidate or ("",)
    places: dict[str, int] = {}
    for i, word in enumerate(candidate):
        places[word] = places.get(word, 0) | 1 << i
    precision = recall = 0.0
    for words in references:
        reference = words or ("",)
        common = _common_length(places, len(candidate), reference)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(reference))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_length(places: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a row of the table in one integer.

    Hyyrö (2004), Bit-parallel LCS-length computation revisited: a bit of ``row`` is 0 where the
    table grows by one.
    """
    row = everything = (1 << length) - 1
    for word in reference:
        found = places.get(word)
        if found:
            both = row & found
            row = ((row + both) | (row - both)) & everything
    return length - row.bit_count()
