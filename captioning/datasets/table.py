"""Readers of tables and of JSON files with one image or caption per row."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from captioning.datasets.reading import load_json
from captioning.datasets.rows import CAPTION_FIELDS, IMAGE_FIELDS, RowCollector
from captioning.datasets.source import CaptionSource, Entry, file_name
from captioning.datasets.spec import DatasetSpec
from captioning.errors import DataError
from captioning.files import explain_encoding, read_bytes, read_lines, read_text

_ADVICE = (
    'Write each row as {"image": "a.jpg", "captions": ["...", "..."]} or '
    '{"image": "a.jpg", "caption": "..."}.'
)
_IMAGE_NAME = re.compile(r"^\S+://|\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_IMAGE_FOLDERS = ("images", "Images", "flickr30k_images", "flickr30k-images")
_PROBED = 100  # entries that show in which folder the images are


def load_jsonl(spec: DatasetSpec) -> CaptionSource:
    """Load JSON Lines: ``{"image": path, "captions": [...], "split": name}``.

    The captions of several rows with the same image are joined. Every row has a split, or none.
    For other names of the fields see :mod:`captioning.datasets.rows`.

    Raises:
        DataError: The file is missing or malformed.
    """
    collector = RowCollector(spec.path, _ADVICE)
    for number, line in enumerate(read_lines(spec.path, error=DataError), 1):
        if line and not line.isspace():
            where = f"line {number}"
            collector.add_mapping(_decode(line, f"{spec.path}, {where}"), where)
    return _build_source(spec, collector)


def load_json_list(spec: DatasetSpec) -> CaptionSource:
    """Load a JSON list of rows, as LAVIS and BLIP have it. The rows are those of JSON Lines.

    Raises:
        DataError: The file is missing or malformed.
    """
    content = read_bytes(spec.path, error=DataError)
    rows: Sequence[object]
    try:
        rows = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        rows = load_json(read_text(spec.path, error=DataError), str(spec.path))
        if not isinstance(rows, list):
            raise DataError(
                f"{spec.path}: expected a list of rows, found {rows!r:.80}. {_ADVICE}"
            ) from None
    collector = RowCollector(spec.path, _ADVICE)
    for number, row in enumerate(rows, 1):
        where = f"row {number}"
        if isinstance(row, msgspec.Raw):
            row = _decode(bytes(row), f"{spec.path}, {where}")  # noqa: PLW2901
        collector.add_mapping(row, where)
    return _build_source(spec, collector)


def _decode(text: str | bytes, source: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        try:
            decoded = text if isinstance(text, str) else text.decode()
        except UnicodeDecodeError as reason:
            raise DataError(explain_encoding(source, reason)) from reason
        # The module of Python accepts NaN and lone surrogates, and its messages are clearer.
        return load_json(decoded, source)


def load_csv(spec: DatasetSpec) -> CaptionSource:
    """Load a table with a header. The delimiter is a comma, a semicolon, a tab or ``|``.

    Quotes are those of CSV. For the names of the columns see :mod:`captioning.datasets.rows`.

    Raises:
        DataError: The file is missing or malformed.
    """
    lines = read_lines(spec.path, error=DataError)
    header = next(lines)
    delimiter = max(",;\t|", key=header.count)
    reader = csv.reader(
        (f"{line}\n" for line in chain([header], lines)),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=delimiter == "|",
    )
    try:
        return _load_rows(spec, [name.strip() for name in next(reader, [])], _number_rows(reader))
    except csv.Error as error:
        raise DataError(
            f"{spec.path}, near line {reader.line_num}: {error}. Check for a missing double quote."
        ) from error


def load_tsv(spec: DatasetSpec) -> CaptionSource:
    """Load a table whose cells are divided by tabs; quotes have no special meaning.

    Without a header, each row is ``caption<TAB>image`` or ``image<TAB>caption``. The image is a
    URL, as in Conceptual Captions, or a file name.

    Raises:
        DataError: The file is missing or malformed.
    """
    lines = read_lines(spec.path, error=DataError)
    rows = (line.split("\t") for line in lines)
    first = next(rows)
    names = [cell.strip() for cell in first]
    if {*names} & {*IMAGE_FIELDS} and {*names} & {*CAPTION_FIELDS}:
        return _load_rows(spec, names, enumerate(rows, 2))
    is_image = [bool(_IMAGE_NAME.search(cell.strip())) for cell in first[:2]]
    if sum(is_image) != 1:
        raise DataError(
            f"{spec.path}, line 1: expected a header with the columns image and caption, or a "
            f"caption and a file name or URL of an image with a tab between them, found "
            f"{first[:8]!r:.80}."
        )
    names = ["image", "caption"] if is_image[0] else ["caption", "image"]
    names += [f"column {number}" for number in range(3, len(first) + 1)]
    return _load_rows(spec, names, enumerate(chain([first], rows), 1))


def _number_rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        yield reader.line_num, row


def _load_rows(
    spec: DatasetSpec, names: list[str], rows: Iterable[tuple[int, list[str]]]
) -> CaptionSource:
    collector = RowCollector(spec.path)
    fields = collector.find_fields(tuple(names), "line 1")
    image, captions = names.index(fields.image), names.index(fields.captions)
    split = names.index(fields.split) if fields.split else None
    for number, row in rows:
        if not any(row):
            continue
        if len(row) != len(names):
            raise DataError(
                f"{spec.path}, line {number}: expected {len(names)} columns as in the first line, "
                f"found {len(row)}. Put captions with commas in double quotes, or remove the tab."
            )
        where = f"line {number}"
        cells = row[image].strip(), row[captions], None if split is None else row[split]
        collector.add(where, *cells)
    return _build_source(spec, collector)


def _build_source(spec: DatasetSpec, collector: RowCollector) -> CaptionSource:
    entries = collector.entries
    return CaptionSource(entries, find_folder(spec, entries))


def find_folder(spec: DatasetSpec, entries: list[Entry]) -> Path:
    """Return the folder of the images: the named one, or the first that has any of them.

    Searched are the folder of the captions and its usual subfolders.
    """
    base = spec.path.parent
    if spec.image_folder is not None:
        return spec.image_folder
    names = [file_name(entry.name).replace("\\", "/") for entry in islice(entries, _PROBED)]
    candidates = [base, *(base / name for name in _IMAGE_FOLDERS)]
    return next(
        (folder for folder in candidates if any((folder / name).is_file() for name in names)),
        base,
    )
