"""Run a frozen encoder over all images once, or only read them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float16, UInt8
from torch import Tensor

from captioning.features.cache import (
    FeatureCache,
    PixelCache,
    RowCache,
    read_whole_cache,
    rows_done,
)
from captioning.features.cache_keys import FeatureKey, Precision, pixels_digest
from captioning.images.augmentation import view_of
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.nn.encoder import Encoder
from captioning.nn.pretrained import weights_hash
from captioning.nn.split_encoder import EncoderFront

Cache = TypeVar("Cache", bound=RowCache)
_LOCK = ".lock"
_FLUSH_EVERY = 16  # batches
_AVERAGED_TOGETHER = 2**28  # bytes


def cache_features(
    encoder: Encoder | EncoderFront,
    paths: Sequence[Path],
    directory: Path,
    *,
    grid: bool,
    flip: bool,
    crops: int = 0,
    batch_size: int = 64,
    workers: int = 2,
    precision: Precision = "float32",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureCache:
    """Return the features of ``paths``, computing those that the cache lacks.

    Where v alone is wanted and the grids of the same images are cached, v is their mean: that of
    numbers rounded to 16 bits, and so not to the last bit what the encoder gives.

    Args:
        encoder: A frozen encoder or its front, on the device where it is to work.
        paths: The images, in the order of the rows.
        directory: Where caches lie; each set of images, encoder, weights and preprocessing has
            its own folder in it.
        grid: Keep every position; otherwise v alone.
        flip: Keep a second view, of the mirrored image.
        crops: Keep as many more views, of parts of the image; only with ``flip``, as every
            second one is mirrored.
        batch_size: Images looked at together.
        workers: Processes that read and resize images; 0 reads them in this one.
        precision: Of the encoder's products; features are kept in 16 bits whichever it is.
        watch: Told how many images are done, of how many, before the first of those that are
            lacking and after every batch, and every second while another process looks at them;
            never where all are there.
    """
    preprocessing = encoder.preprocessing
    key = FeatureKey(
        encoder.config.name,
        weights_hash(encoder),
        asdict(preprocessing),
        grid=grid,
        flip=flip,
        precision=precision,
        crops=crops,
    )
    views = 2 + crops if flip else 1
    positions = encoder.positions if grid else 1
    shape = (len(paths), views, positions, encoder.feature_size)
    device = next(encoder.parameters()).device

    def look(pixels: UInt8[Tensor, "B 3 S S"], images: Sequence[int]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return _look(encoder, pixels, images, grid=grid, views=views).float()

    def fill(cache: FeatureCache) -> None:
        grids = directory / replace(key, grid=True).digest(paths)
        whole = (*shape[:2], encoder.positions, shape[3])
        if not grid and (kept := read_whole_cache(grids, whole)):
            _average(*kept, cache, precision, watch)
        else:
            _fill(cache, paths, ImageLoader(preprocessing, batch_size, workers), look, watch)

    return _filled_by_one(FeatureCache, directory / key.digest(paths), shape, fill, watch)


def cache_pixels(
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    directory: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> PixelCache:
    """Return the pixels of ``paths``, reading those that the cache lacks.

    Args:
        preprocessing: The encoder's.
        paths: The images, in the order of the rows.
        directory: As for :func:`cache_features`.
        batch_size: Images read together.
        workers: Processes that read and resize images; 0 reads them in this one.
        watch: As for :func:`cache_features`.
    """
    shape = (len(paths), 1, preprocessing.size**2, 3)

    def look(pixels: UInt8[Tensor, "B 3 S S"], images: Sequence[int]) -> Tensor:
        return pixels.flatten(2).transpose(1, 2).unsqueeze(1)

    def fill(cache: PixelCache) -> None:
        _fill(cache, paths, ImageLoader(preprocessing, batch_size, workers), look, watch)

    own = directory / pixels_digest(preprocessing, paths)
    return _filled_by_one(PixelCache, own, shape, fill, watch)


def _filled_by_one(
    kind: type[Cache],
    directory: Path,
    shape: tuple[int, int, int, int],
    fill: Callable[[Cache], None],
    watch: Callable[[int, int], None],
) -> Cache:
    """Return a cache with all its rows; of several processes that want them one looks.

    The others wait, and tell meanwhile how far that one is; they open nothing, as opening begins
    what is not there. Where it ends too early, the next one goes on from there.

    Args:
        kind: Of cache.
        directory: Where it lies.
        shape: Of its rows.
        fill: Appends the rows that a cache lacks.
        watch: Told how many images are done, of how many.
    """
    if kind.is_whole(directory, shape):
        return kind(directory, shape)
    with _alone(directory, lambda: watch(rows_done(directory), shape[0])) as waited:
        cache = kind(directory, shape)
        if waited or not cache.complete:
            watch(cache.done, len(cache))
        if not cache.complete:
            fill(cache)
    return cache


@contextmanager
def _alone(directory: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold a folder's lock, after calling ``waiting`` every second; give whether it was called.

    Where there are no locks, as on some network disks, each process looks for itself.
    """
    lock, waited = FileLock(directory / _LOCK), False
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=1)
        except Timeout:
            waited = True
            waiting()
            continue
        except (NotImplementedError, OSError):
            pass  # a folder that cannot be written is told of by the cache
        break
    try:
        yield waited
    finally:
        lock.release()


def _fill(
    cache: RowCache,
    paths: Sequence[Path],
    reader: ImageLoader,
    look: Callable[[UInt8[Tensor, "B 3 S S"], Sequence[int]], Tensor],
    watch: Callable[[int, int], None],
) -> None:
    """Append what ``look`` makes of the pixels of the images that the cache lacks."""
    left = [os.fspath(path) for path in paths[cache.done :]]
    for number, batch in enumerate(reader.batches(left), 1):
        read = [row for row, error in enumerate(batch.errors) if not error]
        rows = torch.zeros(len(batch.sources), *cache.rows.shape[1:], dtype=cache.stored)
        if read:
            found = look(batch.pixels, [cache.done + row for row in read])
            rows[read] = found.to(cache.stored)
        cache.append(rows, {row: why for row, why in enumerate(batch.errors) if why})
        if number % _FLUSH_EVERY == 0:
            cache.flush()
        watch(cache.done, len(paths))
    cache.flush()


def _average(
    grids: Float16[np.ndarray, "images views P D"],
    unreadable: Mapping[int, str],
    vectors: FeatureCache,
    precision: Precision,
    watch: Callable[[int, int], None],
) -> None:
    """Fill ``vectors`` with the mean of each image's positions."""
    together = max(1, _AVERAGED_TOGETHER // (np.dtype(np.float32).itemsize * grids[0].size))
    while not vectors.complete:
        start = vectors.done
        part = torch.from_numpy(grids[start : start + together].astype(np.float32))
        means = part.mean(2, keepdim=True)
        if precision == "bfloat16":
            means = means.bfloat16().float()
        rows = range(start, start + len(part))
        vectors.append(means, {row - start: unreadable[row] for row in rows if row in unreadable})
        vectors.flush()
        watch(vectors.done, len(vectors))


@torch.inference_mode()
def _look(
    encoder: Encoder | EncoderFront,
    pixels: UInt8[Tensor, "B 3 S S"],
    images: Sequence[int],
    *,
    grid: bool,
    views: int,
) -> Tensor:
    """Return ``(B, views, P, D)``, P being 1 where only v is kept."""
    device = next(encoder.parameters()).device
    if device.type == "cuda":  # where parts are cut faster; mps cannot, in torch 2.6
        pixels = pixels.to(device)
    found = []
    for view in range(views):
        features = encoder(view_of(pixels, view, images).to(device))
        found.append((features.grid if grid else features.vector.unsqueeze(1)).cpu())
    return torch.stack(found, 1)
