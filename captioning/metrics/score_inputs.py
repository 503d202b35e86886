"""Conversion and checks of the candidates and references that callers pass."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.ngrams import ImageId

Candidates = Mapping[ImageId, str | Sequence[str]] | pd.Series
"""A caption for each image id. As in pycocoevalcap, it may be a list of that one caption."""
References = Mapping[ImageId, Iterable[str]] | pd.Series
"""One or more captions for each image id: any iterable, generators included."""


def normalize_candidates(given: Candidates, name: str = "candidates") -> dict[ImageId, str]:
    """Return a caption for each image id.

    Args:
        given: A mapping, or a pandas Series with the ids as index.
        name: Name of the argument in messages.

    Raises:
        ScoreError: The argument is not a mapping, or an image does not have exactly one caption.
    """
    candidates = {}
    for image, caption in _as_mapping(given, name).items():
        if isinstance(caption, (list, tuple, np.ndarray)):
            if len(caption) != 1:
                raise ScoreError(
                    f"Image {image!r} has {format_count(len(caption), 'caption')} in {name}, but "
                    "must have one. Give {id: caption}."
                )
            caption = caption[0]  # noqa: PLW2901
        candidates[image] = caption
    return candidates


def normalize_references(given: References) -> dict[ImageId, list[str]]:
    """Return a list of captions for each image id.

    Raises:
        ScoreError: The argument is not a mapping, or its values are not lists of captions.
    """
    references = {}
    for image, captions in _as_mapping(given, "references").items():
        if isinstance(captions, str):
            raise ScoreError(
                f"The references of image {image!r} are one string. Give a list of captions: "
                "[caption]."
            )
        try:
            references[image] = list(captions)
        except TypeError:
            raise ScoreError(
                f"Expected a list of captions as references of image {image!r}, found "
                f"{captions!r:.80}. Give {{id: [caption, ...]}}."
            ) from None
    return references


def _as_mapping(given: Candidates | References, name: str) -> Mapping[ImageId, Any]:
    if isinstance(given, pd.Series):
        if not given.index.is_unique:
            image = given.index[given.index.duplicated()].tolist()[0]
            raise ScoreError(
                f"{name} has more than one row for image {image!r}. Give one row per image. For "
                "references, join the rows to lists: column.groupby(level=0).agg(list)."
            )
        return given.to_dict()
    if not isinstance(given, Mapping):
        is_references = name == "references"
        content = "a list of captions" if is_references else "a caption"
        function = "read_references" if is_references else "read_results"
        raise ScoreError(
            f"{name} must be a mapping from image id to {content}, but is of type "
            f"{type(given).__name__}. For captions in order, give dict(enumerate(captions)); for "
            f"a COCO file, captioning.datasets.{function}(path)."
        )
    return given


def check_pairing(
    candidates: Mapping[ImageId, str], references: Mapping[ImageId, list[str]]
) -> None:
    """Check that candidates and references can be scored together.

    Raises:
        ScoreError: The ids differ, an image has no reference, a caption is not a string, or there
            are no images.
    """
    if not references:
        raise ScoreError("There are no references. Give one or more captions for each image id.")
    missing = [i for i in references if i not in candidates]
    extra = [i for i in candidates if i not in references]
    if missing or extra:
        raise ScoreError(_describe_mismatch(missing, extra))
    for i, captions in references.items():
        if not captions:
            raise ScoreError(f"Image {i!r} has no reference. Remove it, or give it a caption.")
        wrong = [c for c in (candidates[i], *captions) if not isinstance(c, str)]
        if wrong:
            raise ScoreError(
                f"A caption of image {i!r} is {wrong[0]!r}, not a string. "
                "Give candidates as {id: caption} and references as {id: [caption, ...]}."
            )


def _describe_mismatch(missing: list[ImageId], extra: list[ImageId]) -> str:
    by_text = {str(i): i for i in missing}
    if by_text.keys() == {str(i) for i in extra}:
        return (
            "The ids of candidates and references differ only in type, such as "
            f"{extra[0]!r} and {by_text[str(extra[0])]!r}. Give both as one type."
        )
    parts = [
        f"{format_count(len(ids), noun)} without {lack} (such as {ids[0]!r})"
        for ids, noun, lack in (
            (missing, "image", "a candidate"),
            (extra, "candidate", "references"),
        )
        if ids
    ]
    return (
        f"Candidates and references have different image ids: {', '.join(parts)}. Give one "
        "candidate for each image of the references, under the same id (1 and '1' are different "
        "ids)."
    )
