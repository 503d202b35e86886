"""Results in the formats that people use: written as they come, or whole at the end."""

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from captioning.captioner.output import FileWriter, Writer
from captioning.captioner.page import HtmlPage
from captioning.captioner.results import Caption, CaptionedPicture, one_line
from captioning.captioner.resume import SIDECARS
from captioning.captioner.sidecars import SidecarWriter
from captioning.errors import SettingsError, nearest


def _log_prob(caption: Caption) -> float | None:
    """JSON knows no infinity."""
    return round(caption.log_prob, 3) if math.isfinite(caption.log_prob) else None


def _record(result: CaptionedPicture) -> dict[str, Any]:
    """Return a row, in the layout that ``captioning train --data jsonl:`` reads."""
    if not result.ok:
        return {"image": result.source, "error": result.error}
    best = result.captions[0]
    record: dict[str, Any] = {
        "image": result.source,
        "caption": best.text,
        "log_prob": _log_prob(best),
    }
    if len(result.captions) > 1:
        record["captions"] = [each.text for each in result.captions]
        record["log_probs"] = [_log_prob(each) for each in result.captions]
    return record


class _JsonLines(FileWriter):
    whole = False

    def _write(self, result: CaptionedPicture) -> None:
        # ASCII escapes keep file names with odd bytes or line breaks on one valid line.
        ascii_only = not result.source.isprintable()
        self.file.write(json.dumps(_record(result), ensure_ascii=ascii_only) + "\n")
        self.file.flush()


class _Text(FileWriter):
    """For a person at a terminal: the file's name and what it shows."""

    whole = False

    def _write(self, result: CaptionedPicture) -> None:
        if result.ok:
            self.file.write(f"{one_line(result.source)}: {result.text}\n")
        else:
            self.file.write(f"({one_line(result.error)})\n")
        for other in result.captions[1:]:
            self.file.write(f"    {other.text}\n")
        self.file.flush()


class _Csv(FileWriter):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.table = csv.writer(self.file)  # \r\n ends a row, so a name with either is quoted
        self.table.writerow(["image", "caption", "log_prob", "error"])

    def _write(self, result: CaptionedPicture) -> None:
        log_prob = f"{result.captions[0].log_prob:.3f}" if result.captions else ""
        row = [_plain_cell(cell) for cell in (result.source, result.text, log_prob, result.error)]
        self.table.writerow([row[0], row[1], log_prob, row[3]])


def _plain_cell(cell: str) -> str:
    """Keep a spreadsheet from running a file's name as a formula.

    A name that begins with the quote itself gets one more, so that no two names become one.
    """
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "'")) else cell


class _Coco(FileWriter):
    """COCO results: ``[{"image_id": 42, "caption": "..."}]``.

    The id is the number that ends the file's name, as in COCO's. Where there is none, or another
    picture has it, a free number is given and the row names the file.
    """

    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.captions: list[tuple[str, str]] = []

    def _write(self, result: CaptionedPicture) -> None:
        if result.ok:
            self.captions.append((result.source, result.text))

    def _end(self) -> None:
        ids: dict[int, int] = {}  # of each id, the place of the picture that has it
        for place, (source, _) in enumerate(self.captions):
            if digits := re.search(r"([0-9]+)$", Path(source).stem):
                ids.setdefault(int(digits[1]), place)
        owners = {place: number for number, place in ids.items()}
        free = max(ids, default=0) + 1
        records: list[dict[str, Any]] = []
        for place, (source, text) in enumerate(self.captions):
            if place in owners:
                records.append({"image_id": owners[place], "caption": text})
            else:
                records.append({"image_id": free, "caption": text, "file_name": source})
                free += 1
        self.file.write(json.dumps(records) + "\n")


class _Html(FileWriter):
    def __init__(self, output: Path | None) -> None:
        super().__init__(output)
        self.page = HtmlPage(self.file)

    def _write(self, result: CaptionedPicture) -> None:
        self.page.add(result)

    def _end(self) -> None:
        self.page.end()


_DOCUMENTS: dict[str, type[FileWriter]] = {
    "jsonl": _JsonLines,
    "text": _Text,
    "csv": _Csv,
    "coco": _Coco,
    "html": _Html,
}
FORMATS = (*_DOCUMENTS, *SIDECARS)
"""``jsonl``, ``text`` (for reading), ``csv``, ``coco``, ``html``, and the sidecars ``txt`` and
``caption``."""


def open_writer(
    form: str,
    output: Path | None,
    *,
    sources: Sequence[str] = (),
    existing: Literal["refuse", "replace", "keep"] = "refuse",
) -> Writer:
    """Return the writer of a format.

    Args:
        form: One of :data:`FORMATS`.
        output: A file; for sidecars a folder; None for standard output, or for sidecars the folder
            of each picture.
        sources: All pictures, from which the names of sidecars are made: no two share one.
        existing: What becomes of sidecars that are there already. Rows are added to a JSON lines
            file with ``keep``; all other files are replaced.

    Raises:
        SettingsError: There is no such format.
        OutputError: The output cannot be written, or sidecars exist that are not to be replaced.
    """
    if form in SIDECARS:
        return SidecarWriter(output, SIDECARS[form], sources, existing)
    if form not in _DOCUMENTS:
        raise SettingsError(
            f"There is no format {form!r}; there are {', '.join(FORMATS)}.{nearest(form, FORMATS)}"
        )
    if form == "jsonl":
        return _JsonLines(output, append=existing == "keep")
    return _DOCUMENTS[form](output)
