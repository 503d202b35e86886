"""Results for batches of images, which are in memory or come from a loader."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from captioning.decoding import SearchMethod
from captioning.errors import ConfigError, DataError, ImageError
from captioning.images.decode import read_image
from captioning.images.image_inputs import ImageSource
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.inference.display import make_preview, name_source
from captioning.inference.generation import CaptionGenerator
from captioning.inference.results import CaptionResult
from captioning.short_repr import ShortList
from captioning.sources.find import SourceConfig, find_images

_ONE_IMAGE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping, Set)


def read_pixels(
    image: ImageSource, preprocessing: Preprocessing
) -> tuple[UInt8[Tensor, "3 S S"], bytes]:
    """Return the pixels of an image, and a preview if the image is not a file with a path.

    Raises:
        ImageError: The image cannot be read.
    """
    is_file = bool(name_source(image, "")) and not is_url(image)
    loaded = load_image(image, preprocessing)
    return preprocessing.pixels(loaded), b"" if is_file else make_preview(loaded)


def load_image(image: ImageSource, preprocessing: Preprocessing) -> Image.Image:
    """Return an image as RGB, at least in the size that the preprocessing needs.

    Raises:
        ImageError: The image cannot be read.
    """
    name = name_source(image, "")
    if not is_url(image) and name and os.path.isdir(name):  # noqa: PTH112  (does not raise)
        raise ImageError(f"cannot read '{name}': it is a folder. Use caption_folder.")
    try:
        content = _fetch_url(name) if is_url(image) else image
    except OSError as error:
        raise ImageError(f"cannot fetch '{name:.200}': {error}") from error
    return read_image(content, name=name, shrink_to=preprocessing.size)


def _fetch_url(url: str) -> bytes:
    from captioning.sources.urls import fetch_url  # fsspec is slow to import

    return fetch_url(url)


def is_url(image: object) -> bool:
    """Return whether an image is named by a URL."""
    return isinstance(image, str) and ("://" in image[:32] or image.startswith("data:"))


def iterate_images(images: Any) -> Iterator[Any] | None:
    """Return an iterator over several images; None if this is one image, or of another type."""
    if isinstance(images, _ONE_IMAGE) or hasattr(images, "read") or not hasattr(images, "__iter__"):
        return None
    numeric = any(kind in str(getattr(images, "dtype", "")) for kind in ("int", "float", "bool"))
    dimensions = getattr(images, "ndim", 1)  # a column of pandas has one
    several = dimensions == 4 or (dimensions == 1 and not numeric)
    return iter(images) if several else None


def caption_in_memory(
    generator: CaptionGenerator,
    images: Iterator[ImageSource],
    *,
    search: SearchMethod | None,
    batch_size: int,
) -> list[CaptionResult]:
    """Caption images of any kind; one that cannot be read has a result with an ``error``.

    Args:
        generator: Generates the captions.
        images: Images of any kind.
        search: The search; None for the model's default.
        batch_size: Images per batch.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    results: ShortList[CaptionResult] = ShortList()
    while batch := list(islice(images, batch_size)):
        results += _caption_batch(generator, batch, len(results), search)
    return results


def _caption_batch(
    generator: CaptionGenerator,
    images: Sequence[ImageSource],
    start: int,
    search: SearchMethod | None,
) -> Iterator[CaptionResult]:
    """Yield the results of one batch, whose first image has the number ``start``."""
    pixels: list[Tensor] = []
    outcomes: list[tuple[bytes, str]] = []  # preview and error of each image
    for image in images:
        try:
            tensor, preview = read_pixels(image, generator.preprocessing)
        except ImageError as error:
            outcomes.append((b"", str(error)))
        else:
            pixels.append(tensor)
            outcomes.append((preview, ""))
    captions = iter(generator.generate(torch.stack(pixels), search) if pixels else ())
    for number, (image, (preview, reason)) in enumerate(zip(images, outcomes, strict=True), start):
        source = name_source(image, f"image {number}")
        yield CaptionResult(source, () if reason else next(captions), reason, preview)


def find_in_folder(folder: str | Path, config: SourceConfig) -> Iterator[ImageRef]:
    """Return the images of a folder.

    Raises:
        DataError: The folder does not exist.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{os.fspath(folder)!r} is not a folder. Use caption_files for files.")
    return find_images([os.fspath(folder)], config)


def caption_loaded(
    generator: CaptionGenerator,
    images: Iterable[str | Path | ImageRef],
    loader: ImageLoader,
    *,
    search: SearchMethod | None,
) -> Iterator[tuple[CaptionResult, ...]]:
    """Yield the results of one batch of a loader at a time.

    Args:
        generator: Generates the captions.
        images: Paths, or references to images that are not files.
        loader: Reads the images, with the preprocessing of the model.
        search: The search; None for the model's default.
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise ConfigError(
            f"expected a list of paths, found {images!r:.80}. Use caption for one image and "
            "caption_folder for a folder."
        )
    for batch in loader.batches(map(_refer_to, images)):
        captions = iter(generator.generate(batch.pixels, search))
        yield tuple(
            CaptionResult(image.name, () if error else next(captions), error, thumbnail)
            for image, error, thumbnail in zip(
                batch.images, batch.errors, batch.thumbnails, strict=True
            )
        )


def _refer_to(image: str | Path | ImageRef) -> ImageRef:
    """Return the reference to a file or to the file of a URL."""
    if isinstance(image, ImageRef):
        return image
    if not isinstance(image, str | os.PathLike):
        raise ConfigError(
            f"expected paths or URLs, found {type(image).__name__}. For images in memory, call "
            "captioner(list)."
        )
    name = os.fspath(image)
    return ImageRef(name, partial(_fetch_url, name) if is_url(name) else None)
