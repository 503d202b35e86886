"""Results for batches of images, which are in memory or come from a loader."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.decoding import SearchMethod
from captioning.errors import ImageError
from captioning.images.decode import ImageSource, read_image
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.images.worker_pool import ImageRef
from captioning.inference.display import make_preview
from captioning.inference.generation import CaptionGenerator
from captioning.inference.results import CaptionResult


def read_pixels(
    image: ImageSource, preprocessing: Preprocessing
) -> tuple[UInt8[Tensor, "3 S S"], bytes]:
    """Return the pixels of an image, and a preview if the image is not a file with a path.

    Raises:
        ImageError: The image cannot be read.
    """
    loaded = read_image(image, shrink_to=preprocessing.size)
    preview = b"" if isinstance(image, str | os.PathLike) else make_preview(loaded)
    return preprocessing.pixels(loaded), preview


def caption_in_memory(
    generator: CaptionGenerator,
    images: Sequence[ImageSource],
    names: Sequence[str],
    *,
    search: SearchMethod | None,
) -> list[CaptionResult]:
    """Caption one batch of images; one that cannot be read has a result with an ``error``.

    Args:
        generator: Generates the captions.
        images: Paths, bytes, open files, Pillow images or arrays.
        names: The source of each result.
        search: The search; None for the model's default.
    """
    pixels: list[Tensor] = []
    previews: list[bytes] = []
    errors: list[str] = []
    for image in images:
        try:
            tensor, preview = read_pixels(image, generator.preprocessing)
        except ImageError as error:
            previews.append(b"")
            errors.append(str(error))
        else:
            pixels.append(tensor)
            previews.append(preview)
            errors.append("")
    captions = iter(generator.generate(torch.stack(pixels), search) if pixels else ())
    return [
        CaptionResult(name, () if error else next(captions), error, preview)
        for name, error, preview in zip(names, errors, previews, strict=True)
    ]


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
    for batch in loader.batches(
        image if isinstance(image, ImageRef) else os.fsdecode(image) for image in images
    ):
        captions = iter(generator.generate(batch.pixels, search))
        yield tuple(
            CaptionResult(image.name, () if error else next(captions), error, thumbnail)
            for image, error, thumbnail in zip(
                batch.images, batch.errors, batch.thumbnails, strict=True
            )
        )
