"""COCO results, as pycocotools and the COCO caption evaluation read them."""

import json
import re
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter

_COCO_ID = re.compile(r"(?:COCO_\w+_)?([0-9]{1,12})", re.ASCII)


class CocoWriter(FileWriter):
    """Writes ``[{"image_id": 42, "caption": "...", "file_name": "photos/42.jpg"}, ...]``.

    The id is the number that makes up the file name (``42.jpg``), or that ends a COCO file name
    (``COCO_val2014_000000000042.jpg``). Images without such a number, or with one that an earlier
    image has, get ids above :data:`FIRST_OTHER_ID`. Numbers in other names are not ids: file names
    of Flickr end in hashes. Images that failed are left out.
    """

    FIRST_OTHER_ID = 10**12

    def _write_start(self) -> None:
        self._used_ids: set[int] = set()
        self._other_ids = 0
        self.file.write("[")

    def _write_row(self, row: CaptionRow) -> None:
        if not row.ok:
            return
        separator = ",\n" if self._used_ids else "\n"
        record = {
            "image_id": self._next_id(row.image),
            "caption": row.captions[0],
            "file_name": row.image,
        }
        self.file.write(separator + json.dumps(record))

    def _next_id(self, image: str) -> int:
        match = _COCO_ID.fullmatch(Path(image).stem)
        image_id = int(match[1]) if match else None
        if image_id is None or image_id in self._used_ids:
            self._other_ids += 1
            image_id = self.FIRST_OTHER_ID + self._other_ids
        self._used_ids.add(image_id)
        return image_id

    def _write_end(self) -> None:
        self.file.write("\n]\n" if self._used_ids else "]\n")
