"""Unpacking of zip archives that come from the internet."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from captioning.errors import DataError, OutputError

_METADATA = ("__MACOSX", ".DS_Store")
_PIECE = 1 << 20


class DamagedArchiveError(DataError):
    """An archive cannot be unpacked because it is damaged."""


def unpack(
    path: Path, folder: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Unpack a zip archive, without the metadata of macOS.

    A file gets its name only after its checksum was verified. Files that exist with the right size
    are therefore kept, and an interrupted call continues.

    Args:
        path: The archive.
        folder: Folder of the files.
        on_progress: Called with the number of unpacked files and the number of all.

    Raises:
        DamagedArchiveError: The archive or a file in it is damaged.
        DataError: A file would be written outside the folder.
        OutputError: There is not enough free space.
    """
    temporary = folder / f".{path.name}.unpacking"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if _is_wanted(each, path)]
            needed = sum(each.file_size for each in members if not _exists(each, folder))
            if (free := shutil.disk_usage(folder).free) < needed:
                raise OutputError(
                    f"not enough free space in '{folder}': unpacking {path.name} needs {needed:,} "
                    f"bytes, and {free:,} are free. Make room, and run the same command again."
                )
            for number, member in enumerate(members, 1):
                if not _exists(member, folder):
                    with archive.open(member) as source, temporary.open("wb") as file:
                        shutil.copyfileobj(source, file, _PIECE)
                    target = folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(target)
                on_progress(number, len(members))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DamagedArchiveError(f"'{path.name}' is damaged: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_wanted(member: zipfile.ZipInfo, path: Path) -> bool:
    """Return whether a member is a file to unpack.

    Raises:
        DataError: It would be written outside the folder, or it is a link.
    """
    name = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if is_link or name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
        problem = "is a link" if is_link else "would be written outside the folder"
        raise DataError(
            f"'{path.name}' is not safe to unpack: its member {member.filename!r} {problem}. "
            "Delete the archive, and download it from another --mirror."
        )
    return not member.is_dir() and not set(_METADATA) & set(name.parts)


def _exists(member: zipfile.ZipInfo, folder: Path) -> bool:
    target = folder / member.filename
    return target.is_file() and target.stat().st_size == member.file_size
