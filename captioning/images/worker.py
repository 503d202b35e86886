"""Worker process that decodes images, so that a crash or a hang affects one image only.

The process is started, not forked, and imports neither torch nor the caller's script. A message is
a :data:`HEADER` with its kind and three lengths, and then three parts, which may be empty. Requests
come on standard input: a name, the content of a file for kind ``CONTENT`` (for kind ``PATH`` the
name is a path), and, if the digest of the file is wanted, its stamp (size and time), so that a
changed file gets no digest. Responses go to standard output: ``PIXELS`` with the pixels, an
optional thumbnail (JPEG) and the digest; or ``ERROR`` with the reason.
"""

import json
import os
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from captioning.errors import ImageError
from captioning.images.decode import read_image
from captioning.images.file_digest import digest_file
from captioning.images.resizing import make_thumbnail, resize_image

HEADER = struct.Struct("<B3Q")
PATH, CONTENT, PIXELS, ERROR, READY = range(5)


@dataclass(frozen=True)
class DecodedImage:
    """Result of decoding one image."""

    pixels: bytes = b""
    """``(3, size, size)`` 8-bit values; empty if there is an error."""
    thumbnail: bytes = b""
    """A small JPEG; empty if none was requested."""
    digest: str = ""
    """SHA-256 of the file; empty if none was requested, or if the file has changed."""
    error: str = ""
    """Reason why the image cannot be read; empty if it was decoded."""
    seconds: float = field(default=0.0, compare=False)
    """Time from the request to the result."""


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker does with each image."""

    size: int
    """Height and width of the pixels."""
    interpolation: str = "bicubic"
    """See :func:`captioning.images.resizing.resize_image`."""
    fit: str = "squeeze"
    """See :func:`captioning.images.resizing.resize_image`."""
    allow_truncated: bool = False
    """Accept incomplete files."""
    thumbnail: int = 0
    """Longest side of a thumbnail in pixels; 0 for none."""
    min_side: int = 0
    """Images whose shorter side has fewer pixels are errors."""
    memory: int = 4 << 30
    """Memory limit in bytes above the memory at start, where the system can enforce it."""


def decode_image(
    config: WorkerConfig, source: str | bytes, name: str, stamp: str = ""
) -> DecodedImage:
    """Decode and resize one image.

    Args:
        config: Size, filter and thumbnail.
        source: Path or content of the file.
        name: Name of the image in error messages; its path if a stamp is given.
        stamp: Stamp of the file if a digest is wanted (:mod:`captioning.images.file_digest`).
    """
    shrink_to = max(config.size, config.thumbnail)
    try:
        image = read_image(
            source,
            name=name,
            allow_truncated=config.allow_truncated,
            min_side=config.min_side,
            shrink_to=shrink_to,
        )
        pixels = resize_image(
            image, config.size, interpolation=config.interpolation, fit=config.fit
        )
        thumbnail = make_thumbnail(image, config.thumbnail) if config.thumbnail else b""
        digest = digest_file(name, stamp) if stamp else None
        return DecodedImage(pixels.tobytes(), thumbnail, digest or "")
    except ImageError as error:
        text = str(error)
    except (MemoryError, OSError, ValueError, RuntimeError) as error:
        text = f"cannot resize '{name}': {error}. Check its width and height."
    return DecodedImage(error=text)


def main(config_json: str) -> None:
    """Serve requests until standard input ends.

    Args:
        config_json: A :class:`WorkerConfig` as JSON.
    """
    config = WorkerConfig(**json.loads(config_json))
    requests = sys.stdin.buffer
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text printed by a decoder must not mix with the responses
    _limit_memory(config.memory)
    send_message(responses, READY)
    while request := receive_message(requests):
        kind, encoded_name, content, stamp = request
        name = os.fsdecode(encoded_name)
        decoded = decode_image(config, name if kind == PATH else content, name, stamp.decode())
        if decoded.error:
            send_message(responses, ERROR, decoded.error.encode("utf-8", "surrogateescape"))
        else:
            digest = decoded.digest.encode()
            send_message(responses, PIXELS, decoded.pixels, decoded.thumbnail, digest)


def send_message(
    stream: IO[bytes], kind: int, first: bytes = b"", second: bytes = b"", third: bytes = b""
) -> None:
    """Write one request or response."""
    stream.write(HEADER.pack(kind, len(first), len(second), len(third)))
    for part in (first, second, third):
        stream.write(part)
    stream.flush()


def receive_message(stream: IO[bytes]) -> tuple[int, bytes, bytes, bytes] | None:
    """Read one request or response; None if the stream has ended."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, *lengths = HEADER.unpack(header)
    first, second, third = (stream.read(length) for length in lengths)
    complete = [len(first), len(second), len(third)] == lengths
    return (kind, first, second, third) if complete else None


def _limit_memory(extra: int) -> None:
    """Make allocations fail above a limit, so that a damaged image cannot fill the memory.

    Args:
        extra: Bytes above the present size of the process.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            present = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = present + extra
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
