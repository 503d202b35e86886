"""Patterns of file names: braces as in bash, and glob patterns."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from captioning.errors import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?|([a-z])\.\.([a-z])", re.IGNORECASE)


def find_matches(pattern: Path | str) -> list[Path]:
    """Return the existing files that a pattern with braces, ``*``, ``?`` and ``[]`` names.

    An existing path stands for itself, whatever characters it has. The matches of a glob pattern
    are sorted; names in braces keep their order.
    """
    if os.path.exists(pattern):  # noqa: PTH110  (Path.exists raises for a long list in braces)
        return [Path(pattern)]
    names = list(expand_braces(str(pattern)))
    return [Path(path) for name in names for path in sorted(glob.glob(name))]  # noqa: PTH207


def require_matches(path: Path, ending: str) -> list[Path]:
    """Return the files of a folder with an ending, or those that a pattern names.

    Raises:
        DataError: There are none, or none for one of the names that braces stand for.
    """
    if os.path.isdir(path):  # noqa: PTH112  (as above)
        names = [f"{glob.escape(str(path))}/*{ending}"]
    else:
        names = [str(path)] if find_matches(path) == [path] else list(expand_braces(str(path)))
    found = {name: find_matches(name) for name in names}
    if missing := [name for name, files in found.items() if not files]:
        more = f" (and {len(missing) - 1:,} more names)" if len(missing) > 1 else ""
        raise DataError(f"no file matches '{missing[0]}'{more}. Check the path and the pattern.")
    return [file for files in found.values() for file in files]


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names of a brace pattern, as bash does; without braces, the pattern itself.

    ``part-{000..002}.tar`` and ``{a,b}.jpg`` are brace patterns.
    """
    seen = set()
    for match in _BRACES.finditer(pattern):
        if choices := _brace_choices(match[1]):
            for choice in choices:
                rest = f"{pattern[: match.start()]}{choice}{pattern[match.end() :]}"
                for name in expand_braces(rest):
                    if name not in seen:  # inner braces repeat the choices of the outer ones
                        seen.add(name)
                        yield name
            return
    yield pattern


def _brace_choices(body: str) -> Iterator[str] | list[str] | None:
    if found := _RANGE.fullmatch(body):
        first, last, step, *letters = found.groups()
        texts = letters if first is None else [first, last]
        start, stop = (ord(text) if first is None else int(text) for text in texts)
        sign = 1 if start <= stop else -1
        is_padded = any(re.match(r"-?0\d", text) for text in texts)
        width = max(map(len, texts)) if is_padded else 0
        numbers = range(start, stop + sign, sign * max(1, int(step or 1)))
        return (chr(number) if first is None else f"{number:0{width}d}" for number in numbers)
    return body.split(",") if "," in body else None
