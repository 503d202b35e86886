"""From captioning results to rows of an output."""

import math
import os
from dataclasses import replace
from pathlib import Path

from captioning.bulk.writers.base import CaptionRow
from captioning.inference.results import CaptionResult


class RelativeNames:
    """Names images relative to the folder of an output.

    Args:
        folder: The folder; None to leave all names as they were given.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
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
        log_probs=tuple(_round(caption.log_prob) for caption in result.captions),
    )


def _round(log_prob: float) -> float | None:
    return round(log_prob, 3) if math.isfinite(log_prob) else None
