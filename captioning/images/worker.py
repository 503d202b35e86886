"""Worker process that decodes images, so that a crash or a hang affects one image only.

The process is started, not forked, and imports neither torch nor the caller's script. Requests
come on standard input: :data:`HEADER` with a kind and two lengths, then a name and, for kind
``CONTENT``, the content of a file; for kind ``PATH``, the name is a path. Responses go to standard
output: :data:`HEADER` with ``PIXELS`` or ``ERROR`` and two lengths, then the pixels and an optional
thumbnail (JPEG), or the error text.
"""

import json
import os
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from captioning.errors import ImageError
from captioning.images.decode import read_image
from captioning.images.resizing import make_thumbnail, resize_image

HEADER = struct.Struct("<BQQ")
PATH, CONTENT, PIXELS, ERROR, READY = range(5)


@dataclass(frozen=True)
class DecodedImage:
    """Result of decoding one image."""

    pixels: bytes = b""
    """``(3, size, size)`` 8-bit values; empty if there is an error."""
    thumbnail: bytes = b""
    """A small JPEG; empty if none was requested."""
    error: str = ""
    """Reason why the image cannot be read; empty if it was decoded."""


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
    memory: int = 4 << 30
    """Memory limit in bytes above the memory at start, where the system can enforce it."""


def decode_image(config: WorkerConfig, source: str | bytes, name: str) -> DecodedImage:
    """Decode and resize one image.

    Args:
        config: Size, filter and thumbnail.
        source: Path or content of the file.
        name: Name of the image in error messages.
    """
    shrink_to = max(config.size, config.thumbnail)
    try:
        image = read_image(
            source, name=name, allow_truncated=config.allow_truncated, shrink_to=shrink_to
        )
        pixels = resize_image(
            image, config.size, interpolation=config.interpolation, fit=config.fit
        )
        thumbnail = make_thumbnail(image, config.thumbnail) if config.thumbnail else b""
        return DecodedImage(pixels.tobytes(), thumbnail)
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
        kind, encoded_name, content = request
        name = os.fsdecode(encoded_name)
        decoded = decode_image(config, name if kind == PATH else content, name)
        if decoded.error:
            send_message(responses, ERROR, decoded.error.encode("utf-8", "surrogateescape"))
        else:
            send_message(responses, PIXELS, decoded.pixels, decoded.thumbnail)


def send_message(stream: IO[bytes], kind: int, first: bytes = b"", second: bytes = b"") -> None:
    """Write one request or response."""
    stream.write(HEADER.pack(kind, len(first), len(second)))
    stream.write(first)
    stream.write(second)
    stream.flush()


def receive_message(stream: IO[bytes]) -> tuple[int, bytes, bytes] | None:
    """Read one request or response; None if the stream has ended."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, first_length, second_length = HEADER.unpack(header)
    first, second = stream.read(first_length), stream.read(second_length)
    complete = len(first) == first_length and len(second) == second_length
    return (kind, first, second) if complete else None


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
