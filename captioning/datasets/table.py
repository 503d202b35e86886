"""One line per image or caption: JSON lines, and CSV as Kaggle's Flickr8k has it."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.datasets.split import (
    Assembler,
    CaptionSplit,
    Source,
    canonical_split,
    check_entry,
    numbered,
    read_text,
)
from captioning.errors import DataError

_IMAGE = ("image", "file_name")  # the second is Hugging Face's name, of its imagefolder
_CAPTION = ("caption", "text")
_JSONL_FORM = '{"image": "a.jpg", "captions": ["...", "..."]} or {"image": "a.jpg", "caption": ...}'


@dataclass(frozen=True)
class _Row:
    """One line of the file."""

    line: int
    image: str
    captions: tuple[str, ...]
    split: str | None


def read_jsonl(source: Source) -> CaptionSplit:
    """Read JSON lines: ``{"image": path, "captions": [...], "split": name}``.

    The path is relative to the file, or to the folder that ``@IMAGES`` names. ``"caption"`` with
    one string may stand in place of ``"captions"``; lines with the same image are joined. Where a
    line gives its split, all do. Where there is no ``"image"`` it is ``"file_name"``, and where
    there is no ``"caption"`` it is ``"text"``.

    Raises:
        DataError: The file is missing or malformed, or has no such split.
    """
    folder = source.images or source.path.parent
    return _assemble(source, folder, list(_json_rows(source.path)))


def read_csv(source: Source) -> CaptionSplit:
    """Read a CSV file with the columns ``image`` and ``caption``, and perhaps ``split``.

    Where there is no ``image`` it is ``file_name``, and where there is no ``caption`` it is
    ``text``. Paths are relative to ``Images/`` or ``images/`` beside the file, or else to its own
    folder; ``@IMAGES`` names another.

    Raises:
        DataError: The file is missing or malformed, or has no such split.
    """
    base = source.path.parent
    rows = list(_csv_rows(source.path))
    beside = [base / name for name in ("Images", "images")]
    plain = any((base / row.image).is_file() for row in rows[:1])
    folder = source.image_folder(*([base] if plain else [*beside, base]))
    return _assemble(source, folder, rows)


def _assemble(source: Source, folder: Path, rows: list[_Row]) -> CaptionSplit:
    ids = numbered(row.image for row in rows)
    captions: dict[str, list[str]] = {}
    for row in _of_split(source, rows):
        captions.setdefault(row.image, []).extend(row.captions)
    assembler = Assembler(source)
    for image, texts in captions.items():
        assembler.add(folder / image, texts, ids[image])
    return assembler.finish()


def _of_split(source: Source, rows: list[_Row]) -> list[_Row]:
    """Return the rows of the split, or all when the file says nothing about splits."""
    splits = {row.split for row in rows}
    if splits <= {None}:
        return rows
    for row in rows:
        if row.split is None:
            raise DataError(
                f"{source.path}, line {row.line}: no split is given, but other lines give theirs. "
                "Give every line its split, or none."
            )
    chosen = [row for row in rows if row.split == source.split]
    if not chosen:
        raise DataError(
            f"{source.path} has no split {source.split!r}; it has "
            f"{', '.join(sorted(filter(None, splits)))}."
        )
    return chosen


def _json_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{where}: no JSON ({error}). One object per line was expected: {_JSONL_FORM}."
            ) from error
        image = _first(_IMAGE, entry if isinstance(entry, dict) else ())
        check_entry(entry, {image: str}, where)
        split = entry.get("split")
        if split is not None:
            check_entry(entry, {"split": str}, where)
            split = canonical_split(split)
        yield _Row(number, entry[image], _captions(entry, where), split)


def _captions(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    captions = entry.get("captions", [entry.get(_first(_CAPTION, entry))])
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise DataError(
            f"{where}: a list of captions or one caption was expected, as in {_JSONL_FORM}; "
            f"the keys found are {sorted(entry)[:8]}."
        )
    return tuple(captions)


def _first(names: Sequence[str], found: Collection[str]) -> str:
    """Return the first of the names that is found; where none is, the first."""
    return next((name for name in names if name in found), names[0])


def _csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        image, caption = _first(_IMAGE, columns), _first(_CAPTION, columns)
        if not {image, caption} <= set(columns):
            raise DataError(
                f"{path}, line 1: a header with the columns image and caption (or file_name and "
                f"text) was expected, {columns[:8]} was found."
            )
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(columns)} columns were expected, as in "
                    "the header. A caption with a comma stands in double quotes."
                )
            split = row.get("split")
            yield _Row(
                reader.line_num,
                row[image].strip(),
                (row[caption],),
                None if split is None else canonical_split(split.strip()),
            )
    except csv.Error as error:
        raise DataError(
            f"{path}, near line {reader.line_num}: {error}. Was a double quote left open?"
        ) from error
