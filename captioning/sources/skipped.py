"""Counts of what a search for images skips, and the notices that report them."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from captioning.images.file_kinds import FileKind, kind_of_ending
from captioning.messages import escape_unprintable, format_count

_MAX_LISTED = 5  # different extensions or names per notice
_MAX_COUNTED = 1000  # in memory
_MAX_ENDING = 12  # characters; what follows the dot of "Dr. Smith and me" is not an extension
_OTHERS = "others"


@dataclass
class SkippedCounts:
    """Running counts of what a search for images skips."""

    files: Counter[str] = field(default_factory=Counter)
    """Files that are hidden or not images, by extension."""
    folders: Counter[str] = field(default_factory=Counter)
    """System and hidden folders, by name."""
    excluded: Counter[str] = field(default_factory=Counter)
    """Files and folders that the user excluded, by pattern; 0 for a pattern without a match."""
    subfolders: int = 0
    """Folders that only a recursive search enters."""
    without_images: Counter[str] = field(default_factory=Counter)
    """Folders, archives and URLs named by the user that contain no images."""
    is_output: Callable[[str], bool] = lambda name: False
    """Whether a file name is that of an output of the command, which is not counted."""

    def count_file(self, name: str) -> None:
        """Count a file that is hidden or not an image."""
        if self.is_output(name):
            return
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if name.startswith(".") and ending != ".icloud":
            ending = "hidden"
        elif not 1 < len(ending) <= _MAX_ENDING or " " in ending:
            ending = "without extension"
        _add(self.files, ending)

    def count_folder(self, name: str) -> None:
        """Count a system folder or a hidden folder."""
        _add(self.folders, name)

    def count_without_images(self, name: str) -> None:
        """Count a name given by the user that led to no image."""
        _add(self.without_images, name)

    def notices(self, *, complete: bool = True) -> Iterator[str]:
        """Yield sentences that say what was skipped.

        Args:
            complete: Whether the search reached the last input.
        """
        if total := self.files.total():
            counts = _list_counts(self.files)
            yield f"Skipped {format_count(total, 'file')}, hidden or not an image: {counts}."
            yield from self._explain_endings()
        if total := self.folders.total():
            folders = f"{format_count(total, 'system or hidden folder')}: "
            yield f"Skipped {folders}{_list_counts(self.folders)}. To caption one, name it."
        if self.excluded.total():
            counts = _list_counts(Counter({repr(each): n for each, n in self.excluded.items()}))
            yield f"Excluded files and folders: {counts}."
        if self.subfolders:
            folders = format_count(self.subfolders, "subfolder")
            them = "it" if self.subfolders == 1 else "them"
            yield f"Skipped {folders}. Add --recursive to include {them}."
        if self.without_images:
            names = [*self.without_images][:_MAX_LISTED]
            others = len(self.without_images) - len(names)
            more = f" and {others:,} others" if others else ""
            yield f"No images found in {escape_unprintable(', '.join(names))}{more}."
        unmatched = [
            pattern
            for pattern, count in self.excluded.items()
            if not count and not pattern.startswith("!")  # what it keeps is not counted
        ]
        if complete and unmatched:
            yield f"Nothing matches --exclude {', '.join(map(repr, unmatched))}."

    def _explain_endings(self) -> Iterator[str]:
        explained: list[FileKind] = []
        for ending, _ in self.files.most_common():
            kind = kind_of_ending(ending)
            if kind is not None and kind not in explained and len(explained) < _MAX_LISTED:
                explained.append(kind)
                yield f"  A {ending} file {kind.explanation}"


def _add(counts: Counter[str], key: str) -> None:
    counts[key if key in counts or len(counts) < _MAX_COUNTED else _OTHERS] += 1


def _list_counts(counts: Counter[str]) -> str:
    """Return the largest counts, such as ``"1,100 .cr2, 100 .mov, 4 others"``."""
    listed = [(key, count) for key, count in counts.most_common() if count and key != _OTHERS]
    parts = [f"{count:,} {escape_unprintable(key)}" for key, count in listed[:_MAX_LISTED]]
    if others := counts.total() - sum(count for _, count in listed[:_MAX_LISTED]):
        parts.append(f"{others:,} {_OTHERS if others > 1 else 'other'}")
    return ", ".join(parts)
