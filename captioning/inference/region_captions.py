"""Captions of images with external features."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captioning.decoding import SearchMethod
from captioning.errors import ConfigError, DataError
from captioning.features.external import ExternalFeatures, check_features_given, check_regions
from captioning.inference.captioner import Captioner
from captioning.inference.results import CaptionResult
from captioning.nn.features import Features


def caption_regions(
    captioner: Captioner,
    regions: Iterable[Any],
    *,
    search: SearchMethod | None = None,
    batch_size: int = 64,
) -> list[CaptionResult]:
    """Caption images with external features, such as those of a region detector.

    Args:
        captioner: A model that was trained on such features.
        regions: An array or tensor for each image, of the shape ``(regions, D)``, ``(height,
            width, D)`` or ``(D,)``. The number of regions may differ.
        search: The search; None for the model's default.
        batch_size: Images per batch.

    Returns:
        A result for each image. One whose array cannot be used has an ``error``.

    Raises:
        ConfigError: The model reads images, or ``batch_size`` is below 1.
    """
    size = _feature_size(captioner, batch_size)

    def check(number: int, array: Any) -> Tensor | str:
        if isinstance(array, Tensor):  # np.asarray refuses bfloat16, GPUs and gradients
            array = array.detach().cpu().to(torch.float32)
        try:
            return check_regions(np.asarray(array), f"image {number}", size)
        except (DataError, ValueError) as error:  # ValueError: a ragged list
            return str(error)

    loaded = ((f"image {n}", check(n, array)) for n, array in enumerate(regions))
    return list(_caption(captioner, loaded, search, batch_size))


def caption_external(
    captioner: Captioner,
    features: ExternalFeatures,
    names: Sequence[str],
    *,
    search: SearchMethod | None = None,
    batch_size: int = 64,
) -> Iterator[CaptionResult]:
    """Yield the captions of images whose features are in files, as they are read.

    Args:
        captioner: A model that was trained on such features.
        features: Features of the images.
        names: Name of each image.
        search: The search; None for the model's default.
        batch_size: Images per batch.
    """
    _feature_size(captioner, batch_size)
    loaded = ((name, features.load_or_explain(row)) for row, name in enumerate(names))
    return _caption(captioner, loaded, search, batch_size)


def _feature_size(captioner: Captioner, batch_size: int) -> int:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
    encoder = captioner.checkpoint.model.encoder
    check_features_given(encoder, features=True)
    return encoder.feature_size


def _caption(
    captioner: Captioner,
    loaded: Iterator[tuple[str, Tensor | str]],
    search: SearchMethod | None,
    batch_size: int,
) -> Iterator[CaptionResult]:
    """Yield a result for each name, given its regions or the reason why there are none."""
    while batch := list(islice(loaded, batch_size)):
        usable = [regions for _, regions in batch if not isinstance(regions, str)]
        captions = iter(captioner.generator.generate(_pad(usable), search) if usable else ())
        for name, regions in batch:
            if isinstance(regions, str):
                yield CaptionResult(name, error=regions)
            else:
                yield CaptionResult(name, next(captions))


def _pad(regions: Sequence[Tensor]) -> Features:
    counts = torch.tensor([len(each) for each in regions])
    return Features.from_grid(pad_sequence(list(regions), batch_first=True), counts)
