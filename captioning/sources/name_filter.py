"""Which files are captioned and which folders are entered, by their names."""

import os
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from captioning.errors import ConfigError
from captioning.sources.image_names import is_archive, is_image_name, is_system_folder
from captioning.sources.skipped import SkippedCounts

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class NameFilter:
    """Decides by name what is captioned below a folder, an archive or a URL; counts the rest.

    Paths have the separators of this system, or slashes.

    Args:
        exclude: Patterns with the syntax of ``.gitignore``, relative to what the user named. A
            pattern with a slash may also begin with the path that the user named.
        skipped: Counts that are updated.

    Raises:
        ConfigError: A pattern is invalid.
    """

    def __init__(self, exclude: str | Sequence[str], skipped: SkippedCounts) -> None:
        exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.skipped = skipped
        self._exclude = exclude
        anchored = [pattern for pattern in exclude if "/" in pattern.strip("!./")]
        self._relative_rules = (_compile(exclude), list(exclude))
        self._full_rules = (_compile(anchored), anchored)
        self._skipped_folders: set[int] = set()  # hashes, so that each is counted once
        for pattern in exclude:
            skipped.excluded[pattern] += 0

    def keeps_named(self, name: str) -> bool:
        """Return whether something that the user named or listed is read."""
        path = name.partition("://")[2] or name
        own_name = os.path.basename(path.rstrip("/"))  # noqa: PTH119
        if os.path.isdir(name) or ("://" in name and not is_image_name(own_name)):  # noqa: PTH112
            # A pattern such as * means what is in the folder, not the folder itself.
            own_names = {path.rstrip("/"), own_name}
            matches = [each for each in self._exclude if each.rstrip("/") in own_names]
            self.skipped.excluded.update(matches[:1])
            return not matches
        return not self._is_excluded(path, path)

    def keeps_file(self, path: str, top: str) -> bool:
        """Return whether a file below ``top`` is an image that is captioned."""
        name = os.path.basename(path)  # noqa: PTH119
        if self._is_excluded(path, path[len(top) :]):
            return False
        if not is_image_name(name):
            self.skipped.count_file(name)
            return False
        return True

    def keeps_folder(self, path: str, top: str) -> bool:
        """Return whether a folder below ``top`` is entered."""
        parent, name = os.path.split(path)
        if self._is_excluded(f"{path}/", f"{path[len(top) :]}/"):
            return False
        if is_system_folder(name, os.path.basename(parent)):  # noqa: PTH119
            self.skipped.count_folder(name)
            return False
        return True

    def keeps_member(self, path: str, top: str) -> bool:
        """Return whether a file in an archive is an image that is captioned."""
        return self._keeps_folders_of(path, top) and self.keeps_file(path, top)

    def keeps_match(self, path: str, pattern: str, *, is_folder: bool = False) -> bool:
        """Return whether a match of a glob pattern is read.

        A folder is read if the pattern spells its name. A pattern without file extension, such as
        ``photos/*``, stands for images and archives.
        """
        named = pattern.split("/")
        if not self._keeps_folders_of(path, "", named=named):
            return False
        if is_folder:
            return os.path.basename(path) in named or self.keeps_folder(path, "")  # noqa: PTH119
        if "." in named[-1] or is_archive(path):
            return self.keeps_named(path)
        return self.keeps_file(path, "")

    def _keeps_folders_of(self, path: str, top: str, *, named: Iterable[str] = ()) -> bool:
        """Return whether no folder between ``top`` and a file is a system or hidden folder."""
        *folders, _ = path[len(top) :].replace(os.sep, "/").strip("/").split("/")
        for depth, (parent, name) in enumerate(pairwise(["", *folders])):
            if is_system_folder(name, parent) and name not in named:
                key = hash((top, *folders[: depth + 1]))
                if key not in self._skipped_folders:
                    self._skipped_folders.add(key)
                    self.skipped.count_folder(name)
                return False
        return True

    def _is_excluded(self, path: str, relative: str) -> bool:
        for text, (rules, patterns) in (
            (relative, self._relative_rules),
            (path, self._full_rules),
        ):
            if not patterns:
                continue
            found = rules.check_file(text.lstrip("/" + os.sep))
            if found.include is not None and found.index is not None:
                self.skipped.excluded[patterns[found.index]] += bool(found.include)
                return found.include
        return False


def _compile(patterns: Sequence[str]) -> "GitIgnoreSpec":
    """Compile patterns; ``#`` starts names of folders here, not comments."""
    from pathspec import GitIgnoreSpec  # slow to import

    for pattern in patterns:
        if not pattern.strip(" /"):
            raise ConfigError(
                f"--exclude is {pattern!r}. Give a name or a pattern, such as '*.png'."
            )
    texts = [pattern.removeprefix("./") for pattern in patterns]
    try:
        with warnings.catch_warnings(action="ignore"):  # of re, for patterns such as [[]a].jpg
            return GitIgnoreSpec.from_lines(
                f"\\{text}" if text[0] == "#" else text for text in texts
            )
    except ValueError as error:
        advice = "Give a pattern of .gitignore, such as '*.png' or 'raw/'."
        raise ConfigError(f"cannot read --exclude: {error}. {advice}") from error
