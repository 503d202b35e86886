"""Captions without images, for the language alone."""

import gzip
import zlib
from pathlib import Path

from captioning.errors import DataError

_SHOWN = 80


def read_text_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read captions, one in a line; ``KEY<TAB>caption`` keeps those of one key together.

    Args:
        path: UTF-8 text, plain or, where its name ends in ``.gz``, compressed.

    Returns:
        The captions of each key, in the order of the keys' first lines. In a file without keys,
        a caption's key is the number of its line.

    Raises:
        DataError: The file cannot be read, holds no caption, or has a key in some lines only.
    """
    groups: dict[str, list[str]] = {}
    keyed: bool | None = None
    for place, line in enumerate(_read(path).replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        if keyed is not None and keyed != bool(tab):
            raise DataError(
                f"{path}, line {place}: {line!r:.{_SHOWN}} has {'a' if tab else 'no'} tab, and the "
                "lines before it are otherwise. Give every line as KEY<TAB>caption, or none."
            )
        keyed = bool(tab)
        if text := (caption if tab else line).strip():
            groups.setdefault(key if tab else str(place), []).append(text)
    if not groups:
        raise DataError(f"{path} holds no caption. Give a text file with one caption in a line.")
    return {key: tuple(captions) for key, captions in groups.items()}


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}). Convert it first.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Check the path.") from error
