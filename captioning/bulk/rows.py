"""From captioning results to rows, and from rows to the outputs of images."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from captioning.bulk.writers.base import CaptionRow, ImageWriter, Writer
from captioning.errors import OutputError
from captioning.files import resolve_link
from captioning.images.image_ref import ImageRef
from captioning.inference.results import CaptionResult
from captioning.messages import escape_unprintable

Existing = Literal["keep", "replace", "append"]
"""For one output per image: skip images that have captions, replace these, or append to them."""


_MAX_QUOTE = 80


class RelativeNames:
    """Names images relative to the folder of an output.

    Args:
        output: Path of the output; None to leave all names as they were given.
    """

    def __init__(self, output: Path | None) -> None:
        self._folder = None if output is None else resolve_link(output).parent
        self._last_parent: str | None = None
        self._last_relative = ""

    def name_of(self, path: str) -> str:
        """Return the path of an image relative to the folder; URLs stay as they are."""
        if self._folder is None or "://" in path:
            return path
        parent, name = os.path.split(path)
        if parent != self._last_parent:  # resolving links is slow, and most images share a folder
            self._last_parent = parent
            self._last_relative = _relative_path(parent, self._folder)
        return os.path.normpath(os.path.join(self._last_relative, name))  # noqa: PTH118


def _relative_path(path: str, folder: Path) -> str:
    try:
        # Links are resolved first: ".." behind a link leads elsewhere.
        return os.path.relpath(os.path.realpath(path or "."), os.path.realpath(folder))
    except ValueError:  # another drive on Windows
        return path


def row_of_result(
    result: CaptionResult, names: RelativeNames, *, prefix: str = "", suffix: str = ""
) -> CaptionRow:
    """Return the row of a result, with ``prefix`` and ``suffix`` around each caption."""
    row = CaptionRow(result.source, names.name_of(result.source), error=result.error)
    if not result.ok:
        return row
    return replace(
        row,
        captions=tuple(f"{prefix}{caption.text}{suffix}" for caption in result.captions),
        log_probs=tuple(
            round(caption.log_prob, 3) if math.isfinite(caption.log_prob) else None
            for caption in result.captions
        ),
    )


def keeps_output(writer: Writer, image: str, existing: Existing) -> bool:
    """Return whether the output of an image has a caption that stays as it is."""
    return existing == "keep" and isinstance(writer, ImageWriter) and writer.has_caption(image)


def describe_kept_caption(writer: Writer, image: str) -> str:
    """Return a sentence that quotes the caption of an image; empty if it cannot be read."""
    captions: list[str] = []
    if isinstance(writer, ImageWriter):
        with suppress(OutputError):
            captions = writer.read_captions(image)
    text = escape_unprintable(" ".join(captions))
    quote = text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}..."
    return f"The caption of {escape_unprintable(image)!r} is {quote!r}." if text else ""


def fail_if_unwritable(writer: Writer, image: ImageRef) -> ImageRef:
    """Return the image, with an error if its output cannot be written: then it is not decoded."""
    if image.error or not isinstance(writer, ImageWriter):
        return image
    return replace(image, error=writer.find_obstacle(image.name))


def write_row(writer: Writer, row: CaptionRow, existing: Existing) -> CaptionRow:
    """Write a row. If only the output of this image fails, return the row with that error.

    Raises:
        OutputError: The output of all images cannot be written.
    """
    if not isinstance(writer, ImageWriter):
        writer.write(row)
        return row
    try:
        if existing == "append" and row.ok:
            row = _append_captions(row, writer.read_captions(row.image))
        writer.write(row)
    except OutputError as error:
        return fail_row(row, str(error))
    return row


def keep_best(row: CaptionRow) -> CaptionRow:
    """Return a row without its further captions."""
    return replace(row, captions=row.captions[:1], log_probs=row.log_probs[:1])


def fail_row(row: CaptionRow, error: str) -> CaptionRow:
    """Return a row with an error in place of its captions."""
    return replace(row, captions=(), log_probs=(), error=error)


def _append_captions(row: CaptionRow, existing: Sequence[str]) -> CaptionRow:
    """Return a row with the existing captions first; equal captions are not repeated."""
    new = [
        (caption, log_prob)
        for caption, log_prob in zip(row.captions, row.log_probs, strict=True)
        if caption not in existing
    ]
    captions = (*existing, *(caption for caption, _ in new))
    log_probs = (*([None] * len(existing)), *(log_prob for _, log_prob in new))
    return replace(row, captions=captions, log_probs=log_probs)
