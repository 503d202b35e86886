"""Results and annotations in the file formats of the COCO caption task."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from captioning.datasets.reading import load_json
from captioning.errors import OutputError, ScoreError
from captioning.files import read_text, write_atomic
from captioning.json_data import convert_json

_REFERENCES = '{"annotations": [{"image_id": 1, "caption": "a dog"}, ...]}'

ImageId = int | str
"""Id of an image in a file."""


@dataclass(frozen=True)
class _Entry:
    image_id: ImageId
    caption: str


@dataclass(frozen=True)
class Annotations:
    """Content of a COCO annotations file.

    Attributes:
        captions: References of each image id.
        files: File name and id of each image that has references and a file name.
    """

    captions: dict[ImageId, list[str]]
    files: list[tuple[str, ImageId]]


def read_references(path: Path | str) -> dict[ImageId, list[str]]:
    """Read the references of each image id from a COCO annotations file.

    A plain list of the same entries is also accepted, and a JSON object ``{id: [caption, ...]}``.
    Images without captions are left out.

    Raises:
        ScoreError: The file cannot be read, an id is not a number or text, or a caption is missing.
    """
    return read_annotations(path).captions


def read_annotations(path: Path | str) -> Annotations:
    """Read the references and the file names of a COCO annotations file.

    Raises:
        ScoreError: As for :func:`read_references`.
    """
    content, is_jsonl = load_json_file(Path(path))
    if is_jsonl:
        raise ScoreError(
            f"'{path}' is a JSON Lines file. To use it as references, name it as a data set: "
            f"jsonl:{path}"
        )
    entries: Any = content
    images: Any = None
    if isinstance(content, dict):
        entries, images = content.get("annotations", _list_entries(content)), content.get("images")
    images = images if isinstance(images, list) else []
    if entries is None and any("sentences" in image for image in images):
        raise ScoreError(
            f"'{path}' is one of Karpathy's split files. Name it as a data set, with a split: "
            f"karpathy:{path}"
        )
    advice = f"An annotations file is {_REFERENCES}."
    parsed = convert_json(entries, list[_Entry], source=str(path), error=ScoreError, advice=advice)
    if not parsed:
        raise ScoreError(f"'{path}' has no captions. {advice}")
    references: defaultdict[ImageId, list[str]] = defaultdict(list)
    for entry in parsed:
        references[entry.image_id].append(entry.caption)
    files = [
        (image["file_name"], image["id"])
        for image in images
        if isinstance(image, dict)
        and isinstance(image.get("file_name"), str)
        and parse_id(image.get("id")) in references
    ]
    return Annotations(dict(references), files)


def _list_entries(content: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the entries of ``{id: [caption, ...]}``, or None for any other object."""
    if not all(isinstance(captions, list) for captions in content.values()) or "images" in content:
        return None
    return [
        {
            "image_id": read_number(image),
            "caption": caption.get("caption") if isinstance(caption, dict) else caption,
        }
        for image, captions in content.items()
        for caption in captions
    ]


def write_results(captions: Mapping[Any, str], path: Path | str) -> None:
    """Write one caption for each image id as a COCO results file, atomically.

    Lone surrogates, which occur in badly scraped text, are written as JSON escapes.

    Raises:
        ScoreError: An id is not an integer.
        OutputError: The file cannot be written.
    """
    wrong = [image for image in captions if not _is_integer(image)]
    if wrong:
        raise ScoreError(
            f"image id {wrong[0]!r} is not an integer, as the COCO format requires. Number the "
            "images, and keep a list of their names."
        )
    entries = [{"image_id": int(image), "caption": text} for image, text in captions.items()]
    text = json.dumps(entries, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(entries)
    try:
        write_atomic(Path(path), text)
    except OSError as error:
        raise OutputError(
            f"cannot write '{path}': {error}. Check that the path is writable and has free space."
        ) from error


def load_json_file(path: Path) -> tuple[Any, bool]:
    """Return the content of a JSON or JSON Lines file, and whether the file is JSON Lines.

    Raises:
        ScoreError: The file cannot be read, or is neither.
    """
    text = read_text(path, error=ScoreError)
    if not text.strip():
        raise ScoreError(f"'{path}' is empty. Write it again.")
    if text.lstrip()[0] not in "[{":
        raise ScoreError(
            f"'{path}' is not JSON: it begins with {text.strip()[:30]!r}. Give JSON, or results as "
            "JSON lines, CSV or Parquet."
        )
    try:
        return load_json(text, str(path), error=ScoreError), False
    except ScoreError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if [line[:1] for _, line in lines[:2]] != ["{", "{"]:
            raise
    rows = [load_json(line, f"{path}, line {number}", error=ScoreError) for number, line in lines]
    return rows, True


def read_number(text: str) -> ImageId:
    """Return the id of an image that a format without numbers stores as text."""
    number = text.removesuffix(".0")  # pandas writes ids this way if another row has no id
    return int(number) if number.isdecimal() else text


def parse_id(value: object) -> ImageId | None:
    """Return a number or text as an image id, and None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _is_integer(image: object) -> bool:
    return isinstance(image, Integral) and not isinstance(image, bool)
