"""The process in which images are decoded: it may hang or die, and takes one image with it.

It is started anew rather than forked, imports neither torch nor the script that uses the package,
and is asked over its standard input: :data:`HEADER` with a kind and two lengths, then a name and,
of the kind ``CONTENT``, a file's content; of the kind ``PATH`` the name is that of a file. It
answers on its standard output: :data:`HEADER` with ``PIXELS`` or ``ERROR`` and the lengths of what
follows, the pixels and perhaps a small JPEG, or what is wrong, in words.
"""

import io
import json
import os
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from PIL import Image

from captioning.errors import ImageError
from captioning.images.decode import read_image
from captioning.images.resizing import resized

HEADER = struct.Struct("<BQQ")
PATH, CONTENT, PIXELS, ERROR, READY = range(5)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told when it starts."""

    size: int
    """Height and width of the pixels."""
    interpolation: str = "bicubic"
    """As for :func:`captioning.images.resizing.resized`."""
    fit: str = "squeeze"
    """As for :func:`captioning.images.resizing.resized`."""
    allow_truncated: bool = False
    """Whether to take what is there of a file that was cut short."""
    thumbnail: int = 0
    """Longest side of a small JPEG that goes with the pixels; 0 for none."""
    memory: int = 4 << 30
    """Bytes that it may take beyond what it starts with, where the system can hold it to that."""


def answer(settings: WorkerConfig, source: str | bytes, name: str) -> tuple[bytes, bytes, str]:
    """Read one image, given by its path or its content.

    Returns:
        Its pixels, a small JPEG if one was asked for, and what is wrong with it: all but one empty,
        or all but the last.
    """
    shrink_to = max(settings.size, settings.thumbnail)
    try:
        image = read_image(source, allow_truncated=settings.allow_truncated, shrink_to=shrink_to)
        pixels = resized(
            image, settings.size, interpolation=settings.interpolation, fit=settings.fit
        )
        small = _small_jpeg(image, settings.thumbnail) if settings.thumbnail else b""
        return pixels.tobytes(), small, ""
    except ImageError as error:
        text = str(error)
        if not isinstance(source, str):
            text = text.replace("the image", name, 1)
    except (MemoryError, OSError, ValueError, RuntimeError) as error:
        text = f"{name} cannot be resized: {error}. Look whether its size is sensible."
    return b"", b"", text


def _small_jpeg(image: Image.Image, side: int) -> bytes:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78)
    return buffer.getvalue()


def main(settings: str) -> None:
    """Answer until standard input ends.

    Args:
        settings: Those of :class:`WorkerConfig`, as JSON.
    """
    own = WorkerConfig(**json.loads(settings))
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    _limit_memory(own.memory)
    send(answers, READY)
    while len(header := asked.read(HEADER.size)) == HEADER.size:
        kind, name_length, length = HEADER.unpack(header)
        name = os.fsdecode(asked.read(name_length))
        pixels, small, error = answer(own, name if kind == PATH else asked.read(length), name)
        if error:
            send(answers, ERROR, error.encode("utf-8", "surrogateescape"))
        else:
            send(answers, PIXELS, pixels, small)


def send(to: IO[bytes], kind: int, first: bytes = b"", second: bytes = b"") -> None:
    """Write one question or answer."""
    to.write(HEADER.pack(kind, len(first), len(second)))
    to.write(first)
    to.write(second)
    to.flush()


def _limit_memory(more: int) -> None:
    """Let whatever asks for more memory than this fail, in place of filling the machine."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            now = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = now + more
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
