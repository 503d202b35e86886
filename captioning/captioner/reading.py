"""Pictures read and resized ahead of the network, in worker processes, in the order asked for."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioning.data.images import read_image
from captioning.data.preprocessing import Preprocessing
from captioning.errors import ImageError


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


class _Pictures(Dataset[tuple[str, Tensor | None, str]]):
    def __init__(self, sources: Sequence[str], preprocessing: Preprocessing) -> None:
        self.sources = sources
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, place: int) -> tuple[str, Tensor | None, str]:
        source = self.sources[place]
        try:
            return source, self.preprocessing.pixels(read_image(source)), ""
        except ImageError as error:
            return source, None, str(error)


def _collate(items: list[tuple[str, Tensor | None, str]]) -> PixelBatch:
    read = [pixels for _, pixels, _ in items if pixels is not None]
    return PixelBatch(
        tuple(source for source, _, _ in items),
        torch.stack(read) if read else torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        tuple(error for _, _, error in items),
    )


def read_batches(
    sources: Sequence[str], preprocessing: Preprocessing, *, batch_size: int, workers: int
) -> Iterator[PixelBatch]:
    """Yield all pictures in batches, in order; at most a few batches are in memory at once.

    A worker process that dies (a decoder that crashes, memory that runs out) takes no good work
    with it: the pictures that were not yet given out are read again one at a time, each in a
    process of its own, and the one that kills its process is reported as unreadable.

    Args:
        sources: Paths.
        preprocessing: The encoder's.
        batch_size: Pictures in a batch.
        workers: Processes; 0 reads in this one.
    """
    done = 0
    few = len(sources) <= batch_size  # not worth the start of a process
    try:
        for batch in _load(sources, preprocessing, batch_size, 0 if few else workers):
            done += len(batch.sources)
            yield batch
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        for source in sources[done:]:
            yield _read_guarded(source, preprocessing)


def _load(
    sources: Sequence[str], preprocessing: Preprocessing, batch_size: int, workers: int
) -> Iterator[PixelBatch]:
    loader = DataLoader(
        _Pictures(sources, preprocessing),
        batch_size=batch_size,
        num_workers=min(workers, os.cpu_count() or 1),
        collate_fn=_collate,
    )
    with warnings.catch_warnings():
        # Newer Pythons warn of every fork of a process with threads, as torch's is.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=Warning)
        batches = iter(loader)
    yield from batches


def _read_guarded(source: str, preprocessing: Preprocessing) -> PixelBatch:
    try:
        (batch,) = _load([source], preprocessing, 1, 1)
    except RuntimeError:
        error = f"{source} made the process that read it crash. The file is damaged."
        return _collate([(source, None, error)])
    return batch
