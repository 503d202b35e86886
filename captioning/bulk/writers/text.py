"""Plain text for reading in a terminal."""

from captioning.bulk.writers.base import CaptionRow
from captioning.bulk.writers.files import FileWriter
from captioning.messages import escape_unprintable


class TextWriter(FileWriter):
    """Writes ``path: caption`` per image, further captions indented below it."""

    is_document = False
    terminal_encoding = True

    def _write_row(self, row: CaptionRow) -> None:
        if not row.ok:
            self.file.write(f"({escape_unprintable(row.error)})\n")
            return
        self.file.write(f"{escape_unprintable(row.image)}: {escape_unprintable(row.captions[0])}\n")
        for caption in row.captions[1:]:
            self.file.write(f"    {escape_unprintable(caption)}\n")
