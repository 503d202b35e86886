"""Captions that a person has corrected, in a file that training reads."""

import json
from collections.abc import Iterator
from pathlib import Path

from captioning.bulk.readers import read_rows
from captioning.bulk.rows import RelativeNames
from captioning.bulk.writers.tables import escape_bytes
from captioning.errors import ConfigError, OutputError
from captioning.files import replace_atomic
from captioning.messages import explain_error

FILE_NAME = "corrections.jsonl"
_MAX_LENGTH = 1000  # characters of a caption


class Corrections:
    """Corrected captions by file name, relative to the folder of their file.

    The file is replaced after every change, so it is complete at any moment. It keeps the
    corrections of images that no longer exist.

    Args:
        folder: Folder of the file.

    Raises:
        OutputError: There is such a file, but it does not hold captions.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._texts: dict[str, str] = {}
        if self.path.exists():
            rows = read_rows(self.path, "jsonl", RelativeNames(self.path))
            self._texts = {row.file_name: row.captions[0] for row in rows if row.ok}

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def get(self, file_name: str) -> str:
        """Return the corrected caption of an image; empty if there is none."""
        return self._texts.get(file_name, "")

    def set(self, file_name: str, text: str) -> str:
        """Store the caption of an image, and return it with single spaces.

        Args:
            file_name: The image.
            text: The caption; an empty one removes the correction.

        Raises:
            ConfigError: The caption is too long.
            OutputError: The file cannot be written; nothing has changed.
        """
        text = " ".join(text.split())
        if len(text) > _MAX_LENGTH:
            raise ConfigError(
                f"the caption has {len(text):,} characters; the limit is {_MAX_LENGTH:,}. "
                "Shorten it."
            )
        if text == self.get(file_name):
            return text
        changed = {**self._texts, file_name: text}
        if not text:
            del changed[file_name]
        rows = ({"file_name": escape_bytes(n), "text": caption} for n, caption in changed.items())
        content = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            replace_atomic(self.path, content.encode("ascii"))
        except OSError as error:
            reason = f"cannot write '{self.path}': {explain_error(error)}"
            raise OutputError(f"{reason}. Free some space, and save the caption again.") from error
        self._texts = changed
        return text
