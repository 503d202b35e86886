"""Extraction of features with a frozen encoder into a cache."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
    count_rows,
    open_complete_rows,
)
from captioning.images.augmentation import fixed_view
from captioning.images.image_ref import ImageRef, as_ref
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import Precision
from captioning.nn.pretrained import weights_hash
from captioning.nn.split_encoder import EncoderFront

Cache = TypeVar("Cache", bound=RowCache)
OnProgress = Callable[[int, int], None]
_VERSION = 1  # of the rows; part of the directory names
_LOCK = ".lock"
_FLUSH_INTERVAL = 16  # batches
_AVERAGE_BYTES = 2**28  # memory for grids that are averaged together


@dataclass(frozen=True)
class ExtractionConfig:
    """What is extracted from each image, and how.

    Attributes:
        grid: Cache all grid positions. False: cache only v.
        hflip: Cache a view of the flipped image too.
        crops: Number of random crops to cache per image. Every second one is flipped, so crops
            need ``hflip``.
        batch_size: Images per batch.
        workers: Number of processes that read images (0: the main process reads them).
        precision: Precision of the encoder's matrix products. Features are stored in 16 bits.
    """

    grid: bool = False
    hflip: bool = False
    crops: int = 0
    batch_size: int = 64
    workers: int = 2
    precision: Precision = "float32"

    @property
    def views(self) -> int:
        """Number of views per image."""
        return 2 + self.crops if self.hflip else 1


def cache_features(
    encoder: Encoder | EncoderFront,
    images: Sequence[ImageRef | Path],
    directory: Path,
    config: ExtractionConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> FeatureCache:
    """Return the features of image files, and extract those that are not cached.

    If only v is needed and the grids of the same images are cached, v is computed as their mean.
    Grids are stored in 16 bits, so the last bits differ from a direct extraction.

    Args:
        encoder: A frozen encoder, or its frozen first stages.
        images: Image files or references to images, in the order of the rows.
        directory: Directory of all caches. Each set of images, encoder, weights and config has
            its own folder in it.
        config: What is extracted.
        on_progress: Called with the number of finished images and the number of all images:
            before the first missing image, after each batch, and every second while another
            process extracts the same features. Not called if all are cached.
    """
    weights = weights_hash(encoder)

    def own_directory(config: ExtractionConfig) -> Path:
        key: list[object] = [_VERSION, encoder.config.name, weights]
        key += [asdict(encoder.preprocessing), config.grid, config.hflip]
        key += [] if config.precision == "float32" else [config.precision]
        key += [f"{config.crops} crops"] if config.crops else []
        return directory / _digest(key, images)

    positions = encoder.positions if config.grid else 1
    shape = (len(images), config.views, positions, encoder.feature_size)
    loader = ImageLoader(encoder.preprocessing, config.batch_size, config.workers)

    def encode(pixels: UInt8[Tensor, "B 3 S S"], images: Sequence[int]) -> Tensor:
        return _encode_views(encoder, pixels, images, config)

    def fill(cache: FeatureCache) -> None:
        grid_shape = (*shape[:2], encoder.positions, shape[3])
        grid_directory = own_directory(replace(config, grid=True))
        if not config.grid and (grids := open_complete_rows(grid_directory, grid_shape)):
            _fill_from_grids(cache, *grids, config.precision, on_progress)
        else:
            _fill(cache, images, loader, encode, on_progress)

    return _fill_once(FeatureCache, own_directory(config), shape, fill, on_progress)


def cache_pixels(
    preprocessing: Preprocessing,
    images: Sequence[ImageRef | Path],
    directory: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    on_progress: OnProgress = lambda done, total: None,
) -> PixelCache:
    """Return the resized pixels of image files, and read those that are not cached.

    Args:
        preprocessing: Size and interpolation of the images.
        images: As in :func:`cache_features`.
        directory: As in :func:`cache_features`.
        batch_size: Images per batch.
        workers: Number of processes that read images (0: the main process reads them).
        on_progress: As in :func:`cache_features`.
    """
    shape = (len(images), 1, preprocessing.size**2, 3)
    loader = ImageLoader(preprocessing, batch_size, workers)

    def to_rows(pixels: UInt8[Tensor, "B 3 S S"], images: Sequence[int]) -> Tensor:
        return pixels.flatten(2).transpose(1, 2).unsqueeze(1)

    def fill(cache: PixelCache) -> None:
        _fill(cache, images, loader, to_rows, on_progress)

    resizing = [preprocessing.size, preprocessing.interpolation, preprocessing.fit]
    own = directory / _digest(["pixels", _VERSION, *resizing], images)
    return _fill_once(PixelCache, own, shape, fill, on_progress)


def _digest(key: Sequence[object], images: Sequence[ImageRef | Path]) -> str:
    """Return a name for what depends on ``key`` and on files with their current size and time."""
    files = [[ref.name, *_fingerprint(ref)] for ref in map(as_ref, images)]
    return hashlib.sha256(json.dumps([key, files]).encode()).hexdigest()[:20]


def _fingerprint(ref: ImageRef) -> tuple[int, int]:
    if ref.content is not None:
        content = ref.content if isinstance(ref.content, bytes) else ref.content()
        return (len(content), int.from_bytes(hashlib.sha256(content).digest()[:8]))
    try:
        stat = Path(ref.name).stat()
    except OSError:
        return (-1, -1)  # reported when the image is read
    return (stat.st_size, stat.st_mtime_ns)


def _fill_once(
    kind: type[Cache],
    directory: Path,
    shape: tuple[int, int, int, int],
    fill: Callable[[Cache], None],
    on_progress: OnProgress,
) -> Cache:
    """Return a complete cache. If several processes need the same cache, one of them fills it.

    The others wait and report its progress. They do not open the cache, which would start a new
    one. If the filling process ends early, another continues.
    """
    if kind.is_complete(directory, shape):
        return kind(directory, shape)
    with _lock(directory, lambda: on_progress(count_rows(directory), shape[0])) as waited:
        cache = kind(directory, shape)
        if waited or not cache.complete:
            on_progress(cache.done, len(cache))
        if not cache.complete:
            fill(cache)
    return cache


@contextmanager
def _lock(directory: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of a directory. Yields whether it had to wait.

    Calls ``on_wait`` every second of waiting. Without file locks, as on some network disks, the
    caller continues without a lock.
    """
    lock, waited = FileLock(directory / _LOCK), False
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=1)
        except Timeout:
            waited = True
            on_wait()
            continue
        except (NotImplementedError, OSError):
            pass  # the cache reports a directory that cannot be written
        break
    try:
        yield waited
    finally:
        lock.release()


def _fill(
    cache: RowCache,
    images: Sequence[ImageRef | Path],
    loader: ImageLoader,
    encode: Callable[[UInt8[Tensor, "B 3 S S"], Sequence[int]], Tensor],
    on_progress: OnProgress,
) -> None:
    """Append the missing rows, which ``encode`` computes from pixels."""
    missing = images[cache.done :]
    for number, batch in enumerate(loader.batches(map(as_ref, missing)), 1):
        readable = [row for row, error in enumerate(batch.errors) if not error]
        rows = torch.zeros(len(batch.images), *cache.rows.shape[1:], dtype=cache.torch_dtype)
        if readable:
            encoded = encode(batch.pixels, [cache.done + row for row in readable])
            rows[readable] = encoded.to(cache.torch_dtype)
        cache.append(rows, {row: error for row, error in enumerate(batch.errors) if error})
        if number % _FLUSH_INTERVAL == 0:
            cache.flush()
        on_progress(cache.done, len(images))
    cache.flush()


def _fill_from_grids(
    cache: FeatureCache,
    grids: Float16[np.ndarray, "images views P D"],
    unreadable: Mapping[int, str],
    precision: Precision,
    on_progress: OnProgress,
) -> None:
    """Append the mean over the grid positions of each missing row."""
    count = max(1, _AVERAGE_BYTES // (np.dtype(np.float32).itemsize * grids[0].size))
    while not cache.complete:
        start = cache.done
        part = torch.from_numpy(grids[start : start + count].astype(np.float32))
        means = part.mean(2, keepdim=True)
        if precision == "bfloat16":
            means = means.bfloat16().float()
        rows = range(start, start + len(part))
        cache.append(means, {row - start: unreadable[row] for row in rows if row in unreadable})
        cache.flush()
        on_progress(cache.done, len(cache))


@torch.inference_mode()
def _encode_views(
    encoder: Encoder | EncoderFront,
    pixels: UInt8[Tensor, "B 3 S S"],
    images: Sequence[int],
    config: ExtractionConfig,
) -> Tensor:
    """Return the features of all views, ``(B, views, P, D)``. P is 1 if only v is cached."""
    device = next(encoder.parameters()).device
    if device.type == "cuda":  # crops are faster there; mps does not support them in torch 2.6
        pixels = pixels.to(device)
    views = []
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        for view in range(config.views):
            features = encoder(fixed_view(pixels, view, images).to(device))
            rows = features.grid if config.grid else features.vector.unsqueeze(1)
            views.append(rows.cpu())
    return torch.stack(views, 1).float()
