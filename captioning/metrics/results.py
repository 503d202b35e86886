"""Captions and references in the files of the COCO caption task."""

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from captioning.errors import OutputError, ScoreError, counted
from captioning.files import write_whole
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
            f"{path} has more than one caption for {counted(len(set(twice)), 'image')} "
            f"(such as {twice[0]}). Keep one caption for each image."
        )
    return captions


def read_named_results(path: Path | str) -> dict[str, str] | None:
    """Read one caption for each picture from results that name the pictures' files.

    ``captioning caption`` writes such, as JSON lines and as COCO results. Rows of pictures that
    could not be captioned are passed over.

    Returns:
        The caption of each file, by its name without folders; None where the file is no such
        results, or names pictures of several folders alike.

    Raises:
        ScoreError: The file cannot be read, or a caption is no string.
    """
    path = Path(path)
    rows = _rows(path)
    captions: dict[str, str] = {}
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            return None
        if row.get("caption") is None and "error" in row:
            continue
        if not isinstance(row.get("caption"), str):
            raise ScoreError(
                f"{path}: the caption of row {place} is {row.get('caption')!r}, not a string. "
                "Have it written again: captioning caption PHOTOS -o results.jsonl"
            )
        name = row["file_name"].rpartition("/")[2]
        if name in captions:
            return None
        captions[name] = row["caption"]
    return captions


def read_references(path: Path | str) -> dict[int, list[str]]:
    """Read the references of each image from a COCO annotations file.

    A plain list of the same entries is read too. Images without any caption are left out.

    Raises:
        ScoreError: The file cannot be read, an id is no integer, or a caption is missing.
    """
    return read_annotations(path)[0]


def read_annotations(path: Path | str) -> tuple[dict[int, list[str]], list[tuple[str, int]]]:
    """Read the references of each image, and the name and id of each image, as far as it is there.

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
        (image["file_name"].rpartition("/")[2], image["id"])
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict) and isinstance(image.get("file_name"), str) and "id" in image
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
        write_whole(Path(path), text)
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
        if [line[:1] for line in text.splitlines()[:2]] == ["{", "{"]:
            raise ScoreError(f"{path} is JSON lines, one row a line. {how_else}") from error
        raise ScoreError(f"{path} cannot be read as JSON: {error}.") from error


def _rows(path: Path) -> list[Any]:
    """Return the entries of a list, or the rows of JSON lines; none where it is neither."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        content = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return []  # whoever reads it as a list of ids says what is wrong
    return content if isinstance(content, list) else []


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
