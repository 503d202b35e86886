"""Files of results, which hold a generated caption for each image."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.datasets.coco_results import ImageId, load_json_file, parse_id, read_number
from captioning.errors import ScoreError
from captioning.files import read_text
from captioning.messages import format_count

# Names of the fields: those of this package, of COCO, and of common tables.
_ID_NAMES = ("image_id", "id")
_FILE_NAMES = ("file_name", "image", "filename", "path")
_TEXT_NAMES = ("text", "caption")
_ADVICE = (
    "Write results with captioning caption -o results.jsonl (or .csv, .parquet, .json), or as "
    '[{"image_id": 1, "caption": "a dog"}, ...].'
)


@dataclass(frozen=True)
class ResultRow:
    """The captions of one image, which is named by its id, its file, or both.

    Attributes:
        image_id: Id of the image, if the file has one.
        file_name: Name of the image, with folders if the file has them. A text id is also read
            as a file name.
        captions: Captions, best first; empty if the image failed.
    """

    image_id: ImageId | None
    file_name: str | None
    captions: tuple[str, ...]


def read_results(path: Path | str) -> dict[ImageId, str]:
    """Read one caption for each image: the best, if the file has several.

    Args:
        path: JSON Lines, CSV, TSV or Parquet file as ``captioning caption`` writes it, COCO
            results, or a JSON object ``{id: caption}``.

    Returns:
        Captions by image id, or by file name if the file has no ids. Images that failed are left
        out.

    Raises:
        ScoreError: The file cannot be read, an image is repeated, or a caption is missing.
    """
    rows = read_result_rows(path)
    has_ids = all(row.image_id is not None for row in rows)
    keys = [row.image_id if has_ids else row.file_name for row in rows if row.captions]
    refuse_repeats(keys, str(path))
    captions = [row.captions[0] for row in rows if row.captions]
    return {key: text for key, text in zip(keys, captions, strict=True) if key is not None}


def read_result_rows(path: Path | str) -> list[ResultRow]:
    """Read all rows of a file of results; see :func:`read_results`.

    Raises:
        ScoreError: The file cannot be read, or has no captions.
    """
    rows = [
        _parse_row(row, f"{path}: row {number}")
        for number, row in enumerate(_load_rows(Path(path)), 1)
    ]
    if not any(row.captions for row in rows):
        count = f" for {format_count(len(rows), 'image')}" if rows else ""
        raise ScoreError(f"'{path}' has no captions{count}. {_ADVICE}")
    return rows


def refuse_repeats(
    images: Iterable[Any], source: str, *, show: Callable[[Any], str] = repr
) -> None:
    """Check that no image occurs twice.

    Args:
        images: The image of each row.
        source: Name of the file in the message.
        show: Returns the name of an image in the message.

    Raises:
        ScoreError: An image does.
    """
    repeated = [image for image, count in Counter(images).items() if count > 1]
    if repeated:
        count = format_count(len(repeated), "image")
        raise ScoreError(
            f"{source} has more than one caption for {count} (such as {show(repeated[0])}). Keep "
            "one caption per image. If the file holds references, pass it as REFERENCES."
        )


def _load_rows(path: Path) -> list[Any]:
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind == ".parquet":
        return _load_parquet(path)
    if kind in (".csv", ".tsv"):
        return _load_csv(path)
    content, _ = load_json_file(path)
    if not isinstance(content, dict):
        return content if isinstance(content, list) else [content]
    if "annotations" in content or "images" in content:
        raise ScoreError(
            f"{path} holds references, not results. Pass the results first: "
            f"captioning score RESULTS {path}"
        )
    if any(name in content for name in (*_ID_NAMES, *_FILE_NAMES)):
        return [content]  # one line of JSON Lines
    return [
        {"image_id": read_number(image), "caption": caption} for image, caption in content.items()
    ]


def _load_csv(path: Path) -> list[dict[str, Any]]:
    text = read_text(path, error=ScoreError)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # of the header
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows: list[dict[str, Any]] = list(table)
    except csv.Error as error:
        raise ScoreError(
            f"{path}, near line {table.line_num}: {error}. Check for a missing double quote."
        ) from error
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ScoreError(
                f"{path}: row {number} has more or fewer cells than the header. Put captions with "
                "commas in double quotes."
            )
        for name in _ID_NAMES:
            if name in row:
                row[name] = read_number(row[name])
    return rows


def _load_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ScoreError(f"{path} needs pyarrow. Install it: pip install pyarrow") from None
    try:
        with path.open("rb") as file:
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ScoreError(f"cannot read '{path}': {error}. Write the file again.") from error
    return rows


def _parse_row(row: Any, source: str) -> ResultRow:
    if not isinstance(row, dict):
        raise ScoreError(f"{source} is {row!r:.80}, not an image with its caption. {_ADVICE}")
    image_id = parse_id(_first(row, _ID_NAMES))
    file_name = _first(row, _FILE_NAMES)
    if not isinstance(file_name, str):
        file_name = image_id if isinstance(image_id, str) else None
    if image_id is None and file_name is None:
        raise ScoreError(
            f"{source} has no image: expected image_id or file_name, found "
            f"{', '.join(map(str, row)):.80}. {_ADVICE}"
        )
    return ResultRow(image_id, file_name, _parse_captions(row, source))


def _parse_captions(row: Mapping[str, Any], source: str) -> tuple[str, ...]:
    if row.get("error"):
        return ()
    best = _first(row, _TEXT_NAMES)
    if best is None and not row.get("captions"):
        raise ScoreError(
            f"{source} has no caption: expected text or caption, found "
            f"{', '.join(map(str, row)):.80}. {_ADVICE}"
        )
    captions = row.get("captions") or (best if isinstance(best, list) else [best])
    captions = [c.get("caption") if isinstance(c, dict) else c for c in captions]
    captions += [text for name, text in row.items() if name.startswith("text_") and text]
    for caption in captions:
        if not isinstance(caption, str):
            raise ScoreError(f"{source} has the caption {caption!r:.80}, not a string. {_ADVICE}")
    return tuple(captions)


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)
