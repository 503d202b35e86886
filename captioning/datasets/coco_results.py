"""Results and annotations in the file formats of the COCO caption task."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from captioning.datasets.reading import load_json
from captioning.errors import OutputError, ScoreError
from captioning.files import read_text, write_atomic
from captioning.json_data import convert_json
from captioning.messages import format_count

_RESULTS = '[{"image_id": 1, "caption": "a dog"}, ...]'
_REFERENCES = '{"annotations": [{"image_id": 1, "caption": "a dog"}, ...]}'


@dataclass(frozen=True)
class _Entry:
    image_id: int
    caption: str


@dataclass(frozen=True)
class FileResult:
    """Caption of an image that is identified by its file.

    Attributes:
        file: File name, with folders if the results have them.
        caption: None if the image could not be captioned.
        image_id: None for JSON Lines.
    """

    file: str
    caption: str | None
    image_id: int | None


@dataclass(frozen=True)
class Annotations:
    """Content of a COCO annotations file.

    Attributes:
        captions: References of each image id.
        files: File name and id of each image that has references and a file name.
    """

    captions: dict[int, list[str]]
    files: list[tuple[str, int]]


def read_results(path: Path | str) -> dict[int, str]:
    """Read one caption for each image id from a COCO results file.

    Raises:
        ScoreError: The file cannot be read, an id is not an integer or is repeated, or a caption
            is missing.
    """
    content, is_jsonl = _load_json(Path(path))
    if is_jsonl:
        raise ScoreError(
            f"{path} is a JSON Lines file, but a results file is one list: {_RESULTS}. Write one "
            "with captioning evaluate, or with captioning caption -o results.json, where the "
            "images are named by their ids (42.jpg)."
        )
    entries = _parse_entries(content, path, f"A results file is {_RESULTS}.")
    counts = Counter(entry.image_id for entry in entries)
    if repeated := [image for image, count in counts.items() if count > 1]:
        raise ScoreError(
            f"{path} has more than one caption for {format_count(len(repeated), 'image')} "
            f"(such as {repeated[0]}). Keep one caption per image."
        )
    return {entry.image_id: entry.caption for entry in entries}


def read_file_results(path: Path | str) -> list[FileResult] | None:
    """Read results that name the files of the images, as ``captioning caption`` writes them.

    Returns:
        A result for each row of a JSON Lines or COCO results file. None if the rows do not name
        files; :func:`read_results` then reads the file or explains what is wrong.

    Raises:
        ScoreError: The file is not JSON, or a caption is not a string.
    """
    path = Path(path)
    content, _ = _load_json(path)
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(
        isinstance(row, dict) and isinstance(row.get("file_name"), str) for row in rows
    ):
        return None
    results = []
    for number, row in enumerate(rows, 1):
        caption, image = row.get("caption", row.get("text")), row.get("image_id")
        if not isinstance(caption, str) and (caption is not None or "error" not in row):
            raise ScoreError(
                f"{path}: the caption of row {number} is {caption!r}, not a string. Write the "
                "file again: captioning caption IMAGES -o results.jsonl"
            )
        results.append(FileResult(row["file_name"], caption, image if _is_id(image) else None))
    return results


def read_references(path: Path | str) -> dict[int, list[str]]:
    """Read the references of each image id from a COCO annotations file.

    A plain list of the same entries is also accepted. Images without captions are left out.

    Raises:
        ScoreError: The file cannot be read, an id is not an integer, or a caption is missing.
    """
    return read_annotations(path).captions


def read_annotations(path: Path | str) -> Annotations:
    """Read the references and the file names of a COCO annotations file.

    Raises:
        ScoreError: As for :func:`read_references`.
    """
    content, is_jsonl = _load_json(Path(path))
    if is_jsonl:
        raise ScoreError(
            f"{path} is a JSON Lines file. To use it as references, name it as a data set: "
            f"jsonl:{path}"
        )
    entries = content.get("annotations") if isinstance(content, dict) else content
    references: defaultdict[int, list[str]] = defaultdict(list)
    for entry in _parse_entries(entries, path, f"An annotations file is {_REFERENCES}."):
        references[entry.image_id].append(entry.caption)
    images = content.get("images") if isinstance(content, dict) else None
    files = [
        (image["file_name"], image["id"])
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict)
        and isinstance(image.get("file_name"), str)
        and _is_id(image.get("id"))
        and image["id"] in references
    ]
    return Annotations(dict(references), files)


def write_results(captions: Mapping[Any, str], path: Path | str) -> None:
    """Write one caption for each image id as a COCO results file, atomically.

    Lone surrogates, which occur in badly scraped text, are written as JSON escapes.

    Raises:
        ScoreError: An id is not an integer.
        OutputError: The file cannot be written.
    """
    wrong = [image for image in captions if not _is_id(image)]
    if wrong:
        raise ScoreError(
            f"Image id {wrong[0]!r} is not an integer, as the COCO format requires. Number the "
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
            f"cannot write {path}: {error}. Check that the path is writable and has free space."
        ) from error


def select_references(
    references: Mapping[int, Sequence[str]], candidates: Mapping[int, str]
) -> dict[int, Sequence[str]]:
    """Return the references of the images that have a candidate, in the order of references."""
    return {image: captions for image, captions in references.items() if image in candidates}


def _load_json(path: Path) -> tuple[Any, bool]:
    """Return the content of a JSON file or the rows of JSON Lines, and whether it is the latter."""
    text = read_text(path, error=ScoreError)
    try:
        return load_json(text, str(path), error=ScoreError), False
    except ScoreError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if [line[:1] for _, line in lines[:2]] != ["{", "{"]:
            raise
    rows = [load_json(line, f"{path}, line {number}", error=ScoreError) for number, line in lines]
    return rows, True


def _parse_entries(content: Any, path: Path | str, advice: str) -> list[_Entry]:
    entries = convert_json(content, list[_Entry], source=str(path), error=ScoreError, advice=advice)
    if not entries:
        raise ScoreError(f"{path} has no captions. {advice}")
    return entries


def _is_id(image: object) -> bool:
    return isinstance(image, Integral) and not isinstance(image, bool)
