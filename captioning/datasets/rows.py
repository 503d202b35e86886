"""Rows of tables, JSON files and archives: an image, its captions and its split.

Many programs write such rows, with different names for the same fields. All are read here.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from captioning.datasets.source import Content, Entry
from captioning.datasets.spec import normalize_split
from captioning.errors import DataError

IMAGE_FIELDS = (
    *("image", "file_name", "filename", "filepath", "file_path", "image_path", "img_path"),
    *("path", "image_name", "image_file", "url", "image_url", "jpg", "jpeg", "png", "webp"),
)
"""Names of the field with the image, in the order in which they are tried."""
CAPTION_FIELDS = (*("captions", "caption", "text", "raw", "sentences", "title", "comment", "txt"),)
"""Names of the field with one or several captions, in the order in which they are tried."""
SPLIT_FIELD = "split"
_NESTED = ("raw", "caption", "text")  # of a caption that is an object
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp)$", re.IGNORECASE)
_SHOWN = 8  # names of fields in an error
_COMPARED = 20  # images that occur again; reading all of them would take too long


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a row that are used.

    Attributes:
        image: The image.
        captions: One or several captions.
        split: The split; None if rows have no such field.
    """

    image: str
    captions: str
    split: str | None

    @classmethod
    def find(cls, names: Iterable[str], source: str, advice: str = "") -> "Fields":
        """Choose the fields by their names.

        Raises:
            DataError: There is no image or no caption.
        """
        names = list(names)
        image = next((name for name in IMAGE_FIELDS if name in names), None)
        captions = next((name for name in CAPTION_FIELDS if name in names), None)
        if image is not None and captions is not None:
            return cls(image, captions, SPLIT_FIELD if SPLIT_FIELD in names else None)
        missing, known = (
            ("the image", IMAGE_FIELDS) if image is None else ("the captions", CAPTION_FIELDS)
        )
        found = ", ".join(map(str, names[:_SHOWN])).rstrip(".") or "none"
        if any(_IMAGE_NAME.search(str(name)) for name in names):
            advice = f"This line looks like data, not like a header. {advice}"
        raise DataError(
            f"{source}: no field with {missing}: expected one of {', '.join(known)}; "
            f"found {found}. {advice}".rstrip()
        )


class RowCollector:
    """Collects rows, and joins the captions of those with the same image and split.

    Args:
        file: File of the rows, for messages.
        advice: Last sentence of an error about the fields of a row.
    """

    def __init__(self, file: object, advice: str = "") -> None:
        self.file = file
        self.advice = advice
        self._entries: dict[object, Entry] = {}
        self._fields: dict[tuple[str, ...], Fields] = {}
        self._first: tuple[str, str | None] | None = None
        self._compared = 0

    @property
    def entries(self) -> list[Entry]:
        """The images, in the order in which they first occur."""
        return list(self._entries.values())

    def add_mapping(self, row: Any, where: str) -> None:
        """Add a row that names its fields, such as an object of a JSON file.

        Args:
            row: The row.
            where: Its place in the file, such as ``"line 3"``.

        Raises:
            DataError: A field is missing, or has another type.
        """
        if not isinstance(row, Mapping):
            raise self._error(where, f"expected an object, found {row!r:.80}")
        fields = self.find_fields(tuple(row), where)
        image = row[fields.image]
        if not isinstance(image, str):
            raise self._error(where, f"{fields.image}: expected a string, found {image!r:.80}")
        split = row[fields.split] if fields.split else None
        self.add(where, image, row[fields.captions], split)

    def find_fields(self, names: tuple[str, ...], where: str) -> Fields:
        """Return the fields of a row with these names."""
        if names not in self._fields:
            source = f"{self.file}, {where}"
            self._fields[names] = Fields.find(names, source, self.advice)
        return self._fields[names]

    def add(
        self,
        where: str,
        image: str,
        captions: object,
        split: object = None,
        *,
        content: Content | None = None,
    ) -> None:
        """Add a row.

        Args:
            where: Its place in the file.
            image: Name of the image.
            captions: A caption or a list of captions; JSON text with such a list is also accepted.
            split: Name of the split; None or empty if the row has none.
            content: As in :class:`Entry`.

        Raises:
            DataError: A value has another type, some rows have a split and others have none, or
                different images have the same name.
        """
        if not isinstance(split, str | None):
            raise self._error(where, f"split: expected a string, found {split!r:.80}")
        split = normalize_split(split.strip()) if split and split.strip() else None
        if self._first is None:
            self._first = where, split
        elif (split is None) != (self._first[1] is None):
            without = where if split is None else self._first[0]
            raise DataError(
                f"{self.file}, {without}: the split is missing, but other rows have one. Give "
                "every row a split, or remove the split from all rows."
            )
        texts = self._texts(captions, where)
        entry = self._entries.get(key := image if split is None else (image, split))
        if entry is None:
            self._entries[key] = Entry(image, texts, split, content=content)
        else:
            self._compare(entry, content, where)
            entry.captions += texts

    def _compare(self, entry: Entry, content: Content | None, where: str) -> None:
        """Compare some images of the same name: some programs write names without folders."""
        if entry.content is None or content is None or self._compared == _COMPARED:
            return
        self._compared += 1
        with suppress(OSError):  # reported when the image is used
            pair = [
                each if isinstance(each, bytes) else each() for each in (entry.content, content)
            ]
            if pair[0] != pair[1]:
                raise DataError(
                    f"{self.file}, {where}: another image has the name '{entry.name}' too. Give "
                    "different images different names, or remove their names (path)."
                )

    def _texts(self, value: object, where: str) -> list[str]:
        if isinstance(value, str):
            return _parse_list(value) if value.startswith("[") else [value]
        if isinstance(value, Mapping):
            field = next((name for name in _NESTED if name in value), None)
            if field is not None:
                return self._texts(value[field], where)
        elif value is None:
            return []
        elif hasattr(value, "__iter__") and not isinstance(value, bytes):
            return [text for each in value for text in self._texts(each, where)]
        raise self._error(where, f"expected a caption or a list of captions, found {value!r:.80}")

    def _error(self, where: str, problem: str) -> DataError:
        return DataError(f"{self.file}, {where}: {problem}. {self.advice}".rstrip())


def _parse_list(text: str) -> list[str]:
    """Return the captions of a list that is written as JSON in one cell; else the text itself."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return values if is_list and values else [text]
