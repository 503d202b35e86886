"""Candidates and references as callers have them, and what of them cannot be scored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.metrics.ngrams import ImageId

Candidates = Mapping[ImageId, str | Sequence[str]] | pd.Series
"""A caption for each image id, or a list of that one caption, as pycocoevalcap has it."""
References = Mapping[ImageId, Iterable[str]] | pd.Series
"""One or more captions for each image id: a list, a column, an array, or what gives them once."""


def as_candidates(given: Candidates, name: str = "candidates") -> dict[ImageId, str]:
    """Return a caption for each image id.

    Args:
        given: A mapping, or a column of a table whose index holds the ids.
        name: What messages call it.

    Raises:
        ScoreError: It is no mapping, or an image has not one caption.
    """
    candidates = {}
    for image, caption in _mapping(given, name).items():
        if isinstance(caption, (list, tuple, np.ndarray)):
            if len(caption) != 1:
                raise ScoreError(
                    f"Image {image!r} has {format_count(len(caption), 'caption')} in "
                    f"{name}; one is "
                    "scored. Give {id: caption}."
                )
            candidates[image] = caption[0]
        else:
            candidates[image] = caption
    return candidates


def as_references(given: References) -> dict[ImageId, list[str]]:
    """Return a list of captions for each image id.

    Raises:
        ScoreError: It is no mapping, or an image has no list of captions.
    """
    references = {}
    for image, captions in _mapping(given, "references").items():
        if isinstance(captions, str):
            raise ScoreError(
                f"The references of image {image!r} are one string. "
                "Give a list of captions: [caption]."
            )
        try:
            references[image] = list(captions)
        except TypeError:
            raise ScoreError(
                f"The references of image {image!r} are {captions!r:.80}; a list of captions was "
                "expected. Give {id: [caption, ...]}."
            ) from None
    return references


def _mapping(given: Candidates | References, name: str) -> Mapping[ImageId, Any]:
    if isinstance(given, pd.Series):
        if not given.index.is_unique:
            image = given.index[given.index.duplicated()].tolist()[0]
            raise ScoreError(
                f"{name} has more than one row for image {image!r}. Give one row for each image; "
                "of references a row is a list: column.groupby(level=0).agg(list)."
            )
        return given.to_dict()
    if not isinstance(given, Mapping):
        people = name == "references"
        wanted = "a list of captions" if people else "a caption"
        file, read = ("annotations", "read_references") if people else ("results", "read_results")
        raise ScoreError(
            f"{name} is of type {type(given).__name__}; a mapping of image id to {wanted} was "
            "expected. For captions in order: dict(enumerate(captions)); for a COCO "
            f"{file} file: captioning.metrics.{read}(path)."
        )
    return given


def check_pair(candidates: Mapping[ImageId, str], references: Mapping[ImageId, list[str]]) -> None:
    """Refuse candidates and references that cannot be scored together.

    Raises:
        ScoreError: The ids differ, an image has no reference, a caption is no string, or there is
            nothing to score.
    """
    if not references:
        raise ScoreError("There are no references. Give one or more captions for each image id.")
    missing = [i for i in references if i not in candidates]
    extra = [i for i in candidates if i not in references]
    if missing or extra:
        raise ScoreError(_other_images(missing, extra))
    for i, captions in references.items():
        if not captions:
            raise ScoreError(f"Image {i!r} has no reference. Leave it out, or give it a caption.")
        wrong = [c for c in (candidates[i], *captions) if not isinstance(c, str)]
        if wrong:
            raise ScoreError(
                f"A caption of image {i!r} is {wrong[0]!r}, not a string. "
                "Candidates are {id: caption} and references {id: [caption, ...]}."
            )


def _other_images(missing: list[ImageId], extra: list[ImageId]) -> str:
    same = {str(i): i for i in missing}
    if same.keys() == {str(i) for i in extra}:
        return (
            "The ids of candidates and references differ only in type, such as "
            f"{extra[0]!r} and {same[str(extra[0])]!r}; give both as one type."
        )
    found = []
    if missing:
        found.append(
            f"without a candidate: {format_count(len(missing), 'image')} (such as {missing[0]!r})"
        )
    if extra:
        found.append(
            f"without references: {format_count(len(extra), 'candidate')} (such as {extra[0]!r})"
        )
    return (
        f"Candidates and references are of different images; {', '.join(found)}. "
        "Give one caption for each image of the references, under the same id "
        "(1 and '1' are different ids)."
    )
