"""Readers of JSON Lines and CSV files with one image or caption per row."""

import csv
import io
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from captioning.datasets.reading import (
    DatasetSpec,
    SplitBuilder,
    describe_split,
    load_json,
    normalize_split,
    number_names,
)
from captioning.datasets.split import CaptionSplit
from captioning.errors import DataError
from captioning.files import read_text
from captioning.json_data import convert_json

_OTHER_NAMES = {"file_name": "image", "text": "caption"}  # of Hugging Face's imagefolder
_JSONL_ADVICE = (
    'Write each line as {"image": "a.jpg", "captions": ["...", "..."]} or '
    '{"image": "a.jpg", "caption": "..."}.'
)


@dataclass(frozen=True)
class _Row:
    """One row of the file; ``split`` is None if the row does not name its split."""

    line_number: int
    image: str
    captions: tuple[str, ...]
    split: str | None = None


def read_jsonl(spec: DatasetSpec) -> CaptionSplit:
    """Read JSON Lines: ``{"image": path, "captions": [...], "split": name}``.

    Image paths are relative to ``@IMAGES`` if given, else to the folder of the file. A row may have
    ``"caption"`` with one string instead of ``"captions"``. The captions of several rows with the
    same image are joined. Every row has a split, or none. ``"file_name"`` and ``"text"`` are other
    names of ``"image"`` and ``"caption"``.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    folder = spec.image_folder or spec.path.parent
    return _build_split(spec, folder, list(_read_jsonl_rows(spec.path)))


def read_csv(spec: DatasetSpec) -> CaptionSplit:
    """Read a CSV file with the columns ``image``, ``caption`` and optionally ``split``.

    ``file_name`` and ``text`` are other names of ``image`` and ``caption``. Image paths are
    relative to ``@IMAGES`` if given. Else they are relative to the folder of the file if the first
    image is there, else to the folder ``Images`` or ``images`` next to the file.

    Raises:
        DataError: The file is missing or malformed, or the split does not exist.
    """
    base = spec.path.parent
    rows = list(_read_csv_rows(spec.path))
    candidates = [base / "Images", base / "images", base]
    if rows and (base / rows[0].image.replace("\\", "/")).is_file():
        candidates = [base]
    return _build_split(spec, spec.find_images(*candidates), rows)


def find_jsonl_splits(path: Path) -> set[str]:
    """Return the names of the splits in a JSON Lines file; none if rows do not name theirs."""
    return {row.split for row in _read_jsonl_rows(path) if row.split}


def find_csv_splits(path: Path) -> set[str]:
    """Return the names of the splits in a CSV file; none if rows do not name theirs."""
    return {row.split for row in _read_csv_rows(path) if row.split}


def _build_split(spec: DatasetSpec, folder: Path, rows: list[_Row]) -> CaptionSplit:
    ids = number_names(row.image for row in rows)
    names = {row.split if row.split is None else normalize_split(row.split) for row in rows}
    captions: dict[str, list[str]] = {}
    for row in rows:
        if row.split is None and names != {None}:
            raise DataError(
                f"{spec.path}, line {row.line_number}: the split is missing, but other lines have "
                "one. Give every line its split, or none."
            )
        if row.split is None or normalize_split(row.split) == spec.split:
            captions.setdefault(row.image, []).extend(row.captions)
    if rows and not captions:
        known = ", ".join(sorted(filter(None, names)))
        raise DataError(
            f"'{spec.path}' has no split {describe_split(spec.split)}; available: {known}."
        )
    builder = SplitBuilder(spec)
    for image, texts in captions.items():
        builder.add(folder / image, texts, ids[image])
    return builder.build()


def _read_jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_text(path, error=DataError).split("\n"), 1):
        if not line.strip():
            continue
        source = f"{path}, line {number}"
        row = load_json(line, source)
        if isinstance(row, dict):
            row = {_rename(name, row): value for name, value in row.items()}
            if "caption" in row:
                row.setdefault("captions", [row["caption"]])
            row["line_number"] = number
        yield convert_json(row, _Row, source=source, error=DataError, advice=_JSONL_ADVICE)


def _rename(name: str, available: Container[str]) -> str:
    """Return our name for a name of Hugging Face, unless our name is also available."""
    ours = _OTHER_NAMES.get(name, name)
    return name if ours in available else ours


def _read_csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(path, error=DataError), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = [_rename(name, columns) for name in columns]
        if not {"image", "caption"} <= set(reader.fieldnames):
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
            split = row["split"].strip() if "split" in row else None
            yield _Row(reader.line_num, row["image"].strip(), (row["caption"],), split)
    except csv.Error as error:
        raise DataError(
            f"{path}, near line {reader.line_num}: {error}. Check for a missing double quote."
        ) from error
