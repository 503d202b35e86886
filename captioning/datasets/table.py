"""Readers of JSON Lines and CSV files with one image or caption per row."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.datasets.reading import (
    DatasetSpec,
    SplitBuilder,
    normalize_split,
    number_names,
    read_text,
    require_fields,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError

# The second names are those of Hugging Face's imagefolder.
_IMAGE_NAMES = ("image", "file_name")
_CAPTION_NAMES = ("caption", "text")
_JSONL_EXAMPLE = (
    '{"image": "a.jpg", "captions": ["...", "..."]} or {"image": "a.jpg", "caption": "..."}'
)


@dataclass(frozen=True)
class _Row:
    """One row of the file; ``split`` is None if the row does not name its split."""

    line_number: int
    image: str
    captions: tuple[str, ...]
    split: str | None


def read_jsonl(spec: DatasetSpec) -> CaptionSplit:
    """Read JSON Lines: ``{"image": path, "captions": [...], "split": name}``.

    Image paths are relative to the folder of the file, or to ``@IMAGES``. ``"caption"`` with one
    string may replace ``"captions"``. Rows of the same image are joined. Either every row names
    its split or none does. ``"file_name"`` and ``"text"`` are read if ``"image"`` and
    ``"caption"`` are missing.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    folder = spec.image_folder or spec.path.parent
    return _build_split(spec, folder, list(_read_jsonl_rows(spec.path)))


def read_csv(spec: DatasetSpec) -> CaptionSplit:
    """Read a CSV file with the columns ``image``, ``caption`` and optionally ``split``.

    ``file_name`` and ``text`` are read if ``image`` and ``caption`` are missing. Image paths are
    relative to ``@IMAGES`` if given, else to the folder ``Images`` or ``images`` next to the file,
    else to the folder of the file.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    base = spec.path.parent
    rows = list(_read_csv_rows(spec.path))
    candidates = [base / "Images", base / "images", base]
    if rows and (base / rows[0].image).is_file():
        candidates = [base]
    return _build_split(spec, spec.find_images(*candidates), rows)


def _build_split(spec: DatasetSpec, folder: Path, rows: list[_Row]) -> CaptionSplit:
    ids = number_names(row.image for row in rows)
    captions: dict[str, list[str]] = {}
    for row in _select_split(spec, rows):
        captions.setdefault(row.image, []).extend(row.captions)
    builder = SplitBuilder(spec)
    for image, texts in captions.items():
        builder.add(folder / image, texts, ids[image])
    return builder.build()


def _select_split(spec: DatasetSpec, rows: list[_Row]) -> list[_Row]:
    """Return the rows of the split, or all rows if the file does not name splits."""
    splits = {row.split for row in rows}
    if splits <= {None}:
        return rows
    for row in rows:
        if row.split is None:
            raise DataError(
                f"{spec.path}, line {row.line_number}: the split is missing, but other lines have "
                "one. Give every line its split, or none."
            )
    selected = [row for row in rows if row.split == spec.split]
    if not selected:
        known = ", ".join(sorted(filter(None, splits)))
        raise DataError(f"{spec.path} has no split {spec.split!r}, only {known}.")
    return selected


def _read_jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{where}: not valid JSON ({error}). Expected one object per line: "
                f"{_JSONL_EXAMPLE}."
            ) from error
        image = _select_name(_IMAGE_NAMES, entry if isinstance(entry, dict) else ())
        require_fields(entry, {image: str}, where)
        split = entry.get("split")
        if split is not None:
            require_fields(entry, {"split": str}, where)
            split = normalize_split(split)
        yield _Row(number, entry[image], _parse_captions(entry, where), split)


def _parse_captions(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    captions = entry.get("captions", [entry.get(_select_name(_CAPTION_NAMES, entry))])
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise DataError(
            f"{where}: expected a list of captions or one caption, as in {_JSONL_EXAMPLE}; found "
            f"the keys {sorted(entry)[:8]}."
        )
    return tuple(captions)


def _select_name(names: Sequence[str], available: Collection[str]) -> str:
    """Return the first of the names that is available, or the first of all if none is."""
    return next((name for name in names if name in available), names[0])


def _read_csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        image, caption = (_select_name(names, columns) for names in (_IMAGE_NAMES, _CAPTION_NAMES))
        if not {image, caption} <= set(columns):
            raise DataError(
                f"{path}, line 1: expected a header with the columns image and caption (or "
                f"file_name and text), found {columns[:8]}."
            )
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: expected {len(columns)} columns as in the "
                    "header. Put captions with commas in double quotes."
                )
            split = row.get("split")
            yield _Row(
                reader.line_num,
                row[image].strip(),
                (row[caption],),
                None if split is None else normalize_split(split.strip()),
            )
    except csv.Error as error:
        raise DataError(
            f"{path}, near line {reader.line_num}: {error}. Check for a missing double quote."
        ) from error
