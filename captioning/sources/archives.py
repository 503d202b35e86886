"""Images in tar archives in the layout of webdataset, read in order and one at a time."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from captioning.images.image_ref import ImageRef
from captioning.images.tar_member import CheckedMember
from captioning.messages import explain_error, format_count
from captioning.sources.name_filter import NameFilter

MAX_IMAGE_BYTES = 256 << 20
"""Largest accepted image in an archive or behind a URL, in bytes."""
_MAX_MEMBER_BYTES = 64 << 30  # only a damaged header states more, and skipping it takes hours


def find_archive_images(
    name: str, open_archive: Callable[[], BinaryIO], name_filter: NameFilter
) -> Iterator[ImageRef]:
    """Yield the images of an archive, named ``archive.tar/member``.

    If the archive cannot be opened or is damaged, the last item carries the error.

    Args:
        name: Path or URL of the archive.
        open_archive: Opens the archive for reading.
        name_filter: Decides which members are captioned.
    """
    count = 0
    uses: Counter[int] = Counter()
    try:
        with (
            open_archive() as file,
            tarfile.open(fileobj=file, mode="r|*", tarinfo=CheckedMember) as archive,
        ):
            for member in archive:
                if member.size > _MAX_MEMBER_BYTES:
                    raise tarfile.ReadError(
                        f"a member has a size of {member.size:,} bytes in its header"
                    )
                image_name = f"{name}/{member.name}"
                if member.isdir() or not name_filter.keeps_member(image_name, name):
                    continue
                uses[hash(image_name)] += 1
                if (number := uses[hash(image_name)]) > 1:  # an archive may repeat a name
                    image_name = f"{image_name}#{number}"
                yield _read_member(archive, member, image_name)
                count += 1
    except FileNotFoundError:
        yield ImageRef(name, error=f"cannot read '{name}': no such file. Check the path.")
    except (OSError, EOFError, ValueError, MemoryError, RecursionError, tarfile.TarError) as error:
        where = f"after {format_count(count, 'image')}" if count else "at its start"
        reason = explain_error(error) or type(error).__name__
        problem = f"cannot read '{name}' as a tar archive: error {where}: {reason}."
        yield ImageRef(name, error=f"{problem} Download it again.")


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> ImageRef:
    reason, content = "", b""
    if not member.isfile():
        reason = f"it is a link to {member.linkname!r} inside the archive. Extract it first."
    elif member.size > MAX_IMAGE_BYTES:
        reason = f"it has {member.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}. Shrink it."
    elif file := archive.extractfile(member):
        content = file.read()
        if len(content) < member.size:
            reason = "the archive ends inside it. Download it again."
    return ImageRef(name, content, f"cannot read '{name}': {reason}" if reason else "")
