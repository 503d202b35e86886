"""Reader of captions without images, which train the language model alone."""

from pathlib import Path

from captioning.errors import DataError
from captioning.files import read_text

_TEXT_SHOWN = 80


def read_text_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a text file with one caption per line, optionally grouped by ``KEY<TAB>caption``.

    Args:
        path: UTF-8 text file, compressed if its name ends in ``.gz``.

    Returns:
        Captions of each key, in the order in which the keys first occur. In a file without keys,
        the key of a caption is its line number.

    Raises:
        DataError: The file cannot be read, has no captions, or has keys in some lines only.
    """
    groups: dict[str, list[str]] = {}
    has_keys: bool | None = None
    for number, line in enumerate(read_text(path, error=DataError).split("\n"), 1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        if has_keys is not None and has_keys != bool(tab):
            raise DataError(
                f"{path}, line {number}: {line!r:.{_TEXT_SHOWN}} has {'a' if tab else 'no'} tab, "
                "unlike the lines before it. Write every line as KEY<TAB>caption, or none."
            )
        has_keys = bool(tab)
        if text := (caption if tab else line).strip():
            groups.setdefault(key if tab else str(number), []).append(text)
    if not groups:
        raise DataError(f"'{path}' has no captions. Use a text file with one caption per line.")
    return {key: tuple(captions) for key, captions in groups.items()}
