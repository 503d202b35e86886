"""Writer of tar archives in the layout of webdataset: each image next to its captions as JSON.

An archive holds, for each image in the order of the data set, ``KEY.jpg`` (or another extension)
with the unchanged bytes of the image, and ``KEY.json``::

    {"image": "train2014/COCO_train2014_000000000009.jpg", "image_id": 9,
     "captions": ["...", ...], "split": "train"}

The key is the position of the image in the split, and ``image`` its path below the folder that all
images share. So the bytes of an archive depend only on the images, their names, their captions and
the size limit.
"""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

from PIL import Image

from captioning.datasets.archive_plan import ArchiveEntry, make_entries, make_key, plan_archives
from captioning.datasets.spec import TRAIN_SPLIT
from captioning.datasets.split import CaptionedImage, CaptionSplit
from captioning.errors import OutputError
from captioning.file_lock import lock_output
from captioning.files import write_atomic
from captioning.images.image_ref import IMAGE_EXTENSIONS, ImageRef
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.json_data import read_json
from captioning.messages import explain_error, format_count

_CHECKED_SIZE = 8  # pixels; a JPEG is decoded at 1/8, which reads all of its data


@dataclass(frozen=True)
class WrittenArchive:
    """An archive that is complete.

    Attributes:
        size: Its size in bytes.
        images: Number of images in it.
        captions: Number of their captions.
        damaged: Reason for each image that was left out.
    """

    size: int
    images: int
    captions: int
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class _Journal:
    """What a folder holds of a split: the key of the inputs, and the complete archives."""

    key: str
    archives: dict[str, WrittenArchive]


def write_archives(
    split: CaptionSplit,
    folder: Path,
    *,
    max_bytes: int,
    workers: int = 2,
    on_plan: Callable[[int, int], None] = lambda archives, size: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, WrittenArchive]:
    """Write the images of a split and their captions into archives.

    Every image is decoded first; damaged ones are left out. An interrupted call continues with the
    first archive that is not complete.

    Args:
        split: The images.
        folder: Folder of the archives, ``SPLIT-000000.tar`` and so on.
        max_bytes: Maximum size of an archive. An image that is larger has an archive of its own.
        workers: Processes that decode images.
        on_plan: Called with the number of archives that are missing, and their bytes.
        on_progress: Called with the number of finished images and the number of all.

    Returns:
        All archives by name, in order.

    Raises:
        OutputError: The folder holds archives of other inputs, or it cannot be written.
    """
    name = "train" if split.split == TRAIN_SPLIT else re.sub(r"[^\w.-]+", "-", split.split)
    entries = make_entries(split.images, name)
    plan = plan_archives(entries, max_bytes)
    names = [f"{name}-{number:06}.tar" for number in range(len(plan))]
    journal_path = folder / f".{name}.captioning.json"
    loader = ImageLoader(Preprocessing(_CHECKED_SIZE), workers=workers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_output(folder / f".{name}.captioning.lock"):
            done = _read_journal(journal_path, name, make_key(entries, max_bytes))
            missing = [
                each for each in zip(names, plan, strict=True) if each[0] not in done.archives
            ]
            size = sum(archive.size for _, archive in missing)
            on_plan(len(missing), size)
            _check_space(folder, size)
            for archive_name, archive in missing:
                part = entries[archive.start : archive.stop]
                written = _write_archive(
                    folder / archive_name,
                    archive.start,
                    part,
                    loader,
                    lambda number: on_progress(number, len(entries)),
                )
                done.archives[archive_name] = written
                write_atomic(journal_path, json.dumps(asdict(done)))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write to '{folder}': {explain_error(error)}. Run the same command again to "
            "continue; complete archives are kept."
        ) from error
    return {archive_name: done.archives[archive_name] for archive_name in names}


def _read_journal(path: Path, name: str, key: str) -> _Journal:
    """Return the journal without archives that are missing or were changed.

    Raises:
        OutputError: The folder holds archives of other inputs.
    """
    folder = path.parent
    if path.exists():
        journal = read_json(path, _Journal, error=OutputError)
        if journal.key == key:
            complete = {
                archive: written
                for archive, written in journal.archives.items()
                if (folder / archive).is_file()
                and (folder / archive).stat().st_size == written.size
            }
            return _Journal(key, complete)
    elif not any(folder.glob(f"{name}-*.tar")):
        return _Journal(key, {})
    raise OutputError(
        f"'{folder}' holds {name}-*.tar archives of other data, other settings, or images that "
        "have changed since. Use another folder, or delete these archives and "
        f"'{path}'."
    )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"not enough free space in '{folder}': the archives need {needed:,} bytes, and "
            f"{free:,} are free. Use another folder."
        )


def _write_archive(
    path: Path,
    start: int,
    entries: Sequence[ArchiveEntry],
    loader: ImageLoader,
    on_image: Callable[[int], None],
) -> WrittenArchive:
    """Write one archive under another name, and rename it when it is complete."""
    part = path.with_name(f".{path.name}.part")
    count = captions = 0
    damaged: list[str] = []
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for number, (entry, ref, error) in enumerate(_read_images(entries, loader), start):
                    on_image(number + 1)
                    if error:
                        damaged.append(error)
                        continue
                    assert isinstance(ref.content, bytes)
                    _add(archive, f"{number:09}.{_extension(ref)}", ref.content)
                    _add(archive, f"{number:09}.json", entry.text)
                    count += 1
                    captions += len(entry.image.captions)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return WrittenArchive(path.stat().st_size, count, captions, tuple(damaged))


def _read_images(
    entries: Sequence[ArchiveEntry], loader: ImageLoader
) -> Iterator[tuple[ArchiveEntry, ImageRef, str]]:
    """Yield each image with its content and, if it cannot be decoded, the reason."""
    number = 0
    for batch in loader.batches(_read_content(entry.image) for entry in entries):
        following = entries[number : number + len(batch.images)]
        yield from zip(following, batch.images, batch.errors, strict=True)
        number += len(batch.images)


def _read_content(image: CaptionedImage) -> ImageRef:
    """Return an image with its bytes, so that those that are checked are those that are written."""
    try:
        match image.content:
            case None:
                content = Path(image.name).read_bytes()
            case bytes():
                content = image.content
            case _:
                content = image.content()
    except OSError as error:
        reason = f"cannot read '{image.name}': {explain_error(error)}. Check the file."
        return ImageRef(image.name, error=reason)
    return ImageRef(image.name, content)


def _extension(ref: ImageRef) -> str:
    """Return the extension of an image, from its content if its name has no usual one."""
    suffix = PurePath(ref.name).suffix.lower()
    if suffix not in IMAGE_EXTENSIONS:
        assert isinstance(ref.content, bytes)
        with Image.open(io.BytesIO(ref.content)) as image:
            name = (image.format or "").lower()
        suffix = {"jpeg2000": ".jp2"}.get(name, f".{name}")
    return {".jpeg": "jpg"}.get(suffix, suffix[1:])


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without time and owner, so that the bytes are reproducible
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def describe_archives(archives: dict[str, WrittenArchive]) -> str:
    """Return the totals of archives as a phrase for messages."""
    images = format_count(sum(each.images for each in archives.values()), "image")
    captions = format_count(sum(each.captions for each in archives.values()), "caption")
    return f"{images} and {captions} in {format_count(len(archives), 'archive')}"
