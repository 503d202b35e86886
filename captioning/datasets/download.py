"""Download of public archives: resumed after interruptions, checked, and unpacked safely."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, responses
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from captioning.datasets.public_archives import PublicArchive
from captioning.datasets.unpack import DamagedArchiveError, unpack
from captioning.errors import DataError, OutputError
from captioning.file_lock import lock_output
from captioning.messages import explain_error

Step = Literal["Downloading", "Checking", "Unpacking"]
OnProgress = Callable[[Step, str, int, int], None]
"""Called with a step, the name of an archive, the bytes that are done and their total. Unpacking
reports files instead of bytes."""
_OnPart = Callable[[int, int], None]
_PIECE = 1 << 20
_TIME_LIMIT = 60.0  # seconds without data
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each attempt that follows one without progress
_TEMPORARY = (408, 429, 500, 502, 503, 504)  # HTTP statuses


@dataclass(frozen=True)
class PlannedArchive:
    """An archive that is missing in a folder.

    Attributes:
        archive: The archive.
        url: Its address, perhaps on a mirror.
        size: Its bytes.
        present: Bytes that an earlier call has downloaded.
    """

    archive: PublicArchive
    url: str
    size: int
    present: int


def plan_downloads(
    archives: Sequence[PublicArchive], folder: Path, *, mirror: str | None = None
) -> list[PlannedArchive]:
    """Return the archives whose content is not complete in a folder, with their sizes.

    Args:
        archives: All archives of a data set.
        folder: Folder of the data set.
        mirror: URL of a folder with copies of the archives.

    Raises:
        DataError: The server of an archive of unknown size cannot be reached.
    """
    plan = []
    for archive in archives:
        if _is_unpacked(archive, folder):
            continue
        url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
        present = next(
            (path.stat().st_size for path in _local_files(archive, folder) if path.exists()), 0
        )
        plan.append(PlannedArchive(archive, url, archive.size or _ask_size(url), present))
    return plan


def measure_space(plan: Sequence[PlannedArchive], *, keep_archives: bool) -> int:
    """Return the bytes that a plan still needs on disk at its peak."""
    unpacked = sum(int(each.size * each.archive.growth) for each in plan)
    sizes = [each.size for each in plan]
    archives = sum(sizes) if keep_archives else max(sizes, default=0)
    return max(0, unpacked + archives - sum(each.present for each in plan))


def download(
    plan: Sequence[PlannedArchive],
    folder: Path,
    *,
    keep_archives: bool = False,
    on_progress: OnProgress = lambda step, name, done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download and unpack archives into a folder.

    An interrupted call continues where it stopped: in the middle of an archive if the server
    supports byte ranges.

    Args:
        plan: What :func:`plan_downloads` returned.
        folder: Folder of the data set; it is created.
        keep_archives: Keep the archives after unpacking them.
        on_progress: Called for each piece of data and each unpacked file.
        sleep: Waits a number of seconds before another attempt.

    Raises:
        DataError: An archive cannot be downloaded, or is not what it should be.
        OutputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_output(folder / ".download.captioning.lock"):
            for each in plan:
                name = each.archive.name
                complete, part = _local_files(each.archive, folder)
                if not complete.exists():
                    _fetch(each, part, partial(on_progress, "Downloading", name), sleep)
                    _check_sum(each.archive, part, partial(on_progress, "Checking", name))
                    part.replace(complete)
                _unpack(complete, folder, partial(on_progress, "Unpacking", name))
                _check_content(each.archive, folder)
                if not keep_archives:
                    complete.unlink()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write to '{folder}': {explain_error(error)}. Make room or check the "
            "permissions, and run the same command again: it continues."
        ) from error


def _local_files(archive: PublicArchive, folder: Path) -> tuple[Path, Path]:
    """Return the paths of a complete archive and of one that is being downloaded."""
    return folder / archive.name, folder / f"{archive.name}.part"


def _is_unpacked(archive: PublicArchive, folder: Path) -> bool:
    return all(_count_files(folder / name) >= count for name, count in archive.content.items())


def _count_files(path: Path) -> int:
    try:
        with os.scandir(path) as entries:
            return sum(not entry.name.startswith(".") for entry in entries)
    except NotADirectoryError:
        return 1
    except FileNotFoundError:
        return 0


def _ask_size(url: str) -> int:
    # Not HEAD: some servers sign their addresses for GET only.
    try:
        with _open(Request(url, headers={"Range": "bytes=0-0"})) as response:
            return _read_size(response)
    except (OSError, HTTPException, ValueError, TypeError) as error:
        raise DataError(_explain(url, error)) from error


def _read_size(response: Any) -> int:
    """Return the size of the whole file."""
    if response.status == 206:
        return int(response.headers["Content-Range"].rpartition("/")[2])
    return int(response.headers["Content-Length"])


def _open(request: Request) -> Any:
    request.add_header("User-Agent", "captioning")
    try:
        return urlopen(request, timeout=_TIME_LIMIT)
    except HTTPError as error:
        error.close()
        raise


def _fetch(
    each: PlannedArchive, part: Path, on_progress: _OnPart, sleep: Callable[[float], None]
) -> None:
    """Append the missing bytes to a file. A lost connection is opened again a few times."""
    waits = iter(_WAITS)
    while True:
        before = _size(part)
        if before > each.size:
            part.unlink()  # of another version of the archive
        if before == each.size:
            return
        try:
            _fetch_rest(each, part, on_progress)
            error: Exception = ConnectionError("the connection ended before the end of the file")
        except _NetworkError as failure:
            error = failure.reason
        if _size(part) > before:
            waits = iter(_WAITS)
        if (after := _size(part)) == each.size:
            return
        wait = next(waits, None)
        if wait is None or (isinstance(error, HTTPError) and error.code not in _TEMPORARY):
            kept = f" {after:,} of {each.size:,} bytes are kept." if after else ""
            raise DataError(
                f"{_explain(each.url, error)}{kept} Run the same command again to continue."
            ) from error
        sleep(wait)


class _NetworkError(Exception):
    """An error of the network, which is an OSError as those of the disk are."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(each: PlannedArchive, part: Path, on_progress: _OnPart) -> None:
    start = _size(part)
    request = Request(each.url, headers={"Range": f"bytes={start}-"} if start else {})
    with _network_call(_open, request) as response:
        if response.status != 206:  # the server does not support ranges
            start = 0
        total = _network_call(_read_size, response)
        if total != each.size:
            raise DataError(
                f"'{each.url}' has {total:,} bytes, but {each.size:,} were expected. The archive "
                "has changed, or the server answers with another page. Try another --mirror."
            )
        with part.open("ab") as file:
            file.truncate(start)
            while piece := _network_call(response.read1, _PIECE):
                file.write(piece)
                start += len(piece)
                on_progress(start, each.size)


def _network_call(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except (OSError, HTTPException, ValueError, TypeError) as error:
        raise _NetworkError(error) from error


def _explain(url: str, error: Exception) -> str:
    """Return why a URL cannot be downloaded, and what to do."""
    match error:
        case HTTPError():
            status = f"HTTP status {error.code} ({responses.get(error.code, 'unknown')})"
            later = error.code in _TEMPORARY
            reason = f"{status}. {'Try again later' if later else 'Try another --mirror'}"
        case URLError():
            cause = error.reason
            text = explain_error(cause) if isinstance(cause, Exception) else cause
            reason = f"{text}. Check your network connection"
        case TimeoutError():
            reason = f"no answer within {_TIME_LIMIT:g} seconds. Check your network connection"
        case TypeError() | ValueError():
            reason = "the server does not state the size of the file. Try another --mirror"
        case _:
            reason = f"{explain_error(error)}. Check your network connection"
    return f"cannot download '{url}': {reason}."


def _check_sum(archive: PublicArchive, part: Path, on_progress: _OnPart) -> None:
    algorithm, _, expected = archive.checksum.partition(":")
    digest, done, size = hashlib.new(algorithm), 0, _size(part)
    with part.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            on_progress(done, size)
    if (found := digest.hexdigest()) != expected:
        part.unlink()
        raise DataError(
            f"'{archive.name}' is damaged: its {algorithm.upper()} sum is {found}, but "
            f"{expected} was expected. It was deleted. Run the same command again to download it "
            "again."
        )


def _unpack(path: Path, folder: Path, on_progress: _OnPart) -> None:
    try:
        unpack(path, folder, on_progress=on_progress)
    except DamagedArchiveError as error:
        path.unlink()
        raise DataError(
            f"{error} It was deleted. Run the same command again to download it again."
        ) from error


def _check_content(archive: PublicArchive, folder: Path) -> None:
    for name, count in archive.content.items():
        if (found := _count_files(folder / name)) < count:
            raise DataError(
                f"'{archive.name}' is not the expected archive: '{folder / name}' has {found:,} of "
                f"{count:,} files after unpacking. Delete the archive, and use another --mirror."
            )
