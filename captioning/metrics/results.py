"""Captions and references in the files of the COCO caption task."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from captioning.errors import OutputError, ScoreError
from captioning.files import write_atomic
from captioning.messages import format_count
from captioning.metrics.ngrams import ImageId

_RESULTS = '[{"image_id": 1, "caption": "a dog"}, ...]'
_REFERENCES = '{"annotations": [{"image_id": 1, "caption": "a dog"}, ...]}'
_TO_RESULTS = (
    "To have one written: captioning caption PHOTOS -o results.json, where the photos are named by "
    "their ids (42.jpg), or captioning evaluate."
)


def read_results(path: Path | str) -> dict[int, str]:
    """Read one caption for each image from a COCO results file.

    Raises:
        ScoreError: The file cannot be read, an id is no integer or stands twice, or a caption is
            missing.
    """
    path = Path(path)
    entries = _json(path, f"A results file is one list: {_RESULTS}. {_TO_RESULTS}")
    if not isinstance(entries, list) or not entries:
        raise ScoreError(f"{path} holds no list of captions. A results file is {_RESULTS}.")
    captions: dict[int, str] = {}
    twice = []
    for place, entry in enumerate(entries):
        image, caption = _entry(path, place, entry, _RESULTS)
        if image in captions:
            twice.append(image)
        captions[image] = caption
    if twice:
        raise ScoreError(
            f"{path} has more than one caption for {format_count(len(set(twice)), 'image')} "
            f"(such as {twice[0]}). Keep one caption for each image."
        )
    return captions


@dataclass(frozen=True)
class NamedResult:
    """What results say of one image's file.

    Attributes:
        file: Its name, with the folders that are named.
        caption: None where it could not be captioned.
        image_id: None in JSON lines.
    """

    file: str
    caption: str | None
    image_id: int | None


def read_named_results(path: Path | str) -> list[NamedResult] | None:
    """Read results that name the images' files, as ``captioning caption`` writes them.

    Returns:
        A result for each row of JSON lines or of COCO results; None where the file is no such
        results, and :func:`read_results` says what it is.

    Raises:
        ScoreError: A line is no JSON, or a caption is no string.
    """
    path = Path(path)
    rows = _rows(path)
    if not rows or not all(
        isinstance(row, dict) and isinstance(row.get("file_name"), str) for row in rows
    ):
        return None
    results = []
    for place, row in enumerate(rows, 1):
        caption, image = row.get("caption"), row.get("image_id")
        if not isinstance(caption, str) and (caption is not None or "error" not in row):
            raise ScoreError(
                f"{path}: the caption of row {place} is {caption!r}, not a string. "
                "Have it written again: captioning caption PHOTOS -o results.jsonl"
            )
        results.append(NamedResult(row["file_name"], caption, image if _is_id(image) else None))
    return results


def read_references(path: Path | str) -> dict[int, list[str]]:
    """Read the references of each image from a COCO annotations file.

    A plain list of the same entries is read too. Images without any caption are left out.

    Raises:
        ScoreError: The file cannot be read, an id is no integer, or a caption is missing.
    """
    return read_annotations(path)[0]


def read_annotations(path: Path | str) -> tuple[dict[int, list[str]], list[tuple[str, int]]]:
    """Read the references of each image, and the file and id of those images that name a file.

    Raises:
        ScoreError: As :func:`read_references`.
    """
    path = Path(path)
    content = _json(path, f"As references of a command, name it as a data set: jsonl:{path}")
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise ScoreError(f"{path} holds no captions. An annotations file is {_REFERENCES}.")
    references: dict[int, list[str]] = {}
    for place, entry in enumerate(entries):
        image, caption = _entry(path, place, entry, _REFERENCES)
        references.setdefault(image, []).append(caption)
    images = content.get("images") if isinstance(content, dict) else None
    files = [
        (image["file_name"], image["id"])
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict)
        and isinstance(image.get("file_name"), str)
        and _is_id(image.get("id"))
        and image["id"] in references
    ]
    return references, files


def write_results(captions: Mapping[ImageId, str], path: Path | str) -> None:
    """Write one caption for each image as a COCO results file, whole or not at all.

    Half characters, as broken scrapes have them, are written as JSON's escapes.

    Raises:
        ScoreError: An id is no integer.
        OutputError: The file cannot be written.
    """
    wrong = [image for image in captions if not _is_id(image)]
    if wrong:
        raise ScoreError(
            f"Image id {wrong[0]!r} is no integer, which the COCO format asks for. "
            "Number the images, and keep the list of their names beside the results."
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
            f"{path} cannot be written: {error}. Is there room, and the right?"
        ) from error


def restrict(
    references: Mapping[int, Sequence[str]], candidates: Mapping[int, str]
) -> dict[int, Sequence[str]]:
    """Return the references of those images that have a candidate, in the references' order."""
    return {image: captions for image, captions in references.items() if image in candidates}


def _json(path: Path, how_else: str) -> Any:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text)
    except FileNotFoundError as error:
        raise ScoreError(f"{path} does not exist. Give the path of a file of captions.") from error
    except (OSError, ValueError, RecursionError) as error:
        if _is_lines(text.splitlines()):
            raise ScoreError(f"{path} is JSON lines, one row a line. {how_else}") from error
        raise ScoreError(f"{path} cannot be read as JSON: {error}.") from error


def _rows(path: Path) -> list[Any]:
    """Return the entries of a list, or the rows of JSON lines; none where it is neither.

    Raises:
        ScoreError: A line is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return []
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        return content if isinstance(content, list) else [content]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not _is_lines([line for _, line in lines]):
        return []
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ScoreError(
                f"{path}, line {number} is no row of JSON: {error}. Was the run that wrote it "
                "stopped? The same captioning caption command goes on with it."
            ) from error
    return rows


def _is_lines(lines: Sequence[str]) -> bool:
    """Whether a text is JSON lines, one row a line, as far as its first two lines tell."""
    return [line[:1] for line in lines[:2]] == ["{", "{"]


def _is_id(image: object) -> bool:
    return isinstance(image, Integral) and not isinstance(image, bool)


def _entry(path: Path, place: int, entry: object, shape: str) -> tuple[int, str]:
    if not isinstance(entry, dict) or not {"image_id", "caption"} <= entry.keys():
        raise ScoreError(f"{path}: entry {place} is {entry!r:.80}. The file looks like {shape}.")
    image, caption = entry["image_id"], entry["caption"]
    if not _is_id(image):
        raise ScoreError(
            f"{path}: the image_id of entry {place} is {image!r}, not an integer. "
            f"The file looks like {shape}."
        )
    if not isinstance(caption, str):
        raise ScoreError(
            f"{path}: the caption of entry {place} is {caption!r}, not a string. "
            f"The file looks like {shape}."
        )
    return image, caption
