"""Features of a frozen encoder, or pixels, of images: stored, and extracted where missing."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from captioning.features.cache import StoredRows
from captioning.features.feature_dtype import FeatureDtype
from captioning.features.row_extraction import DerivedRows, RowExtraction, RowSource
from captioning.features.row_format import RowFormat
from captioning.graphs.load import UnsupportedEncoderError, has_openvino, load_openvino_encoder
from captioning.images.augmentation import fixed_view
from captioning.images.image_ref import ImageRef
from captioning.images.loader import ImageLoader
from captioning.images.preprocessing import Preprocessing
from captioning.nn.encoder import Encoder
from captioning.nn.encoder_config import Precision
from captioning.nn.features import Features
from captioning.nn.pretrained import weights_hash
from captioning.nn.split_encoder import EncoderFront
from captioning.track import OnProgress

_VERSION = 2  # of the rows; part of the keys
_AVERAGE_BYTES = 2**28  # memory for grids that are averaged together
_OPENVINO_IMAGES = 500  # from this number of images on, OpenVINO encodes them on a CPU
_Encode = Callable[[UInt8[Tensor, "B 3 S S"]], Features]
_BATCH_MULTIPLE = 16  # on a CPU, rounding depends on the batch size only below this


@dataclass(frozen=True)
class ExtractionConfig:
    """What is extracted from each image, and how.

    Attributes:
        grid: Store all grid positions. False: store only v.
        hflip: Store a view of the flipped image too.
        crops: Number of random crops to store per image. Every second one is flipped, so crops
            need ``hflip``.
        batch_size: Images per batch.
        workers: Number of processes that read images (0: the main process reads them).
        precision: Precision of the encoder's matrix products.
        dtype: Type of stored grids. v is always stored in float16.
    """

    grid: bool = False
    hflip: bool = False
    crops: int = 0
    batch_size: int = 64
    workers: int = 2
    precision: Precision = "float32"
    dtype: FeatureDtype = "float16"

    @property
    def views(self) -> int:
        """Number of views per image, numbered as in :mod:`captioning.images.augmentation`."""
        return 2 + self.crops if self.hflip else 1


def plan_features(
    encoder: Encoder | EncoderFront,
    images: Sequence[ImageRef | Path],
    directory: Path,
    config: ExtractionConfig,
    *,
    on_digest: OnProgress = lambda done, total: None,
) -> RowExtraction:
    """Return the extraction of the features of images that are not stored.

    Stored rows are found by the content of an image, the encoder, its weights and the config. If
    only v is needed and the grid of an image is stored in float16, v is computed as its mean. Its
    last bits then differ from a direct extraction.

    Args:
        encoder: A frozen encoder, or its frozen first stages.
        images: Image files or references to images, in the order of the rows.
        directory: Directory of all stores.
        config: What is extracted.
        on_digest: Called with the number of images whose content was read, and the number of
            those to read. Not called if their digests are cached.
    """
    source = _feature_source(encoder, directory, config, many=len(images) >= _OPENVINO_IMAGES)
    return RowExtraction(source, images, directory, on_digest=on_digest)


def cache_features(
    encoder: Encoder | EncoderFront,
    images: Sequence[ImageRef | Path],
    directory: Path,
    config: ExtractionConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> StoredRows:
    """Return the features of images, and extract those that are not stored.

    Arguments as in :func:`plan_features` and
    :meth:`captioning.features.row_extraction.RowExtraction.run`.
    """
    return plan_features(encoder, images, directory, config).run(on_progress)


def plan_pixels(
    preprocessing: Preprocessing,
    images: Sequence[ImageRef | Path],
    directory: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    on_digest: OnProgress = lambda done, total: None,
) -> RowExtraction:
    """Return the extraction of the resized pixels of images that are not stored.

    Args:
        preprocessing: Size and interpolation of the images.
        images: As in :func:`plan_features`.
        directory: As in :func:`plan_features`.
        batch_size: Images per batch.
        workers: Number of processes that read images (0: the main process reads them).
        on_digest: As in :func:`plan_features`.
    """

    def to_rows(pixels: UInt8[Tensor, "B 3 S S"], digests: Sequence[bytes]) -> Tensor:
        return pixels.flatten(2).transpose(1, 2).unsqueeze(1)

    source = RowSource(
        key={
            "pixels": _VERSION,
            "size": preprocessing.size,
            "interpolation": preprocessing.interpolation,
            "fit": preprocessing.fit,
        },
        format=RowFormat(1, preprocessing.size**2, 3, "uint8"),
        loader=ImageLoader(preprocessing, batch_size, workers),
        compute=to_rows,
    )
    return RowExtraction(source, images, directory, on_digest=on_digest)


def _feature_source(
    encoder: Encoder | EncoderFront,
    directory: Path,
    config: ExtractionConfig,
    *,
    many: bool = False,
) -> RowSource:
    dtype = config.dtype if config.grid else "float16"
    row_format = RowFormat(
        config.views, encoder.positions if config.grid else 1, encoder.feature_size, dtype
    )

    # Only when an image is missing: the conversion takes a second.
    load_graph = cache(partial(_load_graph, encoder, config.precision))

    def compute(pixels: UInt8[Tensor, "B 3 S S"], digests: Sequence[bytes]) -> Tensor:
        encode = (load_graph() if many else None) or encoder
        device = next(encoder.parameters()).device
        return _encode_views(encode, pixels, digests, config, device)

    def average(digests: Sequence[bytes]) -> Iterator[DerivedRows]:
        if not config.grid:
            yield from _average_grids(encoder, digests, directory, config)

    return RowSource(
        key={
            "features": _VERSION,
            "encoder": encoder.config.name,
            "weights": weights_hash(encoder),
            "preprocessing": asdict(encoder.preprocessing),
            "grid": config.grid,
            "views": config.views,
            "precision": config.precision,
            "dtype": dtype,
        },
        format=row_format,
        loader=ImageLoader(encoder.preprocessing, config.batch_size, config.workers),
        compute=compute,
        derive=average,
    )


def _average_grids(
    encoder: Encoder | EncoderFront,
    digests: Sequence[bytes],
    directory: Path,
    config: ExtractionConfig,
) -> Iterator[DerivedRows]:
    """Yield v of the images whose grids are stored, as the mean over the positions."""
    grids = _feature_source(encoder, directory, replace(config, grid=True, dtype="float16"))
    store = grids.open_store(directory)
    found = [digest for digest in digests if digest in store]
    count = max(1, _AVERAGE_BYTES // (2 * grids.format.image_bytes))  # read as float32
    for start in range(0, len(found), count):
        part = found[start : start + count]
        views = np.tile(np.arange(config.views), len(part))
        means = store.read(store.find(part).repeat(config.views), views).mean(1)
        if config.precision == "bfloat16":
            means = means.bfloat16().float()
        yield part, means.unflatten(0, (len(part), config.views)).unsqueeze(2)


def _load_graph(encoder: Encoder | EncoderFront, precision: Precision) -> _Encode | None:
    """Return a whole encoder in OpenVINO, which is three times as fast as torch on a CPU.

    None: OpenVINO is not installed, does not support the network, or would be on another device.
    """
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    if not on_cpu or not isinstance(encoder, Encoder) or not has_openvino():
        return None
    try:
        return load_openvino_encoder(encoder, precision)
    except UnsupportedEncoderError as error:
        logging.getLogger(__name__).warning("%s torch is used instead.", str(error))
        return None


@torch.inference_mode()
def _encode_views(
    encode: _Encode,
    pixels: UInt8[Tensor, "B 3 S S"],
    digests: Sequence[bytes],
    config: ExtractionConfig,
    device: torch.device,
) -> Tensor:
    """Return the features of all views, ``(B, views, P, D)``. P is 1 if only v is stored."""
    count = len(pixels)
    # The rows of an image must not depend on the other images of its batch.
    multiple = _BATCH_MULTIPLE if device.type == "cpu" else config.batch_size
    padding = range(-count % multiple)
    pixels = torch.cat([pixels, *(pixels[:1] for _ in padding)])
    seeds = [int.from_bytes(digest[:4]) for digest in [*digests, *(digests[0] for _ in padding)]]
    if device.type == "cuda":  # crops are faster there; mps does not support them in torch 2.6
        pixels = pixels.to(device)
    views = []
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        for view in range(config.views):
            features = encode(fixed_view(pixels, view, seeds).to(device))
            rows = features.grid if config.grid else features.vector.unsqueeze(1)
            assert rows is not None  # an encoder returns its grid
            views.append(rows[:count].cpu())
    return torch.stack(views, 1).float()
