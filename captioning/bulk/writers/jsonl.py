"""JSON lines: one object per image, written as the results come."""

import json
from typing import Any

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter


class JsonLinesWriter(FileWriter):
    """Writes JSON lines that Hugging Face's ``imagefolder`` and our own training read.

    ``imagefolder`` reads ``file_name`` and ``text`` of a ``metadata.jsonl``; ``captioning train
    --data jsonl:`` reads ``image`` and ``caption``.
    """

    is_document = False

    def _write_row(self, row: CaptionRow) -> None:
        # Escape all special line breaks: some programs split lines at U+2028 and similar.
        plain = row.image.isprintable() and row.error.isprintable()
        self.file.write(json.dumps(row_to_json(row), ensure_ascii=not plain) + "\n")


def row_to_json(row: CaptionRow) -> dict[str, Any]:
    """Return a row as a JSON object; lists of captions only if there is more than one."""
    record: dict[str, Any] = {"file_name": row.file_name, "image": row.image}
    if not row.ok:
        return {**record, "error": row.error}
    best = row.captions[0]
    record |= {"text": best, "caption": best, "log_prob": row.log_probs[0]}
    if len(row.captions) > 1:
        record |= {"captions": list(row.captions), "log_probs": list(row.log_probs)}
    return record
