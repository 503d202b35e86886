"""Notes on scores: why a score is undefined or 0, and signs of a mistake in the captions."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from captioning.messages import format_count
from captioning.text.ngrams import ORDER, ImageId

_MIN_EQUAL, _MIN_COPIES = 3, 2  # images; with fewer, equal captions are not a sign of a mistake
_SPECIAL_TOKEN = re.compile(
    r"</?(?:s|start|end|bos|eos|sos|pad)>|\[(?:CLS|SEP|PAD)\]", re.IGNORECASE
)


def find_notes(
    candidates: Mapping[ImageId, str],
    references: Mapping[ImageId, Sequence[str]],
    rows: Int[np.ndarray, "images 10"],
    cider: Float[np.ndarray, " images"],
    *,
    has_spaces: bool,
) -> tuple[str, ...]:
    """Return notes on the scores of a set of captions.

    Args:
        candidates: Caption of each image id.
        references: References of the same ids.
        rows: BLEU counts of each image, in the order of the references.
        cider: CIDEr-D of each image; not a number if it is undefined.
        has_spaces: Whether the language has spaces between words.
    """
    return (
        *_explain_cider(cider, rows),
        *_explain_bleu(rows.sum(axis=0)),
        *_check_candidates({image: candidates[image] for image in references}, rows[:, 8]),
        *(_check_single_words(candidates, references) if has_spaces else ()),
        *_check_copies(candidates, references),
    )


def _explain_cider(
    cider: Float[np.ndarray, " images"], rows: Int[np.ndarray, "images 10"]
) -> Iterator[str]:
    if np.isnan(cider).any():
        yield (
            "CIDEr is undefined for one image, because it weighs words by their frequency among "
            "images. Score more images, or use a document frequency file."
        )
    elif not cider.any() and rows[:, ORDER].any():
        yield (
            "CIDEr is 0, because all words that candidates share with their references occur in "
            "the references of every image, which gives them no weight. Score more images."
        )


def _explain_bleu(counts: Int[np.ndarray, "10"]) -> Iterator[str]:
    guess, correct = counts[:ORDER], counts[ORDER : 2 * ORDER]
    if correct.all() or not guess[0]:
        return
    n = int(np.argmin(correct)) + 1
    between = "and" if n == ORDER - 1 else "to"
    names = "BLEU-4 is" if n == ORDER else f"BLEU-{n} {between} BLEU-{ORDER} are"
    shared = "a word" if n == 1 else f"{n} consecutive words"
    reason = f"shares {shared} with its references" if guess[n - 1] else f"has {n} words"
    # Not exactly 0: the official scorer adds small constants.
    yield f"{names} nearly 0: no candidate {reason}."


def _check_candidates(
    candidates: Mapping[ImageId, str], lengths: Int[np.ndarray, " images"]
) -> Iterator[str]:
    ids, captions = list(candidates), list(candidates.values())
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        yield (
            f"Candidates without words: {len(empty):,} of {len(ids):,} (such as image "
            f"{ids[empty[0]]!r:.80}). Their scores are 0."
        )
    elif len(ids) >= _MIN_EQUAL and len(set(captions)) == 1:
        yield (
            f"All {len(ids):,} candidates are {captions[0]!r:.80}. Check that the captions belong "
            "to the images and that the model uses them."
        )
    special = [match[0] for text in captions if (match := _SPECIAL_TOKEN.search(text))]
    if special:
        yield (
            f"{format_count(len(special), 'candidate')} of {len(ids):,} contain special tokens, "
            f"such as {special[0]}, which count as words. Remove them before scoring."
        )


def _check_single_words(
    candidates: Mapping[ImageId, str], references: Mapping[ImageId, Sequence[str]]
) -> Iterator[str]:
    words = [
        image
        for image, captions in references.items()
        if len(captions) > 1
        and all(len(caption.split()) < 2 for caption in captions)
        and len(candidates[image].split()) > 1
    ]
    if 2 * len(words) >= len(references):
        found = list(references[words[0]])
        yield (
            f"The references of {format_count(len(words), 'image')} are single words, such as "
            f"{found!r:.80}. If these are the words of one caption, join them: "
            "{id: [' '.join(words)]}."
        )


def _check_copies(
    candidates: Mapping[ImageId, str], references: Mapping[ImageId, Sequence[str]]
) -> Iterator[str]:
    copies = sum(candidates[image] in captions for image, captions in references.items())
    if _MIN_COPIES <= copies == len(references):
        yield (
            "Every candidate is one of its own references. Check that the candidates are the "
            "captions of a model."
        )
