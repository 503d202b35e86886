"""Images in tar files, as webdataset lays them out: read in order, one at a time."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

from captioning.images.worker_pool import ImageRef
from captioning.messages import format_count

LARGEST = 256 << 20
"""Bytes that an image in a shard, or behind a URL, may have."""
_LARGEST_MEMBER = 64 << 30  # bytes; more is said by damaged headers only, and takes ages to skip
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(name: str) -> bool:
    """Return whether a file is taken for a shard, by its name."""
    return name.lower().endswith(_ENDINGS)


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error, and not the end of the shard."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile_)
        except (
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
            tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise tarfile.ReadError(str(error)) from error


def archive_images(
    name: str, opened: Callable[[], BinaryIO], is_image_name: Callable[[str], bool]
) -> Iterator[ImageRef]:
    """Yield the images of a shard under the names ``shard.tar/member``, each once.

    A shard that cannot be opened, or that is damaged on the way, ends in an image that says so.

    Args:
        name: The shard's.
        opened: Opens it.
        is_image_name: Says of a member's name, without its folders, whether it is one.
    """
    count = 0
    times: Counter[int] = Counter()
    try:
        with opened() as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as shard:
            for member in shard:
                if member.size > _LARGEST_MEMBER:
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes is announced")
                if member.isdir() or not is_image_name(member.name.rpartition("/")[2]):
                    continue
                own = f"{name}/{member.name}"
                times[hash(own)] += 1
                if (again := times[hash(own)]) > 1:
                    own = f"{own}#{again}"  # two images of one name
                yield _member(shard, member, own)
                count += 1
    except (OSError, EOFError, ValueError, MemoryError, RecursionError, tarfile.TarError) as error:
        where = f"after {format_count(count, 'image')}" if count else "at its beginning"
        told = str(error) or type(error).__name__
        yield ImageRef(
            name, error=f"{name} cannot be read as a tar file, {where}: {told}. Get it again."
        )


def _member(shard: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> ImageRef:
    if not member.isfile():
        return ImageRef(
            name, error=f"{name} is no file but a link to {member.linkname!r} within the shard."
        )
    if member.size > LARGEST:
        return ImageRef(
            name, error=f"{name} has {member.size:,} bytes, more than the limit of {LARGEST:,}."
        )
    file = shard.extractfile(member)
    content = file.read() if file else b""
    if len(content) < member.size:
        return ImageRef(name, error=f"{name} is cut off: the tar file ends in it. Get it again.")
    return ImageRef(name, content)
