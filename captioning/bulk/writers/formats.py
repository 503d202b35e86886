"""Results in the formats that people use: written as they come, or whole at the end."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioning.bulk.writers.base import FileWriter, Writer
from captioning.bulk.writers.html import HtmlPage
from captioning.bulk.writers.rows import COLUMNS, Home, as_csv, as_json, row_of
from captioning.bulk.writers.sidecars import (
    EmbeddingWriter,
    Existing,
    SidecarWriter,
    XmpWriter,
)
from captioning.errors import ConfigError
from captioning.inference.results import CaptionResult, one_line
from captioning.messages import suggest


class _Rows(FileWriter):
    """A writer that makes rows of results."""

    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.home = Home(None if self.output is None else self.output.parent)

    def _row(self, result: CaptionResult) -> dict[str, Any]:
        return row_of(result, self.home)


class _JsonLines(_Rows):
    whole = False

    def _write(self, result: CaptionResult) -> None:
        self.file.write(as_json(self._row(result)))


class _Text(FileWriter):
    """For a person at a terminal: the file's name and what it shows."""

    whole = False
    for_people = True

    def _write(self, result: CaptionResult) -> None:
        if result.ok:
            self.file.write(f"{one_line(result.source)}: {one_line(result.text)}\n")
        else:
            self.file.write(f"({one_line(result.error)})\n")
        for other in result.captions[1:]:
            self.file.write(f"    {one_line(other.text)}\n")


class _Csv(_Rows):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.file.write(as_csv({column: column for column in COLUMNS}))

    def _write(self, result: CaptionResult) -> None:
        self.file.write(as_csv(self._row(result)))


_COCO_ID = re.compile(r"(?:COCO_\w+_)?([0-9]{1,12})", re.ASCII)


class _Coco(FileWriter):
    """COCO results: ``[{"image_id": 42, "caption": "...", "file_name": "photos/42.jpg"}]``.

    The id is the number that is the file's name, or ends it as in COCO's own
    (``COCO_val2014_000000000042.jpg``). Where there is none, or an earlier image has it, the id
    is one above :data:`OTHER_IDS`. Other digits are no ids: Flickr's names end in hashes.
    """

    OTHER_IDS = 10**12

    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.taken: set[int] = set()
        self.others = 0
        self.file.write("[")

    def _write(self, result: CaptionResult) -> None:
        if not result.ok:
            return
        digits = _COCO_ID.fullmatch(Path(result.source).stem)
        number = int(digits[1]) if digits else None
        if number is None or number in self.taken:
            self.others += 1
            number = self.OTHER_IDS + self.others
        record = {"image_id": number, "caption": result.text, "file_name": result.source}
        self.file.write(("," if self.taken else "") + "\n" + json.dumps(record))
        self.taken.add(number)

    def _end(self) -> None:
        self.file.write("\n]\n" if self.taken else "]\n")


class _Parquet(_Rows):
    """A table of the columns of JSON lines, with all captions and log-probabilities as lists."""

    binary = True
    _GROUP = 10_000  # rows

    def __init__(self, output: Path | None) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ConfigError(
                "Parquet needs a package that is not installed: pip install pyarrow. Or give "
                "another format."
            ) from None
        super().__init__(output)
        text, number = pyarrow.string(), pyarrow.float64()
        self.schema = pyarrow.schema(
            [
                *((name, number if name == "log_prob" else text) for name in COLUMNS),
                ("captions", pyarrow.list_(text)),
                ("log_probs", pyarrow.list_(number)),
            ]
        )
        self.table = pyarrow.parquet.ParquetWriter(self.file, self.schema)
        self.from_rows: Callable[..., Any] = pyarrow.Table.from_pylist
        self.rows: list[dict[str, Any]] = []

    def _write(self, result: CaptionResult) -> None:
        row = self._row(result)
        self.rows.append({name: _utf8(value) for name, value in row.items()})
        if len(self.rows) == self._GROUP:
            self._put_group()

    def _put_group(self) -> None:
        if self.rows:
            self.table.write_table(self.from_rows(self.rows, self.schema))
            self.rows = []

    def _end(self) -> None:
        self._put_group()
        self.table.close()

    def _abandon(self) -> None:
        self.table.is_open = False  # or it tries once more to write, when it is forgotten
        super()._abandon()


def _utf8(value: Any) -> Any:
    """Parquet's text is UTF-8; the bytes of a name that are none are escaped."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class _Html(FileWriter):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.page = HtmlPage(self.file.write, self.output)

    def lacks(self, source: str) -> bool:
        """Whether something of an image is missing that no journal has: its small image."""
        return self.page.lacks(source)

    def _keep(self, result: CaptionResult) -> None:
        self.page.keep(result)

    def _write(self, result: CaptionResult) -> None:
        self.page.add(result)

    def _end(self) -> None:
        self.page.end()


_DOCUMENTS: dict[str, type[FileWriter]] = {
    "jsonl": _JsonLines,
    "text": _Text,
    "csv": _Csv,
    "coco": _Coco,
    "parquet": _Parquet,
    "html": _Html,
}
_FOR_EACH: dict[str, Callable[[Path | None, Existing], Writer]] = {
    "txt": lambda output, existing: SidecarWriter(output, ".txt", existing),
    "caption": lambda output, existing: SidecarWriter(output, ".caption", existing),
    "xmp": lambda output, existing: XmpWriter(output, ".xmp", existing),
    "embed": EmbeddingWriter,
}
FORMATS = (*_DOCUMENTS, *_FOR_EACH)
"""``jsonl``, ``text`` (for reading), ``csv``, ``coco``, ``parquet``, ``html``; a file for each
image: ``txt``, ``caption``, ``xmp``, or ``embed``, the photo itself with its caption in it."""
ENDINGS = {
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".html": "html",
    ".htm": "html",
    ".json": "coco",
    ".parquet": "parquet",
}
"""The format of an output by the end of its name."""


def is_for_each(form: str) -> bool:
    """Return whether a format is a file for each image, and its output a folder."""
    return form in _FOR_EACH


def open_writer(form: str, output: Path | None, *, existing: Existing = "keep") -> Writer:
    """Return the writer of a format.

    Args:
        form: One of :data:`FORMATS`.
        output: A file; where each image has a file of its own, their folder; None for standard
            output, or for the folder of each image.
        existing: What becomes of files that are there already and belong to an image each:
            ``keep`` leaves those images out, ``replace``, or ``append`` a caption to them. Any
            other file is replaced.

    Raises:
        ConfigError: There is no such format.
        OutputError: The output cannot be written.
    """
    if form in _FOR_EACH:
        return _FOR_EACH[form](output, existing)
    if form not in _DOCUMENTS:
        raise ConfigError(
            f"There is no format {form!r}; there are {', '.join(FORMATS)}.{suggest(form, FORMATS)}"
        )
    return _DOCUMENTS[form](output)


def thumbnails_of(form: str) -> int:
    """Return the longest side of the small images that a format shows; 0 for none."""
    return HtmlPage.THUMBNAIL if form == "html" else 0
