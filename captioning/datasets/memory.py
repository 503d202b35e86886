"""Captioned images in memory: lists of Python, and data sets of Hugging Face ``datasets``."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioning.datasets.arrow import add_dataset
from captioning.datasets.rows import RowCollector
from captioning.datasets.source import CaptionSource, Entry
from captioning.errors import DataError, ImageError
from captioning.images.decode import read_image
from captioning.images.image_inputs import ImageSource, resolve_input

_KINDS = (
    'Give a list of {"image": ..., "captions": [...]} or of pairs (image, captions), or a Dataset '
    "or DatasetDict of datasets."
)


class InMemoryData(str):
    """The name of captioned images in memory, which also holds them.

    It stands where a data set is named by text, such as in the saved settings of a run. The name
    depends on the captions and the names of the images, so that other data are another run.

    Args:
        rows: A list of ``{"image": ..., "captions": [...]}`` or of pairs ``(image, captions)``,
            where an image is a path, the content of a file, a Pillow image or an array; or a
            ``Dataset`` or ``DatasetDict`` of ``datasets``.

    Raises:
        DataError: The rows are of another kind, or a field is missing.
    """

    source: CaptionSource

    def __new__(cls, rows: Any) -> "InMemoryData":
        """Read the captions, and name them."""
        entries = _read_entries(rows)
        digest = hashlib.sha256()
        for entry in entries:
            parts = [entry.name, entry.split or "", *entry.captions]
            digest.update("\0".join(parts).encode(errors="surrogatepass"))
        data = super().__new__(cls, f"memory:{len(entries)} images {digest.hexdigest()[:8]}")
        data.source = CaptionSource(entries)
        return data

    def __deepcopy__(self, memo: object) -> "InMemoryData":
        return self


@dataclass(frozen=True, slots=True)
class ImageInMemory:
    """An image that is not the content of a file. A call returns it as PNG."""

    image: ImageSource

    def __call__(self) -> bytes:
        """Encode the image.

        Raises:
            OSError: It cannot be read.
        """
        buffer = io.BytesIO()
        try:
            read_image(self.image).save(buffer, "PNG", compress_level=1)
        except ImageError as error:
            raise OSError(str(error)) from error
        return buffer.getvalue()


def _read_entries(rows: Any) -> list[Entry]:
    collector = RowCollector("the data")
    if isinstance(rows, Mapping) and all(map(_is_dataset, rows.values())):
        for split, data in rows.items():
            add_dataset(collector, data, str(split), str(split))
    elif _is_dataset(rows):
        add_dataset(collector, rows, None, "dataset")
    elif isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        for number, row in enumerate(rows):
            _add_row(collector, row, number)
    else:
        raise DataError(f"cannot read captioned images from {type(rows).__name__}. {_KINDS}")
    return collector.entries


def _is_dataset(rows: object) -> bool:
    return hasattr(rows, "with_format") and hasattr(rows, "features") and hasattr(rows, "__len__")


def _add_row(collector: RowCollector, row: Any, number: int) -> None:
    where, split = f"row {number}", None
    if isinstance(row, Mapping):
        fields = collector.find_fields(tuple(row), where)
        image, captions = row[fields.image], row[fields.captions]
        split = row[fields.split] if fields.split else None
    elif isinstance(row, tuple | list) and len(row) == 2:
        image, captions = row
    else:
        raise DataError(f"{where} of the data is {row!r:.80}. {_KINDS}")
    try:
        image = resolve_input(image)
    except ImageError as error:
        raise DataError(f"{where} of the data: {error}") from error
    if isinstance(image, str | os.PathLike):
        collector.add(where, os.fspath(image), captions, split)
    else:
        content = image if isinstance(image, bytes) else ImageInMemory(image)
        collector.add(where, f"image {number}", captions, split, content=content)
