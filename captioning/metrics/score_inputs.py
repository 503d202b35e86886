"""Conversion and checks of the candidates and references that callers pass."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from captioning.errors import ScoreError
from captioning.messages import format_count
from captioning.text.ngrams import ImageId

Candidates = Mapping[ImageId, str | Sequence[Any] | Mapping[str, Any]] | pd.Series
"""A caption for each image id. As in pycocoevalcap, it may be a list of that one caption, and
``{"caption": text}`` may replace a caption."""
References = Mapping[ImageId, Iterable[Any]] | pd.Series
"""One or more captions for each image id: any iterable, generators included. As in pycocoevalcap,
``{"caption": text}`` may replace a caption."""

P = ParamSpec("P")
R = TypeVar("R")


def explain_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Name the arguments of a function in the error for an unknown one, such as ``predictions``."""
    known = list(inspect.signature(function).parameters)
    name = function.__name__

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if unknown := [argument for argument in kwargs if argument not in known]:
            raise TypeError(
                f"{name}() has no argument {unknown[0]!r}. Its arguments are {', '.join(known)}: "
                f"see help(captioning.{name})."
            )
        return function(*args, **kwargs)

    return call


def normalize_candidates(given: Candidates, name: str = "candidates") -> dict[ImageId, str]:
    """Return a caption for each image id.

    Args:
        given: A mapping, or a pandas Series with the ids as index.
        name: Name of the argument in messages.

    Raises:
        ScoreError: The argument is not a mapping, or an image does not have exactly one caption.
    """
    candidates = {}
    for image, value in _as_mapping(given, name).items():
        captions = _as_captions(value)
        if len(captions) != 1:
            advice = "If candidates and references are swapped, exchange them."
            if captions and all(isinstance(text, str) and " " not in text for text in captions):
                advice = "If they are the words of one caption, join them: ' '.join(words)."
            raise ScoreError(
                f"image {image!r:.80} has {format_count(len(captions), 'caption')} in {name}, but "
                f"must have one. Give {{id: caption}}. {advice}"
            )
        candidates[image] = captions[0]
    return candidates


def normalize_references(given: References) -> dict[ImageId, list[str]]:
    """Return a list of captions for each image id.

    Raises:
        ScoreError: The argument is not a mapping, or its values are not lists of captions.
    """
    references = {}
    for image, value in _as_mapping(given, "references").items():
        if isinstance(value, str):
            raise ScoreError(
                f"the references of image {image!r:.80} are one string. Give a list of captions: "
                "[caption]."
            )
        if not (_is_list(value) or isinstance(value, Mapping)):
            raise ScoreError(
                f"expected a list of captions as references of image {image!r:.80}, found "
                f"{value!r:.80}. Give {{id: [caption, ...]}}."
            )
        references[image] = _as_captions(value)
    return references


def _as_captions(value: Any) -> list[Any]:
    """Return the captions of one image, taken out of the dictionaries that pycocoevalcap uses."""
    return [
        entry["caption"] if isinstance(entry, Mapping) and "caption" in entry else entry
        for entry in (value if _is_list(value) else [value])
    ]


def _is_list(value: object) -> bool:
    is_scalar = isinstance(value, str | bytes | Mapping) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not is_scalar


def _as_mapping(given: Candidates | References, name: str) -> Mapping[ImageId, Any]:
    if isinstance(given, pd.Series):
        if not given.index.is_unique:
            image = given.index[given.index.duplicated()].tolist()[0]
            raise ScoreError(
                f"{name} has more than one row for image {image!r}. Give one row per image. For "
                "references, join the rows to lists: column.groupby(level=0).agg(list)."
            )
        return given.to_dict()
    if isinstance(given, pd.DataFrame):
        raise ScoreError(
            f"{name} is a DataFrame. Give one of its columns, with the image ids as index: "
            "frame.set_index('image_id')['caption']. For references, join the rows of an image: "
            "frame.groupby('image_id')['caption'].agg(list)."
        )
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


def select_common(
    references: dict[ImageId, list[str]], *systems: dict[ImageId, str]
) -> tuple[str, dict[ImageId, list[str]], list[dict[ImageId, str]]]:
    """Keep the images that have references and a candidate of every system.

    Returns:
        A note on the number of images, empty if all are kept; the references; and the candidates
        of each system.

    Raises:
        ScoreError: There is no such image.
    """
    common = [image for image in references if all(image in system for system in systems)]
    counts = [len(references), *map(len, systems)]
    if set(counts) == {len(common)}:
        return "", references, list(systems)
    if not common:
        ids = [list(references), *map(list, systems)]
        examples = " and ".join(f"{images[0]!r:.80}" for images in ids if images)
        raise ScoreError(
            f"no image has references and a candidate. The first ids are {examples} (1 and '1' are "
            "different ids). Give both under the same ids."
        )
    note = (
        f"Scored {format_count(len(common), 'image')}, all that have references and a candidate. "
        f"References were given for {counts[0]:,}, candidates for "
        f"{' and '.join(f'{count:,}' for count in counts[1:])}."
    )
    return (
        note,
        {image: references[image] for image in common},
        [{image: system[image] for image in common} for system in systems],
    )


def check_pairing(
    candidates: Mapping[ImageId, str],
    references: Mapping[ImageId, list[str]],
    name: str = "candidates",
) -> None:
    """Check that candidates and references can be scored together.

    Args:
        candidates: A caption for each image id.
        references: Captions for each image id.
        name: Name of the candidates in messages.

    Raises:
        ScoreError: The ids differ, an image has no reference, a caption is not a string, or there
            are no images.
    """
    if not references:
        raise ScoreError("there are no references. Give one or more captions for each image id.")
    missing = [i for i in references if i not in candidates]
    extra = [i for i in candidates if i not in references]
    if missing or extra:
        raise ScoreError(_describe_mismatch(name, missing, extra, len(references) - len(missing)))
    for i, captions in references.items():
        if not captions:
            raise ScoreError(f"image {i!r:.80} has no reference. Remove it, or add a reference.")
        for caption in (candidates[i], *captions):
            if not isinstance(caption, str):
                raise ScoreError(
                    f"a caption of image {i!r:.80} is {caption!r:.80}, not a string. "
                    f"{_advise_on_type(caption)}"
                )


def _advise_on_type(caption: object) -> str:
    if isinstance(caption, bytes):
        return "Decode it: caption.decode()."
    if isinstance(caption, Sequence):
        return "If these are the words of one caption, join them: ' '.join(words)."
    return "Give a string, or leave the image out."


def _describe_mismatch(name: str, missing: list[ImageId], extra: list[ImageId], common: int) -> str:
    by_text = {str(i): i for i in missing}
    for i in extra:
        if str(i) in by_text:
            return (
                f"the ids of {name} and references differ in type, such as "
                f"{i!r:.80} and {by_text[str(i)]!r:.80}. Give both as one type."
            )
    parts = [
        f"{format_count(len(ids), noun)} without {lack} (such as {ids[0]!r:.80})"
        for ids, noun, lack in (
            (missing, "image", "a candidate"),
            (extra, "candidate", "references"),
        )
        if ids
    ]
    advice = "Give one candidate for each image of the references, under the same id"
    if common:
        advice += f", or subset=True to score the {format_count(common, 'image')} with both"
    return f"the image ids of {name} and references differ: {', '.join(parts)}. {advice}."
