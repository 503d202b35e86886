"""Directories that are replaced as a whole, or left unchanged."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from captioning.errors import OutputError

_IGNORED_FILES = {".DS_Store", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini"}
"""Files that file managers and notebooks create; they are removed with an older directory."""


def write_directory(directory: Path, write: Callable[[Path], None], *, content: str) -> None:
    """Write a directory atomically; an older one is replaced.

    Args:
        directory: Path of the directory.
        write: Writes the files into an empty directory.
        content: What is written, for error messages, such as ``the model``.

    Raises:
        OutputError: The directory cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        fresh.chmod(0o755)
        try:
            write(fresh)
            _replace_directory(fresh, directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        raise OutputError(
            f"cannot write {content} to '{directory}': {error}. Free some space, or use another "
            "directory."
        ) from error


def refuse_foreign_files(directory: Path, own: Set[str], *, kind: str) -> bool:
    """Return whether a directory has files that will be replaced.

    Args:
        directory: The directory, which need not exist.
        own: Names of the files that may be replaced.
        kind: What the directory may contain, for error messages, such as ``a model``.

    Raises:
        OutputError: It is a file, or contains other files.
    """
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise OutputError(f"'{directory}' is a file and is not replaced. Give a directory.")
    names = {path.name for path in directory.iterdir()} - _IGNORED_FILES
    if foreign := sorted(names - own):
        raise OutputError(
            f"the directory '{directory}' is not replaced, because these do not belong to {kind}: "
            f"{', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}. Move them, or use another "
            "directory."
        )
    return bool(names)


def write_json(path: Path, content: Any) -> None:
    """Write JSON data that people can read."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _replace_directory(fresh: Path, directory: Path) -> None:
    """Rename ``fresh`` to ``directory`` after all its bytes are on the disk."""
    for path in fresh.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    for path in [*fresh.iterdir(), fresh]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if not directory.exists():
        fresh.rename(directory)
        return
    old = fresh.with_name(f"{fresh.name}-old")
    directory.rename(old)
    try:
        fresh.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
