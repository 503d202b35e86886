"""Pictures read and resized ahead of the network, in worker processes, in the order asked for."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioning.data.images import read_image
from captioning.data.preprocessing import Preprocessing
from captioning.errors import ImageError, check_least

_BATCHES_PER_ROUND = 128  # then fresh workers start, so that none of them can grow for ever
_AHEAD = 2  # batches that each worker reads ahead


@dataclass(frozen=True)
class PixelBatch:
    """Some pictures in the order in which they were named.

    Attributes:
        sources: Their paths.
        pixels: Those that could be read.
        errors: For each source why it could not be read, or an empty string.
    """

    sources: tuple[str, ...]
    pixels: UInt8[Tensor, "B 3 S S"]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class PictureReader:
    """Turns paths into batches of pixels."""

    preprocessing: Preprocessing
    """The encoder's."""
    batch_size: int = 16
    """Pictures in a batch."""
    workers: int = 2
    """Processes; 0 reads in this one."""
    allow_truncated: bool = False
    """Whether to take what is there of a file that was cut short."""
    time_limit: float = 60.0
    """Seconds after which a picture is given up; without workers there is no limit."""

    def __post_init__(self) -> None:
        check_least(self, batch_size=1, workers=0)

    def batches(self, sources: Iterable[str]) -> Iterator[PixelBatch]:
        """Yield all pictures, in order; at most a few batches are in memory at once.

        A worker process that dies (a decoder that crashes, memory that runs out) or hangs takes no
        other picture with it: those that were under way are read again, each in a process of its
        own, and the one to blame is reported as unreadable.
        """
        remaining = iter(sources)
        while names := list(islice(remaining, _BATCHES_PER_ROUND * self.batch_size)):
            yield from self._round(names)

    def read(self, source: str) -> tuple[Tensor | None, str]:
        """Return a picture's pixels, or None and what is wrong with it."""
        try:
            image = read_image(
                source,
                allow_truncated=self.allow_truncated,
                shrink_to=self.preprocessing.size,
            )
            return self.preprocessing.pixels(image), ""
        except ImageError as error:
            return None, str(error)
        except (MemoryError, OSError, ValueError, RuntimeError) as error:
            return None, f"{source} cannot be resized: {error}. Look whether its size is sensible."

    def _round(self, names: Sequence[str]) -> Iterator[PixelBatch]:
        done = 0
        while done < len(names):
            failed = False
            try:
                for batch in self._load(names[done:], self.batch_size, self._workers(names)):
                    done += len(batch.sources)
                    yield batch
            except (RuntimeError, ConnectionError, EOFError) as error:
                # A worker that dies while it hands over pixels breaks the connection.
                if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
                    raise
                failed = True  # and the loader is let go, with its workers, before going on
            if failed:
                stop = min(len(names), done + _AHEAD * self.workers * self.batch_size)
                for start in range(done, stop, self.batch_size):
                    some = names[start : min(start + self.batch_size, stop)]
                    done += len(some)
                    yield _collate([(name, *self._read_guarded(name)) for name in some])

    def _workers(self, names: Sequence[str]) -> int:
        # Where processes cannot be forked, each imports torch first: too slow for a few pictures.
        few = 0 if sys.platform == "linux" else self.batch_size
        return min(self.workers, os.cpu_count() or 1) if len(names) > few else 0

    def _load(self, names: Sequence[str], batch_size: int, workers: int) -> Iterator[PixelBatch]:
        loader = DataLoader(
            _Pictures(names, self),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_collate,
            timeout=self.time_limit if workers else 0,
            prefetch_factor=_AHEAD if workers else None,
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
        with warnings.catch_warnings():
            # Newer Pythons warn of every fork of a process with threads, as torch's is.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=Warning)
            batches = iter(loader)
        yield from batches

    def _read_guarded(self, name: str) -> tuple[Tensor | None, str]:
        try:
            (batch,) = self._load([name], 1, 1)
        except (RuntimeError, ConnectionError, EOFError) as error:
            happened = (
                f"was not read within {self.time_limit:g} seconds"
                if "timed out" in str(error)
                else "made the process that read it crash"
            )
            return None, f"{name} {happened}. The file is damaged; get it again."
        return (batch.pixels[0] if len(batch.pixels) else None), batch.errors[0]


class _Pictures(Dataset[tuple[str, Tensor | None, str]]):
    def __init__(self, names: Sequence[str], reader: PictureReader) -> None:
        self.names = names
        self.reader = reader

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> tuple[str, Tensor | None, str]:
        name = self.names[place]
        return name, *self.reader.read(name)


def _collate(items: list[tuple[str, Tensor | None, str]]) -> PixelBatch:
    read = [pixels for _, pixels, _ in items if pixels is not None]
    return PixelBatch(
        tuple(source for source, _, _ in items),
        torch.stack(read) if read else torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        tuple(error for _, _, error in items),
    )
